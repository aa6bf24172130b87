"""Clips and what is said in them."""

from plugformer.data.audio_files import AUDIO
from plugformer.data.with_text import FilesWithText


class AudioText(FilesWithText):
    """Clips with what is said in them: named in a table, or found by their names beside their texts.

    WAV, FLAC, OGG (Vorbis or Opus), MP3, AIFF, AU, CAF and what else soundfile reads; decoded in the loader's workers.
    Clips of one text never stand in two drawn splits. Texts count as one if they say the same but for capitals,
    punctuation and space. One recording counts once, whatever its names, with its first text.
    """

    medium = AUDIO
    kind = "audio_text"
    num_texts = "one"
