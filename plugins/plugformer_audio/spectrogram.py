"""Patches of spectrograms as tokens (Gong et al. 2021, AST, section 2.1)."""

import json
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from plugformer.data.audio import read_audio
from plugformer.data.collate import stack
from plugformer.data.mixing import check_mixing, draw_mixing
from plugformer.errors import UserError
from plugformer.interfaces import Audio, DataSpec, Features, Grid, Sample, Tokenizer, TokenSpec
from plugformer.nn.patches import Patches
from plugformer_audio.front_end import shared_front_end
from plugformer_audio.front_end_options import FrontEndOptions, FrontEndSettings, check_positive, options_at
from plugformer_audio.masking import Bands
from plugformer_audio.moments import BATCH, Moments, batched
from plugformer_audio.spectrogram_embedding import SpectrogramEmbedding
from plugformer_audio.waveform import Crop, Cut, cut, draw_cut, draw_gain, mono, resample, to_peak

LONGEST = 60.0  # seconds that are taken unasked; more is likely a recording that nobody meant to be one sample


class Spectrogram(Tokenizer):
    """Patches of frequency × time, cut from a spectrogram that is computed in a batch on the device.

    All clips become one duration: longer ones are cropped, shorter ones padded at the end. Every bin's mean and
    standard deviation are fitted on the training clips.

    Args:
        rate: hertz that clips are resampled to; by default the rate they have, which must then be one.
        duration: seconds; by default those of the longest clip of the data.
        crop: `middle`: longer clips are cropped to their middle, in training anywhere. `start`: to their beginning, for
            clips that begin with what matters.
        level: `keep`, or `peak` to make every clip as loud as it can be.
        padding: `mask`: nobody attends to patches behind a clip's end. `silence`: they are sound like any other.
        front_end: `mel`: mel bands. `linear`: the frequencies of the Fourier transform. `mfcc`: mel-frequency cepstral
            coefficients.
        num_bins: height of the spectrogram; by default 80 for mel, 32 for mfcc, and for linear, which takes the lowest,
            n_fft / 2.
        n_mels: mel bands that mfcc is made of; by default 80.
        window: milliseconds of a frame.
        hop: milliseconds from one frame to the next.
        n_fft: samples of the Fourier transform; by default the power of two that the window fits in.
        f_min: lowest frequency of mel bands in hertz.
        f_max: highest frequency of mel bands in hertz; by default half the rate.
        mel_scale: formula of the mel scale.
        power: of the amplitude, 2 for energy.
        compression: `log`: natural logarithm. `db`: decibels down to 80 below a clip's loudest. `pcen`: per-channel
            energy normalisation (Wang et al. 2017). `none`.
        patch_size: height in bins and width in frames, or one number for both; null as height for all bins.
        overlap: bins and frames that neighbouring patches share, or one number for both.
        stem: `linear` projects each patch; `conv` is Whisper's two convolutions over frames (Radford et al. 2022),
            which needs patch_size=[null,2].
        compute: where spectrograms are computed: on the `device`, or on the CPU by the `loader`.
        time_shift: seconds by which training clips are shifted at most, to and fro.
        gain: decibels by which training clips become louder or softer at most.
        freq_masks: bands of bins that are hidden in training (Park et al. 2019, SpecAugment).
        freq_mask_size: bins in such a band at most.
        time_masks: stretches of time that are hidden in training.
        time_mask_size: frames in such a stretch at most.
        mixup: training clips are mixed in pairs, by shares drawn from Beta(mixup, mixup) (Zhang et al. 2018); 0 for
            none.

    Raises:
        UserError: numbers that can't be, or options that go with others only.
    """

    modality: ClassVar[str] = "audio"
    training_options = frozenset(
        {"compute", "time_shift", "gain", "freq_masks", "freq_mask_size", "time_masks", "time_mask_size", "mixup"}
    )

    def __init__(
        self,
        *,
        rate: int | None = None,
        duration: float | None = None,
        crop: Literal["middle", "start"] = "middle",
        level: Literal["keep", "peak"] = "keep",
        padding: Literal["mask", "silence"] = "mask",
        front_end: Literal["mel", "linear", "mfcc"] = "mel",
        num_bins: int | None = None,
        n_mels: int | None = None,
        window: float = 25.0,
        hop: float = 10.0,
        n_fft: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        mel_scale: Literal["htk", "slaney"] = "htk",
        power: Literal[1, 2] = 2,
        compression: Literal["log", "db", "pcen", "none"] = "log",
        patch_size: int | tuple[int | None, int] = 16,
        overlap: int | tuple[int, int] = 0,
        stem: Literal["linear", "conv"] = "linear",
        compute: Literal["device", "loader"] = "device",
        time_shift: float = 0.0,
        gain: float = 0.0,
        freq_masks: int = 0,
        freq_mask_size: int = 0,
        time_masks: int = 0,
        time_mask_size: int = 0,
        mixup: float = 0.0,
    ) -> None:
        check_positive("rate", rate)
        check_positive("duration", duration)
        check_mixing(mixup=mixup)
        for name, value in {"time_shift": time_shift, "gain": gain}.items():
            if not 0 <= value < inf:
                raise UserError(f"tokenizer.{name}={value}: must be at least 0.")
        self.rate, self.duration = rate, duration
        self._may_resample = rate is not None
        self.crop: Crop = crop
        self.levels = level == "peak"
        self.masks_padding = padding == "mask"
        self.front_end = FrontEndSettings(
            kind=front_end,
            num_bins=num_bins,
            n_mels=n_mels,
            window=window,
            hop=hop,
            n_fft=n_fft,
            f_min=f_min,
            f_max=f_max,
            mel_scale=mel_scale,
            power=power,
            compression=compression,
        )
        self.patch_size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.overlap = (overlap, overlap) if isinstance(overlap, int) else overlap
        self.conv = stem == "conv"
        self.in_loader = compute == "loader"
        self.time_shift, self.gain, self.mixup = time_shift, gain, mixup
        self.freq_bands = Bands("freq", freq_masks, freq_mask_size)
        self.time_bands = Bands("time", time_masks, time_mask_size)
        self._check_combination()
        self.mean: list[float] = []
        self.std: list[float] = []

    def _check_combination(self) -> None:
        if self.conv and (self.patch_size != (None, 2) or self.overlap != (0, 0)):
            raise UserError(
                "tokenizer.stem=conv: makes a token of each two frames.\n"
                "  Set tokenizer.patch_size=[null,2] and tokenizer.overlap=0."
            )
        if self.in_loader and self.mixup:
            raise UserError(
                f"tokenizer.mixup={self.mixup}: mixes waveforms, of which tokenizer.compute=loader leaves none.\n"
                "  Set tokenizer.compute=device."
            )
        for name, size, shared in zip(("height", "width"), self.patch_size, self.overlap, strict=True):
            if size is not None and size < 1:
                raise UserError(f"tokenizer.patch_size: the {name} is {size}, and must be at least 1.")
            least = 1 if size is None else size  # patches of all bins have none above or below
            if not 0 <= shared < least:
                raise UserError(
                    f"tokenizer.overlap: the {name} that patches share is {shared}; it must be at least 0 and less "
                    f"than {least}{', as patches hold all bins' if size is None else ', that of a patch'}."
                )

    # ------------------------------------------------------------------------------------------ shapes

    @property
    def spec(self) -> TokenSpec:
        bins, frames = self._shape()
        patches = self.patches
        return TokenSpec(
            Grid(("frequency", "time"), patches.grid(bins, frames)),
            token_dim=patches.size[0] * patches.size[1],
            pads=self.masks_padding,
            overlaps=patches.overlap or self.conv,
            mixes=self.mixup > 0,
        )

    @property
    def patches(self) -> Patches:
        height, width = self.patch_size[0] or self.transform.num_bins, self.patch_size[1]
        return Patches((height, width), (height - self.overlap[0], width - self.overlap[1]))

    @property
    def transform(self) -> FrontEndOptions:
        """Of the front end, once the rate is known."""
        assert self.rate is not None, "neither fitted nor assumed"
        return options_at(self.rate, self.front_end)

    def _samples(self) -> int:
        """Of the duration."""
        assert self.rate is not None and self.duration is not None, "neither fitted nor assumed"
        return max(1, round(self.duration * self.rate))

    def _shape(self) -> tuple[int, int]:
        """Bins and frames of every spectrogram: frames are padded up to whole patches."""
        its, patches = self.transform, self.patches
        least = max(its.frames(self._samples()), its.fewest_frames, patches.size[1])
        columns = -(-(least - patches.size[1]) // patches.stride[1]) + 1
        return its.num_bins, patches.size[1] + (columns - 1) * patches.stride[1]

    def _room(self) -> int:
        """Samples of every waveform: as many as its frames need."""
        return self.transform.samples(self._shape()[1])

    def _settle(self, rate: int, duration: float) -> None:
        """Take what the options leave open, and check that all goes together.

        Raises:
            UserError: a clip far too long, filters that can't be, or patches that don't cover all bins.
        """
        self.rate = self.rate or rate
        if self.duration is None and duration > LONGEST:
            raise UserError(
                f"The longest clip lasts {duration:.0f} s, and tokenizer.duration=null would bring all clips to that.\n"
                "  Set tokenizer.duration=SECONDS; longer clips are cropped."
            )
        self.duration = self.duration or duration
        shared_front_end(self.transform)  # which knows whether it can be
        self._check_bins()

    def _check_bins(self) -> None:
        bins, shared = self.transform.num_bins, self.overlap[0]
        height, stride = self.patches.size[0], self.patches.stride[0]
        if bins >= height and not (bins - height) % stride:
            return
        heights = [size for size in range(shared + 1, bins + 1) if not (bins - size) % (size - shared)]
        fewer = height + max(0, bins - height) // stride * stride
        raise UserError(
            f"tokenizer.patch_size: patches {height} bins high with overlap {shared} don't cover {bins} bins exactly.\n"
            f"  Heights that would: {', '.join(map(str, heights))}. So would tokenizer.num_bins={fewer} or "
            f"{fewer + stride}."
        )

    # ------------------------------------------------------------------------------------------ fitting

    def assume(self, data: DataSpec) -> None:
        if self.modality not in data.keys:  # which is refused by name, once all parts are known
            data = DataSpec(data.keys, rate=16_000, duration=1.0)
        if self.rate is None and data.rate is None:
            raise UserError(
                "The clips of this data don't share one rate, or nobody knows it before they are read.\n"
                "  Set tokenizer.rate=16000 to resample all of them."
            )
        if self.duration is None and data.duration is None:
            raise UserError(
                "Nobody knows how long the clips of this data are before they are read.\n"
                "  Set tokenizer.duration=SECONDS; longer clips are cropped, shorter ones padded."
            )
        self._settle(data.rate or 0, data.duration or 0.0)
        bins = self.transform.num_bins
        self.mean, self.std = [0.0] * bins, [1.0] * bins

    def fit(self, samples: Iterable[Sample]) -> None:
        moments = None
        for clips in batched(self._clips(samples), BATCH):
            front_end = shared_front_end(self.transform)
            moments = moments or Moments(self.transform.num_bins)
            moments.add(clips, front_end)
        if moments is None:
            raise UserError("tokenizer=spectrogram: there are no training clips to fit on.")
        assert self.rate is not None, "there was a clip"
        self._settle(self.rate, moments.longest / self.rate)
        self.mean, self.std = moments.mean().tolist(), moments.std().tolist()

    def _clips(self, samples: Iterable[Sample]) -> Iterator[Tensor]:
        """As they are encoded, but not padded."""
        for sample in samples:
            if self.rate is None:
                self.rate = sample["audio"].rate
            clip = self._prepare(sample)
            yield clip if self.duration is None else self._cut(clip).taken(clip)

    # ------------------------------------------------------------------------------------------ encoding

    def encode(self, sample: Sample, *, augment: bool = False) -> Features:
        clip = self._prepare(sample)
        part = self._cut(clip)
        if augment:
            shift = round(self.time_shift * self.transform.rate)
            part = draw_cut(len(clip), self._samples(), crop=self.crop, shift=shift)
        waveform = part.padded(clip, self._room())
        if augment and self.gain:
            waveform = waveform * draw_gain(self.gain)
        return self._features(waveform, self.transform.frames(part.heard(len(clip))), augment=augment)

    def _cut(self, clip: Float[Tensor, "frames"]) -> Cut:
        return cut(len(clip), self._samples(), crop=self.crop)

    def _features(self, waveform: Float[Tensor, "samples"], heard: int, *, augment: bool = False) -> Features:
        """Of a waveform of which so many frames are the clip's own."""
        features: Features = {}
        if self.in_loader:
            with torch.no_grad():
                features["spectrogram"] = shared_front_end(self.transform)(waveform[None])[0]
        else:
            features["waveform"] = waveform
        if self.masks_padding:
            rows, columns = self.spec.grid.shape
            features["valid"] = (torch.arange(columns) * self.patches.stride[1] < heard).repeat(rows)
        if self.freq_bands.count:
            features["freq_bands"] = self.freq_bands.draw(self.transform.num_bins if augment else 0)
        if self.time_bands.count:
            features["time_bands"] = self.time_bands.draw(heard if augment else 0)
        return features

    def _prepare(self, sample: Sample) -> Float[Tensor, "frames"]:
        """The clip as one channel at the one rate.

        Raises:
            UserError: nothing in it, numbers that aren't finite, or another rate.
        """
        audio, where = sample["audio"], sample.get("id", "a clip")
        assert self.rate is not None, "neither fitted nor assumed"
        if audio.rate != self.rate and not self._may_resample:
            raise UserError(
                f"{where}: has {audio.rate} samples a second, others {self.rate}.\n"
                "  Set tokenizer.rate=16000 to resample all clips to one rate."
            )
        waveform = resample(mono(audio, where), audio.rate, self.rate)
        return to_peak(waveform) if self.levels else waveform

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)

    def mix(self, batch: Features) -> Features:
        return batch | draw_mixing(len(batch["waveform"]), alpha=self.mixup) if self.mixup else batch

    def example(self) -> Features:
        return self._features(torch.zeros(self._room()), self.transform.frames(self._samples()))

    def embedding(self, *, dim: int) -> SpectrogramEmbedding:
        return SpectrogramEmbedding(
            dim=dim,
            front_end=self.transform,
            patches=self.patches,
            grid=self.spec.grid,
            mean=self.mean,
            std=self.std,
            conv=self.conv,
        )

    def read(self, source: str) -> Sample:
        """An audio file, brought to the rate of the training clips."""
        waveform, rate = read_audio(source)
        return {"id": source, "audio": Audio(resample(waveform, rate, self.transform.rate), self.transform.rate)}

    # ------------------------------------------------------------------------------------------ files

    def save(self, folder: Path) -> None:
        learned = {"rate": self.rate, "duration": self.duration, "mean": self.mean, "std": self.std}
        (folder / "spectrogram.json").write_text(json.dumps(learned, indent=2) + "\n")

    def load(self, folder: Path) -> None:
        learned = json.loads((folder / "spectrogram.json").read_text())
        self.rate, self.duration = learned["rate"], learned["duration"]
        self.mean, self.std = learned["mean"], learned["std"]
