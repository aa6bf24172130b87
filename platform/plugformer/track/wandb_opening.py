"""The start of a run on W&B: online where that can be had at once, else in files that can be sent there later."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import wandb
from wandb.sdk.lib.runid import generate_id

from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.run_dir import RunDir, read_json
from plugformer.track.names import Names
from plugformer.track.wandb_lineage import parent_of
from plugformer.track.wandb_options import WandbOptions
from plugformer.track.wandb_record import describe
from plugformer.track.wandb_server import Server

PROJECT = "plugformer"
START = 10.0  # seconds for a server that answered to accept a run
_MODES = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}  # of WANDB_MODE; any other may be online


@dataclass(frozen=True)
class Opened:
    """
    Attributes:
        run: of wandb's.
        server: that it is sent to while it goes on; None for one in files alone.
        claim: says, while it is open, that this process is at that run.
    """

    run: wandb.Run
    server: Server | None
    claim: IO[str] | None


def check_online() -> None:
    """
    Raises:
        UserError: no run can be sent to a server now.
    """
    if problem := Server.of(wandb.setup().settings).find_problem():
        raise _refusal(problem)


def _refusal(problem: str) -> UserError:
    return UserError(f"logger.wandb.mode=online: {problem}.\n  With mode=auto the run goes on offline.")


def open_run(folder: RunDir, config: Config, options: WandbOptions) -> Opened | None:
    """Begin one and say where it is; None where nothing is to be told to anybody.

    Raises:
        UserError: it has to be online and can't be.
    """
    settings = wandb.setup().settings
    mode = _MODES.get(settings.mode, "auto") if options.mode == "auto" else options.mode
    if mode == "disabled":
        return None
    identity, claim = ({}, None) if settings.sweep_id else _identity(folder, settings)
    asked = _asked_for(folder, config, options, settings) | identity
    problem = "as it was asked for"
    if mode != "offline":
        opened = _open_online(Server.of(settings), folder, options, asked)
        if not isinstance(opened, str):
            print(f"wandb: {opened[0].url}")
            return Opened(*opened, claim)
        problem = opened
        if mode == "online":
            raise _refusal(problem)
    run = _init("offline", folder, options, asked)
    path = run.settings.sync_dir
    print(f"wandb: offline, {problem}. See the run with `wandb leet {path}`, send it with `wandb sync {path}`.")
    return Opened(run, None, claim)


def _open_online(
    server: Server, folder: RunDir, options: WandbOptions, asked: Mapping[str, Any]
) -> tuple[wandb.Run, Server] | str:
    """What is open, or why it isn't."""
    if problem := server.find_problem():
        return problem
    try:
        return _init("online", folder, options, asked), server
    except Exception as error:  # whatever it is, the run goes on offline
        return f"{server.host}: {(str(error) or type(error).__name__).splitlines()[0].rstrip('.')}"


def _init(mode: Any, folder: RunDir, options: WandbOptions, asked: Mapping[str, Any]) -> wandb.Run:
    return wandb.init(
        **asked,
        mode=mode,
        dir=str(folder.path.absolute()),
        reinit="create_new",  # of several jobs in one process, each has its own
        settings=wandb.Settings(
            console="off",  # what is printed may hold anything
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,  # it has the command line as it is
            use_dot_wandb=False,
            init_timeout=START,
            finish_timeout=options.timeout,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=0.1,  # by default a killed run loses 15 seconds
        ),
    )


def _asked_for(folder: RunDir, config: Config, options: WandbOptions, settings: wandb.Settings) -> dict[str, Any]:
    """Arguments of `wandb.init`: the user's options, wandb's own settings, our names, in this order."""
    names, described = Names.of(folder), describe(folder, config)
    if parent := parent_of(config.get("init_from")):
        described["run"].setdefault("init_from", {})["wandb"] = parent.record()
    asked = {
        "name": options.run_name or settings.run_name or names.name,
        "group": options.group or settings.run_group or names.group,
        "tags": [*(settings.run_tags or ()), *options.tags],
        "notes": options.notes or settings.run_notes,
        "config": described,
    }
    if settings.sweep_id:  # which decides the project as well
        return asked
    project, entity = options.project or settings.project, options.entity or settings.entity
    return asked | {"project": project or PROJECT, "entity": entity}


def _identity(folder: RunDir, settings: wandb.Settings) -> tuple[dict[str, Any], IO[str] | None]:
    """The run that this one continues, if it does and nobody else is at it."""
    before = read_json(folder.tracked)["id"] if folder.tracked.is_file() else None
    wanted = before or settings.run_id
    if wanted is None:
        return {}, None
    claim = _claim(wanted)
    if claim is None:
        fresh = generate_id()
        print(f"wandb: the run id {wanted} is in use by another process; this run gets {fresh}.")
        return {"id": fresh}, _claim(fresh)
    return {"id": wanted, "resume": "allow" if before else settings.resume}, claim


def _claim(run_id: str) -> IO[str] | None:
    """An open file that says that somebody is at a run; None if another says so."""
    path = Path(tempfile.gettempdir()) / f"plugformer-wandb-{run_id.replace('/', '_')}.lock"
    file = path.open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
