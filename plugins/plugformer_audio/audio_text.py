"""Clips and what is said in them."""

from functools import cached_property
from pathlib import Path

from plugformer.data.audio import VERSION, AudioInfo, check_audio, read_audio
from plugformer.data.audio_files import rate_and_duration
from plugformer.data.with_text import FilesWithText
from plugformer.interfaces import DataSpec


class AudioText(FilesWithText):
    """Clips with what is said in them: named in a table, or found by their names beside their texts.

    WAV, FLAC, OGG (Vorbis or Opus), MP3, AIFF, AU, CAF and what else soundfile reads; decoded in the loader's workers.
    Clips of one text never stand in two drawn splits. Texts count as one if they say the same but for capitals,
    punctuation and space. One recording counts once, whatever its names, with its first text.
    """

    key = "audio"
    kind = "audio_text"
    num_texts = "one"
    version = VERSION
    read = staticmethod(read_audio)

    @staticmethod
    def inspect(path: Path) -> AudioInfo:
        return check_audio(path)

    @cached_property
    def spec(self) -> DataSpec:
        rate, duration = rate_and_duration(self)
        return DataSpec(self.keys, rate=rate, duration=duration)
