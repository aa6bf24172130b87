"""Audio clips in folders, one folder a class."""

from plugformer.data.audio_files import AUDIO
from plugformer.data.folder import ClassFolders


class AudioFolder(ClassFolders):
    """Audio files under `root/CLASS/`, or, where splits are given, under `root/{train,val,test}/CLASS/`.

    WAV, FLAC, OGG (Vorbis or Opus), MP3, AIFF, AU, CAF and what else soundfile reads; decoded in the loader's workers.
    """

    medium = AUDIO
