"""What may be set, and whether a value is what it should be: names, types and defaults."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from plugformer.errors import UserError, nearest, unknown

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    name: str
    type: Any
    default: Any = REQUIRED
    help: str = ""


@dataclass(frozen=True)
class Signature:
    """What a constructor takes, what its class says of itself, and where it stands."""

    parameters: Mapping[str, Option]
    doc: str = ""
    file: str = ""
    line: int = 0
    problems: tuple[str, ...] = field(default=())


def describe(hint: Any) -> str:
    """A type in a user's words."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string", NoneType: "null"}
    words |= {Path: "a path", Any: "anything"}
    if hint in words:
        return words[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: " + ", ".join(describe(argument) for argument in arguments)
    if origin in (list, tuple, Sequence):
        return f"a list, each {describe(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping of names to {describe(arguments[1])}"
    return str(getattr(hint, "__name__", hint))


def short(hint: Any) -> str:
    """A type as it would be written in a signature."""
    if hint is NoneType:
        return "None"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " | ".join(short(argument) for argument in arguments)
    if arguments:
        return f"{origin.__name__}[{', '.join('...' if a is Ellipsis else short(a) for a in arguments)}]"
    return str(getattr(hint, "__name__", hint))


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; only conversions that lose nothing (1 → 1.0, a list → a tuple) are made.

    Raises:
        UserError: the value isn't of that type; says where, what was expected and, of names, the nearest.
    """
    try:
        return _coerce(value, hint, where)
    except TypeError:
        message = f"{where}={_shown(value)}: expected {describe(hint)}."
        guess = nearest(_shown(value), _words(hint)) if isinstance(value, str) else None
        message += f" Did you mean {guess}?" if guess else ""
        if type(value) is float and str in (hint, *get_args(hint)):  # 1.10 was parsed as 1.1
            message += f" To mean text, put it in quotes: '{where}=\"{value}\"'"
        raise UserError(message) from None


def _words(hint: Any) -> Iterator[str]:
    """The words that a value of this type can be."""
    if hint is bool:
        yield from ("true", "false")
    elif get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    elif get_origin(hint) in (Union, UnionType):
        for argument in get_args(hint):
            yield from _words(argument)


def _shown(value: Any) -> str:
    """A value as it would be written on the command line."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        for argument in arguments:
            written = isinstance(value, str) != isinstance(argument, str)  # 2d is parsed as text, 2 as a number
            if type(value) in (str, int, float) and written and str(value) == str(argument):
                return argument
            if type(value) is type(argument) and value == argument:
                return argument
        raise TypeError
    if origin in (Union, UnionType):
        return _coerce_to_one_of(value, arguments, where)
    if hint is NoneType and value is None:
        return None
    if hint in (bool, int) and type(value) is hint:
        return value
    if hint is float and (type(value) is float or (type(value) is int and abs(value) <= 2**53)):
        return float(value)
    if hint is str and type(value) in (str, int):
        return str(value)
    if hint is Path and (isinstance(value, Path) or type(value) in (str, int)):
        return Path(str(value))
    base = origin or hint
    if base in (list, tuple, Sequence) and isinstance(value, list | tuple):
        exact_length = base is tuple and arguments and Ellipsis not in arguments
        if exact_length and len(arguments) != len(value):
            raise TypeError
        each = arguments if exact_length else (arguments or (Any,))[:1] * len(value)
        items = [coerce(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, each, strict=True))]
        return tuple(items) if base is tuple else items
    if base in (dict, Mapping) and isinstance(value, Mapping):
        return {str(k): coerce(v, (arguments or (str, Any))[1], f"{where}.{k}") for k, v in value.items()}
    raise TypeError


def _coerce_to_one_of(value: Any, hints: Sequence[Any], where: str) -> Any:
    inside = None
    for hint in [*(hint for hint in hints if type(value) is hint), *hints]:
        try:
            return _coerce(value, hint, where)
        except UserError as error:  # the right kind of collection with a wrong item
            inside = inside or error
        except TypeError:
            continue
    raise inside or TypeError


def check_options(signature: Signature, values: Mapping[str, Any], where: str, owner: str) -> dict[str, Any]:
    """`values` with the types of the signature, and its defaults for what they leave out.

    Args:
        signature: of the plugin or settings.
        values: by name; each must be one of the parameters.
        where: the dotted place of the values in a composition; empty for the top level.
        owner: whose options they are, in a user's words.

    Raises:
        UserError: an unknown key, a missing value, or a value of the wrong type.
    """
    places = {name: f"{where}.{name}".lstrip(".") for name in [*signature.parameters, *values]}
    for name in values:
        if name not in signature.parameters:
            known = [places[each] for each in signature.parameters]
            raise unknown(f"{places[name]}: no such option of {owner}", places[name], known, "Its options")
    checked = {}
    for name, option in signature.parameters.items():
        value = values.get(name, option.default)
        if value is REQUIRED or value == "???":
            place = places[name]
            explained = f"\n  {place}: {option.help}" if option.help else ""
            raise UserError(f"{place} has no default: set {place}=VALUE.{explained}")
        checked[name] = coerce(value, option.type, places[name]) if name in values else value
    return checked


def plain_default(value: Any) -> Any:
    """A default as configuration files write it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
