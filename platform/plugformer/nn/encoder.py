"""The bidirectional backbone."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Backbone, Block, Cache, Direction, Memory, Position, Tokens
from plugformer.nn.multi_head import MultiHeadAttention, divide_heads


class Encoder(Backbone):
    """A stack of blocks in which every token sees every other (Vaswani et al. 2017; BERT, ViT).

    Args:
        dim: width of the residual stream.
        num_layers: number of blocks.
        num_heads: attention heads in each; divides `dim`.
        dropout: probability on embeddings, inside the feed-forward and on both residual branches while training.

    Raises:
        UserError: the sizes aren't positive, or the heads don't divide the width.
    """

    direction: ClassVar[Direction] = "bidirectional"

    def __init__(
        self,
        *,
        make_block: Callable[..., Block],
        make_attention: Callable[..., Attention],
        make_norm: Callable[..., nn.Module],
        make_feed_forward: Callable[..., nn.Module],
        make_position: Callable[..., Position],
        dim: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in {"dim": dim, "num_layers": num_layers, "num_heads": num_heads}.items():
            if value < 1:
                raise UserError(f"backbone.{name}={value}: must be at least 1.")
        self.dim = dim
        head_dim = divide_heads(dim, num_heads)
        self.position = make_position(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.dropout = nn.Dropout(dropout)

        def block(layer: int) -> Block:
            mechanism = make_attention(num_heads=num_heads, head_dim=head_dim, causal=False, layer=layer)
            return make_block(
                attention=MultiHeadAttention(dim=dim, num_heads=num_heads, mechanism=mechanism, position=self.position),
                feed_forward=make_feed_forward(dim=dim, dropout=dropout),
                make_norm=lambda: make_norm(dim=dim),
                dropout=dropout,
            )

        self.blocks = nn.ModuleList(block(layer) for layer in range(num_layers))
        self.norm = nn.Identity() if self.blocks[-1].normalised else make_norm(dim=dim)

    def forward(
        self, tokens: Tokens, *, memory: Memory | None = None, caches: Sequence[Cache] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        assert memory is None and caches is None, "an encoder sees the whole of one sequence at once"
        mask = tokens.mask(causal=False)
        x = self.dropout(self.position.add(tokens.embeddings, tokens.layout))
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)
