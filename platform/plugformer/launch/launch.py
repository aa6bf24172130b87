"""A job's processes on this machine, from their start to what became of the job."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plugformer.errors import REQUEUE, UserError
from plugformer.launch.environment import free_port, rank_environments
from plugformer.launch.failure import FAILED, INTERRUPTED, Failure, PortInUse
from plugformer.launch.forwarding import forwarding
from plugformer.launch.frozen import Frozen
from plugformer.launch.processes import Processes
from plugformer.launch.status import State, Status, by_signal
from plugformer.launch.warned import warned_alone
from plugformer.run_dir import RunDir, read_json, write_json

COMMAND = (sys.executable, "-m", "plugformer", "_rank")
PORTS = 5  # that are tried
GRACE, GRACE_AT_START = 10.0, 1.0  # seconds in which others may tell and close what one's failure did to them
LAST_LINES = 15


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        state: how the job ended.
        code: what the command exits with.
        message: what went wrong, for the user.
        objective: the metric that says how good the run is, if it finished.
        signalled: whether a signal came to this process, and so meant more than the job.
    """

    state: State
    code: int
    message: str | None = None
    objective: float | None = None
    signalled: bool = False


def launch(frozen: Frozen, arguments: Sequence[str] = ()) -> Outcome:
    """Run a job in processes of its own, one a device, and wait for them.

    Nothing is left of them when this returns, nor do they outlive this process. What they are told stands in
    launch.json of the run directory and in their environment; this process's own doesn't change.

    Args:
        frozen: the job.
        arguments: for `plugformer _rank`, besides the file.

    Raises:
        UserError: the run directory can't be written, another process trains in it, or there are several machines.
    """
    if frozen.config["trainer"]["num_nodes"] > 1:
        raise UserError(_on_several_machines(frozen))
    if not Path(frozen.folder).is_dir():
        raise UserError(f"{frozen.folder}: no such folder, and the job's paths start from there.")
    run = RunDir(Path(frozen.folder) / frozen.config["run_dir"])
    with run.claimed():  # else what is written here would be another job's
        write_json(run.launch, frozen.record())
    own_port = os.environ.get("MASTER_PORT") if frozen.config["trainer"]["devices"] > 1 else None
    for left in reversed(range(PORTS)):
        try:
            return _launch(frozen, run, arguments, port=_number(own_port) if own_port else free_port())
        except PortInUse:  # whoever names a port wants that one; and one that was free may be taken meanwhile
            if own_port or not left:
                raise
    raise AssertionError


def _launch(frozen: Frozen, run: RunDir, arguments: Sequence[str], *, port: int) -> Outcome:
    """
    Raises:
        PortInUse: by another program.
    """
    shutil.rmtree(run.ranks, ignore_errors=True)
    run.ranks.mkdir()
    world = frozen.config["trainer"]["devices"]
    with forwarding() as signals:
        processes = Processes(
            [*COMMAND, str(run.launch.absolute()), *arguments],
            rank_environments(world, port),
            folder=frozen.folder,
            logs=[run.ranks / f"{number}.log" for number in range(1, world)],
        )
        try:
            signals.to(processes)
            codes = processes.wait(
                failed=lambda code: code != 0 and not _obeys(code, signals.seen),
                grace=lambda: GRACE if _begun(run, processes.pids) else GRACE_AT_START,
            )
        finally:
            processes.close()
    for number, warning in warned_alone(run.ranks, world):
        print(f"plugformer: rank {number}: {warning}", file=sys.stderr, flush=True)
    if not any(codes):
        return Outcome("finished", 0, None, objective(run))
    outcome = _interrupted(codes, signals.seen) or _failed(_first_failure(run, codes, processes))
    _record(run, outcome, processes.pids)
    return outcome


def _begun(run: RunDir, pids: list[int]) -> bool:
    status = Status.read(run)
    return status is not None and status.pid in pids


def objective(run: RunDir) -> float | None:
    """The metric that says how good a finished run is; None where it has none, as after a single batch."""
    if not (run.summary.exists() and run.model.exists()):
        return None
    summary: Mapping[str, float] = read_json(run.summary)
    found = summary.get(read_json(run.model)["monitor"]["metric"])
    return None if found is None else float(found)


def _record(run: RunDir, outcome: Outcome, pids: list[int]) -> None:
    """Write down what a process that is gone could not, or knew less of; but not over another process's run."""
    status = Status.read(run)
    if status is None:
        status = Status("running", pid=pids[0])
    elif status.pid not in pids and status.state in ("running", "finished"):
        return
    assert outcome.state != "running"
    status.end(run, outcome.state, outcome.code, outcome.message)


def _on_several_machines(frozen: Frozen) -> str:
    trainer = frozen.config["trainer"]
    nodes, devices = trainer["num_nodes"], trainer["devices"]
    return (
        f"trainer.num_nodes={nodes}: processes on other machines can't be started from here. Start this command on "
        f"each of them, with\n  torchrun --nnodes={nodes} --nproc_per_node={devices} --rdzv_backend=c10d "
        f"--rdzv_endpoint=HOST:PORT -m plugformer train …\n  or srun --nodes={nodes} --ntasks-per-node={devices} "
        "plugformer train …"
    )


# ---------------------------------------------------------------------------------------------- how they ended

KILLED = "killed"
DIED = "died"


def _obeys(code: int, signals: Sequence[int]) -> bool:
    """Whether a process ended as a signal asked it to, which may have reached it alone."""
    return code in (INTERRUPTED, REQUEUE) or -code in signals


def _interrupted(codes: Sequence[int], signals: Sequence[int]) -> Outcome | None:
    """None where it was something else that ended them."""
    if signal.SIGINT in signals:
        return Outcome("interrupted", INTERRUPTED, signalled=True)
    for code in codes:
        if _obeys(code, signals):
            return Outcome("interrupted", code if code > 0 else 128 - code, signalled=bool(signals))
    return None


def _failed(failure: Failure) -> Outcome:
    if failure.kind == PortInUse.__name__:
        raise PortInUse(failure.message)
    return Outcome("killed" if failure.kind == KILLED else "failed", failure.code, failure.message)


def _first_failure(run: RunDir, codes: Sequence[int], processes: Processes) -> Failure:
    """The one that the others' followed from: of those without a word if there is one, else the earliest."""
    said, unsaid = [], []
    for number, code in enumerate(codes):
        if code == 0 or number in processes.killed:
            continue
        failure = Failure.read(run.ranks / f"{number}.json")
        if failure is None:
            unsaid.append(_without_a_word(run, number, code, processes, len(codes)))
        else:
            said.append(failure)
    return unsaid[0] if unsaid else min(said, key=lambda failure: failure.at)


def _without_a_word(run: RunDir, number: int, code: int, processes: Processes, world: int) -> Failure:
    which = f"Rank {number} of {world}" if world > 1 else "The run's process"
    lines = _last_lines(run.ranks / f"{number}.log") if number else ""
    if code < 0:
        cause = "\n  If nobody did that, the machine may have run out of memory." if -code == signal.SIGKILL else ""
        message = f"{which} (process {processes.pids[number]}) was {by_signal(-code)}.{cause}"
        return Failure(message + lines, FAILED, 0.0, KILLED)
    return Failure(f"{which} ended with exit code {code} and didn't say why.{lines}", FAILED, 0.0, DIED)


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:] if log.exists() else []
    return "\n  Its last lines:" + "".join(f"\n    {line}" for line in lines) if lines else ""


def _number(port: str) -> int:
    if not (port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"MASTER_PORT={port}: expected the number of a port, from 1 to {2**16 - 1}.")
    return int(port)
