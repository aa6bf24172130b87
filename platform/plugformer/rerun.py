"""How to run a run again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any


def command_line(environment: Mapping[str, Any], job: Mapping[str, Any]) -> str | None:
    """What a run was started with, ready for a shell; of a job of a sweep, what makes this job alone.

    Args:
        environment: of environment.json.
        job: of job.json; empty outside a sweep.

    Returns:
        A command without the run's run_dir, which is taken; None where nobody knows.
    """
    if job.get("name"):
        words = list(_overrides(job["name"]))
    elif environment.get("command"):
        words = [str(word) for word in environment["command"][1:]]
    else:
        return None
    words = words[1:] if words[:1] == ["train"] else words
    return shlex.join(["plugformer", "train", *(word for word in words if not word.startswith("run_dir="))])


def _overrides(name: str) -> Iterator[str]:
    """Split at commas between overrides, not at those of lists, mappings and quoted texts."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(name):
        if quote:
            quote = "" if letter == quote and name[place - 1] != "\\" else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth == 0 and re.match(r"[+~]{0,2}[\w./@-]+=", name[place + 1 :]):
            yield name[start:place]
            start = place + 1
    yield name[start:]
