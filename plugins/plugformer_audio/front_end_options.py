"""What a front end does, as users set it and as torchaudio counts it."""

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Literal

from plugformer.errors import UserError
from plugformer_audio.compression import Compression

Kind = Literal["mel", "linear", "mfcc"]
MelScale = Literal["htk", "slaney"]


@dataclass(frozen=True, kw_only=True)
class FrontEndOptions:
    """By torchaudio's names.

    Attributes:
        kind: what the bins are.
        rate: hertz.
        n_fft, win_length, hop_length: in samples.
        num_bins: the height of the spectrogram; of a linear one, its lowest bins.
        n_mels: mel bands that cepstral coefficients are made of.
        f_min, f_max: hertz, the range of mel bands.
        mel_scale: its formula.
        power: of the amplitude.
        compression: of the range.
    """

    kind: Kind
    rate: int
    n_fft: int
    win_length: int
    hop_length: int
    num_bins: int
    n_mels: int
    f_min: float
    f_max: float
    mel_scale: MelScale
    power: int
    compression: Compression

    def frames(self, samples: int) -> int:
        """Frames of so many samples; each lies around its own place, so the first and the last reach beyond them."""
        return samples // self.hop_length + 1

    def samples(self, frames: int) -> int:
        """The fewest that have so many frames."""
        return (frames - 1) * self.hop_length

    @property
    def fewest_frames(self) -> int:
        """Of a waveform that can be mirrored at its ends."""
        return self.n_fft // 2 // self.hop_length + 2


@dataclass(frozen=True, kw_only=True)
class FrontEndSettings:
    """As users set them, for any rate: options of a tokenizer, where they are explained."""

    kind: Kind
    num_bins: int | None
    n_mels: int | None
    window: float
    hop: float
    n_fft: int | None
    f_min: float
    f_max: float | None
    mel_scale: MelScale
    power: int
    compression: Compression

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: numbers that can't be, or options that go with other front ends.
        """
        for name in ("num_bins", "n_mels", "window", "hop", "n_fft", "f_max"):
            check_positive(name, getattr(self, name))
        if self.kind == "linear" and (self.f_min, self.f_max, self.mel_scale) != (0.0, None, "htk"):
            raise UserError(
                "tokenizer.front_end=linear: has no mel bands; tokenizer.f_min, f_max and mel_scale are theirs.\n"
                "  Set tokenizer.front_end=mel, or leave them out."
            )
        if self.kind != "mfcc" and self.n_mels is not None:
            raise UserError(
                f"tokenizer.n_mels={self.n_mels}: belongs to front_end=mfcc.\n  Set tokenizer.num_bins={self.n_mels}."
            )
        if self.kind == "mfcc" and self.compression not in ("log", "db"):
            raise UserError(
                f"tokenizer.compression={self.compression}: front_end=mfcc is made of logarithms.\n"
                "  Set tokenizer.compression=log or tokenizer.compression=db."
            )


@cache  # it is asked for with every clip
def options_at(rate: int, settings: FrontEndSettings) -> FrontEndOptions:
    """What settings come to.

    Args:
        rate: hertz.
        settings: a user's.

    Raises:
        UserError: what can't be at this rate.
    """
    win_length, hop_length = (max(1, round(each * rate / 1000)) for each in (settings.window, settings.hop))
    n_fft = settings.n_fft or 1 << max(1, win_length - 1).bit_length()
    num_bins = settings.num_bins or {"mel": 80, "mfcc": 32, "linear": n_fft // 2}[settings.kind]
    n_mels = (settings.n_mels or 80) if settings.kind == "mfcc" else num_bins
    f_max = settings.f_max or rate / 2
    if win_length > n_fft:
        raise UserError(
            f"tokenizer.n_fft={n_fft}: a window of {settings.window:g} ms is {win_length} samples at {rate} Hz.\n"
            "  Set a larger tokenizer.n_fft or a smaller tokenizer.window."
        )
    if settings.kind != "linear" and not 0 <= settings.f_min < f_max <= rate / 2:
        raise UserError(
            f"tokenizer.f_min={settings.f_min:g} and tokenizer.f_max={f_max:g}: mel bands lie between 0 and "
            f"{rate / 2:g} Hz, half the rate of {rate}."
        )
    most = {"linear": n_fft // 2 + 1, "mfcc": n_mels, "mel": num_bins}[settings.kind]
    if num_bins > most:
        raise UserError(
            f"tokenizer.num_bins={num_bins}: front_end={settings.kind} has {most} at most, of tokenizer."
            f"{'n_mels' if settings.kind == 'mfcc' else 'n_fft'}={n_mels if settings.kind == 'mfcc' else n_fft}."
        )
    return FrontEndOptions(
        kind=settings.kind,
        rate=rate,
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        num_bins=num_bins,
        n_mels=n_mels,
        f_min=settings.f_min,
        f_max=f_max,
        mel_scale=settings.mel_scale,
        power=settings.power,
        compression=settings.compression,
    )


def check_positive(name: str, value: int | float | None) -> None:
    """
    Raises:
        UserError: an option that is set, and not to a number above 0.
    """
    if value is not None and not 0 < value < inf:
        raise UserError(f"tokenizer.{name}={value}: must be more than 0.")
