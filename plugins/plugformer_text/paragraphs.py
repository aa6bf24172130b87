"""Paragraphs of a text: what stands between blank lines."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_PARAGRAPH = re.compile(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")


class Paragraph(NamedTuple):
    """
    Attributes:
        line: of its text in the file, from 1.
        text: its lines.
    """

    line: int
    text: str

    @property
    def key(self) -> str:
        """Equal for paragraphs that differ in white space alone."""
        return " ".join(self.text.split())


def paragraphs(text: str) -> Iterator[Paragraph]:
    line, counted = 1, 0
    for match in _PARAGRAPH.finditer(text):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        yield Paragraph(line, match[0])


def join(parts: list[Paragraph]) -> str:
    return "\n\n".join(part.text for part in parts)


class Fresh:
    """Lets each paragraph pass once."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def of(self, text: str) -> list[Paragraph]:
        """The paragraphs of a text that weren't seen before."""
        fresh = []
        for paragraph in paragraphs(text):
            if paragraph.key not in self.seen:
                self.seen.add(paragraph.key)
                fresh.append(paragraph)
        return fresh
