"""What a pattern leaves of full attention."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plugformer_attention.diagnosing import coverage, some_queries
from plugformer_attention.sparse.pattern import BlockPattern


def coverage_of(
    pattern: BlockPattern,
    q: Float[Tensor, "batch heads places head_dim"],
    k: Float[Tensor, "batch heads places head_dim"],
) -> dict[str, float]:
    """The share that the keys a query sees have of full attention's weights, of tokens that stand in their places."""
    chosen = some_queries(q, k.shape[2], q.device)
    key = torch.arange(k.shape[2], device=q.device)
    visible = torch.ones(1, 1, len(chosen), len(key), dtype=torch.bool, device=q.device)
    if pattern.causal:
        visible = visible & (key <= chosen[:, None])
    if pattern.segments is not None:
        visible = visible & (pattern.segments[:, None, chosen, None] == pattern.segments[:, None, None])
    if pattern.occupied is not None:
        visible = visible & pattern.occupied[:, None, None] & pattern.occupied[:, None, chosen, None]
    logits = q[:, :, chosen] @ k.mT * q.shape[-1] ** -0.5
    return coverage(logits, visible, visible & _listed(pattern, chosen, len(key)))


def _listed(
    pattern: BlockPattern, chosen: Int[Tensor, "chosen"], places: int
) -> Bool[Tensor, "#batch #heads chosen places"]:
    """Whether a place is in a block that a query's block sees, and within it."""
    size = pattern.block_size
    sees = pattern.sees[:, :, chosen // size]
    seen, blocks = sees.shape[3], places // size
    # Which entry of its list each key block is; `seen`, if it is in none.
    column = torch.where(sees < 0, blocks, sees)
    number = torch.arange(seen, device=chosen.device).expand_as(column)
    entry = column.new_full((*column.shape[:3], blocks + 1), seen).scatter(3, column, number)[..., :-1]
    within = torch.ones(size, seen + 1, size, dtype=torch.bool, device=chosen.device)
    if pattern.within is not None:
        within[:, :seen] = pattern.within.unflatten(1, (seen, size))
    within[:, seen] = False
    listed = within[(chosen % size)[:, None], entry].flatten(3)
    if pattern.overseers is not None:
        oversees = ((chosen // size)[:, None] == pattern.overseers[:, None]).any(-1)
        listed = listed | oversees[:, None, :, None]
    return listed
