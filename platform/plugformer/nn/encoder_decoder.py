"""An encoder of one sequence and a decoder of another (Sutskever et al. 2014; Vaswani et al. 2017)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from plugformer.errors import UserError
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
from plugformer.nn.backbones import Decoder, Encoder, check_probabilities, check_sizes
from plugformer.nn.initialise import Residual, Weights
from plugformer.nn.multi_head import MultiHeadAttention, QkNorm, divide_heads
from plugformer.nn.positions import NoPosition
from plugformer.nn.recurrent import RecurrentDecoder, RecurrentEncoder

Side = Literal["transformer", "gru", "lstm"]


class EncoderDecoder(Backbone):
    """Blocks in which every token of a source sees every other, and blocks in which a token of the target sees itself,
    those before it, and all of the source (Vaswani et al. 2017; BART, T5, Whisper). Either side may be recurrent;
    both are RNNsearch (Bahdanau et al. 2015).

    Args:
        encoder: what reads the source. transformer: blocks; gru, lstm: recurrent layers in both directions, half of
            `dim` each, which need no positions.
        decoder: what writes the target. transformer: blocks; gru, lstm: recurrent layers, of which the first looks at
            the source before each token by an additive attention of its own (Bahdanau et al. 2015, appendix A).
        dim: width of the residual streams.
        num_layers: blocks or recurrent layers of the encoder.
        num_decoder_layers: those of the decoder; null for as many.
        num_heads: attention heads in each block; divides `dim`.
        num_kv_heads: heads of keys and values, each shared by a group of query heads (Ainslie et al. 2023); 1 is
            multi-query attention (Shazeer 2019), null as many as `num_heads`.
        qk_norm: normalisation of each query and key head (Henry et al. 2020; Dehghani et al. 2023).
        bias: whether the projections of attention have one.
        embedding_norm: whether embeddings are normalised once positions are added, by the norm of the blocks (BART).
        dropout: probability inside the feed-forward, on all residual branches, between recurrent layers and on what
            comes out of them while training.
        embedding_dropout: probability on embeddings while training; null for that of `dropout`.
        init: first weights of linear maps. truncated: normal, deviation 0.02 (BERT, GPT); xavier: uniform, by inputs
            and outputs (Glorot and Bengio 2010); lecun: normal, by inputs (LeCun et al. 1998).
        residual_init: of those that write to the residual stream. same: as the others; depth_scaled: that over the
            root of the residual branches on either side (GPT-2; Radford et al. 2019); zero: a branch starts by adding
            nothing.

    Raises:
        UserError: sizes that aren't positive or don't divide, a dropout that is no probability, a `residual_init` that
            doesn't reach every residual branch, or options of blocks where there are none.
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
        encoder: Side = "transformer",
        decoder: Side = "transformer",
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
        embedding_dropout = dropout if embedding_dropout is None else embedding_dropout
        check_sizes(dim=dim, num_layers=num_layers, num_decoder_layers=num_decoder_layers)
        check_probabilities(dropout=dropout, embedding_dropout=embedding_dropout)
        self.dim, self.num_layers = dim, num_layers + num_decoder_layers
        of_blocks: dict[str, Any] = {
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "qk_norm": qk_norm,
            "bias": bias,
            "residual_init": residual_init,
        }
        has_blocks = "transformer" in (encoder, decoder)
        if not has_blocks:
            _refuse_options_of_blocks(of_blocks, encoder, decoder)
        common: dict[str, Any] = {"dim": dim, "dropout": dropout, "embedding_dropout": embedding_dropout}
        of_stacks: dict[str, Any] = {
            "make_norm": make_norm,
            "make_feed_forward": make_feed_forward,
            "embedding_norm": embedding_norm,
            "init": init,
        }

        def norm() -> nn.Module:
            return make_norm(dim=dim) if embedding_norm else nn.Identity()

        crossing: list[Attention] = []

        def make_crossing_block(*, layer: int, **parts: Any) -> Block:
            head_dim = divide_heads(dim, num_heads)
            crossing.append(make_cross_attention(num_heads=num_heads, head_dim=head_dim, causal=False, layer=layer))
            cross_attention = MultiHeadAttention(
                dim=dim,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                qk_norm=qk_norm,
                bias=bias,
                mechanism=crossing[-1],
                position=NoPosition(),  # places of two sequences are no distances
            )
            return make_block(cross_attention=cross_attention, layer=layer, **parts)

        self.encoder: Encoder | RecurrentEncoder
        if encoder == "transformer":
            self.encoder = Encoder(
                make_block=make_block,
                make_attention=make_attention,
                make_position=make_position,
                num_layers=num_layers,
                **common,
                **of_stacks,
                **of_blocks,
            )
        else:
            self.encoder = RecurrentEncoder(unit=encoder, num_layers=num_layers, embedding_norm=norm(), **common)
        self.decoder: Decoder | RecurrentDecoder
        if decoder == "transformer":
            self.decoder = Decoder(
                make_block=make_crossing_block,
                make_attention=make_target_attention,
                make_position=make_target_position,
                num_layers=num_decoder_layers,
                **common,
                **of_stacks,
                **of_blocks,
            )
            self.decoder.scheme = replace(self.decoder.scheme, num_branches=3 * num_decoder_layers)
        else:
            self.decoder = RecurrentDecoder(
                unit=decoder,
                num_layers=num_decoder_layers,
                begins_from="mean" if encoder == "transformer" else "backward",
                embedding_norm=norm(),
                init=init,
                **common,
            )
            self.goes_back = False
            self.unused = frozenset({"cross_attention"})
        self._crossing = tuple(crossing)  # in a tuple, since their blocks hold them
        if not has_blocks:
            self.unused |= {"block", "attention", "feed_forward", "position"}
            if not embedding_norm:
                self.unused |= {"norm"}

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
        return self.decoder(tokens, memory=_seen_by(tokens, memory), state=state)

    def mechanisms(self) -> Mapping[Role, Sequence[Attention]]:
        def of(part: nn.Module) -> list[Attention]:
            return [module for module in part.modules() if isinstance(module, Attention)]

        written = of(self.decoder)
        return {
            "encoder": of(self.encoder),
            "decoder": [each for each in written if each not in self._crossing],
            "cross": [each for each in written if each in self._crossing],
        }


def _seen_by(tokens: Tokens, memory: Memory) -> Memory:
    """Where sources and targets are packed, a document of the target sees that of the source with its number."""
    packed = memory.mask.segments is not None
    assert packed == (tokens.segments is not None), "sources and targets are packed together"
    if not packed:
        return memory
    assert memory.copies == 1, "documents share no sequence while several are written for one source"
    return replace(memory, mask=replace(memory.mask, query_segments=tokens.segments))


def _refuse_options_of_blocks(options: Mapping[str, Any], encoder: Side, decoder: Side) -> None:
    """
    Raises:
        UserError: one that isn't as it is by itself.
    """
    parameters = signature(EncoderDecoder).parameters
    for name, value in options.items():
        if value != parameters[name].default:
            raise UserError(
                f"backbone.{name}={value}: with backbone.encoder={encoder} and backbone.decoder={decoder} there are no "
                f"blocks that it could tell anything. Leave it out, or let one side be a transformer."
            )
