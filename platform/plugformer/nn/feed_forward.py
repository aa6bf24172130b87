"""The part of a block that is applied to each token alone.

One whose hidden units know nothing of each other can be divided among processes. It says so by the names of its linear
maps: `by_columns`, those that make hidden units, and `by_rows`, the one that writes to the residual stream.
"""

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from plugformer.errors import UserError
from plugformer.nn.initialise import ResidualLinear


class SquaredReLU(nn.Module):
    """The square of the positive part (So et al. 2021, Primer)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "relu2": SquaredReLU,
    "sigmoid": nn.Sigmoid,
}


class Mlp(nn.Module):
    """Two linear maps with a non-linearity between them (Vaswani et al. 2017, section 3.3).

    Args:
        expansion: width of the hidden layer as a multiple of the residual stream's.
        activation: relu; gelu (Hendrycks and Gimpel 2016) or its approximation gelu_tanh (GPT-2); silu; relu2, the
            square of relu (So et al. 2021).
        bias: whether the linear maps have one.
    """

    by_columns: ClassVar[tuple[str, ...]] = ("expand",)
    by_rows: ClassVar[str] = "contract"

    def __init__(
        self,
        *,
        dim: int,
        dropout: float = 0.0,
        expansion: float = 4.0,
        activation: Literal["relu", "gelu", "gelu_tanh", "silu", "relu2"] = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        hidden = hidden_width(dim, expansion)
        self.expand = nn.Linear(dim, hidden, bias=bias)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.contract = ResidualLinear(hidden, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.contract(self.dropout(self.activation(self.expand(x))))


class Glu(nn.Module):
    """A linear map gated by another, then a third (Shazeer 2020).

    Args:
        expansion: width of the hidden layer as a multiple of the residual stream's. 8/3 costs what an mlp of 4 does.
        multiple_of: the width is rounded up to a multiple of this.
        activation: of the gate: silu (SwiGLU, as in Llama), gelu (GEGLU) or its approximation gelu_tanh, relu (ReGLU),
            sigmoid (GLU; Dauphin et al. 2017).
        bias: whether the linear maps have one.
    """

    by_columns: ClassVar[tuple[str, ...]] = ("gate", "expand")
    by_rows: ClassVar[str] = "contract"

    def __init__(
        self,
        *,
        dim: int,
        dropout: float = 0.0,
        expansion: float = 2.6666666666666665,
        multiple_of: int = 8,
        activation: Literal["silu", "gelu", "gelu_tanh", "relu", "sigmoid"] = "silu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        hidden = hidden_width(dim, expansion, multiple_of)
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.expand = nn.Linear(dim, hidden, bias=bias)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.contract = ResidualLinear(hidden, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.contract(self.dropout(self.activation(self.gate(x)) * self.expand(x)))


def hidden_width(dim: int, expansion: float, multiple_of: int = 1) -> int:
    """
    Raises:
        UserError: nothing would be left, or a multiple of nothing.
    """
    if multiple_of < 1:
        raise UserError(f"feed_forward.multiple_of={multiple_of}: must be at least 1.")
    hidden = ceil(round(expansion * dim) / multiple_of) * multiple_of
    if hidden < 1:
        raise UserError(f"feed_forward.expansion={expansion}: leaves no hidden layer of backbone.dim={dim}.")
    return hidden
