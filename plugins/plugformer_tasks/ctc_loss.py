"""The likelihood of labels, summed over all alignments (Graves et al. 2006, sections 4.1 and 4.2)."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ctc_nats(
    log_probs: Float[Tensor, "steps batch vocab"],
    labels: Int[Tensor, "batch labels"],
    *,
    lengths: Int[Tensor, "batch"],
    sizes: Int[Tensor, "batch"],
    blank: int,
) -> Float[Tensor, "batch"]:
    """The negative log-likelihood of each sample's labels in nats; 0, without a gradient, where no alignment exists.

    It is torch's own loss, in two respects otherwise. It is safe to call where tensors have no numbers, as when memory
    is estimated. And it is deterministic if that is asked for: where torch's kernel isn't so going backward, as on
    CUDA, the recursion over the steps is then done by the CPU, a small part of a training step.

    Args:
        log_probs: by `log_softmax`, or the gradient is of something else.
        labels: those of each sample at the front.
        lengths: of each sample, how many steps are real.
        sizes: likewise, how many labels.
        blank: its place in the vocabulary.
    """
    learning = torch.is_grad_enabled() and log_probs.requires_grad
    return _loss(log_probs, labels, lengths, sizes, blank, learning)[0]


# As an operator, of which torch knows the shapes; defined by hand, like those of attention, because
# `torch.library.custom_op` loads the whole compiler when first called. The gradient is made on the way forward, for the
# recursion needs what it went over before, on the device where it was.
_LIBRARY = torch.library.Library("plugformer_tasks", "FRAGMENT")
_LIBRARY.define(
    "ctc_loss(Tensor log_probs, Tensor labels, Tensor lengths, Tensor sizes, int blank, bool learning) "
    "-> (Tensor, Tensor)"
)


def _forward(
    log_probs: Tensor, labels: Tensor, lengths: Tensor, sizes: Tensor, blank: int, learning: bool
) -> tuple[Tensor, Tensor]:
    device = log_probs.device
    given: tuple[Tensor, ...] = log_probs, labels, lengths, sizes
    if torch.are_deterministic_algorithms_enabled():
        given = tuple(each.cpu() for each in given)
    nats, alpha = torch.ops.aten._ctc_loss(*given, blank, True)
    gradient = log_probs.new_empty(0)
    if learning:
        gradient = torch.ops.aten._ctc_loss_backward(torch.ones_like(nats), *given, nats, alpha, blank, True)
    return nats.where(nats < torch.inf, 0.0).to(device), gradient.to(device)


def _shapes(
    log_probs: Tensor, labels: Tensor, lengths: Tensor, sizes: Tensor, blank: int, learning: bool
) -> tuple[Tensor, Tensor]:
    return log_probs.new_empty(len(labels)), torch.empty_like(log_probs) if learning else log_probs.new_empty(0)


def _keep(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, nats: Tensor, _: Tensor) -> Any:
    (gradient,) = ctx.saved_tensors
    return gradient * nats[:, None], *[None] * 5


_LIBRARY.impl("ctc_loss", _forward, "CompositeExplicitAutograd")
torch.library.register_fake("plugformer_tasks::ctc_loss", _shapes, lib=_LIBRARY)
torch.library.register_autograd("plugformer_tasks::ctc_loss", _differentiate, setup_context=_keep, lib=_LIBRARY)
_loss = torch.ops.plugformer_tasks.ctc_loss
