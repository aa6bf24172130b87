"""What nobody but the person at the keyboard may read, taken out of what is sent elsewhere.

Nothing can tell a secret for sure. What is looked for: what an option named as `api_key` is given; the value of such a
variable of the environment, wherever it stands; the form of well-known services' keys; what stands before a host in an
address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # characters of a variable's value that is looked for: `TOKEN=1` hides no 1

_OF_LANGUAGE = "".join(
    f"(?<!{kind}[-_])" for kind in ("mask", "pad", "unk", "bos", "eos", "cls", "sep", "start", "end")
)
_NAME = (
    r"(?:\w+[-_.])*(?:(?:api|access|secret|private|auth|signing|encryption)[-_]?key(?:[-_]id)?|secret|passw(?:or)?d"
    rf"|passphrase|credentials?|{_OF_LANGUAGE}token)"
)
_OPTION = re.compile(rf"-*{_NAME}", re.IGNORECASE)
_GIVEN = re.compile(rf"(?<![\w-])([-+~]*{_NAME}[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;\]}})]+)", re.IGNORECASE)
_IN_SOURCE = re.compile(  # where most of what such a name is given is code
    rf"(?<![\w-])({_NAME}(?:[\"']\]?)?\s*[=:]\s*)(\"[^\"\s]{{4,}}\"|'[^'\s]{{4,}}'|(?=[\w+/.-]*\d)[\w+/.-]{{12,}})",
    re.IGNORECASE,
)
_VARIABLE = re.compile(
    r"(?:^|_)(?:key|token|secret|password|passwd|passphrase|credentials?|pat)(?:_|$)|apikey", re.IGNORECASE
)
_KEYS = re.compile(
    r"\b(?:hf_\w{30,}|gh[pousr]_\w{30,}|github_pat_\w{30,}|sk-[\w-]{20,}|xox[abp]-[\w-]{10,}|AKIA[A-Z0-9]{16})"
)
_IN_ADDRESS = re.compile(r"(?<=://)(?:[^\s/@:]*:[^\s/]+|[^\s/\"',]+)(?=@)")


def redact(value: Any) -> Any:
    """Plain values without secrets: a mapping of options, a list of words of a command line, or a text."""
    return _redact(value, _known())


def redact_source(text: str) -> str:
    """Source text without secrets, in which `api_key=api_key` stays."""
    return _redact_text(text, _known(), given=_IN_SOURCE)


def _redact(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _redact_text(value, known, given=_GIVEN)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if item and isinstance(item, str) and _is_option(key) else _redact(item, known)
            for key, item in value.items()
        }
    if isinstance(value, Sequence):
        before = ["", *value][: len(value)]
        return [
            HIDDEN if isinstance(item, str) and str(flag).startswith("-") and _is_option(flag) else _redact(item, known)
            for flag, item in zip(before, value, strict=True)
        ]
    return value


def _is_option(name: object) -> bool:
    return _OPTION.fullmatch(str(name)) is not None


def _redact_text(text: str, known: re.Pattern[str] | None, *, given: re.Pattern[str]) -> str:
    for pattern in (known, _KEYS, _IN_ADDRESS):
        text = text if pattern is None else pattern.sub(HIDDEN, text)
    return given.sub(rf"\1{HIDDEN}", text)


def _known() -> re.Pattern[str] | None:
    """Values of variables of the environment whose names say that they are secret."""
    values = {value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= SHORTEST}
    return re.compile("|".join(map(re.escape, sorted(values, key=len, reverse=True)))) if values else None
