"""`plugformer plugins [KIND [NAME]] [--json]`: what is installed."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plugformer.errors import UserError
from plugformer.options import REQUIRED, plain_default, short
from plugformer.registry import KINDS, Plugin, find, find_kind, offers


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "plugformer plugins", description="What is installed: kinds, the plugins of one, or the options of one plugin."
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="for other programs")
    arguments = parser.parse_args(argv)
    if arguments.name:
        described = describe(find(arguments.kind, arguments.name))
        _print_json(described) if arguments.json else _print_plugin(described)
        return 0
    kinds = [arguments.kind] if arguments.kind else list(KINDS)
    check = arguments.kind is not None  # importing the plugins of every kind would take long
    listed = {kind: [_entry(rivals, check=check) for rivals in offers(kind).values()] for kind in kinds}
    _print_json(listed) if arguments.json else _print_list(listed)
    return 0


def describe(plugin: Plugin) -> dict[str, Any]:
    """A plugin with its options and its source, as plain values."""
    signature = plugin.signature
    filled = KINDS[plugin.kind].context
    options = [
        {
            "name": option.name,
            "type": short(option.type),
            "required": option.default is REQUIRED,
            "default": None if option.default is REQUIRED else plain_default(option.default),
            "help": option.help,
        }
        for option in signature.parameters.values()
        if option.name not in filled
    ]
    return {
        "kind": plugin.kind,
        **plugin.provenance(),
        "doc": signature.doc.partition("\n\n")[0].replace("\n", " "),
        "options": options,
        "file": signature.file,
        "line": signature.line,
    }


def _entry(rivals: list[Plugin], *, check: bool) -> dict[str, Any]:
    """A row of a listing; for a contested name, and if plugins are checked a broken one, what is wrong with it."""
    plugin = rivals[0]
    entry: dict[str, Any] = {"name": plugin.name, "package": plugin.package, "version": plugin.version}
    try:
        doc = describe(find(plugin.kind, plugin.name))["doc"]
        if check:
            plugin.load()
        return entry | {"doc": doc, "error": None}
    except UserError as error:
        return entry | {"doc": "", "error": str(error)}


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()


def _print_list(listed: dict[str, list[dict[str, Any]]]) -> None:
    console = Console(highlight=False)
    for kind, entries in listed.items():
        console.print(f"[bold]{kind}[/] [dim]{find_kind(kind).does}[/]")
        table = Table.grid(padding=(0, 2))
        for entry in entries:
            package = f"{entry['package']} {entry['version']}"
            says = f"[red]{escape(entry['error'])}[/]" if entry["error"] else escape(entry["doc"])
            table.add_row(f"  {entry['name']}", f"[dim]{escape(package)}[/]", says)
        console.print(table)


def _print_plugin(plugin: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{plugin['kind']}={plugin['name']}[/]  [dim]{plugin['package']} {plugin['version']}[/]")
    console.print(f"{plugin['file']}:{plugin['line']}", soft_wrap=True)
    console.print(f"\n{escape(plugin['doc'])}\n")
    if not plugin["options"]:
        console.print("It has no options.")
        return
    table = Table("option", "type", "default", "meaning", box=None, padding=(0, 2, 0, 0))
    for option in plugin["options"]:
        default = "required" if option["required"] else json.dumps(option["default"])
        table.add_row(f"{plugin['kind']}.{option['name']}", *map(escape, (option["type"], default, option["help"])))
    console.print(table)
