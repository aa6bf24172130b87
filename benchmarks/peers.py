"""Attention layers of other projects, each with its projections, as their users would build them.

    plugformer bench attention=full,bigbird,performer peers=benchmarks/peers.py
    plugformer bench attention=full,reformer_lsh causal=true peers=benchmarks/peers.py:reformer_pytorch,x_transformers

An adapter takes `dim`, `num_heads`, `length` and `causal`, and returns a module `[batch, length, dim]` → the same. It
does nothing but build and call; what the project itself would do once a batch, such as masks, is done beforehand.
"""

import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plugformer.bench.peers import Peer
from plugformer.errors import UserError

BLOCK = 64  # of BigBird; Reformer's chunk


class Layer(nn.Module):
    """A foreign module under our way of calling."""

    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.inner = inner
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        out = self.call(self.inner, x)
        return out[0] if isinstance(out, tuple) else out


def _only(condition: bool, why: str) -> None:
    if not condition:
        raise UserError(why)


# ---------------------------------------------------------------------------------------------- transformers


class _TransformersBigBird(nn.Module):
    """`BigBirdBlockSparseAttention` and the projection that `BigBirdSelfOutput` adds."""

    def __init__(self, config: Any, length: int) -> None:
        super().__init__()
        from transformers.models.big_bird import modeling_big_bird as theirs

        self.attention = theirs.BigBirdBlockSparseAttention(config, seed=0)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        masks = theirs.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, length), BLOCK)
        for name, mask in zip(("blocked", "band", "rows", "columns"), masks, strict=True):
            self.register_buffer(name, mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = [mask.expand(x.shape[0], *mask.shape[1:]) for mask in (self.blocked, self.band, self.rows, self.columns)]
        blocked, band, rows, columns = wide
        out, _ = self.attention(x, band, rows, columns, blocked, blocked)
        return self.output(out)


def transformers_bigbird(*, dim: int, num_heads: int, length: int, causal: bool, num_random: int = 3) -> nn.Module:
    """BigBird, block-sparse: blocks of 64, 3 in the window, 2 global, 3 random."""
    from transformers import BigBirdConfig

    shortest = (5 + 2 * num_random) * BLOCK
    _only(not causal, "its causal form sees the future")
    _only(length % BLOCK == 0, f"only lengths that {BLOCK} divides")
    _only(length > shortest, f"attends in full up to {shortest} tokens")
    config = BigBirdConfig(
        hidden_size=dim,
        num_attention_heads=num_heads,
        block_size=BLOCK,
        num_random_blocks=num_random,
        max_position_embeddings=length,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
    return _TransformersBigBird(config, length)


class _TransformersReformer(nn.Module):
    def __init__(self, attention: nn.Module, dim: int) -> None:
        super().__init__()
        self.attention = attention
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.attention(x).hidden_states)


def transformers_reformer(*, dim: int, num_heads: int, length: int, causal: bool, num_hashes: int = 8) -> nn.Module:
    """Reformer's LSH self-attention: chunks of 64, as many buckets as its own rule gives."""
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    _only(length % BLOCK == 0, f"only lengths that {BLOCK} divides")
    _only(length > BLOCK, f"attends in full up to {BLOCK} tokens")
    config = ReformerConfig(
        hidden_size=dim,
        num_attention_heads=num_heads,
        attention_head_size=dim // num_heads,
        attn_layers=["lsh"],
        num_hashes=num_hashes,
        lsh_attn_chunk_length=BLOCK,
        lsh_attention_probs_dropout_prob=0.0,
        max_position_embeddings=length,
        is_decoder=causal,
        num_buckets=None,
    )
    attention = LSHSelfAttention(config)
    logger = logging.getLogger("transformers.models.reformer.modeling_reformer")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it would say that it chose the number of buckets
    attention._set_num_buckets(length)
    logger.setLevel(before)
    return _TransformersReformer(attention, dim)


# ---------------------------------------------------------------------------------------------- lucidrains


def reformer_pytorch(*, dim: int, num_heads: int, length: int, causal: bool, num_hashes: int = 8) -> nn.Module:
    """reformer-pytorch's LSH self-attention: buckets of 64."""
    from reformer_pytorch import LSHSelfAttention

    _only(length % (2 * BLOCK) == 0, f"only lengths that {2 * BLOCK} divides")
    return LSHSelfAttention(dim, heads=num_heads, bucket_size=BLOCK, n_hashes=num_hashes, causal=causal)


def performer_pytorch(*, dim: int, num_heads: int, length: int, causal: bool, kernel: str = "compiled") -> nn.Module:
    """performer-pytorch's FAVOR+ with its default number of features, 266 for heads of 64.

    Causal, it needs the C++ kernel of pytorch-fast-transformers, or falls back to plain Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are older than their dependencies
        from performer_pytorch import performer_pytorch as theirs

    _only(causal or kernel == "compiled", "bidirectional, it is performer_pytorch")
    with redirect_stdout(None):  # it says that it finds no CUDA kernel
        layer = theirs.SelfAttention(dim, heads=num_heads, dim_head=dim // num_heads, causal=causal)
    if causal and kernel == "compiled":
        from fast_transformers import causal_product  # noqa: F401  # what causal_linear_attention imports when called

        layer.fast_attention.causal_linear_fn = theirs.causal_linear_attention
    elif causal:
        layer.fast_attention.causal_linear_fn = theirs.causal_linear_attention_noncuda
    return layer


def x_transformers(*, dim: int, num_heads: int, length: int, causal: bool) -> nn.Module:
    """x-transformers' attention with flash=True: exact, through torch's fused kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from x_transformers import Attention

    return Layer(Attention(dim, dim_head=dim // num_heads, heads=num_heads, causal=causal, flash=True), _call)


# ---------------------------------------------------------------------------------------------- fla


def fla_linear(*, dim: int, num_heads: int, length: int, causal: bool) -> nn.Module:
    """flash-linear-attention's linear attention in chunks, elu + 1 features; Triton kernels."""
    _only(torch.cuda.is_available(), "its kernels need CUDA")
    _only(causal, "it is causal only")
    from fla.layers import LinearAttention

    layer = LinearAttention(
        mode="chunk", hidden_size=dim, num_heads=num_heads, feature_map="elu", output_norm="identity"
    )
    return Layer(layer, _call)


def _call(inner: nn.Module, x: Tensor) -> Any:
    return inner(x)


TRANSFORMERS, REFORMER, PERFORMER = (
    f"pip install {name}" for name in ("transformers", "reformer-pytorch", "performer-pytorch")
)
PEERS = {
    "transformers_bigbird": Peer(transformers_bigbird, TRANSFORMERS),
    "transformers_reformer": Peer(transformers_reformer, TRANSFORMERS),
    "transformers_reformer_1": Peer(partial(transformers_reformer, num_hashes=1), TRANSFORMERS),
    "reformer_pytorch": Peer(reformer_pytorch, REFORMER),
    "reformer_pytorch_1": Peer(partial(reformer_pytorch, num_hashes=1), REFORMER),
    "performer_pytorch": Peer(
        performer_pytorch,
        f"{PERFORMER}; causal also: pip install --no-build-isolation pytorch-fast-transformers",
    ),
    "performer_pytorch_fallback": Peer(partial(performer_pytorch, kernel="python"), PERFORMER),
    "x_transformers": Peer(x_transformers, "pip install x-transformers"),
    "fla_linear": Peer(fla_linear, "pip install flash-linear-attention"),
}
