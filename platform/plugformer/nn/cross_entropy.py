"""Cross-entropy over a vocabulary from hidden states, without the logits of all of them at once.

Logits of `[tokens, vocab]` are often the largest tensor of a language model, and their gradient is another. Here both
are made for a chunk of tokens at a time: the loss is a scalar, so the gradients are known up to a factor as soon as the
logits are, and are added up on the way forward (Hsu et al. 2024, Liger Kernel, section 3.2).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


class Scores(NamedTuple):
    """
    Attributes:
        loss: scalar, the weighted mean over tokens, with its z-loss and label smoothing.
        nats: float `[tokens]`, the negative log-likelihood of each target alone; carries no gradient.
        correct: bool `[tokens]`, whether the target has the greatest logit.
    """

    loss: Tensor
    nats: Tensor
    correct: Tensor


def cross_entropy(
    hidden: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "vocab dim"],
    target: Int[Tensor, "tokens"],
    *,
    bias: Float[Tensor, "vocab"] | None = None,
    counts: Float[Tensor, "tokens"] | Int[Tensor, "tokens"] | Bool[Tensor, "tokens"] | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk: int = 1024,
) -> Scores:
    """Cross-entropy of the logits `hidden @ weight.T + bias`.

    Args:
        hidden: in the type of `weight`, or of anything under autocast, whose type the products are then taken in.
        weight: a row for each entry of the vocabulary.
        target: which entry is right; must be in the vocabulary even where it counts for nothing.
        bias: added to the logits.
        counts: how much each token counts in the mean; all alike without. If none counts, the loss is 0.
        z_loss: factor of the squared log of the softmax's normaliser (Chowdhery et al. 2022, section 5).
        label_smoothing: share of the target probability that is spread over the vocabulary (Szegedy et al. 2016).
        chunk: tokens whose logits are held at once.
    """
    recording = torch.is_grad_enabled()
    wanted = tuple(recording and part is not None and part.requires_grad for part in (hidden, weight, bias))
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    exact = torch.promote_types(dtype, torch.float32)
    share = torch.ones_like(target, dtype=exact) if counts is None else counts.to(exact)
    total = share.sum()
    share = share / (total + (total == 0))
    loss, nats, correct = _ChunkedCrossEntropy.apply(
        *(hidden, weight, bias, target, share),
        *(wanted, dtype, z_loss, label_smoothing, chunk),
    )
    return Scores(loss, nats, correct)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        share: Tensor,
        wanted: tuple[bool, bool, bool],
        dtype: torch.dtype,
        z_loss: float,
        label_smoothing: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact, vocab = share.dtype, len(weight)
        matrix, shift = weight.to(dtype), None if bias is None else bias.to(dtype)
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=exact) if wanted[1] else None
        of_bias = torch.zeros_like(matrix[:, 0], dtype=exact) if wanted[2] else None
        loss = share.new_zeros(())
        nats, correct = torch.empty_like(share), torch.empty_like(target, dtype=torch.bool)
        # What is cast is cast by hand: autocast would keep its copy of the weight, made here where no gradient is
        # recorded, for others to use.
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                now = slice(start, start + chunk)
                x, right, part = hidden[now].to(dtype), target[now, None], share[now]
                logits = torch.nn.functional.linear(x, matrix, shift).to(exact)
                top, best = logits.max(-1)
                of_target = logits.gather(1, right)[:, 0]
                mean = logits.mean(-1) if label_smoothing else of_target
                exponents = logits.sub_(top[:, None]).exp_()
                total = exponents.sum(-1)
                normaliser = top + total.log()
                nats[now] = normaliser - of_target
                correct[now] = best == target[now]
                smooth = normaliser - (1 - label_smoothing) * of_target - label_smoothing * mean
                loss += part @ (smooth + z_loss * normaliser.square())
                if not any(wanted):
                    continue
                gradient = exponents.mul_((part * (1 + 2 * z_loss * normaliser) / total)[:, None])
                gradient.scatter_add_(1, right, -(1 - label_smoothing) * part[:, None])
                if label_smoothing:
                    gradient.sub_(label_smoothing / vocab * part[:, None])
                if of_bias is not None:
                    of_bias += gradient.sum(0)
                gradient = gradient.to(dtype)
                if of_hidden is not None:
                    of_hidden[now] = gradient @ matrix
                if of_weight is not None:
                    _add_product(of_weight, gradient.T, x)
        ctx.save_for_backward(
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None or bias is None else of_bias.to(bias.dtype),
        )
        ctx.mark_non_differentiable(nats, correct)
        return loss, nats, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [None if known is None else known * gradient.to(known.dtype) for known in ctx.saved_tensors]
        return *gradients, *[None] * 7


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """`out += left @ right`, in place where the types agree."""
    if out.dtype == left.dtype:
        out.addmm_(left, right)
    else:
        out += left @ right


@torch.no_grad()
def likeliest(
    hidden: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "vocab dim"],
    *,
    bias: Float[Tensor, "vocab"] | None = None,
    count: int,
    chunk: int = 1024,
) -> tuple[Int[Tensor, "tokens count"], Float[Tensor, "tokens count"]]:
    """The most probable entries of the vocabulary and their probabilities, the most probable first.

    Args:
        hidden, weight, bias, chunk: as in `cross_entropy`.
        count: how many of each token.
    """
    exact = torch.promote_types(hidden.dtype, torch.float32)
    found = [
        torch.nn.functional.linear(part, weight, bias).to(exact).softmax(-1).topk(count) for part in hidden.split(chunk)
    ]
    probabilities, entries = (torch.cat(parts) for parts in zip(*found, strict=True))
    return entries, probabilities
