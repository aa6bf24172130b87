"""How long the command line takes to answer, alone and with 50 more entry points; each time in a fresh process.

Runs are interleaved, after one of each that doesn't count. Whether torch was imported is looked up in runs of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from plugformer.registry import KINDS

NUM_DUMMIES = 50
COMMANDS = ("--help", "train --help", "train optimizer.lrr=1", "plugins")
READING_ENTRY_POINTS = COMMANDS[2:]
EXIT_CODES = {"train optimizer.lrr=1": 2}
WITH_TORCH_LOOKUP = """
import sys
from plugformer.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def add_dummies(folder: Path, *, packages: int) -> Path:
    """Installed packages, as pip leaves them, with 50 plugins between them, spread over the kinds."""
    folder.mkdir()
    lines: list[list[str]] = [[] for _ in range(packages)]
    for number, kind in enumerate(islice(cycle(KINDS), NUM_DUMMIES)):
        module, _, interface = KINDS[kind].interface.partition(":")
        source = (
            f'from {module} import {interface}\n\n\nclass Dummy({interface}):\n    """A part that does nothing."""\n'
        )
        (folder / f"dummy_{number}.py").write_text(source, encoding="utf-8")
        lines[number % packages] += [f"[plugformer.{kind}]", f"dummy_{number} = dummy_{number}:Dummy"]
    for number, entry_points in enumerate(lines):
        info = folder / f"dummy_package_{number}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: dummy-package-{number}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        (info / "entry_points.txt").write_text("\n".join(entry_points) + "\n", encoding="utf-8")
    return folder


def answer(command: str, path: Path | None, start: tuple[str, ...] = ("-m", "plugformer")) -> tuple[float, str, str]:
    """Seconds until the process ended, its output and its errors."""
    paths = [str(path)] if path else []
    inherited = os.environ.get("PYTHONPATH")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([inherited] if inherited else [])])}
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, *start, *command.split()], env=env, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if process.returncode != EXIT_CODES.get(command, 0):
        raise SystemExit(f"plugformer {command}: exit code {process.returncode}\n{process.stderr}")
    return seconds, process.stdout, process.stderr


def imports_torch(command: str, path: Path | None) -> bool:
    return answer(command, path, ("-c", WITH_TORCH_LOOKUP))[2].splitlines()[-1] == "True"


def measure(runs: int, paths: Mapping[str, Path | None]) -> list[dict[str, object]]:
    """A row for each command and each set of entry points."""
    cases = [(command, "none") for command in COMMANDS]
    cases += [(command, added) for added in paths if added != "none" for command in READING_ENTRY_POINTS]
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for number in range(runs + 1):
        for case in cases[:: 1 if number % 2 else -1]:
            seconds[case].append(answer(case[0], paths[case[1]])[0])
    rows = []
    for (command, added), (_, *counted) in seconds.items():
        row: dict[str, object] = {"command": f"plugformer {command}", "added": added}
        row |= {"median_ms": 1000 * median(counted), "min_ms": 1000 * min(counted), "max_ms": 1000 * max(counted)}
        alone = seconds[command, "none"][1:]
        more = 1000 * (median(counted) - median(alone)) if added != "none" else None
        rows.append(row | {"more_ms": more, "torch": imports_torch(command, paths[added])})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="of each command; default 11")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        paths: dict[str, Path | None] = {
            "none": None,
            "50 in 50 packages": add_dummies(Path(temporary) / "many", packages=NUM_DUMMIES),
            "50 in 1 package": add_dummies(Path(temporary) / "one", packages=1),
        }
        for name, path in paths.items():
            listed = answer("plugins", path)[1].count("dummy_")
            if listed != (0 if path is None else NUM_DUMMIES):
                raise SystemExit(f"{name}: {listed} dummy entry points are listed")
        rows = measure(runs, paths)
    table = Table("command", "entry points added", "median ms", "min", "max", "more than without", "imports torch")
    for row in rows:
        times = [f"{row[key]:.0f}" for key in ("median_ms", "min_ms", "max_ms")]
        more = "" if row["more_ms"] is None else f"{row['more_ms']:+.1f}"
        table.add_row(str(row["command"]), str(row["added"]), *times, more, "yes" if row["torch"] else "no")
    Console().print(table)
    print(json.dumps({"benchmark": "startup", "runs": runs, "rows": rows}))


if __name__ == "__main__":
    main()
