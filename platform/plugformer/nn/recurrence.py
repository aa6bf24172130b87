"""Recurrent layers, over whole sequences and step by step."""

from collections.abc import Callable
from typing import Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Unit = Literal["gru", "lstm"]
State = tuple[Tensor, ...]  # each [batch, dim]: the hidden state, and of an LSTM the cell's
Gates = Float[Tensor, "batch gates"]

LAYERS: dict[Unit, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
CELLS: dict[Unit, type[nn.GRUCell | nn.LSTMCell]] = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}
STATES: dict[Unit, int] = {"gru": 1, "lstm": 2}  # tensors of a state


def gru_step(of_input: Gates, of_state: Gates, state: State) -> State:
    """A gated recurrent unit (Cho et al. 2014) as cuDNN and torch have it, whose reset gate stands after the matrix.

    Args:
        of_input, of_state: what they add to the reset gate, the update gate and the candidate, `[batch, 3 · dim]`.
        state: before.
    """
    (hidden,), dim = state, of_state.shape[-1] // 3
    gates, new = of_input.split([2 * dim, dim], -1)
    gates_of_state, new_of_state = of_state.split([2 * dim, dim], -1)
    reset, update = (gates + gates_of_state).sigmoid().chunk(2, -1)
    candidate = (new + reset * new_of_state).tanh()
    return (candidate + update * (hidden - candidate),)


def lstm_step(of_input: Gates, of_state: Gates, state: State) -> State:
    """Long short-term memory with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    Args:
        of_input, of_state: what they add to the input gate, the forget gate, the candidate and the output gate,
            `[batch, 4 · dim]`.
        state: before.
    """
    _, cell = state
    gate, forget, candidate, output = (of_input + of_state).chunk(4, -1)
    cell = forget.sigmoid() * cell + gate.sigmoid() * candidate.tanh()
    return output.sigmoid() * cell.tanh(), cell


STEPS: dict[Unit, Callable[[Tensor, Tensor, State], State]] = {"gru": gru_step, "lstm": lstm_step}


class RecurrentLayer(nn.Module):
    """One layer of a recurrent encoder or decoder."""


class BothWays(RecurrentLayer):
    """Over a whole sequence, half of the width from its beginning to its end and half back (Schuster and Paliwal 1997).

    Padding changes nothing, wherever it stands.

    Args:
        unit: what is run over the sequence.
        dim: width of what comes in and out.
    """

    def __init__(self, unit: Unit, *, dim: int) -> None:
        super().__init__()
        self.layer = LAYERS[unit](dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(
        self, x: Float[Tensor, "batch length dim"], valid: Bool[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch length dim"]:
        """`valid`: which tokens are real; None if all are."""
        if valid is None:
            out, _ = self.layer(x)
            return out
        real_first = valid.int().argsort(dim=1, descending=True, stable=True)
        lengths = valid.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(_take(x, real_first), lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=x.shape[1])
        return _take(out, real_first.argsort(1))


class Forward(RecurrentLayer):
    """From a state on, through a whole sequence or some tokens further. Padding leaves the state as it was.

    Args:
        unit: what is run over the sequence.
        inputs: width of what comes in.
        dim: width of what comes out.
    """

    def __init__(self, unit: Unit, *, inputs: int, dim: int) -> None:
        super().__init__()
        self.step = STEPS[unit]
        self.cell = CELLS[unit](inputs, dim)

    def forward(
        self, x: Float[Tensor, "batch length inputs"], valid: Bool[Tensor, "batch length"] | None, state: State
    ) -> tuple[Float[Tensor, "batch length dim"], State]:
        """What comes out at each token, and the last state."""
        cell, outs = self.cell, []
        of_inputs = F.linear(x, cell.weight_ih, cell.bias_ih)
        for number, of_input in enumerate(of_inputs.unbind(1)):
            new = self.step(of_input, F.linear(state[0], cell.weight_hh, cell.bias_hh), state)
            state = new if valid is None else keep_where(valid[:, number], new, state)
            outs.append(state[0])
        return torch.stack(outs, 1), state


def _take(x: Float[Tensor, "batch length dim"], places: Int[Tensor, "batch length"]) -> Tensor:
    return x.gather(1, repeat(places, "batch length -> batch length dim", dim=x.shape[2]))


def keep_where(valid: Bool[Tensor, "batch"], new: State, old: State) -> State:
    """The new state of those whose token is real, and that of the others as it was."""
    return tuple(torch.where(valid[:, None], one, other) for one, other in zip(new, old, strict=True))
