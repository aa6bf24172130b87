"""Angular locality-sensitive hashing (Andoni et al. 2015; Kitaev et al. 2020, section 2, "LSH attention")."""

from math import isqrt, prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.nn.initialise import seed_for
from plugformer_attention.precision import precise, without_autocast

MOST_AT_ONCE = 128  # buckets of one rotation; more of them are the product of two smaller hashes


class Hashing(nn.Module):
    """Vectors to buckets, by several independent hashes a head; vectors at a small angle often share a bucket.

    Attributes:
        num_buckets: of one hash. More than `MOST_AT_ONCE` are made of two hashes, `bucket₁ + factor₁ · bucket₂`, so
            that hashing costs a token √num_buckets dot products rather than num_buckets.
        rotations: float `[rounds, heads, head_dim, directions]`, the random directions of all factors side by side;
            drawn from the seed and the layer alone, and kept in checkpoints.
        drawn: int, how often they were drawn anew.
    """

    rotations: Tensor
    drawn: Tensor

    def __init__(
        self, *, num_rounds: int, num_buckets: int, num_heads: int, head_dim: int, layer: int, seed: int
    ) -> None:
        super().__init__()
        self.factors = factorise(num_buckets)
        self.num_buckets = num_buckets
        self.place = (seed, "reformer_lsh", layer)
        self.generation = 0  # the same as `drawn`, without asking the device at each step
        self.register_buffer("drawn", torch.zeros((), dtype=torch.long))
        self.register_load_state_dict_post_hook(_read_generation)
        directions = sum(factor // 2 for factor in self.factors)
        self.register_buffer("rotations", torch.empty(num_rounds, num_heads, head_dim, directions))
        self.drawn_shape, self.heads = self.rotations.shape, slice(None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.draw(0)

    @torch.no_grad()
    def draw(self, generation: int) -> None:
        """Other rotations for each number, the same at each call and on every rank."""
        generator = torch.Generator().manual_seed(seed_for(*self.place, generation))
        drawn = torch.randn(self.drawn_shape, generator=generator, device="cpu", dtype=torch.float32)
        self.rotations.copy_(drawn[:, self.heads])
        self.drawn.fill_(generation)
        self.generation = generation

    def keep_heads(self, first: int, count: int) -> None:
        """Forget the rotations of all others; those drawn later are the same as among all."""
        self.heads = slice(first, first + count)
        self.rotations = self.rotations[:, self.heads].clone()

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "batch heads length head_dim"]) -> Int[Tensor, "rounds batch heads length"]:
        with without_autocast(x.device):  # one round after the other, for the products are large
            return torch.stack([self._bucket(x.to(precise(x.dtype)), rotations) for rotations in self.rotations])

    def _bucket(self, x: Tensor, rotations: Tensor) -> Tensor:
        parts = rotations.to(x.dtype).split([factor // 2 for factor in self.factors], -1)
        bucket = x.new_zeros(x.shape[:-1], dtype=torch.int32)
        for factor, part in zip(reversed(self.factors), reversed(parts), strict=True):
            bucket = factor * bucket + (_nearest(x @ part) if factor > 1 else 0)
        return bucket


def _read_generation(module: Hashing, _: object) -> None:
    if not module.drawn.is_meta:
        module.generation = int(module.drawn)


def _nearest(rotated: Float[Tensor, "*any directions"]) -> Int[Tensor, "*any"]:
    """The number of the largest of [rotated, -rotated]."""
    largest = rotated.abs().argmax(-1, keepdim=True)
    opposite = rotated.gather(-1, largest) < 0
    return (largest + rotated.shape[-1] * opposite).squeeze(-1).int()


def choose_num_buckets(max_length: int, chunk_length: int) -> int:
    """About two a chunk of the longest sequence, so that a chunk holds two buckets (section 3 of Kitaev et al.).

    It never depends on the length at hand, or padding would change the buckets of real tokens.
    """
    wanted = max(2, 2 * max_length // chunk_length)
    if wanted <= MOST_AT_ONCE:
        return wanted + wanted % 2
    factor = 2 * max(1, isqrt(wanted) // 2)
    return factor * (2 * round(wanted / factor / 2))


def factorise(num_buckets: int) -> tuple[int, ...]:
    """The even factors that are hashed to: one or, of many buckets, two that are as near to each other as can be.

    Raises:
        UserError: there are none.
    """
    if num_buckets == 1:
        return (1,)
    if num_buckets < 1 or num_buckets % 2:
        near = ", ".join(str(even) for even in (num_buckets - 1, num_buckets + 1) if even > 0 and num_buckets > 0)
        raise UserError(
            f"attention.num_buckets={num_buckets}: a hash has two buckets a direction, one at each end, so there must "
            f"be an even number of them, or 1.\n  Set it to {near or 2}, or to null for a number that goes with the "
            "longest sequence."
        )
    if num_buckets <= MOST_AT_ONCE:
        return (num_buckets,)
    if num_buckets % 4:
        raise UserError(
            f"attention.num_buckets={num_buckets}: more than {MOST_AT_ONCE} are the product of two even numbers, so "
            f"there must be a multiple of 4.\n  Set it to {num_buckets - 2} or {num_buckets + 2}."
        )
    quarter = num_buckets // 4
    small = next(divisor for divisor in range(isqrt(quarter), 0, -1) if quarter % divisor == 0)
    factors = (2 * small, 2 * (quarter // small))
    assert prod(factors) == num_buckets
    return factors
