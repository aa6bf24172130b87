"""The weights with which a mechanism averages values, whatever it computes them from."""

import torch
from jaxtyping import Float
from torch import Tensor

from plugformer.interfaces import Attention, Mask


def implied_attention(
    mechanism: Attention,
    q: Float[Tensor, "1 heads queries head_dim"],
    k: Float[Tensor, "1 kv_heads keys head_dim"],
    v: Float[Tensor, "1 kv_heads keys head_dim"],
    mask: Mask,
    bias: Float[Tensor, "#batch heads queries keys"] | None = None,
    *,
    most: int,
) -> Float[Tensor, "heads shown_queries shown_keys"] | None:
    """The matrix A with out = A v, of a mechanism whose output is linear in the values: what it makes of one-hot ones.

    Of a mechanism that isn't linear in them, or doesn't do the same twice, there is none: None.

    Args:
        mechanism: in evaluation mode.
        q, k, v, mask, bias: what it was given, of one sample.
        most: queries and keys of which the weights are wanted, the first ones; they are what they are in the whole
            sequence, so that the rows of one that is longer needn't add up to 1.
    """
    given = (mask,) if bias is None else (mask, bias)
    keys, dim = min(k.shape[2], most), v.shape[3]
    columns = []
    for start in range(0, keys, dim):
        place = torch.arange(start, min(start + dim, keys), device=v.device)
        one_hot = torch.zeros_like(v)
        one_hot[:, :, place, place - start] = 1
        columns.append(mechanism.forward(q, k, one_hot, *given)[0, :, :, : len(place)])
    weights = torch.cat(columns, -1)
    some = v.clone()
    some[:, :, keys:] = 0
    out = mechanism.forward(q, k, some, *given)[0]
    values = some[0, :, :keys].repeat_interleave(out.shape[0] // v.shape[1], 0)
    if not _close(weights.to(values) @ values, out):
        return None
    return weights[:, :most]


def _close(found: Tensor, expected: Tensor) -> bool:
    """To the precision that `expected` was computed in."""
    tolerance = max(1e-3, 4 * torch.finfo(expected.dtype).eps)
    found, expected = (each.to(torch.promote_types(expected.dtype, torch.float32)) for each in (found, expected))
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
