"""Strings at which a text ends."""

from collections.abc import Sequence


def find_stop(text: str, stop: Sequence[str], *, searched: int = 0) -> int | None:
    """Where the stop string begins that is the first to be complete; of several that end at one place, the longest.

    So it doesn't depend on how the text was cut into pieces.

    Args:
        text: so far.
        stop: strings that aren't empty.
        searched: characters of the text in which none was complete.
    """
    found = []
    for string in stop:
        begin = text.find(string, max(0, searched - len(string) + 1))
        if begin >= 0:
            found.append((begin + len(string), begin))
    return min(found)[1] if found else None


def held_back(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of the text that may be the beginning of a stop string."""
    longest = max(map(len, stop), default=1) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-count:]) for string in stop):
            return count
    return 0
