"""Errors for users: what, where, what was possible, the nearest name, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's. Commands print its message alone and exit with code 2."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name in `known` that is most likely meant by `word`, if any is close.

    Dotted names are also compared by their last segment, so that `lr` finds `optimizer.lr`.
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return close[0]
    by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(word.rsplit(".", 1)[-1], by_last, n=1, cutoff=0.75)
    return by_last[close[0]] if close else None


def unknown(what: str, word: str, known: Iterable[str], possible: str = "Possible") -> UserError:
    """`what` is the sentence's subject, as in "attention=performr: no such plugin"."""
    known = sorted(known)
    guess = nearest(word, known)
    hint = f" Did you mean {guess}?" if guess else ""
    return UserError(f"{what}.{hint}\n  {possible}: {', '.join(known) or 'none'}")
