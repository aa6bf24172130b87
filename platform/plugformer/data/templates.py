"""Names with fields, as in `{name}_desc_es.ogg`."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from plugformer.errors import UserError, unknown

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """
    Attributes:
        option: where it was set, as in `data.file`.
        text: as it was set. A field stands for one character or more, but no slash; the same wherever it stands.
        whole: a field that stands for anything, none included.

    Raises:
        UserError: braces that are no field.
    """

    option: str
    text: str
    whole: str | None = None

    def __post_init__(self) -> None:
        if set("{}") & set(_FIELD.sub("", self.text)):
            raise UserError(f"{self}: braces are for fields, as in {{name}}.")

    def __str__(self) -> str:
        return f"{self.option}={self.text}"

    @cached_property
    def fields(self) -> frozenset[str]:
        return frozenset(_FIELD.findall(self.text))

    def match(self, text: str, known: Mapping[str, str] | None = None) -> dict[str, str] | None:
        """The fields of a text that is like it, or None.

        Args:
            text: see above.
            known: fields that must be these.
        """
        found = (self._pattern if not known else _compile(self.text, self.whole, known)).fullmatch(text)
        return found.groupdict() if found else None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _compile(self.text, self.whole, {})

    def fill(self, fields: Mapping[str, str]) -> str:
        return _FIELD.sub(lambda field: fields[field[1]], self.text)

    def check_fields(self, known: Collection[str], source: "Template") -> None:
        """
        Args:
            known: fields that may stand in it.
            source: what they come from, for the message.

        Raises:
            UserError: another one.
        """
        for field in sorted(self.fields - set(known)):
            raise unknown(f"{self}: there is no {{{field}}} in {source}", field, known)


def _compile(text: str, whole: str | None, known: Mapping[str, str]) -> re.Pattern[str]:
    pattern, seen = "", set()
    for number, part in enumerate(_FIELD.split(text)):
        if number % 2 == 0:
            pattern += re.escape(part)
        elif part in known:
            pattern += re.escape(known[part])
        elif part in seen:
            pattern += f"(?P={part})"
        else:
            seen.add(part)
            pattern += f"(?P<{part}>{'.*' if part == whole else '[^/]+?'})"
    return re.compile(pattern)
