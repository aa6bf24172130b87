"""How a sequence went on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Ended = Literal["eos", "stop", "length"]

# Told the tokens of one sequence one by one, in their order; whether the sequence ends with this one.
Stop = Callable[[int], bool]


@dataclass
class Continuation:
    """What follows a prompt.

    Attributes:
        ids: the tokens drawn, without the prompt and without `eos`. Those that spell a stop string stay, since such a
            token may hold other text as well: the text is cut, not the tokens.
        score: the sum of the model's log-probabilities of its tokens, in nats, that of `eos` included.
        ended: with `eos`, at a stop string, or because there was no room for more.
    """

    ids: list[int]
    score: float
    ended: Ended

    def extend(self, token: int, gained: float, *, eos: int | None, stop: Stop | None) -> bool:
        """One token more, of this log-probability; whether it goes on."""
        self.score += gained
        if token == eos:
            self.ended = "eos"
            return False
        self.ids.append(token)
        if stop is not None and stop(token):
            self.ended = "stop"
            return False
        return True
