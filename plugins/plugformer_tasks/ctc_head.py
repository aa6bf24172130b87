"""Labels of time steps without an alignment: the head of `ctc`, and one to learn beside a decoder."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Mask, TokenSpec
from plugformer_tasks.ctc_loss import ctc_nats

UNWRITTEN = ("pad", "bos", "eos")  # special tokens that are no labels


class Steps(NamedTuple):
    """What is said of each time step.

    Attributes:
        log_probs: float `[batch, steps, vocab]`, at least float32; of each label and, where `pad` stands, of the blank.
        lengths: int `[batch]`, how many steps of each sample are real. They stand at the front.
    """

    log_probs: Tensor
    lengths: Tensor


class CtcHead(nn.Module):
    """A linear map from an encoder's hidden states to labels and a blank, with the loss of Graves et al. (2006).

    The labels are the tokens of the target's vocabulary but for those that mark its beginning and its end, and `pad` is
    the blank. Beside a decoder (Watanabe et al. 2017, section 3) it takes what `Backbone.encode` returns:

        memory = trunk.backbone.encode(trunk.embed(batch["inputs"]))
        steps = head(memory.hidden, memory.mask)
        loss = (1 - weight) * loss + weight * head.loss(steps, batch["targets"]["ids"])

    with `targets = FittingTargets(targets, …)`, which tells of texts that have more labels than there are steps. `loss`
    is a mean over the same items as that of a decoder that begins with bos and ends with eos.

    Args:
        dim: of the hidden states.
        target: whose vocabulary.

    Raises:
        UserError: a vocabulary without `pad`.
    """

    unwritten: Tensor

    def __init__(self, *, dim: int, target: TokenSpec) -> None:
        super().__init__()
        self.blank = blank_of(target)
        self.linear = nn.Linear(dim, target.vocab_size or 1)
        self.register_buffer("unwritten", torch.tensor(unwritten(target)), persistent=False)

    def forward(self, hidden: Float[Tensor, "batch length dim"], mask: Mask) -> Steps:
        """
        Args:
            hidden: of an encoder.
            mask: of its tokens: which are real, and where they lie.
        """
        hidden, real = time_steps(hidden, mask)
        logits = self.linear(hidden)
        log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return Steps(log_probs, real.sum(1))

    def loss(self, steps: Steps, ids: Int[Tensor, "batch tokens"]) -> Tensor:
        """Scalar: the negative log-likelihoods of the texts in nats, over all their items.

        Args:
            steps: of a batch.
            ids: as the target's tokenizer collates them.
        """
        return mean_of_items(self.nats(steps, ids), self.items(steps, ids))

    def items(self, steps: Steps, ids: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch"]:
        """What `loss` is the mean over: the labels of each text, and one for its end. None of a text that finds no
        room in its steps, as repeated labels need a blank between them."""
        labels, written = packed(ids, self.written(ids))
        repeated = (labels[:, 1:] == labels[:, :-1]) & written[:, 1:]
        size = written.sum(1)
        return (size + 1).where(size + repeated.sum(1) <= steps.lengths, 0)

    def nats(self, steps: Steps, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch"]:
        """The negative log-likelihood of each text, of all ways to spread its labels over the steps; 0, without a
        gradient, where there is none."""
        labels, written = packed(ids, self.written(ids))
        log_probs = rearrange(steps.log_probs, "batch steps vocab -> steps batch vocab")
        return ctc_nats(log_probs, labels, lengths=steps.lengths, sizes=written.sum(1), blank=self.blank)

    def written(self, ids: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
        """Which tokens are labels."""
        return ~torch.isin(ids, self.unwritten)


def mean_of_items(nats: Float[Tensor, "batch"], items: Int[Tensor, "batch"]) -> Tensor:
    """Scalar: over all items of a batch, without texts that have none."""
    return nats.where(items > 0, 0.0).sum() / items.sum().clamp(min=1)


def mean_of_each(nats: Float[Tensor, "batch"], items: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Over the items of each text; 0 where it has none."""
    return nats.where(items > 0, 0.0) / items.clamp(min=1)


def blank_of(target: TokenSpec) -> int:
    """
    Raises:
        UserError: a vocabulary without `pad`.
    """
    if "pad" not in target.specials:
        raise UserError(
            "CTC takes the special token for pad as its blank, and the target's tokenizer has none.\n"
            f"  Its special tokens: {', '.join(target.specials) or 'none'}."
        )
    return target.specials["pad"]


def unwritten(target: TokenSpec) -> list[int]:
    """Tokens that are no labels."""
    return [target.specials[role] for role in UNWRITTEN if role in target.specials]


def time_steps(
    hidden: Float[Tensor, "batch length dim"], mask: Mask
) -> tuple[Float[Tensor, "batch steps dim"], Bool[Tensor, "batch steps"]]:
    """The hidden state of each place of the grid's last axis, and which are real; those stand at the front.

    Over the other axes, such as frequency or rows, it is the mean over real places.
    """
    assert mask.layout is not None, "nobody knows where the tokens lie"
    (grid,), valid = mask.layout.grids, mask.valid
    if len(grid.shape) > 1:  # all places, in raster order
        steps = grid.shape[-1]
        hidden = rearrange(hidden, "batch (others steps) dim -> batch others steps dim", steps=steps)
        if valid is None:
            hidden = hidden.mean(1)
        else:
            real = rearrange(valid, "batch (others steps) -> batch others steps 1", steps=steps)
            hidden = (hidden * real).sum(1) / real.sum(1).clamp(min=1)
            valid = real[..., 0].any(1)
    if valid is None:
        return hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    return packed(hidden, valid)


def packed(values: Tensor, kept: Bool[Tensor, "batch length"]) -> tuple[Tensor, Bool[Tensor, "batch length"]]:
    """`values [batch, length, ...]` with those that are kept at the front, in their order, and which these are."""
    order = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    wide = order.reshape(*order.shape, *[1] * (values.dim() - 2)).expand(values.shape)
    return values.gather(1, wide), kept.gather(1, order)
