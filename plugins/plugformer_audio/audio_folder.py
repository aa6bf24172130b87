"""Audio clips in folders, one folder a class."""

from functools import cached_property
from pathlib import Path

from plugformer.data.audio import SUFFIXES, VERSION, AudioInfo, check_audio, read_audio
from plugformer.data.audio_files import rate_and_duration
from plugformer.data.folder import ClassFolders
from plugformer.interfaces import DataSpec


class AudioFolder(ClassFolders):
    """Audio files under `root/CLASS/`, or, where splits are given, under `root/{train,val,test}/CLASS/`.

    WAV, FLAC, OGG (Vorbis or Opus), MP3, AIFF, AU, CAF and what else soundfile reads; decoded in the loader's workers.
    """

    key = "audio"
    suffixes = SUFFIXES
    version = VERSION
    read = staticmethod(read_audio)

    @staticmethod
    def inspect(path: Path) -> AudioInfo:
        return check_audio(path)

    @cached_property
    def spec(self) -> DataSpec:
        rate, duration = rate_and_duration(self)
        return DataSpec(self.keys, labels=self.classes, rate=rate, duration=duration)
