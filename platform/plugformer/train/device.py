"""What is known of the device that a run trains on."""

import re
import resource
import sys
from typing import NamedTuple

import torch


class Peak(NamedTuple):
    """10¹² operations a second without sparsity, as the maker's data sheets have them; None for what isn't there.

    Attributes:
        bfloat16, float16, tf32: of tensor cores, with sums in float32.
        float32: of the others.
        float64: of whichever are faster.
    """

    bfloat16: float | None
    float16: float
    tf32: float | None
    float32: float
    float64: float


_H100 = Peak(989.4, 989.4, 494.7, 66.9, 66.9)
_H100_NVL = Peak(835.5, 835.5, 417.5, 60.0, 60.0)
_A100 = Peak(312.0, 312.0, 156.0, 19.5, 19.5)
PEAKS = {  # by names as CUDA tells them, without what says nothing of the speed
    "h200": _H100,
    "h200 nvl": _H100_NVL,
    "gh200": _H100,
    "h100": _H100,
    "h100 nvl": _H100_NVL,
    "h100 pcie": Peak(756.0, 756.0, 378.0, 51.0, 51.0),
    "l40s": Peak(362.1, 362.1, 183.0, 91.6, 1.4),
    "l40": Peak(181.1, 181.1, 90.5, 90.5, 1.4),
    "l4": Peak(121.0, 121.0, 60.0, 30.3, 0.5),
    "4090": Peak(165.2, 165.2, 82.6, 82.6, 1.3),
    "a100": _A100,
    "a100 pcie": _A100,
    "a40": Peak(149.7, 149.7, 74.8, 37.4, 0.6),
    "a30": Peak(165.0, 165.0, 82.0, 10.3, 10.3),
    "a10": Peak(125.0, 125.0, 62.5, 31.2, 0.5),
    "a6000": Peak(154.8, 154.8, 77.4, 38.7, 0.6),
    "3090": Peak(71.0, 71.0, 35.6, 35.6, 0.6),
    "t4": Peak(None, 65.0, None, 8.1, 0.3),
    "v100": Peak(None, 125.0, None, 15.7, 7.8),
    "v100 pcie": Peak(None, 112.0, None, 14.0, 7.0),
}
_SAYS_NOTHING = re.compile(r"nvidia|tesla|geforce|rtx|sxm\d?|hbm\d?e?|\d+gb")


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second that the device could do at best, in a run of this `trainer.precision`.

    None where it isn't known; of a CPU it never is, for it changes its clock as it goes.
    """
    if device.type != "cuda":
        return None
    return peak_by_name(torch.cuda.get_device_name(device), precision)


def peak_by_name(name: str, precision: str) -> float | None:
    words = re.findall(r"[a-z0-9]+", name.lower())
    peak = PEAKS.get(" ".join(word for word in words if not _SAYS_NOTHING.fullmatch(word)))
    if peak is None:
        return None
    kind = {"bf16-mixed": "bfloat16", "bf16-true": "bfloat16", "16-mixed": "float16", "64-true": "float64"}
    single = "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    found: float | None = getattr(peak, kind.get(precision, single))
    return None if found is None else found * 1e12


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that were in use at a time: on CUDA of torch's, on the CPU of the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "cpu":
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024
    return None
