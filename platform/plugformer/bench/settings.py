"""What a benchmark is set to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from plugformer.errors import UserError

DEFAULT_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """One attention layer with its projections, at several lengths.

    Args:
        length: numbers of tokens, as in 512,1024,2048; 512,...,16384 doubles up to the last.
        causal: whether a token sees only itself and those before it.
        batch: sequences at once.
        dim: width of the residual stream.
        num_heads: attention heads; divides dim.
        dtype: of weights and inputs; auto is float32 on the CPU and bfloat16 on CUDA.
        device: where it is measured; auto is CUDA where there is one.
        threads: of the CPU. With one, CPU time is measured, which other processes don't disturb much; with several, the
            time of day.
        repeats: rounds in which all take turns.
        compile: whether each layer goes through torch.compile.
        fit_from: lengths from this one on count for the exponents; at most the second longest.
        limit_s: seconds that a pass forward and back may be expected to take; beyond, a length is left out.
        limit_gib: memory that a pass may be expected to need; null for four fifths of what is free.
        seed: of weights, inputs and random buffers.
        out: the folder for bench.json, bench.pdf and bench.png; null for a dated one under runs/bench.
    """

    length: list[int]
    causal: bool = False
    batch: int = 1
    dim: int = 512
    num_heads: int = 8
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    repeats: int = 5
    compile: bool = False
    fit_from: int = 1
    limit_s: float = 60.0
    limit_gib: float | None = None
    seed: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "dim", "num_heads", "threads", "repeats", "fit_from"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1.")
        for name in ("limit_s", "limit_gib"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:  # nan is no limit either
                raise UserError(f"{name}={getattr(self, name)}: must be more than 0.")
        if self.threads > (cores := os.cpu_count() or 1):
            raise UserError(f"threads={self.threads}: this machine has {cores} cores. Set threads={cores} or less.")
        if self.dim % self.num_heads:
            raise UserError(f"dim={self.dim} is not divisible by num_heads={self.num_heads}.")
        if not self.length or min(self.length) < 1:
            raise UserError(f"length={_listed(self.length)}: must be numbers of tokens, each at least 1.")
        if sorted(set(self.length)) != list(self.length):
            raise UserError(
                f"length={_listed(self.length)}: must rise. Write length={_listed(sorted(set(self.length)))}."
            )
        if len(self.length) > 1 and self.fit_from > self.length[-2]:
            raise UserError(
                f"fit_from={self.fit_from}: an exponent takes two lengths. Set fit_from={self.length[-2]} or less, "
                "or add greater lengths."
            )


def _listed(lengths: list[int]) -> str:
    return ",".join(map(str, lengths))
