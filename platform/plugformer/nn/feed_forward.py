"""The part of a block that is applied to each token alone."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Mlp(nn.Module):
    """Two linear maps with a non-linearity between them (Vaswani et al. 2017, section 3.3).

    Args:
        expansion: width of the hidden layer as a multiple of the residual stream's.
        activation: relu, or gelu (Hendrycks and Gimpel 2016; the exact form).
    """

    def __init__(
        self, *, dim: int, dropout: float = 0.0, expansion: float = 4.0, activation: Literal["relu", "gelu"] = "gelu"
    ) -> None:
        super().__init__()
        hidden = round(expansion * dim)
        self.expand = nn.Linear(dim, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
        return self.contract(self.dropout(self.activation(self.expand(x))))
