"""Random feature attention."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Mask
from plugformer_attention.kernel import reference
from plugformer_attention.kernel.attention import CAPABILITIES, advance, attend
from plugformer_attention.kernel.causal import KernelState
from plugformer_attention.kernel.diagnosis import errors
from plugformer_attention.kernel.kernels import Kernel
from plugformer_attention.kernel.projection import RandomProjection
from plugformer_attention.performer import check_num_features, check_redraw_every, default_num_features


class RandomFeature(Attention):
    """Random feature attention: features of unit-length queries and keys (Peng et al. 2021, section 3).

    Each head learns how much every coordinate counts, the inverse of the paper's σ. The gate of section 3.2 is computed
    from the key, as a mechanism sees nothing else of a token.

    Args:
        features: `gaussian`: sines and cosines, an estimate of the Gaussian kernel. `arccos`: rectified ones, of the
            arc-cosine kernel.
        num_features: how many; even if gaussian. None for head_dim · ln(head_dim).
        gate: `scalar`: each head forgets what was before by a factor learned from the token; causal only.
        redraw_every: optimiser steps after which features are drawn anew in training; 0 or None for never.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        causal: bool,
        layer: int,
        seed: int,
        features: Literal["gaussian", "arccos"] = "gaussian",
        num_features: int | None = None,
        gate: Literal["none", "scalar"] = "none",
        redraw_every: int | None = None,
    ) -> None:
        super().__init__()
        self.features = {"gaussian": "gaussian", "arccos": "relu"}[features]
        count = default_num_features(head_dim) if num_features is None else num_features
        check_num_features(count, head_dim, paired=features == "gaussian")
        check_redraw_every(redraw_every)
        self.projection = RandomProjection(
            dim=head_dim,
            count=count // 2 if features == "gaussian" else count,
            place=(seed, "random_feature", layer),
            redraw_every=redraw_every,
        )
        self.scale = nn.Parameter(torch.empty(num_heads, 1, head_dim))
        self.gate = None
        if gate == "scalar":
            if not causal:
                raise UserError(
                    "attention.gate=scalar forgets what was before a token, so it needs attention to be causal.\n"
                    "  Set attention.gate=none, or backbone=decoder."
                )
            self.capabilities = replace(CAPABILITIES, cross_attention=False)
            self.gate = Gate(num_heads, head_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)

    def keep_heads(self, first: int, count: int) -> None:
        heads = slice(first, first + count)
        self.scale = nn.Parameter(self.scale.detach()[heads].clone(), self.scale.requires_grad)
        if self.gate is not None:
            self.gate.keep_heads(heads)

    @property
    def _kernel(self) -> Kernel:
        return Kernel(self.features, self.projection.directions, 1.0)

    def forward(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch heads keys head_dim"],
        v: Float[Tensor, "batch heads keys head_dim"],
        mask: Mask,
        bias: Tensor | None = None,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        """
        Raises:
            UserError: queries of packed samples and keys of other packed samples.
        """
        weights = None if self.gate is None else self.gate(k, mask.valid)[0]
        return attend(self._unit(q), self._unit(k), v, mask, self._kernel, weights)

    def step(
        self,
        q: Float[Tensor, "batch heads new head_dim"],
        k: Float[Tensor, "batch heads new head_dim"],
        v: Float[Tensor, "batch heads new head_dim"],
        state: KernelState | None,
        valid: Bool[Tensor, "batch new"] | None = None,
    ) -> tuple[Float[Tensor, "batch heads new head_dim"], KernelState]:
        q, unit = self._unit(q), self._unit(k)
        if self.gate is None:
            return advance(q, unit, v, state, valid, self._kernel)
        weights, forgotten = self.gate(k, valid)
        out, state = advance(q, unit, v, state, valid, self._kernel, weights)
        return out, state._replace(reference=state.reference + forgotten)

    def before_step(self, step: int) -> None:
        self.projection.before_step(step)

    @torch.no_grad()
    def diagnose(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Mapping[str, float]:
        """`kernel_error` and `output_error`: how far weights, before the gate, and outputs are from those of the kernel
        itself, relative to their size."""
        return errors(
            self._unit(q),
            self._unit(k),
            v,
            mask,
            kernel=self._kernel,
            log_exact=lambda q, k: reference.exact_products(q, k, self.features).clamp(min=0).log(),
            log_weight=None if self.gate is None else self.gate(k, mask.valid)[0],
            factor=1.0 if self.features == "gaussian" else 2 * math.pi,
        )

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        weights = None if self.gate is None else self.gate(k, mask.valid)[0]
        return reference.attend(self._unit(q), self._unit(k), v, mask, self._kernel, weights)

    def exact(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """The kernel itself instead of its estimate."""
        weights = None if self.gate is None else self.gate(k, mask.valid)[0]
        return reference.attend_exactly(self._unit(q), self._unit(k), v, mask, self.features, weights)

    def _unit(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.scale


class Gate(nn.Module):
    """Recency: S_t = g_t S_{t-1} + (1 − g_t) φ(k_t) v_tᵀ (Peng et al. 2021, section 3.2).

    A key of place j then counts for a query of place i by (1 − g_j) g_{j+1} … g_i. What the query's place contributes
    cancels, so that the gate is no more than a weight of each key.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, head_dim))
        self.bias = nn.Parameter(torch.empty(num_heads, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """To forget with a half-life that doubles from head to head, from a token on."""
        nn.init.zeros_(self.weight)
        keep = 0.5 ** (0.5 ** torch.arange(len(self.bias), dtype=torch.float64, device="cpu").clamp_max(10))
        with torch.no_grad():
            self.bias.copy_(torch.logit(keep)[:, None])

    def keep_heads(self, heads: slice) -> None:
        self.weight = nn.Parameter(self.weight.detach()[heads].clone(), self.weight.requires_grad)
        self.bias = nn.Parameter(self.bias.detach()[heads].clone(), self.bias.requires_grad)

    def forward(
        self, k: Float[Tensor, "batch heads keys head_dim"], valid: Bool[Tensor, "#batch keys"] | None
    ) -> tuple[Float[Tensor, "batch heads keys"], Float[Tensor, "batch heads 1"]]:
        """Logarithms of the keys' weights, and of what the last of them leaves of what was before the first.

        float64, for they grow with the length. Padding forgets nothing.
        """
        logits = (k.double() * self.weight.double()[:, None]).sum(-1) + self.bias.double()
        keeps = F.logsigmoid(logits)
        if valid is not None:
            keeps = keeps.masked_fill(~valid[:, None], 0.0)
        total = keeps.cumsum(-1)
        return F.logsigmoid(-logits) - total, total[..., -1:]
