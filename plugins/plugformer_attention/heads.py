"""How heads lie in memory."""

from torch import Tensor


def like_tokens(x: Tensor) -> Tensor:
    """Uninitialised, in the shape of `[batch, heads, length, head_dim]`; lies in memory as the projections around a
    mechanism want it, heads inside tokens, so that they need not copy it."""
    batch, heads, length, dim = x.shape
    return x.new_empty(batch, length, heads, dim).transpose(1, 2)
