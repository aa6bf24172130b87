"""From waveforms to spectrograms, by torchaudio's functionals."""

import warnings
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio import functional as F

from plugformer.errors import UserError
from plugformer_audio.compression import compress
from plugformer_audio.constants import Constants
from plugformer_audio.front_end_options import FrontEndOptions


class FrontEnd(Constants):
    """Waveforms `[batch, samples]` to spectrograms `[batch, bins, frames]`, the lowest bin first.

    In float32 at least, in whatever precision the waveforms come.
    """

    window: Tensor
    filters: Tensor
    cosines: Tensor

    def __init__(self, options: FrontEndOptions) -> None:
        super().__init__()
        self.options = options
        with torch.device("cpu"):  # where a model is but sketched, filters would have no numbers to look at
            window, filters = torch.hann_window(options.win_length), _filters(options)
            cosines = F.create_dct(options.num_bins, options.n_mels, "ortho") if options.kind == "mfcc" else None
        device = torch.get_default_device()
        self.keep("window", window.to(device))
        if filters is not None:
            self.keep("filters", filters.to(device))
        if cosines is not None:
            self.keep("cosines", cosines.to(device))

    @torch.compiler.disable  # compilers know neither complex numbers nor torchaudio's filters
    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bins frames"]:
        with torch.autocast(waveform.device.type, enabled=False):
            return self._transform(waveform.to(torch.promote_types(waveform.dtype, torch.float32)))

    def _transform(self, waveform: Tensor) -> Tensor:
        its = self.options
        energy = F.spectrogram(
            waveform,
            pad=0,
            window=self.window.to(waveform),
            n_fft=its.n_fft,
            hop_length=its.hop_length,
            win_length=its.win_length,
            power=float(its.power),
            normalized=False,
        )
        if its.kind == "linear":
            return compress(energy[:, : its.num_bins], its.compression, power=its.power)
        bands = torch.matmul(energy.transpose(1, 2), self.filters.to(waveform)).transpose(1, 2)
        bands = compress(bands, its.compression, power=its.power)
        if its.kind == "mel":
            return bands
        return torch.matmul(bands.transpose(1, 2), self.cosines.to(waveform)).transpose(1, 2)


def _filters(its: FrontEndOptions) -> Tensor | None:
    """The mel filter bank `[n_fft / 2 + 1, n_mels]`; None for linear bins.

    Raises:
        UserError: bands so narrow that no frequency falls into them.
    """
    if its.kind == "linear":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty bands, which are refused below
        filters = F.melscale_fbanks(
            its.n_fft // 2 + 1, its.f_min, its.f_max, its.n_mels, its.rate, norm=None, mel_scale=its.mel_scale
        )
    if empty := int((filters.amax(0) == 0).sum()):
        option = "num_bins" if its.kind == "mel" else "n_mels"
        raise UserError(
            f"tokenizer.{option}={its.n_mels}: {empty} of the mel bands between {its.f_min:g} and {its.f_max:g} Hz are "
            f"so narrow that no frequency of tokenizer.n_fft={its.n_fft} at {its.rate} Hz falls into them.\n"
            f"  Set a smaller tokenizer.{option} or a larger tokenizer.n_fft, such as {2 * its.n_fft}."
        )
    return filters


@cache
def shared_front_end(options: FrontEndOptions) -> FrontEnd:
    """The one on the CPU of this process, for fitting and for loaders."""
    with torch.device("cpu"):
        return FrontEnd(options)
