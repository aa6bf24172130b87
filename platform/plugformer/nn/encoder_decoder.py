"""An encoder of one sequence and a decoder of another (Vaswani et al. 2017)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from plugformer.interfaces import (
    Attention,
    Backbone,
    Block,
    DecodingState,
    Direction,
    Memory,
    Position,
    Role,
    Tokens,
)
from plugformer.nn.backbones import Decoder, Encoder
from plugformer.nn.initialise import Residual, Weights
from plugformer.nn.multi_head import MultiHeadAttention, QkNorm, divide_heads
from plugformer.nn.positions import NoPosition


class EncoderDecoder(Backbone):
    """Blocks in which every token of a source sees every other, and blocks in which a token of the target sees itself,
    those before it, and all of the source (Vaswani et al. 2017; BART, T5, Whisper).

    Args:
        dim: width of the residual streams.
        num_layers: blocks of the encoder.
        num_decoder_layers: blocks of the decoder; null for as many.
        num_heads: attention heads in each; divides `dim`.
        num_kv_heads: heads of keys and values, each shared by a group of query heads (Ainslie et al. 2023); 1 is
            multi-query attention (Shazeer 2019), null as many as `num_heads`.
        qk_norm: normalisation of each query and key head (Henry et al. 2020; Dehghani et al. 2023).
        bias: whether the projections of attention have one.
        embedding_norm: whether embeddings are normalised once positions are added, by the norm of the blocks (BART).
        dropout: probability inside the feed-forward and on all residual branches while training.
        embedding_dropout: probability on embeddings while training; null for that of `dropout`.
        init: first weights of linear maps. truncated: normal, deviation 0.02 (BERT, GPT); xavier: uniform, by inputs
            and outputs (Glorot and Bengio 2010); lecun: normal, by inputs (LeCun et al. 1998).
        residual_init: of those that write to the residual stream. same: as the others; depth_scaled: that over the
            root of the residual branches on either side (GPT-2; Radford et al. 2019); zero: a branch starts by adding
            nothing.

    Raises:
        UserError: sizes that aren't positive or don't divide, or a dropout that is no probability.
    """

    direction: ClassVar[Direction] = "encoder_decoder"

    def __init__(
        self,
        *,
        make_block: Callable[..., Block],
        make_attention: Callable[..., Attention],
        make_target_attention: Callable[..., Attention],
        make_cross_attention: Callable[..., Attention],
        make_norm: Callable[..., nn.Module],
        make_feed_forward: Callable[..., nn.Module],
        make_position: Callable[..., Position],
        make_target_position: Callable[..., Position],
        dim: int = 64,
        num_layers: int = 4,
        num_decoder_layers: int | None = None,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        qk_norm: QkNorm = "none",
        bias: bool = True,
        embedding_norm: bool = False,
        dropout: float = 0.0,
        embedding_dropout: float | None = None,
        init: Weights = "truncated",
        residual_init: Residual = "same",
    ) -> None:
        super().__init__()
        num_decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
        common: dict[str, Any] = {
            "make_norm": make_norm,
            "make_feed_forward": make_feed_forward,
            "dim": dim,
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "qk_norm": qk_norm,
            "bias": bias,
            "embedding_norm": embedding_norm,
            "dropout": dropout,
            "embedding_dropout": embedding_dropout,
            "init": init,
            "residual_init": residual_init,
        }
        self.dim, self.num_layers = dim, num_layers + num_decoder_layers
        head_dim = divide_heads(dim, num_heads)

        def make_crossing_block(*, layer: int, **parts: Any) -> Block:
            cross_attention = MultiHeadAttention(
                dim=dim,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                qk_norm=qk_norm,
                bias=bias,
                mechanism=make_cross_attention(num_heads=num_heads, head_dim=head_dim, causal=False, layer=layer),
                position=NoPosition(),  # places of two sequences are no distances
            )
            return make_block(cross_attention=cross_attention, layer=layer, **parts)

        self.encoder = Encoder(
            make_block=make_block,
            make_attention=make_attention,
            make_position=make_position,
            num_layers=num_layers,
            **common,
        )
        self.decoder = Decoder(
            make_block=make_crossing_block,
            make_attention=make_target_attention,
            make_position=make_target_position,
            num_layers=num_decoder_layers,
            **common,
        )
        self.decoder.scheme = replace(self.decoder.scheme, num_branches=3 * num_decoder_layers)

    @property
    def num_caches(self) -> int:
        return self.decoder.num_layers

    def encode(self, tokens: Tokens) -> Memory:
        return Memory(self.encoder(tokens), tokens.mask(causal=False))

    def forward(
        self, tokens: Tokens, *, memory: Memory | None = None, state: DecodingState | None = None
    ) -> Float[Tensor, "batch length dim"]:
        """The decoder; `memory` is what `encode` made of the source."""
        assert memory is not None, "a decoder needs what its encoder made of a source"
        return self.decoder(tokens, memory=memory, state=state)

    def mechanisms(self) -> Mapping[Role, Sequence[Attention]]:
        def of(part: nn.Module) -> list[Attention]:
            return [module for module in part.modules() if isinstance(module, Attention)]

        written = of(self.decoder)
        parts = self.decoder.named_modules()
        crossing = {each for name, part in parts if name.endswith(".cross_attention") for each in of(part)}
        return {
            "encoder": of(self.encoder),
            "decoder": [each for each in written if each not in crossing],
            "cross": [each for each in written if each in crossing],
        }
