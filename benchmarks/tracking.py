"""What watching a run costs: training as it is by default against `logger=csv`, and against csv without media.

Each is a process of its own, in an order that turns; the first round doesn't count. Seconds are those of training as
the command prints them, validation, media and checkpoints included, start-up not. Nothing is sent: W&B writes offline.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

WAYS = {"default": (), "csv": ("logger=csv",), "csv, no media": ("logger=csv", "trainer.media=0")}
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "PLUGFORMER_PROGRESS": "0"}


def training_seconds(overrides: list[str]) -> tuple[int, float]:
    """Steps and seconds of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "plugformer", "train", *overrides, f"run_dir={Path(folder) / 'run'}"]
        process = subprocess.run(
            command, env={**os.environ, **OFFLINE, "COLUMNS": "300"}, capture_output=True, text=True, check=False
        )
    found = re.search(r"(\d+) steps in ([\d.]+) s\b", process.stdout)
    if process.returncode or found is None:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{process.stdout}{process.stderr}")
    return int(found[1]), float(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way that count; default 5")
    parser.add_argument("overrides", nargs="*", default=["experiment=digits", "trainer.max_epochs=20"])
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    steps = 0
    for number in range(arguments.rounds + 1):
        for way in list(WAYS)[:: 1 if number % 2 else -1]:
            steps, taken = training_seconds([*arguments.overrides, *WAYS[way]])
            if number:
                seconds[way].append(taken)
    rows = []
    for way, taken in seconds.items():
        ratios = [one / csv for one, csv in zip(taken, seconds["csv"], strict=True)]
        rows.append({"way": way, "seconds": taken, "ratio": median(ratios), "min": min(ratios), "max": max(ratios)})
    table = Table("logging", "ms a step", "to csv, median", "min", "max")
    for row in rows:
        per_step = f"{1000 * median(seconds[str(row['way'])]) / steps:.1f}"
        table.add_row(str(row["way"]), per_step, *(f"{row[key]:.3f}" for key in ("ratio", "min", "max")))
    Console().print(table)
    print(json.dumps({"benchmark": "tracking", "overrides": arguments.overrides, "steps": steps, "rows": rows}))


if __name__ == "__main__":
    main()
