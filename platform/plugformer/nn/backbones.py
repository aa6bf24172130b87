"""Stacks of blocks over one sequence: what a token may see tells them apart."""

from collections.abc import Callable
from typing import ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Backbone, Block, DecodingState, Direction, Memory, Position, Tokens
from plugformer.nn.initialise import Residual, Scheme, Weights
from plugformer.nn.multi_head import MultiHeadAttention, QkNorm, divide_heads


class Stack(Backbone):
    """Blocks, one after the other, over one sequence.

    Args:
        dim: width of the residual stream.
        num_layers: number of blocks.
        num_heads: attention heads in each; divides `dim`.
        num_kv_heads: heads of keys and values, each shared by a group of query heads (Ainslie et al. 2023); 1 is
            multi-query attention (Shazeer 2019), null as many as `num_heads`.
        qk_norm: normalisation of each query and key head (Henry et al. 2020; Dehghani et al. 2023).
        bias: whether the projections of attention have one.
        num_registers: learned tokens put before each sequence that lie on no grid, and whose hidden states are dropped:
            room for what belongs to no place (Darcet et al. 2024), or the global tokens of a sparse mechanism (ETC;
            Ainslie et al. 2020).
        embedding_norm: whether embeddings are normalised once positions are added, by the norm of the blocks (BERT).
        dropout: probability inside the feed-forward and on both residual branches while training.
        embedding_dropout: probability on embeddings while training; null for that of `dropout`.
        init: first weights of linear maps. truncated: normal, deviation 0.02 (BERT, GPT); xavier: uniform, by inputs
            and outputs (Glorot and Bengio 2010); lecun: normal, by inputs (LeCun et al. 1998).
        residual_init: of those that write to the residual stream. same: as the others; depth_scaled: that over the
            root of 2 · num_layers (GPT-2; Radford et al. 2019); zero: a branch starts by adding nothing.

    Raises:
        UserError: sizes that aren't positive or don't divide, a dropout that is no probability, or a `residual_init`
            that doesn't reach every residual branch.
    """

    causal: ClassVar[bool]

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
        num_kv_heads: int | None = None,
        qk_norm: QkNorm = "none",
        bias: bool = True,
        num_registers: int = 0,
        embedding_norm: bool = False,
        dropout: float = 0.0,
        embedding_dropout: float | None = None,
        init: Weights = "truncated",
        residual_init: Residual = "same",
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, num_layers=num_layers, num_heads=num_heads)
        if num_registers < 0:
            raise UserError(f"backbone.num_registers={num_registers}: must be at least 0.")
        embedding_dropout = dropout if embedding_dropout is None else embedding_dropout
        check_probabilities(dropout=dropout, embedding_dropout=embedding_dropout)
        self.dim, self.num_layers = dim, num_layers
        self.scheme = Scheme(init, residual_init, num_branches=2 * num_layers)
        head_dim = divide_heads(dim, num_heads)
        sees_back_only = self.direction == "causal"  # within a prefix tokens see ahead
        self.position = make_position(dim=dim, num_heads=num_heads, head_dim=head_dim, causal=sees_back_only)
        self.registers = nn.Embedding(num_registers, dim) if num_registers else None
        self.embedding_norm = make_norm(dim=dim) if embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(embedding_dropout)

        def block(layer: int) -> Block:
            attention = MultiHeadAttention(
                dim=dim,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                qk_norm=qk_norm,
                bias=bias,
                mechanism=make_attention(num_heads=num_heads, head_dim=head_dim, causal=self.causal, layer=layer),
                position=self.position,
            )
            return make_block(
                attention=attention,
                feed_forward=self.scheme.reaching(make_feed_forward(dim=dim, dropout=dropout)),
                make_norm=lambda: make_norm(dim=dim),
                dropout=dropout,
                layer=layer,
                num_layers=num_layers,
            )

        blocks = [block(layer) for layer in range(num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.chain = type(blocks[0]).chain
        self.norm = nn.Identity() if blocks[-1].normalised else make_norm(dim=dim)

    def forward(
        self, tokens: Tokens, *, memory: Memory | None = None, state: DecodingState | None = None
    ) -> Float[Tensor, "batch length dim"]:
        length = tokens.embeddings.shape[1]
        if self.registers is not None and (state is None or not state.begun):
            tokens = tokens.prepend(self.registers.weight)
        mask = tokens.mask(causal=self.causal) if state is None else state.extend(tokens, causal=self.causal)
        caches = [None] * len(self.blocks) if state is None else state.caches
        x = self.dropout(self.embedding_norm(self.position.add(tokens.embeddings, tokens.layout)))
        x = self.chain(cast("list[Block]", list(self.blocks)), x, mask, memory=memory, caches=caches)
        return self.norm(x[:, -length:])


class Encoder(Stack):
    """Blocks in which every token sees every other (Vaswani et al. 2017; BERT, ViT)."""

    direction: ClassVar[Direction] = "bidirectional"
    causal: ClassVar[bool] = False

    def forward(
        self, tokens: Tokens, *, memory: Memory | None = None, state: DecodingState | None = None
    ) -> Float[Tensor, "batch length dim"]:
        assert memory is None, "an encoder reads one sequence"
        assert state is None, "an encoder sees the whole of a sequence at once"
        return super().forward(tokens)


class Decoder(Stack):
    """Blocks in which a token sees itself and those before it (Radford et al. 2018; GPT, Llama)."""

    direction: ClassVar[Direction] = "causal"
    causal: ClassVar[bool] = True

    def forward(
        self, tokens: Tokens, *, memory: Memory | None = None, state: DecodingState | None = None
    ) -> Float[Tensor, "batch length dim"]:
        assert tokens.prefix is None, "a decoder sees no prefix before its time: prefix_lm does"
        return super().forward(tokens, memory=memory, state=state)


class PrefixLM(Stack):
    """A decoder in which all tokens see the first ones, the prefix (Raffel et al. 2020, section 3.2.1)."""

    direction: ClassVar[Direction] = "prefix"
    causal: ClassVar[bool] = True


def check_sizes(**sizes: int) -> None:
    """
    Raises:
        UserError: one that isn't positive.
    """
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"backbone.{name}={value}: must be at least 1.")


def check_probabilities(**probabilities: float) -> None:
    """
    Raises:
        UserError: one that is none, or 1.
    """
    for name, value in probabilities.items():
        if not 0 <= value < 1:
            raise UserError(f"backbone.{name}={value}: a probability from 0 to below 1.")
