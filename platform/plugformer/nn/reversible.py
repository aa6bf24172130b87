"""Blocks whose inputs follow from their outputs, so that the memory they take does not grow with their number."""

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Block, Cache, Mask, Memory
from plugformer.nn.blocks import ResidualBlock
from plugformer.nn.inversion import Branch, Tape
from plugformer.nn.multi_head import MultiHeadAttention


class Reversible(ResidualBlock):
    """Two residual streams, of which each is added to by a branch of the other (Gomez et al. 2017; Kitaev et al. 2020,
    section 3), with the norms inside the branches:

        y1 = x1 + attention(norm(x2))
        y2 = x2 + feed_forward(norm(y1))

    Both streams start as the embeddings, and what comes out is their mean, as in reformer-pytorch. The backward pass
    finds x1 and x2 again from y1 and y2 and computes every branch once more, for a third more time: a chain of blocks
    keeps only its last y1 and y2. The streams are float32 at least, so that what is subtracted is what was added.

    A chain calls the parts of its blocks, not the blocks: hooks on a block itself are not run.

    Args:
        drop_path: probability with which each residual branch of the last block is dropped for a sample while training;
            in earlier blocks less, in proportion to their depth (Huang et al. 2016, section 3).
        feed_forward_chunks: pieces of the sequence that the feed-forward is applied to one after the other, so that its
            hidden layer never stands whole in memory (Kitaev et al. 2020, section 3); but for other draws of dropout,
            what comes out is the same.

    Raises:
        UserError: numbers out of range, or a norm or feed-forward that keeps running statistics.
    """

    normalised: ClassVar[bool] = False
    recomputes: ClassVar[bool] = True
    crosses: ClassVar[bool] = False

    def __init__(
        self,
        *,
        attention: MultiHeadAttention,
        feed_forward: nn.Module,
        make_norm: Callable[[], nn.Module],
        dropout: float = 0.0,
        layer: int = 0,
        num_layers: int = 1,
        drop_path: float = 0.0,
        feed_forward_chunks: int = 1,
    ) -> None:
        super().__init__(
            attention=attention,
            feed_forward=feed_forward,
            make_norm=make_norm,
            dropout=dropout,
            layer=layer,
            num_layers=num_layers,
            drop_path=drop_path,
        )
        if feed_forward_chunks < 1:
            raise UserError(f"block.feed_forward_chunks={feed_forward_chunks}: must be at least 1.")
        self.feed_forward_chunks = feed_forward_chunks
        for kind, part in (("norm", self.attention_norm), ("feed_forward", feed_forward), ("attention", attention)):
            _refuse_running_statistics(kind, part)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        return self.chain([self], x, mask, memory=memory, caches=[cache])

    @classmethod
    def chain(
        cls,
        blocks: Sequence[Block],
        x: Float[Tensor, "batch length dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        caches: Sequence[Cache | None],
    ) -> Float[Tensor, "batch length dim"]:
        """Several blocks with the same two streams; so it is not what they compute one after the other."""
        assert memory is None, "this block has no cross-attention"
        plain = not torch.is_grad_enabled() or any(cache is not None for cache in caches)
        run = _chain if plain else _chain_without_keeping
        return run(cast("Sequence[Reversible]", blocks), x, mask, caches)

    def branches(self, mask: Mask, cache: Cache | None, dtype: torch.dtype) -> tuple[Branch, Branch]:
        """What is added to the first stream, and to the second.

        Args:
            mask, cache: as in `forward`.
            dtype: in which the branches are given their stream.
        """

        def attend(x: Tensor) -> Tensor:
            return self.dropout(self.attention(self.attention_norm(x.to(dtype)), mask, cache=cache))

        def transform(x: Tensor) -> Tensor:
            return self.dropout(self.feed_forward(self.feed_forward_norm(x.to(dtype))))

        return Branch(attend, self.drop_path), Branch(transform, self.drop_path, self.feed_forward_chunks)


def _chain(
    blocks: Sequence[Reversible],
    x: Float[Tensor, "batch length dim"],
    mask: Mask,
    caches: Sequence[Cache | None],
    add: Callable[[Tensor, Branch, Tensor], Tensor] = lambda x, branch, z: x + branch(z),
    mean: Callable[[Tensor, Tensor], Tensor] = lambda y1, y2: (y1 + y2) / 2,
) -> Float[Tensor, "batch length dim"]:
    y1 = y2 = x.to(torch.promote_types(x.dtype, torch.float32))
    for block, cache in zip(blocks, caches, strict=True):
        attend, transform = block.branches(mask, cache, x.dtype)
        y1 = add(y1, attend, y2)
        y2 = add(y2, transform, y1)
    return mean(y1, y2).to(x.dtype)


@torch._disable_dynamo  # saved tensors are no part of a compiled graph
def _chain_without_keeping(
    blocks: Sequence[Reversible],
    x: Float[Tensor, "batch length dim"],
    mask: Mask,
    caches: Sequence[Cache | None],
) -> Float[Tensor, "batch length dim"]:
    tape, before = Tape(), _versions(blocks)
    tape.heed(parameter for block in blocks for parameter in block.parameters())
    out = _chain(blocks, x, mask, caches, tape.add, tape.mean)
    if changed := {name for name, version in _versions(blocks).items() if version != before[name]}:
        raise UserError(
            f"block=reversible runs each part once more in the backward pass, and {min(changed)} changes when it is "
            "run.\n  Use a part without running state, or set block=pre_norm."
        )
    return out


def _versions(blocks: Sequence[Reversible]) -> dict[str, int]:
    """How often each buffer has been changed in place."""
    return {
        f"blocks.{number}.{name}": buffer._version
        for number, block in enumerate(blocks)
        for name, buffer in block.named_buffers()
    }


def _refuse_running_statistics(kind: str, part: nn.Module) -> None:
    keeping = [module for module in part.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    if any(module.track_running_stats for module in keeping):
        raise UserError(
            f"block=reversible can't go with {kind} {type(part).__name__}, which keeps running statistics: each part "
            "is run once more in the backward pass, so every batch would count twice in them.\n"
            "  Set norm=layer, a feed_forward without such a norm, or block=pre_norm."
        )
