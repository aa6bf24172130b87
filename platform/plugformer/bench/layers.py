"""The layers that are measured: a mechanism between its projections, or another project's layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from plugformer.bench.asked import Mechanism
from plugformer.bench.peers import Peer
from plugformer.bench.settings import BenchSettings
from plugformer.compatibility import plugins_that
from plugformer.errors import UserError
from plugformer.interfaces import Attention, Capabilities, Grid, Layout, Mask
from plugformer.nn.initialise import initialise
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.positions import NoPosition
from plugformer.registry import build


class SelfAttention(nn.Module):
    """A mechanism between its projections, over one sequence without padding."""

    def __init__(self, attention: MultiHeadAttention, layout: Layout, *, causal: bool) -> None:
        super().__init__()
        self.attention = attention
        self.layout = layout
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, Mask(causal=self.causal, layout=self.layout))  # a new mask each time keeps nothing


class FlashOnly(nn.Module):
    """Exact attention that takes the FlashAttention kernel or fails."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return self.layer(x)


@dataclass(frozen=True)
class Candidate:
    """Something to measure.

    Attributes:
        label: what it is called.
        make: a layer `[batch, length, dim]` → the same for a length, in float32 on the CPU. UserError: it can't.
        is_peer: whether it is another project's.
        node: name and options of a mechanism.
        capabilities: what a mechanism declares.
    """

    label: str
    make: Callable[[int], nn.Module]
    is_peer: bool = False
    node: Mapping[str, Any] | None = None
    capabilities: Capabilities | None = None


def mechanism_candidate(mechanism: Mechanism, settings: BenchSettings) -> Candidate:
    """
    Raises:
        UserError: options that can't be, or a mechanism that can't be causal where that is asked.
    """
    smallest = _build(mechanism, settings, settings.length[0])
    if settings.causal and smallest.capabilities.causality == "none":
        able = ", ".join(plugins_that("attention", lambda cls: cls.capabilities.causality != "none")) or "none"
        raise UserError(f"causal=true: attention={mechanism.label} can't be causal.\n  These can: {able}")

    def make(length: int) -> nn.Module:
        built = _build(mechanism, settings, length)
        if length < built.capabilities.min_length:
            raise UserError(f"needs at least {built.capabilities.min_length} tokens")
        layer = MultiHeadAttention(
            dim=settings.dim, num_heads=settings.num_heads, mechanism=built, position=NoPosition()
        )
        initialise(layer, seed=settings.seed)
        layout = Layout.of(Grid(("position",), (length,)), torch.device(settings.device))
        return SelfAttention(layer, layout, causal=settings.causal)

    return Candidate(mechanism.label, make, node=mechanism.node, capabilities=smallest.capabilities)


def peer_candidate(name: str, peer: Peer, settings: BenchSettings) -> Candidate:
    def make(length: int) -> nn.Module:
        try:
            return peer.make(dim=settings.dim, num_heads=settings.num_heads, length=length, causal=settings.causal)
        except ImportError as error:
            raise UserError(f"not installed: {peer.install} ({error})") from error

    return Candidate(name, make, is_peer=True)


def flash_candidate(settings: BenchSettings) -> Candidate:
    """FlashAttention through SDPA, for CUDA."""
    exact = mechanism_candidate(Mechanism("full", {"name": "full"}), settings)
    return Candidate("flash (SDPA)", lambda length: FlashOnly(exact.make(length)), capabilities=exact.capabilities)


def _build(mechanism: Mechanism, settings: BenchSettings, length: int) -> Attention:
    return build(
        "attention",
        mechanism.node,
        num_heads=settings.num_heads,
        head_dim=settings.dim // settings.num_heads,
        causal=settings.causal,
        max_length=length,
        layer=0,
        seed=settings.seed,
    )
