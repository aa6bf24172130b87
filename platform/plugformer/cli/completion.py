"""Shell completion: Hydra's, with the command word in front."""

from __future__ import annotations

import importlib
import os

from plugformer.cli.commands import COMMANDS


def main(argv: list[str]) -> int:
    """`install=bash` prints what a shell evaluates; `query=bash` answers it, from COMP_LINE."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    typing_command = len(words) < 2 or (len(words) == 2 and not line.endswith(" "))
    if argv[:1] and argv[0].startswith("query=") and typing_command:
        typed = words[1] if len(words) == 2 else ""
        print("\n".join(name for name in COMMANDS if name.startswith(typed)))
        return 0
    if len(words) > 1:
        os.environ["COMP_LINE"] = line.replace(f"{words[1]} ", "", 1)
        point = int(os.environ.get("COMP_POINT", len(line))) - len(words[1]) - 1
        os.environ["COMP_POINT"] = str(point)
    return importlib.import_module("plugformer.cli.train").main(["-sc", *argv])
