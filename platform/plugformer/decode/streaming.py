"""The text of a sequence while its tokens come."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plugformer.decode.stopping import find_stop, held_back

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what the first bytes of a character are decoded to


class Writer:
    """Makes text of tokens as they come, and lets it out as soon as nothing that follows can change it.

    What is let out is never a part of a character, nor of a stop string. Taken together it is exactly `text`.

    Tokens are decoded with some of those before them, since how a word begins can depend on what it follows; not with
    all of them, so that a long text costs no more a token than a short one.

    Args:
        decode: of ids `[length]`, as a tokenizer's.
        prompt: the ids that the text follows.
        stop: strings before which the text ends.
        emit: is given the text piece by piece.

    Attributes:
        text: all of it, without what the prompt is decoded to; whole once `end` was called.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], str],
        prompt: Sequence[int],
        *,
        stop: Sequence[str] = (),
        emit: Callable[[str], None] | None = None,
    ) -> None:
        self.decode, self.stop, self.emit = decode, stop, emit
        self.text, self._stopped = "", False
        self._released = 0  # characters of the text
        self._ids = list(prompt)
        self._begin, self._read = 0, len(self._ids)  # decoded once more, and the first whose text isn't settled
        self._before = len(self._decode(0, self._read))  # characters of the former
        self._taken = 0  # characters of the latter that are in the text already

    def take(self, token: int) -> bool:
        """One token more; whether the text ends here, at a stop string."""
        self._ids.append(token)
        window = self._decode(self._begin, len(self._ids))
        settled = window.rstrip(INCOMPLETE)
        stopped = self._add(settled[self._before + self._taken :])
        if settled == window and len(window) > self._before:  # never behind a token that has no text
            self._begin, self._read = self._read, len(self._ids)
            self._before, self._taken = len(self._decode(self._begin, self._read)), 0
        else:
            self._taken = max(self._taken, len(settled) - self._before)
        return stopped

    def end(self) -> str:
        """Let out what was held back; the whole text. A character of which the end is missing is a U+FFFD."""
        if not self._stopped:
            self._add(self._decode(self._begin, len(self._ids))[self._before + self._taken :])
        self._release(len(self.text))
        return self.text

    def _add(self, piece: str) -> bool:
        searched = len(self.text)
        self.text += piece
        found = find_stop(self.text, self.stop, searched=searched)
        if found is not None:
            self.text, self._stopped = self.text[:found], True
        self._release(len(self.text) - (0 if self._stopped else held_back(self.text, self.stop)))
        return self._stopped

    def _release(self, end: int) -> None:
        piece = self.text[self._released : end]
        self._released = max(self._released, end)
        if piece and self.emit is not None:
            self.emit(piece)

    def _decode(self, begin: int, end: int) -> str:
        return self.decode(torch.tensor(self._ids[begin:end], dtype=torch.long))
