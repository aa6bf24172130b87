"""A recurrent encoder, and a recurrent decoder that attends to an encoder (Bahdanau et al. 2015)."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from plugformer.errors import UserError
from plugformer.interfaces import DecodingState, Memory, Tokens
from plugformer.nn.initialise import Scheme, Weights
from plugformer.nn.recurrence import CELLS, STATES, STEPS, BothWays, Forward, RecurrentLayer, State, Unit, keep_where

Beginning = Literal["backward", "mean"]


class RecurrentEncoder(nn.Module):
    """Layers that read a sequence from both sides, grids in raster order (Bahdanau et al. 2015, section 3.2).

    A hidden state is what the last layer made of all up to its token and of all from it on, half of `dim` each.

    Args:
        unit: of each layer.
        dim: width of hidden states.
        num_layers: one upon the other.
        embedding_norm: of embeddings.
        dropout: probability between layers while training.
        embedding_dropout: probability on embeddings while training.

    Raises:
        UserError: a width that has no half.
    """

    def __init__(
        self,
        *,
        unit: Unit,
        dim: int,
        num_layers: int,
        embedding_norm: nn.Module,
        dropout: float,
        embedding_dropout: float,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise UserError(
                f"backbone.dim={dim}: backbone.encoder={unit} reads from both sides with half of it each.\n"
                f"  Set backbone.dim={dim + 1}."
            )
        self.num_layers = num_layers
        self.embedding_norm, self.embedding_dropout = embedding_norm, nn.Dropout(embedding_dropout)
        self.layers = nn.ModuleList(BothWays(unit, dim=dim) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch length dim"]:
        assert tokens.segments is None, "a recurrent encoder reads one document after the other as one"
        x = self.embedding_dropout(self.embedding_norm(tokens.embeddings))
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if number else x, tokens.valid)
        return x


class RecurrentDecoder(nn.Module):
    """RNNsearch: before each token, a look at what the encoder made of the source (Bahdanau et al. 2015, appendix A).

    The first layer takes the token's embedding and what attention with its own last state finds; further layers take
    the hidden state of the one below and the same (GNMT; Wu et al. 2016). What comes out of the last one, with the
    embedding and what was found, goes through a maxout layer (Goodfellow et al. 2013). Attention is additive, as in the
    paper, from the state before.

    Args:
        unit: of each layer.
        dim: width of embeddings, states and of what comes out.
        num_layers: one upon the other.
        begins_from: what first states are made of. backward: the encoder's hidden state at the first token, as it was
            read from the end (section A.2.2); mean: the mean of all (Sennrich et al. 2017, Nematus).
        embedding_norm: of embeddings.
        dropout: probability between layers and on what comes out while training.
        embedding_dropout: probability on embeddings while training.
        init: first weights of linear maps; those of recurrent units are torch's.
    """

    def __init__(
        self,
        *,
        unit: Unit,
        dim: int,
        num_layers: int,
        begins_from: Beginning,
        embedding_norm: nn.Module,
        dropout: float,
        embedding_dropout: float,
        init: Weights,
    ) -> None:
        super().__init__()
        self.scheme = Scheme(init)
        self.num_layers, self.dim, self.parts = num_layers, dim, STATES[unit]
        self.begins_from: Beginning = begins_from
        self.embedding_norm, self.embedding_dropout = embedding_norm, nn.Dropout(embedding_dropout)
        told = dim // 2 if begins_from == "backward" else dim
        self.beginning = nn.Linear(told, num_layers * self.parts * dim)
        self.first = Attending(unit, dim=dim)
        self.further = nn.ModuleList(Forward(unit, inputs=2 * dim, dim=dim) for _ in range(num_layers - 1))
        self.readout = nn.Linear(3 * dim, 2 * dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tokens, *, memory: Memory, state: DecodingState | None = None
    ) -> Float[Tensor, "batch length dim"]:
        # A compiled loop over a whole sequence would be a graph as long as it is, and another for each length.
        return (self._loop if state is None else self._forward)(tokens, memory, state)

    @torch.compiler.disable
    def _loop(self, tokens: Tokens, memory: Memory, state: None) -> Float[Tensor, "batch length dim"]:
        return self._forward(tokens, memory, state)

    def _forward(
        self, tokens: Tokens, memory: Memory, state: DecodingState | None
    ) -> Float[Tensor, "batch length dim"]:
        assert tokens.prefix is None, "a decoder sees no prefix before its time"
        assert tokens.segments is None, "a recurrent decoder writes one document after the other as one"
        caches = [] if state is None else state.caches
        begins = state is None or not state.begun
        states = self._begin(memory) if begins else [cache.state for cache in caches]
        after: list[State] = []
        embedded = self.embedding_dropout(self.embedding_norm(tokens.embeddings))
        x, found, last = self.first(embedded, tokens.valid, states[0], memory, remember=state is not None)
        after.append(last)
        for layer, before in zip(self.further, states[1:], strict=True):
            x, last = layer(torch.cat([self.dropout(x), found], -1), tokens.valid, before)
            after.append(last)
        if state is not None:
            state.extend(tokens, causal=True)
            for cache, last in zip(caches, after, strict=True):
                cache.state = last
        read = self.readout(torch.cat([x, embedded, found], -1))
        return self.dropout(rearrange(read, "batch length (dim pair) -> batch length dim pair", pair=2).amax(-1))

    def _begin(self, memory: Memory) -> list[State]:
        """The state of each layer before the first token."""
        hidden, valid = memory.hidden, memory.mask.valid
        if self.begins_from == "backward":
            first = 0 if valid is None else valid.int().argmax(1)
            told = hidden[torch.arange(len(hidden), device=hidden.device), first, self.dim // 2 :]
        elif valid is None:
            told = hidden.mean(1)
        else:
            share = valid / valid.sum(1, keepdim=True).clamp(min=1)
            told = (hidden * share[..., None].to(hidden.dtype)).sum(1)
        parts = self.beginning(told).tanh().repeat_interleave(memory.copies, 0).split(self.dim, -1)
        return [parts[number : number + self.parts] for number in range(0, len(parts), self.parts)]


class Attending(RecurrentLayer):
    """A recurrent layer of which each step takes what its last state finds in a memory.

        e_j = vᵀ tanh(W s + U h_j),  a = softmax(e),  c = Σ_j a_j h_j

    Args:
        unit: what is run over the sequence.
        dim: width of all of it.
    """

    def __init__(self, unit: Unit, *, dim: int) -> None:
        super().__init__()
        self.dim, self.step = dim, STEPS[unit]
        self.query = nn.Linear(dim, dim, bias=False)  # W
        self.key = nn.Linear(dim, dim)  # U
        self.energy = nn.Linear(dim, 1, bias=False)  # v
        self.cell = CELLS[unit](2 * dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        valid: Bool[Tensor, "batch length"] | None,
        state: State,
        memory: Memory,
        *,
        remember: bool,
    ) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, "batch length dim"], State]:
        """
        Args:
            x: embedded tokens.
            valid: which of them are real; None if all are.
            state: before the first.
            memory: to look at.
            remember: whether what is made of the memory serves further calls.

        Returns:
            The hidden state after each token, what was found in the memory before it, and the last state.
        """
        keys, hidden = memory.once(id(self), lambda: self._keys(memory)) if remember else self._keys(memory)
        by_input, by_found = self.cell.weight_ih.split(self.dim, 1)
        # All that needs no state is made of all tokens at once; all that the state is multiplied with, in one piece.
        of_inputs = F.linear(x, by_input, self.cell.bias_ih)
        by_state = torch.cat([self.query.weight, self.cell.weight_hh])
        by_state_bias = F.pad(self.cell.bias_hh, (self.dim, 0))
        hidden_mask = _hide(memory, x.dtype)
        outs, contexts = [], []
        for number, of_input in enumerate(of_inputs.unbind(1)):
            of_state = F.linear(state[0], by_state, by_state_bias)
            query, gates = of_state[:, : self.dim], of_state[:, self.dim :]
            query = rearrange(query, "(memory copies) dim -> memory copies 1 dim", copies=memory.copies)
            energies = self.energy((keys + query).tanh()).squeeze(-1)  # [memory, copies, keys]
            if hidden_mask is not None:
                energies = energies + hidden_mask
            found = (energies.softmax(-1) @ hidden).flatten(0, 1)
            new = self.step(of_input + F.linear(found, by_found), gates, state)
            state = new if valid is None else keep_where(valid[:, number], new, state)
            outs.append(state[0])
            contexts.append(found)
        return torch.stack(outs, 1), torch.stack(contexts, 1), state

    def _keys(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Of each memory for all its copies."""
        return self.key(memory.hidden)[:, None], memory.hidden


def _hide(memory: Memory, dtype: torch.dtype) -> Float[Tensor, "memory 1 keys"] | None:
    """What is added to the energies of padding, in a softmax that is finite even if there is nothing else."""
    valid = memory.mask.valid
    if valid is None:
        return None
    return torch.zeros_like(valid, dtype=dtype).masked_fill(~valid, torch.finfo(dtype).min)[:, None]
