"""Where a run was made: enough to make it again."""

import platform
import subprocess
import sys
from importlib.metadata import distributions
from typing import Any

from plugformer.run_dir import RunDir, write_json


def record_environment(run: RunDir) -> None:
    """Write environment.json and, in a git checkout with changes, git.diff."""
    write_json(run.environment, describe_environment())
    diff = _git("diff", "HEAD")
    if diff:
        run.git_diff.write_text(diff, encoding="utf-8")


def describe_environment() -> dict[str, Any]:
    packages = {found.name: found.version for found in distributions() if found.name}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "git_revision": _git("rev-parse", "HEAD").strip() or None,
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _git(*arguments: str) -> str:
    """What git prints; nothing outside a checkout or without git."""
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=10, errors="replace"
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
