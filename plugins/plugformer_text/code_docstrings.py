"""What does a function do? Its source, and the first sentence of its docstring."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from itertools import dropwhile
from typing import Literal, NamedTuple

from plugformer.data.drawing import Drawing, alike
from plugformer.errors import UserError
from plugformer.interfaces import Sample, Split
from plugformer_text.standard_library import read_source, source_files
from plugformer_text.text_source import PairSource

Function = ast.FunctionDef | ast.AsyncFunctionDef
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_LETTERS = re.compile(r"[^\W\d_]{2}")


class CodeDocstrings(PairSource):
    """Functions of the standard library (PSF licence) as they are written, without their docstrings, and the first
    sentence of these, split by top-level package.

    Split at random, functions of one file would stand on both sides, and their neighbours' sentences could be copied.
    Of functions that are equal but for white space only the first is kept; functions that are nothing but a docstring
    are left out.

    Args:
        group: what is never divided by a split: a whole top-level `package`, whose functions are alike, a `file`, or
            a `function`.
        max_source: functions of more characters are left out; null for none.
        max_target: sentences of more characters are left out, with their functions; null for none.
        val_fraction: share of the functions that validation gets.
        test_fraction: share of the functions that the test gets.
        split_seed: decides which; apart from the run's seed, so that runs of several seeds share their test.
    """

    def __init__(
        self,
        *,
        group: Literal["package", "file", "function"] = "package",
        max_source: int | None = None,
        max_target: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        for name, limit in {"max_source": max_source, "max_target": max_target}.items():
            if limit is not None and limit < 1:
                raise UserError(f"data.{name}={limit}: must be at least 1.")
        self.group = group
        self.max_source = max_source
        self.max_target = max_target
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)

    @cached_property
    def _splits(self) -> Mapping[Split, list[Sample]]:
        samples = [self._sample(found) for found in _all_functions() if self._fits(found)]
        if not samples:
            raise UserError(
                f"data.max_source={self.max_source}, data.max_target={self.max_target}: no function is that short."
            )
        return self.drawing.divide(samples, group=lambda sample: sample["group"])

    def _fits(self, found: "_Described") -> bool:
        limits = ((found.source, self.max_source), (found.sentence, self.max_target))
        return all(limit is None or len(text) <= limit for text, limit in limits)

    def _sample(self, found: "_Described") -> Sample:
        name = f"{found.file}:{found.line}"
        groups = {"package": found.file.partition("/")[0], "file": found.file, "function": name}
        return Sample(id=name, text=found.source, target_text=found.sentence, group=groups[self.group])


class _Described(NamedTuple):
    """
    Attributes:
        file, line: where the function begins.
        source: without its docstring.
        sentence: the first of its docstring.
    """

    file: str
    line: int
    source: str
    sentence: str


@cache  # parsing takes seconds
def _all_functions() -> list[_Described]:
    """The described ones, the first of equal ones alone."""
    found: dict[str, _Described] = {}
    for name in source_files():
        for line, source, sentence in described(read_source(name)):
            found.setdefault(alike(source), _Described(name, line, source, sentence))
    return list(found.values())


def described(source: str) -> Iterator[tuple[int, str, str]]:
    """Of each function that has a docstring and does something: its line, its source without the docstring, and the
    docstring's first sentence.
    """
    lines = source.encode().split(b"\n")  # the parser counts columns in bytes
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function) and len(node.body) > 1:
            sentence = first_sentence(ast.get_docstring(node) or "")
            if sentence:
                yield node.lineno, _without_docstring(node, lines), sentence


def first_sentence(text: str) -> str:
    """Of a docstring's first paragraph, on one line; nothing where that holds no word."""
    paragraph = text.strip().partition("\n\n")[0].partition(">>>")[0]
    sentence = _SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)[0]
    return sentence if _LETTERS.search(sentence) else ""


def _without_docstring(node: Function, lines: list[bytes]) -> str:
    docstring = node.body[0]
    assert docstring.end_lineno is not None
    assert node.end_lineno is not None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    before = lines[docstring.lineno - 1][: docstring.col_offset]
    after = lines[docstring.end_lineno - 1][docstring.end_col_offset :].lstrip(b" ;")
    rest = [before + after, *lines[docstring.end_lineno : node.end_lineno]]
    kept = [*lines[first : docstring.lineno - 1], *dropwhile(_is_blank, rest)]
    texts = (line.decode() for line in kept)
    # Lines of a text in quotes may be indented less.
    return "\n".join(text[min(node.col_offset, len(text) - len(text.lstrip(" "))) :] for text in texts)


def _is_blank(line: bytes) -> bool:
    return not line.strip()
