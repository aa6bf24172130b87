"""How heads lie in memory."""

from einops import repeat
from torch import Tensor


def like_tokens(x: Tensor) -> Tensor:
    """Uninitialised, in the shape of `[batch, heads, length, head_dim]`; lies in memory as the projections around a
    mechanism want it, heads inside tokens, so that they need not copy it."""
    batch, heads, length, dim = x.shape
    return x.new_empty(batch, length, heads, dim).transpose(1, 2)


def one_a_query_head(x: Tensor, num_heads: int) -> Tensor:
    """`[batch, kv_heads, ...]`, each repeated for the query heads that share it."""
    if x.shape[1] == num_heads:
        return x
    return repeat(x, "batch heads ... -> batch (heads group) ...", group=num_heads // x.shape[1])
