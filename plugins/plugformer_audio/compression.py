"""How the range of a spectrogram is compressed."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio import functional as F

Compression = Literal["log", "db", "pcen", "none"]
LOG_OFFSET = 1e-6  # as in torchaudio's MFCC
TOP_DB = 80.0

# Wang et al. 2017, section 2; the smoothing is theirs for frames 10 ms apart.
SMOOTHING, EPS, ALPHA, DELTA, ROOT = 0.025, 1e-6, 0.98, 2.0, 0.5


def compress(
    energy: Float[Tensor, "batch bins frames"], how: Compression, *, power: int
) -> Float[Tensor, "batch bins frames"]:
    """Each clip by itself.

    Args:
        energy: at least 0, of the amplitude's `power`.
        how: `log`: natural logarithm. `db`: decibels, cut off 80 below the clip's loudest. `pcen`: per-channel energy
            normalisation.
        power: 1 or 2.
    """
    if how == "log":
        return torch.log(energy + LOG_OFFSET)
    if how == "db":  # of one channel each, or torchaudio would look for the loudest of the whole batch
        return F.amplitude_to_DB(energy[:, None], 20.0 / power, 1e-10, 0.0, TOP_DB)[:, 0]
    return pcen(energy) if how == "pcen" else energy


def pcen(energy: Float[Tensor, "batch bins frames"]) -> Float[Tensor, "batch bins frames"]:
    """Energy over its own recent mean, then a root (Wang et al. 2017, equations 1 and 2); nothing is learned.

    The mean starts at the first frame's energy.
    """
    first = energy[..., :1]
    feedback = energy.new_tensor([1.0, SMOOTHING - 1.0])
    mean = F.lfilter(energy - first, feedback, energy.new_tensor([SMOOTHING, 0.0]), clamp=False) + first
    return (energy / (EPS + mean) ** ALPHA + DELTA) ** ROOT - DELTA**ROOT
