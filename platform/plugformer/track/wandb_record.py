"""What a run says of itself to W&B: its composition and, under `run`, what it is made of, of which data, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plugformer.config import Config
from plugformer.rerun import command_line
from plugformer.run_dir import RunDir, plain, read_json
from plugformer.track.secrets import redact, redact_source

MOST_BYTES = 2**20  # of a difference to the last commit


def describe(run: RunDir, config: Config) -> dict[str, Any]:
    """Plain values without secrets."""
    environment = _read(run.environment)
    data = _read(run.data)
    about = {
        "directory": str(run.path.absolute()),
        "command": command_line(environment, _read(run.job)),
        "python": environment.get("python"),
        "platform": environment.get("platform"),
        "git": {"revision": environment.get("git_revision"), "changed": run.git_diff.is_file()},
        "plugins": _read(run.plugins),
        "data": {"fingerprint": data.get("fingerprint"), "samples": data.get("samples")},
        "model": _read(run.model),
        "job": _read(run.job),
        "init_from": _read(run.init_from),
    }
    return redact(plain({**config, "run": {key: value for key, value in about.items() if value not in (None, {})}}))


def attachments(run: RunDir) -> dict[str, str]:
    """Files to go along, by their name: texts without secrets."""
    texts = {run.environment.name: json.dumps(redact(_read(run.environment)), indent=2, ensure_ascii=False)}
    if run.git_diff.is_file():
        texts[run.git_diff.name] = redact_source(_text(run.git_diff))
    return texts


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(MOST_BYTES)
        return f"{text}\n[cut: the whole is in {path.absolute()}]\n" if file.read(1) else text
