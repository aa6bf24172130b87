"""Sentences to be read aloud."""

import re
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from plugformer.data.files import read_text, refuse
from plugformer.data.phrases import letters
from plugformer.errors import UserError, nearest

BUILT_IN = ("numbers", "docs")  # in English

ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

_MARK = re.compile(r"[.,;:!?()]+(?:\s|$)|(?:^|\s)\(|\s--\s|\n\s*\n")  # but not a dot inside of a name
_PHRASE = re.compile(r"[A-Za-z]?[a-z]+(?: [a-z]+){2,}")
_SIZES = range(12, 51)  # of a phrase, in letters


def sentences(source: str) -> dict[str, str]:
    """What there is to read, by a name each; no two say the same.

    Args:
        source: `numbers`, `docs`, or a file with a sentence in each line.

    Raises:
        UserError: no such file, or it isn't text, or a line holds no letter.
    """
    if source == "numbers":
        return {str(number): in_words(number) for number in range(10_000)}
    if source == "docs":
        return dict(_documentation())
    return _lines(Path(source).expanduser())


def in_words(number: int) -> str:
    """Of 0 to 9,999, as in "two thousand and seven"."""
    assert 0 <= number < 10_000
    if number < 20:
        return ONES[number]
    if number < 100:
        ten, rest = _TENS[number // 10 - 2], number % 10
        return f"{ten} {ONES[rest]}" if rest else ten
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = number % size
    joint = " and " if 0 < rest < 100 else " " if rest else ""
    return f"{ONES[number // size]} {name}{joint}{in_words(rest) if rest else ''}"


def _documentation() -> Iterator[tuple[str, str]]:
    """Phrases of Python's language reference: three words or more between two punctuation marks."""
    seen = set()
    for topic in sorted(topics):
        for number, part in enumerate(_MARK.split(topics[topic])):
            phrase = " ".join(part.split())
            if len(phrase) in _SIZES and _PHRASE.fullmatch(phrase) and letters(phrase) not in seen:
                seen.add(letters(phrase))
                yield f"{topic}:{number}", phrase


def _lines(path: Path) -> dict[str, str]:
    if not path.is_file():
        guess = nearest(str(path), BUILT_IN)
        hint = f" Did you mean {guess}?" if guess else ""
        raise UserError(
            f"data.sentences={path}: no such file.{hint}\n  Possible: {', '.join(BUILT_IN)}, or a file with a sentence "
            "in each line."
        )
    found, seen, wordless = {}, set(), []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        said = letters(line)
        if not said:
            wordless.append(f"{path}:{number}: {line.strip()}")
        elif said not in seen:
            seen.add(said)
            found[str(number)] = " ".join(line.split())
    refuse(f"data.sentences={path}: lines without a letter or a digit", wordless, "Leave them out.")
    return found
