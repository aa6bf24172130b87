"""Waveforms brought to one rate, one channel and one length."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchaudio.transforms import Resample

from plugformer.errors import UserError
from plugformer.interfaces import Audio

Crop = Literal["middle", "start"]


def mono(audio: Audio, where: str) -> Float[Tensor, "frames"]:
    """The mean of all channels.

    Raises:
        UserError: nothing in it, or numbers that aren't finite.
    """
    waveform = audio.waveform.mean(0)
    if not waveform.numel():
        raise UserError(f"{where}: holds no samples.")
    if not waveform.isfinite().all():
        raise UserError(f"{where}: holds samples that are NaN or infinite.")
    return waveform


def to_peak(waveform: Float[Tensor, "frames"]) -> Float[Tensor, "frames"]:
    """As loud as can be; silence stays silent."""
    return waveform / waveform.abs().max().clamp(min=torch.finfo(waveform.dtype).tiny)


def resample(waveform: Float[Tensor, "*channels frames"], rate: int, new_rate: int) -> Float[Tensor, "*channels new"]:
    """By torchaudio's windowed sinc; frames of `rate` hertz become frames of `new_rate`."""
    return waveform if rate == new_rate else _resampler(rate, new_rate)(waveform)


@cache
def _resampler(rate: int, new_rate: int) -> Resample:
    return Resample(rate, new_rate)  # which keeps its filters; the functional form would make them for every clip


@dataclass(frozen=True)
class Cut:
    """What is taken of a clip: `length` frames from `start` on, which is negative where silence comes first."""

    start: int
    length: int

    def taken(self, waveform: Float[Tensor, "frames"]) -> Float[Tensor, "taken"]:
        """What there is of it, without silence."""
        return waveform[max(0, self.start) : self.start + self.length]

    def padded(self, waveform: Float[Tensor, "frames"], room: int) -> Float[Tensor, "room"]:
        """With silence before, and behind as far as there is room."""
        taken, before = self.taken(waveform), max(0, -self.start)
        return F.pad(taken, (before, room - before - len(taken)))

    def heard(self, frames: int) -> int:
        """How many of its frames there are before a clip of so many ends."""
        return min(frames - self.start, self.length)


def cut(frames: int, length: int, *, crop: Crop) -> Cut:
    """The middle or the beginning of a clip that is longer, the whole of one that isn't."""
    return Cut(max(0, frames - length) // 2 if crop == "middle" else 0, length)


def draw_cut(frames: int, length: int, *, crop: Crop, shift: int) -> Cut:
    """Any place of a clip that is longer, or its beginning; up to `shift` frames earlier or later, but never more than
    half of it."""
    start = _draw(0, max(0, frames - length)) if crop == "middle" else 0
    limit = min(shift, min(frames, length) // 2)
    return Cut(start + _draw(-limit, limit), length)


def draw_gain(decibels: float) -> float:
    """A factor for the amplitude, up to so many decibels louder or softer."""
    return 10 ** (float(torch.rand(()) * 2 - 1) * decibels / 20)


def _draw(first: int, last: int) -> int:
    return int(torch.randint(first, last + 1, ()))
