"""`plugformer resume SWEEP_DIR`: runs what is missing of a sweep."""

from __future__ import annotations

from plugformer.cli.compose import parse, register_files
from plugformer.errors import UserError
from plugformer.launch.sweep import Sweep, ended, tell

HELP = """usage: plugformer resume SWEEP_DIR [plugins=[FILE]]

Runs the jobs of a sweep that never began, failed or were killed, one after the other; those that saved something go on
from there. What has finished is left alone, and so is a job that still runs. The compositions are those that the sweep
wrote down before its first job.

  SWEEP_DIR             a folder that `plugformer train -m` made
  plugins=[FILE]        plugin files that the sweep was started with: files are never run unless named here

A single run goes on with `plugformer train resume=RUN_DIR`.
"""


def main(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP)
        return 0 if argv else 2
    path, *texts = argv
    overrides = parse(texts)
    for each in overrides:
        if each.key_or_group != "plugins":
            raise UserError(f"{each.input_line}: a sweep goes on as it was composed. Only plugins=[FILE] can be given.")
    register_files(overrides)
    sweep = Sweep.open(path)
    try:
        for found in ended(sweep):
            if found.state not in ("finished", "running"):
                sweep.run(found.job.number, texts)
    finally:
        code = tell(sweep)
    return code
