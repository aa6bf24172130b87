"""HTML whose every text and attribute is escaped, because there is no other way to make it here."""

from __future__ import annotations

import html
import json
from typing import Any

from plugformer.run_dir import plain

VOID = {"img", "meta", "br", "input"}


class Markup(str):
    """Text that is HTML already. Only this file makes it, and what stands in this package's own files."""

    __slots__ = ()


def element(name: str, /, *children: str | Markup | None, **attributes: str | int | float | bool | None) -> Markup:
    """An element; children that aren't `Markup` are text.

    Args:
        name: of the element.
        *children: in their order; None is left out.
        **attributes: with `_` for `-`, and one at the end for Python's own words; True has no value, None is left out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    start = f"<{name}{written}>"
    return Markup(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: str | Markup | None) -> Markup:
    return Markup("".join(_text(child) for child in children if child is not None))


def _text(child: str | Markup) -> str:
    return child if isinstance(child, Markup) else html.escape(_printable(child))


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(_printable(str(value)))}"'


def _printable(text: str) -> str:
    """Without characters that no HTML page may have, as bytes of a broken text leave them."""
    return "".join(c if c in "\t\n" or (c >= " " and not 0xD800 <= ord(c) <= 0xDFFF) else "�" for c in text)


def data_block(identifier: str, value: Any) -> Markup:
    """Data for a script: JSON in which no character can end the block."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')
