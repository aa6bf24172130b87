"""One layer of a backbone: where the norms stand."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from plugformer.interfaces import Block, Cache, Mask, Memory
from plugformer.nn.multi_head import MultiHeadAttention


class _ResidualBlock(Block):
    def __init__(
        self,
        *,
        attention: MultiHeadAttention,
        feed_forward: nn.Module,
        make_norm: Callable[[], nn.Module],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = make_norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm = make_norm()
        self.dropout = nn.Dropout(dropout)


class PreNorm(_ResidualBlock):
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
        assert memory is None, "this block has no cross-attention"
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, cache=cache))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class PostNorm(_ResidualBlock):
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
        assert memory is None, "this block has no cross-attention"
        x = self.attention_norm(x + self.dropout(self.attention(x, mask, cache=cache)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
