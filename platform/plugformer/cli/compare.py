"""`plugformer compare RUN_DIR...`: runs side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plugformer.errors import UserError, message

if TYPE_CHECKING:
    from plugformer.compare.curves import Axis
    from plugformer.compare.run import Run

DESCRIPTION = """Runs side by side: final metrics, what they cost, and what speaks against comparing them.

Runs that differ in their seed alone are one row: mean ± sample deviation. Columns say in what rows differ. Runs that
saw other data, have another task, came from other code or packages, or aren't over are marked, and below stands why.
What is shown and where it stands (run_dir, logger, trainer.progress, .media, .log_every) makes no difference.

  plugformer compare runs/a runs/b                        two runs
  plugformer compare sweep --html sweep.html              all runs of a sweep, and a page to look at and pass on
  plugformer compare 'runs/2026-11-*/*' --metric test/loss,test/accuracy --plot loss.pdf --x tokens
  plugformer compare folds --over data.fold               folds of a cross-validation are one row, too
"""
AXES = ("step", "epoch", "seconds", "tokens")
MEDIA = 16.0  # MiB


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    _check(arguments)
    axis: Axis = arguments.x or "step"

    # What follows isn't needed for --help.
    from plugformer.compare.comparison import compare
    from plugformer.compare.finding import find_runs

    paths, notes = find_runs(arguments.runs)
    runs, left_out = _read(paths, skip_damaged=arguments.skip_damaged)
    metrics = _listed(arguments.metric, "--metric") if arguments.metric is not None else None
    over = _listed(arguments.over, "--over") if arguments.over is not None else []
    comparison = compare(runs, metrics=metrics, over=over, notes=[*notes, *left_out])
    if arguments.json:
        from plugformer.compare.report import report

        json.dump(report(comparison), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        print()
    else:
        from rich.console import Console

        from plugformer.compare.table import show

        console = Console(highlight=False)
        show(comparison, console if console.is_terminal else Console(highlight=False, width=160))
    written = []
    if arguments.plot:
        from plugformer.compare.plot import draw  # heavy: matplotlib

        written.append(draw(comparison, Path(arguments.plot), axis=axis))
    if arguments.csv:
        from plugformer.compare.spreadsheet import write_csv

        written.append(write_csv(comparison, Path(arguments.csv)))
    if arguments.html:
        from plugformer.compare.page import write_page

        media = MEDIA if arguments.media is None else arguments.media
        written.append(write_page(comparison, Path(arguments.html), axis=axis, media_mib=media))
    for path in written:
        print(path, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "plugformer compare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="a run, a folder with runs inside, or a pattern")
    parser.add_argument(
        "--metric", metavar="NAME[,NAME]", help="as split/metric; default: the monitor and the main test metrics"
    )
    parser.add_argument("--over", metavar="KEY[,KEY]", help="runs of a row may differ in these, besides the seed")
    parser.add_argument("--json", action="store_true", help="everything, for other programs")
    parser.add_argument("--csv", metavar="FILE", help="the table, for spreadsheets")
    parser.add_argument("--plot", metavar="FILE", help="curves of the metrics, as PNG, PDF or SVG by the file's name")
    parser.add_argument("--html", metavar="FILE", help="one page with all of it, which needs no network")
    parser.add_argument("--x", choices=AXES, help="what curves are drawn over; default step")
    parser.add_argument(
        "--media", type=float, metavar="MIB", help=f"pictures and sounds in the page, at most; default {MEDIA:g}"
    )
    parser.add_argument("--skip-damaged", action="store_true", help="leave runs out that can't be read, and say which")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UserError: a value that can't be, or one that nothing would come of.
    """
    if arguments.x is not None and not (arguments.plot or arguments.html):
        raise UserError(f"--x {arguments.x}: has no effect without curves. Add --plot FILE or --html FILE.")
    if arguments.media is None:
        return
    if not 0 <= arguments.media < float("inf"):
        raise UserError(f"--media {arguments.media}: expected MiB, at least 0.")
    if not arguments.html:
        raise UserError(f"--media {arguments.media:g}: has no effect without a page. Add --html FILE.")


def _read(paths: Sequence[Path], *, skip_damaged: bool) -> tuple[list[Run], list[str]]:
    from plugformer.compare.run import read_run

    runs, left_out = [], []
    for path in paths:
        try:
            runs.append(read_run(path))
        except UserError as error:
            if not skip_damaged:
                more = "\n  --skip-damaged compares the others." if len(paths) > 1 else ""
                raise UserError(f"{error}{more}") from None
            left_out.append(f"left out: {message(error)}")
    if not runs:
        raise UserError("\n  ".join(["No run is left:", *left_out]))
    return runs, left_out


def _listed(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{option} {text!r}: expected NAME or NAME,NAME,….")
    return names
