"""Errors for users: what, where, what was possible, the nearest name, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """A mistake of the user's. Commands print its message alone and exit with code 2."""


class RunFailed(RuntimeError):
    """What ends a run that was asked for rightly. Commands print its message alone and exit with code 1."""


REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: start the same command again


class Stopped(SystemExit):
    """A signal asked a run to stop, and it has saved itself; as an exit code, 130 after Ctrl-C, else `REQUEUE`."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name in `known` that is most likely meant by `word`, if any is close.

    A dotted name is compared with its siblings or, if it has none, as a whole; then all last segments are compared, so
    that `lr` and `trainer.lr` find `optimizer.lr`.
    """
    known = [name for name in known if not word.startswith(f"{name}.")]
    parent = word.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    close = _closest(word, siblings, 0.6, _last) if siblings else _closest(word, known, 0.6)
    return close or _closest(word, known, 0.75, _last)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _closest(word: str, known: Iterable[str], cutoff: float, key: Callable[[str], str] = str) -> str | None:
    names = {key(name).lower(): name for name in reversed(list(known))}
    close = difflib.get_close_matches(key(word).lower(), names, n=1, cutoff=cutoff)
    return names[close[0]] if close else None


def unknown(what: str, word: str, known: Iterable[str], possible: str = "Possible") -> UserError:
    """`what` is the sentence's subject, as in "attention=performr: no such plugin"."""
    known = sorted(known)
    guess = nearest(word, known)
    hint = f" Did you mean {guess}?" if guess else ""
    return UserError(f"{what}.{hint}\n  {possible}: {', '.join(known) or 'none'}")


def counted(number: int, noun: str) -> str:
    """As in "1 file" and "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def message(error: Exception) -> str:
    """An error in one message: what we know of in its own words, anything else with its type and the way to more."""
    if isinstance(error, UserError | RunFailed):
        return str(error)
    return f"{type(error).__name__}: {error}\n  Run again with --traceback to see where."
