"""A sweep's jobs, written down before the first of them begins, and what became of each."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from plugformer.config import check_config
from plugformer.errors import UserError, counted, message
from plugformer.launch.failure import FAILED, INTERRUPTED, MISTAKE
from plugformer.launch.frozen import Frozen
from plugformer.launch.launch import Outcome, launch, objective
from plugformer.launch.status import State, Status
from plugformer.resuming import plan
from plugformer.run_dir import RunDir, read_json, write_json


@dataclass(frozen=True)
class Planned:
    """
    Attributes:
        number: from 0.
        name: of the job.
        overrides: that it is composed of.
        folder: its run's, within the sweep's.
        frozen: what it runs, as `Frozen.record` has it; None where it can't be composed.
        refused: why it can't.
    """

    number: int
    name: str
    overrides: list[str]
    folder: str
    frozen: dict[str, Any] | None
    refused: str | None = None


begun: dict[Path, Sweep] = {}  # in this process: where one lies is known only when Hydra has begun it


class Sweep:
    """
    Args:
        path: the sweep's directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record = self.path / "sweep.json"

    @classmethod
    def open(cls, path: str | Path) -> Sweep:
        """
        Raises:
            UserError: there is no sweep.
        """
        sweep = cls(path)
        if not sweep.path.is_dir():
            raise UserError(f"{path}: no such folder. Expected a sweep's directory, as `plugformer train -m` makes it.")
        if not sweep.record.is_file():
            kind = "a run's directory" if RunDir(path).config.is_file() else "not a sweep's directory"
            raise UserError(f"{path}: {kind}, there is no sweep.json in it. `plugformer train -m` writes one.")
        return sweep

    def check_free(self) -> None:
        """
        Raises:
            UserError: it holds a sweep already.
        """
        if self.record.exists():
            raise UserError(
                f"run_dir={self.path}: holds a sweep already. `plugformer resume {self.path}` runs what is missing of "
                "it; or choose another run_dir."
            )

    def add(self, jobs: Iterable[Planned]) -> None:
        """Write down jobs that are to be run."""
        record = read_json(self.record) if self.record.exists() else {"jobs": []}
        record["jobs"] += [asdict(job) for job in jobs]
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.record, record)
        begun[self.path] = self

    @property
    def jobs(self) -> list[Planned]:
        """
        Raises:
            UserError: the record is damaged.
        """
        try:
            return [Planned(**job) for job in read_json(self.record)["jobs"]]
        except (KeyError, TypeError):
            raise UserError(f"{self.record}: not the record of a sweep.") from None

    def run(self, number: int, arguments: Sequence[str] = ()) -> float | None:
        """Run one job in processes of its own. What goes wrong is told and written down, and is no error here.

        Args:
            number: the job's.
            arguments: for `plugformer _rank`.

        Returns:
            The metric that says how good the run is; None if there is none.

        Raises:
            KeyboardInterrupt, SystemExit: it was interrupted, and not alone, so that the sweep ends too.
        """
        job = self.jobs[number]
        print(f"\n[job {job.number}] {job.name}", flush=True)
        outcome = self._outcome(job, arguments)
        if outcome.message is not None:
            print(f"plugformer: {outcome.message}", file=sys.stderr, flush=True)
        if outcome.signalled:
            raise KeyboardInterrupt if outcome.code == INTERRUPTED else SystemExit(outcome.code)
        return outcome.objective

    def _outcome(self, job: Planned, arguments: Sequence[str]) -> Outcome:
        run = RunDir(self.path / job.folder)
        try:
            if job.frozen is None:
                raise UserError(job.refused or "")
            frozen = Frozen.of(job.frozen, str(self.record))
            going = plan(check_config(frozen.config) | {"run_dir": str(run.path.absolute())})
            for line in going.lines:
                print(line, flush=True)
            if going.finished:
                return Outcome("finished", 0, None, objective(run))
            return launch(replace(frozen, config=going.config), arguments)
        except Exception as error:
            code = MISTAKE if isinstance(error, UserError) else FAILED
            if Status.read(run) is None:
                run.path.mkdir(parents=True, exist_ok=True)
                Status("failed").end(run, "failed", code, message(error))
            return Outcome("failed", code, message(error))


@dataclass(frozen=True)
class Ended:
    """What became of a job.

    Attributes:
        job: which.
        state: None if it never began.
        code: that its command would have exited with.
        message: what went wrong.
        objective: how good the run is, if it finished.
    """

    job: Planned
    state: State | None
    code: int
    message: str | None
    objective: float | None


def ended(sweep: Sweep) -> list[Ended]:
    """What became of each job so far, read from their folders."""
    return [_ended(job, RunDir(sweep.path / job.folder)) for job in sweep.jobs]


def _ended(job: Planned, run: RunDir) -> Ended:
    status = Status.read(run)
    if status is None:
        return Ended(job, None, FAILED, None, None)
    good = objective(run) if status.state == "finished" else None
    return Ended(job, status.state, status.code or 0, status.message, good)


def table(jobs: Sequence[Ended]) -> Iterator[str]:
    """A line for each job: how it ended, how good it is, what makes it another than the others, what went wrong."""
    common = set.intersection(*(set(each.job.overrides) for each in jobs)) if len(jobs) > 1 else set()
    yield "job  ended        objective"
    for each in jobs:
        own = " ".join(override for override in each.job.overrides if override not in common)
        said = (each.message or "").partition("\n")[0]
        good = "-" if each.objective is None else f"{each.objective:.4g}"
        yield (
            f"{each.job.number:>3}  {each.state or 'never began':<11}  {good:>9}  {own}" + (f": {said}" if said else "")
        ).rstrip()


def tell(sweep: Sweep) -> int:
    """Print what became of each job, and say what to do about those that are missing.

    Returns:
        The exit code of the whole: the largest of any job's.
    """
    jobs = ended(sweep)
    finished = sum(each.state == "finished" for each in jobs)
    print(f"\n{sweep.path}: {finished} of {counted(len(jobs), 'job')} finished", *table(jobs), sep="\n  ")
    if finished < len(jobs):
        print(f"`plugformer resume {sweep.path}` runs what is missing.", flush=True)
    return max((FAILED if each.state is None else each.code for each in jobs), default=0)
