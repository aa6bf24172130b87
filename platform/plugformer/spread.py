"""Tensors of which each process holds a part.

There are two kinds: torch's DTensor (fully sharded training), and plain parameters that say along which axis they are
divided, as `divided_along` (tensor parallelism).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm


def is_spread(parameter: nn.Parameter) -> bool:
    """Whether other processes hold other parts of it."""
    return hasattr(parameter, "to_local") or hasattr(parameter, "divided_along")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it, in the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def gathered(tensor: Tensor, axis: int | None) -> Tensor:
    """All of it; every process has to ask.

    Args:
        tensor: this process's part.
        axis: along which it is divided, if it is and doesn't know it itself.
    """
    if hasattr(tensor, "full_tensor"):
        return tensor.full_tensor()
    if axis is None:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, axis)


def part_of(whole: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """This process's part of a tensor that is whole on each.

    Args:
        whole: the tensor.
        like: is spread as it is to be.
        axis: along which, if `like` doesn't know.
    """
    if hasattr(whole, "to_local"):
        return whole  # it was read in parts
    if isinstance(like, DTensor):  # no other process is asked, for all hold the same
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    if axis is None:
        return whole
    count = like.shape[axis]
    return whole.narrow(axis, distributed.get_rank() * count, count)


@torch.no_grad()
def norm_of(tensors: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Of all of them as one vector, with what other processes hold.

    Args:
        tensors: one for each parameter, such as its gradient.
        parameters: some of them spread.
    """
    if not any(map(is_spread, parameters)):
        return get_total_norm(tensors)
    pairs = list(zip(map(local, tensors), parameters, strict=True))
    apart = torch.linalg.vector_norm(torch.stack(_norms(part for part, whose in pairs if is_spread(whose)))) ** 2
    distributed.all_reduce(apart)
    common = _norms(part for part, whose in pairs if not is_spread(whose))
    return torch.linalg.vector_norm(torch.stack([apart.sqrt(), *common]))


def _norms(tensors: Iterable[Tensor]) -> list[Tensor]:
    found = list(tensors)
    return list(torch._foreach_norm(found)) if found else []


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """As `torch.nn.utils.clip_grad_norm_`, for parameters of which some are spread."""
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    norm = norm_of(gradients, learning)
    torch._foreach_mul_([local(gradient) for gradient in gradients], (largest / (norm + 1e-6)).clamp(max=1.0))
