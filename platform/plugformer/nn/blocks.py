"""One layer of a backbone: where the norms stand."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Block, Cache, Mask, Memory
from plugformer.nn.multi_head import MultiHeadAttention


class DropPath(nn.Module):
    """Drops a residual branch for whole samples while training (Huang et al. 2016).

    What is kept is divided by the chance of being kept, so that nothing need be scaled in evaluation.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class ResidualBlock(Block):
    """Attention, attention to an encoder where there is one, and a feed-forward, each a residual branch.

    Args:
        drop_path: probability with which each residual branch of the last block is dropped for a sample while training;
            in earlier blocks less, in proportion to their depth (Huang et al. 2016, section 3).
    """

    crosses: ClassVar[bool] = True

    def __init__(
        self,
        *,
        attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention | None = None,
        feed_forward: nn.Module,
        make_norm: Callable[[], nn.Module],
        dropout: float = 0.0,
        layer: int = 0,
        num_layers: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise UserError(f"block.drop_path={drop_path}: must be at least 0 and less than 1.")
        self.attention = attention
        self.attention_norm = make_norm()
        self.cross_attention = cross_attention
        self.cross_attention_norm = nn.Identity() if cross_attention is None else make_norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm = make_norm()
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path * (layer + 1) / num_layers)
        self.add_norms(make_norm)

    def add_norms(self, make_norm: Callable[[], nn.Module]) -> None:
        """Those besides one for each sublayer."""

    def drop(self, branch: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.drop_path(self.dropout(branch))

    def cross(
        self, x: Float[Tensor, "batch length dim"], memory: Memory, cache: Cache | None
    ) -> Float[Tensor, "batch length dim"]:
        """What attention to an encoder adds."""
        assert self.cross_attention is not None, "this block has no cross-attention"
        return self.cross_attention(x, memory.mask, memory=memory, cache=cache)


class PreNorm(ResidualBlock):
    """Norms inside the residual branches (Xiong et al. 2020; ViT, GPT-2)."""

    normalised: ClassVar[bool] = False

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        x = x + self.drop(self.attention(self.attention_norm(x), mask, cache=cache))
        if memory is not None:
            x = x + self.drop(self.cross(self.cross_attention_norm(x), memory, cache))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))


class PostNorm(ResidualBlock):
    """Norms after the residual sums (Vaswani et al. 2017; BERT)."""

    normalised: ClassVar[bool] = True

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        x = self.attention_norm(x + self.drop(self.attention(x, mask, cache=cache)))
        if memory is not None:
            x = self.cross_attention_norm(x + self.drop(self.cross(x, memory, cache)))
        return self.feed_forward_norm(x + self.drop(self.feed_forward(x)))


class Sandwich(ResidualBlock):
    """Norms at both ends of the residual branches (Ding et al. 2021, CogView, section 2.4; Gemma 2)."""

    normalised: ClassVar[bool] = False

    def add_norms(self, make_norm: Callable[[], nn.Module]) -> None:
        self.attention_end_norm = make_norm()
        self.cross_attention_end_norm = nn.Identity() if self.cross_attention is None else make_norm()
        self.feed_forward_end_norm = make_norm()

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        mask: Mask,
        *,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        x = x + self.drop(self.attention_end_norm(self.attention(self.attention_norm(x), mask, cache=cache)))
        if memory is not None:
            x = x + self.drop(self.cross_attention_end_norm(self.cross(self.cross_attention_norm(x), memory, cache)))
        return x + self.drop(self.feed_forward_end_norm(self.feed_forward(self.feed_forward_norm(x))))
