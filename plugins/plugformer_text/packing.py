"""Documents packed into sequences of a given length, so that next to nothing is padded.

A document that a sequence ends in goes on in another one, from its last token there: as the first token of a sequence
is predicted by nobody, each token but a document's first is then predicted exactly once.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Features, Sample
from plugformer_text.vocabulary import Document

Packing = Literal["none", "fit", "fill", "stream"]


class Plan(NamedTuple):
    """Which pieces of the stream of all tokens make each sequence.

    Attributes:
        pieces: int `[pieces, 2]`, start and end of each in the stream; a piece is of one document.
        first: int `[sequences + 1]`, number of each sequence's first piece, and of all pieces.
    """

    pieces: np.ndarray
    first: np.ndarray


class Packed(Sequence[Sample]):
    """Encoded sequences, each made from the stream of all documents' tokens when it is asked for.

    Args:
        documents: encoded, with their special tokens.
        length: of a sequence, at most.
        packing: `fit`: whole documents together as they fit (best fit, the longest first), longer ones cut. `fill`:
            the stream cut into equal blocks. `stream`: the same, as if it were one document (Radford et al. 2019).

    Raises:
        UserError: there is no token.
    """

    def __init__(self, documents: Iterable[Document], *, length: int, packing: Packing) -> None:
        kept = [document for document in documents if len(document.ids)]
        if not kept:
            raise UserError(f"tokenizer.packing={packing}: there is no text to pack.")
        self.stream = Document.join(kept)
        ends = np.cumsum([len(document.ids) for document in kept])
        self.plan = {"fit": _fit, "fill": _fill, "stream": _stream}[packing](ends, length)

    def __len__(self) -> int:
        return len(self.plan.first) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return {"encoded": self._features(range(len(self))[index])}

    def _features(self, number: int) -> Features:
        spans = self.plan.pieces[self.plan.first[number] : self.plan.first[number + 1]]
        chosen = np.concatenate([np.arange(start, end) for start, end in spans])
        features = {key: _tensor(part[chosen]) for key, part in self.stream._asdict().items()}
        if len(spans) > 1:
            lengths = spans[:, 1] - spans[:, 0]
            features["segments"] = _tensor(np.repeat(np.arange(len(spans)), lengths))
            features["positions"] = _tensor(np.concatenate([np.arange(length) for length in lengths]))
        return features


def _tensor(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int64))


def _blocks(start: int, end: int, length: int) -> np.ndarray:
    """A stretch in blocks `[blocks, 2]` of `length`, the last one shorter; neighbours share a token."""
    starts = np.arange(start, max(end - 1, start + 1), length - 1)
    return np.stack([starts, np.minimum(starts + length, end)], 1)


def _stream(ends: np.ndarray, length: int) -> Plan:
    blocks = _blocks(0, int(ends[-1]), length)
    return Plan(blocks, np.arange(len(blocks) + 1))


def _fill(ends: np.ndarray, length: int) -> Plan:
    pieces: list[tuple[int, int]] = []
    first = [0]
    for start, end in _blocks(0, int(ends[-1]), length):
        inside = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, end, "left")]
        cuts = [start, *inside, end]
        pieces += pairwise(cuts)
        first.append(len(pieces))
    return Plan(np.array(pieces), np.array(first))


def _fit(ends: np.ndarray, length: int) -> Plan:
    starts = np.concatenate([[0], ends[:-1]])
    pieces = np.concatenate(
        [_blocks(start, end, length) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    )
    sizes = pieces[:, 1] - pieces[:, 0]
    sequences: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # sequences by how many tokens still fit
    is_there = np.zeros(length + 1, dtype=bool)
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = sizes[piece]
        room = size + int(is_there[size:].argmax())
        if is_there[room]:
            number = with_room[room].pop()
            is_there[room] = bool(with_room[room])
            sequences[number].append(piece)
        else:
            number, room = len(sequences), length
            sequences.append([piece])
        with_room[room - size].append(number)
        is_there[room - size] = True
    sequences = sorted(sorted(each) for each in sequences)  # as the documents stood
    first = np.cumsum([0, *map(len, sequences)])
    return Plan(pieces[np.concatenate(sequences)], first)
