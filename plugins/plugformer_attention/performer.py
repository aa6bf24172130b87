"""Performer: softmax attention estimated by random features."""

import math
import warnings
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Mask
from plugformer_attention.kernel import reference
from plugformer_attention.kernel.attention import CAPABILITIES, advance, attend
from plugformer_attention.kernel.causal import KernelState
from plugformer_attention.kernel.diagnosis import errors
from plugformer_attention.kernel.kernels import Kernel
from plugformer_attention.kernel.projection import RandomProjection


class Performer(Attention):
    """FAVOR+: fast attention via positive orthogonal random features (Choromanski et al. 2021, section 2).

    Args:
        features: `positive` and `trigonometric` ones estimate softmax attention, the former with far less variance
            where it is small; `relu` ones are another kernel.
        num_features: how many; the error falls with their root. None for head_dim · ln(head_dim).
        redraw_every: optimiser steps after which features are drawn anew in training; 0 or None for never.
    """

    capabilities = CAPABILITIES
    finer_options: ClassVar = [{"num_features": number} for number in (16, 64, 256, 1024, 4096)]

    def __init__(
        self,
        *,
        head_dim: int,
        layer: int,
        seed: int,
        features: Literal["positive", "relu", "trigonometric"] = "positive",
        num_features: int | None = None,
        redraw_every: int | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.temperature = head_dim**-0.5
        count = default_num_features(head_dim) if num_features is None else num_features
        check_num_features(count, head_dim, paired=features == "trigonometric")
        check_redraw_every(redraw_every)
        self.projection = RandomProjection(
            dim=head_dim,
            count=count // 2 if features == "trigonometric" else count,
            place=(seed, "performer", layer),
            redraw_every=redraw_every,
        )

    @property
    def _kernel(self) -> Kernel:
        return Kernel(self.features, self.projection.directions, self.temperature)

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
        return attend(q, k, v, mask, self._kernel)

    def step(
        self,
        q: Float[Tensor, "batch heads new head_dim"],
        k: Float[Tensor, "batch heads new head_dim"],
        v: Float[Tensor, "batch heads new head_dim"],
        state: KernelState | None,
        valid: Bool[Tensor, "batch new"] | None = None,
    ) -> tuple[Float[Tensor, "batch heads new head_dim"], KernelState]:
        return advance(q, k, v, state, valid, self._kernel)

    def before_step(self, step: int) -> None:
        self.projection.before_step(step)

    @torch.no_grad()
    def diagnose(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Mapping[str, float]:
        """`kernel_error` and `output_error`: how far weights and outputs are from softmax attention's, relative to
        their size. Nothing of ReLU features, which estimate none."""
        if self.features == "relu":
            return {}
        return errors(q, k, v, mask, kernel=self._kernel, log_exact=lambda q, k: q @ k.mT * self.temperature)

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        return reference.attend(q, k, v, mask, self._kernel)

    def kernel(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch heads queries keys"]:
        if self.features == "relu":
            raise NotImplementedError("ReLU features estimate no kernel")
        return reference.kernel(q, k, self._kernel)


def default_num_features(head_dim: int) -> int:
    """head_dim · ln(head_dim), as many as the theory asks for (Choromanski et al. 2021, theorem 4); even."""
    return 2 * max(1, round(head_dim * math.log(head_dim) / 2))


def check_num_features(number: int, head_dim: int, *, paired: bool) -> None:
    """
    Args:
        number: of features.
        paired: whether each direction gives two, a sine and a cosine.

    Raises:
        UserError: there can't be so many.
    """
    if number < 1:
        raise UserError(
            f"attention.num_features={number}: there must be at least one.\n"
            f"  Set attention.num_features=null for {default_num_features(head_dim)} with heads of width {head_dim}."
        )
    if paired and number % 2:
        raise UserError(
            f"attention.num_features={number}: each direction gives a sine and a cosine, so that their number is even."
            f"\n  Set attention.num_features={number + 1}."
        )
    if number < head_dim:
        warnings.warn(
            f"attention.num_features={number} is less than the width {head_dim} of a head: the estimate varies so much "
            f"that training may be unstable. null gives {default_num_features(head_dim)}.",
            stacklevel=3,
        )


def check_redraw_every(steps: int | None) -> None:
    """
    Raises:
        UserError: it is negative.
    """
    if steps is not None and steps < 0:
        raise UserError(
            f"attention.redraw_every={steps}: features can't be drawn anew so often.\n"
            "  Set a number of optimiser steps, or 0 for never."
        )
