"""Places in a message where a program writes something: %(name)s, {name}, %s."""

import re
from collections.abc import Iterator

# As `%` writes them in Python and C, without its flag for a space, which "5 % of" would have too; and as `format` does.
_FIELD = re.compile(
    r"""
      %% | \{\{ | \}\}                                                                        # these stand for a sign
    | (?P<field>
        %(?:\([^()]*\)|\d+\$)? [-+#0]* (?:\d+|\*)? (?:\.(?:\d+|\*))? (?:hh|ll|[hlLqjzt])? [diouxXeEfFgGcrsa]
      | \{ (?:[^\W\d]\w*|\d+)? (?:\.\w+|\[[^\[\]{}]*\])* (?:![rsa])? (?::[^{}]*)? \}
      )
    """,
    re.VERBOSE,
)


def placeholders(text: str) -> Iterator[str]:
    """All of them, in their order."""
    return (match["field"] for match in _FIELD.finditer(text) if match["field"])


def mask(source: str, target: str) -> tuple[str, str]:
    """Both with numbers in place of their placeholders, one for each that differs: {1}, {2} … in the source's order."""
    number: dict[str, str] = {}
    for field in (*placeholders(source), *placeholders(target)):
        number.setdefault(field, f"{{{len(number) + 1}}}")
    return _replaced(source, number), _replaced(target, number)


def _replaced(text: str, number: dict[str, str]) -> str:
    return _FIELD.sub(lambda match: number[match["field"]] if match["field"] else match[0], text)
