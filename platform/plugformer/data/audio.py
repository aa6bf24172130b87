"""Reading audio files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from plugformer.errors import UserError
from plugformer.interfaces import Audio

# What soundfile reads and what its files are usually called; Opus and Vorbis are streams of .ogg as well.
SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc"),
    *(".au", ".snd", ".caf", ".w64", ".rf64", ".sph"),
)

VERSION = f"1, soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}"  # of what reads them

BLOCK = 1 << 18  # frames that are decoded at once
LOUDEST = 4.0  # +12 dB; decoders of lossy audio and mixes in float files go some way above full scale, none so far


class AudioInfo(NamedTuple):
    """
    Attributes:
        rate: hertz.
        frames: samples of each channel; some MP3 files hold a few less than their header says.
    """

    rate: int
    frames: int
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.rate


def read_audio(source: str | Path | bytes, *, name: str | None = None) -> Audio:
    """A whole file as float32 `[channels, frames]`.

    Float files and decoders of lossy audio may go above full scale. Such a file is turned down as a whole, until its
    peak is 1: clipping would distort it.

    Args:
        source: a file, or what one holds.
        name: what messages call it; by default its path.

    Raises:
        UserError: no such file, not audio, cut short, without samples, or with samples that are NaN, infinite or on
            another scale.
    """
    with _opened(source, name) as (file, known_as):
        (samples,) = _decoded(file, known_as, file.frames)  # in one block, not copied
        rate = file.samplerate
    if (peak := _peak(samples)) > 1:
        samples = (samples / peak).clip(-1, 1)  # a quotient may be rounded up
    return Audio(torch.from_numpy(np.ascontiguousarray(samples.T)), rate)


def audio_info(source: str | Path | bytes, *, name: str | None = None) -> AudioInfo:
    """What a file's header says; nothing is decoded.

    Raises:
        UserError: as `read_audio`, as far as the header tells.
    """
    with _opened(source, name) as (file, _):
        return AudioInfo(file.samplerate, file.frames, file.channels)


def check_audio(source: str | Path | bytes, *, name: str | None = None) -> AudioInfo:
    """Decodes a file in blocks, so that an hour needs no more memory than a second, and keeps none of it.

    Raises:
        UserError: as `read_audio`.
    """
    with _opened(source, name) as (file, known_as):
        frames = sum(len(block) for block in _decoded(file, known_as, BLOCK))
        return AudioInfo(file.samplerate, frames, file.channels)


@contextmanager
def _opened(source: str | Path | bytes, name: str | None) -> Iterator[tuple[soundfile.SoundFile, str]]:
    name = name or ("audio" if isinstance(source, bytes) else str(source))
    try:
        with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as stream:
            empty = not stream.read(1)
            is_whole = _ends(stream)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file.") from None
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror}).") from None
    if empty:
        raise UserError(f"{name}: is empty.")
    try:
        file = soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source)
    except soundfile.LibsndfileError:  # its text is not to be relied on: threads share the place where it stands
        raise UserError(f"{name}: not audio that can be read; use WAV, FLAC, OGG, Opus, MP3 or AIFF.") from None
    with file:
        if not is_whole or _lacks_data(file.extra_info):
            raise UserError(f"{name}: is cut short; its end is missing.")
        if not file.frames:
            raise UserError(f"{name}: holds no samples.")
        yield file, name


def _decoded(file: soundfile.SoundFile, name: str, size: int) -> Iterator[np.ndarray]:
    """Blocks `[frames, channels]` of at most `size` frames, one at least."""
    left = file.frames
    try:
        while left > 0 and len(block := file.read(min(size, left), dtype="float32", always_2d=True)):
            peak = _peak(block)
            if not np.isfinite(peak):
                raise UserError(f"{name}: holds samples that are NaN or infinite.")
            if peak > LOUDEST:
                raise UserError(
                    f"{name}: holds samples up to {peak:g}, but full scale is 1; divide them, or save them as integers."
                )
            yield block
            left -= len(block)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{name}: audio that can't be decoded ({error.error_string.rstrip('.')}).") from None
    # What an MP3 header says is an estimate, unless its encoder wrote it down.
    if left == file.frames or left > (2304 + file.frames // 50 if file.format == "MP3" else 0):
        raise UserError(f"{name}: is cut short; {left} of {file.frames} frames are missing.")


def _peak(samples: np.ndarray) -> np.float32:
    return np.maximum(samples.max(), -samples.min())  # NaN if there is one


_STATED = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN = 0x7FFF0000  # about what writers to a pipe state, who can't know the size


def _lacks_data(log: str) -> bool:
    """Whether a header promises more than there is, in formats without an end of their own.

    libsndfile then reads what there is, and says so in its log alone.
    """
    sizes = [(int(stated), int(found)) for stated, found in _STATED.findall(log)]
    return any(found + 1 < stated < _UNKNOWN for stated, found in sizes)


def _ends(stream: BufferedReader | BytesIO) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last (RFC 3533, section 6).

    libsndfile drops pages that aren't whole, with all that they would end.
    """
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return True
    stream.seek(0, 2)
    stream.seek(max(0, stream.tell() - (1 << 16)))  # more than a page can hold
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return False
    segments = page[26]
    return len(page) >= 27 + segments + sum(page[27 : 27 + segments])
