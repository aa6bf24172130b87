"""What a command line asks to be measured: `attention=full,performer(num_features=64) performer.redraw=… length=…`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugformer.errors import UserError
from plugformer.registry import check, find


@dataclass(frozen=True)
class Mechanism:
    """A mechanism with its options.

    Attributes:
        label: as it was asked for.
        node: `{"name": ..., **options}`, checked and complete.
    """

    label: str
    node: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """One name in a list, with the text of the options that stand in parentheses behind it."""

    label: str
    name: str
    options: tuple[str, ...]


def split_mechanisms(text: str) -> list[Asked]:
    """`a,b(x=1,y=2)` as a list.

    Raises:
        UserError: parentheses that don't match, or a name twice with the same options.
    """
    asked: list[Asked] = []
    for part in _split(text):
        name, opening, rest = part.partition("(")
        if opening and not rest.endswith(")"):
            raise UserError(f"attention={text}: expected NAME or NAME(OPTION=VALUE,...), not {part}.")
        options = tuple(_split(rest[:-1])) if opening else ()
        label = f"{name}({', '.join(options)})" if options else name
        if not name or label in [each.label for each in asked]:
            raise UserError(f"attention={text}: {f'{label} stands there twice' if name else 'a name is missing'}.")
        asked.append(Asked(label, name, options))
    return asked


def _split(text: str) -> list[str]:
    """At the commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    if depth or quote:
        raise UserError(f"attention={text}: {'a quote' if quote else 'parentheses'} without an end.")
    return [part.strip() for part in parts]


def make_mechanisms(
    asked: Sequence[tuple[Asked, Mapping[str, Any]]], shared: Mapping[str, Mapping[str, Any]]
) -> list[Mechanism]:
    """
    Args:
        asked: each with the values of its own options.
        shared: options by the name they were set under: that of a mechanism, or `attention` for all of them.

    Raises:
        UserError: no such mechanism or option, or a value of the wrong type.
    """
    made = []
    for each, own in asked:
        find("attention", each.name)
        node: dict[str, Any] = {"name": each.name}
        for where, options in (
            ("attention", shared.get("attention", {})),
            (each.name, shared.get(each.name, {})),
            ("", own),
        ):
            node |= options
            check("attention", node, where or each.name)
        made.append(Mechanism(each.label, check("attention", node)))
    return made


def split_peers(text: str) -> tuple[Path, list[str] | None]:
    """`FILE.py` or `FILE.py:NAME,NAME` as the file and the names; None for all that it holds.

    Raises:
        UserError: no such file, or a name is missing.
    """
    path, colon, listed = text.rpartition(":") if ".py:" in text else (text, "", "")
    if not Path(path).is_file():
        raise UserError(f"peers={text}: no such file. Expected FILE.py or FILE.py:NAME,NAME.")
    names = [name.strip() for name in listed.split(",")] if colon else None
    if names is not None and "" in names:
        raise UserError(f"peers={text}: a name is missing. Expected FILE.py or FILE.py:NAME,NAME.")
    return Path(path), names


def read_lengths(text: str) -> list[int]:
    """`512,1024` as numbers; after two of them `...` goes on by their ratio, after one by doubling.

    Raises:
        UserError: something else stands there.
    """
    lengths: list[int] = []
    skipping = False
    for part in text.strip("[]").split(","):
        word = part.strip()
        if word in ("...", "…", "..") and lengths and not skipping:
            skipping = True
            continue
        if not word.isascii() or not word.isdecimal():
            raise UserError(
                f"length={text}: expected numbers of tokens, such as 512,1024,2048 or 512,...,16384, not {word!r}."
            )
        if skipping:
            lengths += _between(lengths, int(word), text)
            skipping = False
        lengths.append(int(word))
    if skipping:
        raise UserError(f"length={text}: no length stands after the dots.")
    return lengths


def _between(before: Sequence[int], last: int, text: str) -> list[int]:
    ratio = before[-1] / before[-2] if len(before) > 1 and before[-2] else 2.0
    if ratio <= 1 or not before[-1]:
        raise UserError(f"length={text}: must rise.")
    found, following = [], before[-1] * ratio
    while round(following) < last:
        found.append(round(following))
        following *= ratio
    if round(following) != last:
        raise UserError(f"length={text}: going on by a factor of {ratio:g} comes to {round(following)}, not to {last}.")
    return found
