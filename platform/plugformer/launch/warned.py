"""Warnings of several processes, of which a user wants each once."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any


def keep_warnings(path: Path) -> None:
    """From now on, write each warning of this process down as well."""
    usual = warnings.showwarning

    def show(message: Warning | str, *where: Any, **how: Any) -> None:
        with path.open("a", encoding="utf-8") as kept:
            kept.write(json.dumps(str(message)) + "\n")
        usual(message, *where, **how)

    warnings.showwarning = show


def warned_alone(folder: Path, world: int) -> list[tuple[int, str]]:
    """Of processes whose warnings aren't seen, those that the first one, whose are, didn't give: rank and warning."""
    told = set(_read(folder / "0.warnings"))
    alone = []
    for number in range(1, world):
        new = [text for text in dict.fromkeys(_read(folder / f"{number}.warnings")) if text not in told]
        told.update(new)
        alone += [(number, text) for text in new]
    return alone


def _read(path: Path) -> list[str]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
