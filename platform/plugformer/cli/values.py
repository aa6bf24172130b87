"""KEY=VALUE of commands whose options are settings of their own: how they are read, and told in --help."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from plugformer.cli.compose import parse, register_files
from plugformer.errors import UserError, unknown
from plugformer.options import Option, check_options, plain_default, short
from plugformer.signatures import read_class

Settings = TypeVar("Settings")


def read_value(text: str) -> Any:
    """Of KEY=VALUE, in the notation of all commands. Plugin files that it names join.

    Raises:
        UserError: not of that form, or several values.
    """
    (override,) = parse([text])
    if override.is_sweep_override():
        raise UserError(f"{text}: several values, and one was expected.")
    register_files([override])
    return override.value()


def read_settings(
    settings: type[Settings], texts: Iterable[str], owner: str, *, read: Callable[[str], Any] = read_value
) -> Settings:
    """
    Args:
        settings: what may be set, besides `plugins`.
        texts: as they stand on the command line.
        owner: the command, in messages.
        read: the value of one of them.

    Raises:
        UserError: an unknown option, one that is set twice, or a value that it can't have.
    """
    return settings(**read_options(settings, texts, owner, read=read))


def read_options(
    settings: type[Any], texts: Iterable[str], owner: str, *, read: Callable[[str], Any] = read_value
) -> dict[str, Any]:
    """As `read_settings`: those that are set, and no others."""
    signature = read_class(settings)
    known = [*signature.parameters, "plugins"]
    values: dict[str, Any] = {}
    for text in texts:
        key = text.partition("=")[0]
        if "=" in text and key not in known:
            raise unknown(f"{key}: no such option of {owner}", key, known, "Its options")
        if key in values:
            raise UserError(f"{text}: {key} is set already.")
        values[key] = read(text)
    values.pop("plugins", None)
    checked = check_options(signature, values, "", owner)
    return {name: checked[name] for name in values}


def type_and_default(option: Option, default: Any) -> str:
    """Of an option, in a few words."""
    default = plain_default(default)
    shown = ",".join(map(str, default)) if isinstance(default, list) else str(default).lower()
    return short(option.type) if default is None else f"{short(option.type)}; default {shown}"


def help_line(name: str, kind: str, does: str, *, indent: int, width: int) -> str:
    """What an option does, behind its name, on as many lines as it takes."""
    head = f"  {name:<{indent - 3}} "
    text = f"{does[:1].upper()}{does[1:]}" + (f" [{kind}]" if kind else "")
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head))
