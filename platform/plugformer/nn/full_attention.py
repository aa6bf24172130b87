"""Exact softmax attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Capabilities, Mask


class Full(Attention):
    """Scaled dot-product attention over all keys (Vaswani et al. 2017, section 3.2.1).

    Args:
        dropout: probability with which an attention weight is dropped while training.

    Raises:
        UserError: a probability that is none.
    """

    capabilities = Capabilities(
        causality="strict",
        cross_attention=True,
        key_padding=True,
        prefix=True,
        segments=True,
        additive_bias=True,
        grouped_query=True,
        decoding="cache",
        room=True,
        divides=True,
        time_exponent=2.0,
        memory_exponent=1.0,
    )
    exact_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"attention.dropout={dropout}: a probability from 0 to below 1.")
        self.dropout = dropout
        if dropout:  # with it the CPU's kernel keeps all weights
            self.capabilities = replace(Full.capabilities, memory_exponent=2.0)

    def forward(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch kv_heads keys head_dim"],
        v: Float[Tensor, "batch kv_heads keys head_dim"],
        mask: Mask,
        bias: Float[Tensor, "#batch heads queries keys"] | None = None,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        queries, keys = q.shape[2], k.shape[2]
        # A causal square without further restrictions needs no mask tensor: the fused kernels know it.
        if mask.is_plain and queries == keys and bias is None:
            allowed, is_causal = None, mask.causal
        else:
            allowed, is_causal = mask.dense(queries, keys, q.device), False
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_combine(allowed, None if bias is None else bias.to(q.dtype)),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        if bias is not None and allowed is not None:  # -inf everywhere is not a row of zeros to every kernel
            out = out.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
        return out

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        return self.exact(q, k, v, mask)


def _combine(allowed: Tensor | None, bias: Tensor | None) -> Tensor | None:
    if allowed is None or bias is None:
        return allowed if bias is None else bias
    return bias.masked_fill(~allowed, float("-inf"))
