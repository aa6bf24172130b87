"""How to run a run again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def command_line(environment: Mapping[str, Any], job: Mapping[str, Any]) -> str | None:
    """What a run was started with, ready for a shell; of a job of a sweep, what makes this job alone.

    Args:
        environment: of environment.json.
        job: of job.json; empty outside a sweep.

    Returns:
        A command without the run's run_dir, which is taken; None where nobody knows.
    """
    words = [str(word) for word in environment.get("command") or ()][1:]
    if job.get("name"):
        words = [*_config_dir(words), *_overrides(job["name"])]
    elif not environment.get("command"):
        return None
    words = words[1:] if words[:1] == ["train"] else words
    return shlex.join(["plugformer", "train", *(word for word in words if not word.startswith("run_dir="))])


def _config_dir(words: Sequence[str]) -> Sequence[str]:
    """The flag that says where else parts of the composition stand, with its value; nothing if it isn't there."""
    for place, word in enumerate(words):
        if word.startswith(("--config-dir", "-cd")):
            return words[place : place + 1 if "=" in word else place + 2]
    return []


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
