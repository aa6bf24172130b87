"""One run of ours as a run on W&B, or in files of its form that can be sent there later."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.artifacts.exceptions import WaitTimeoutError

from plugformer.config import Config
from plugformer.interfaces import Monitor
from plugformer.run_dir import RunDir, plain, read_json, write_json
from plugformer.track.directions import direction
from plugformer.track.media import Media
from plugformer.track.secrets import redact
from plugformer.track.wandb_artifacts import TYPE, artifact_name, make_artifacts, staging_in
from plugformer.track.wandb_lineage import parent_of
from plugformer.track.wandb_media import as_wandb, too_large
from plugformer.track.wandb_opening import Opened, open_run
from plugformer.track.wandb_options import WandbOptions
from plugformer.track.wandb_record import attachments

STEP = "trainer/global_step"  # what all else is drawn over
ASK_AGAIN = 60.0  # seconds
NONFINITE = "non-finite"  # the tag of a run that logged what is no number


class WandbRun:
    """Begun and closed once. What goes wrong with wandb in between is said, and the run goes on without it."""

    def __init__(self, folder: RunDir, config: Config, options: WandbOptions) -> None:
        self._folder = folder
        self._config = config
        self._options = options
        self._opened: Opened | None = None
        self._monitor: Monitor | None = None
        self._defined: set[str] = set()
        self._nonfinite: dict[str, int] = {}  # the first step of each metric
        self._best: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._artifacts: list[wandb.Artifact] = []
        self._said: set[str] = set()
        self._problem: str | None = None
        self._asked = 0.0

    @property
    def id(self) -> str:
        return "" if self._opened is None else self._opened.run.id

    def begin(self, monitor: Monitor) -> None:
        """
        Raises:
            UserError: it has to be online and can't be.
        """
        self._monitor = monitor
        self._opened = open_run(self._folder, self._config, self._options)
        if self._opened is None:
            return
        self._safely(self._prepare)
        self._write_record(self._opened, online=self._opened.server is not None)

    def _prepare(self, run: wandb.Run) -> None:
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        for name, text in attachments(self._folder).items():
            path = Path(run.dir) / name
            path.write_text(text, encoding="utf-8")
            run.save(str(path), base_path=run.dir, policy="now")
        parent = parent_of(self._config.get("init_from"))
        if parent is not None and parent.uploaded and not run.offline:
            run.use_artifact(parent.reference, type=TYPE)

    def _write_record(self, opened: Opened, **more: Any) -> None:
        """Where to find it, for runs that begin from this one."""
        run = opened.run
        record = {
            "entity": run.entity or None,
            "project": run.project,
            "id": run.id,
            "name": run.name,
            "url": None if run.offline else run.url,
            "path": os.path.relpath(run.settings.sync_dir, self._folder.path),
        }
        write_json(self._folder.tracked, record | more)

    # ------------------------------------------------------------------------------------------------ while it goes on

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            best = self._direction(name)
            if best is not None and name not in self._defined:
                self._defined.add(name)
                self._safely(lambda run: run.define_metric(name, step_metric=STEP, summary=f"{best},last"))  # noqa: B023
            self._look_at(name, float(value), step)
        self._safely(lambda run: run.log({**metrics, STEP: step}))

    def _direction(self, metric: str) -> str | None:
        assert self._monitor is not None, "begun"
        return direction(metric, self._monitor)

    def _look_at(self, name: str, value: float, step: int) -> None:
        """Keep the best finite value, which wandb loses at the first that isn't, and mark a run that logs one."""
        self._last[name] = value
        if math.isfinite(value):
            choose = min if self._direction(name) == "min" else max
            self._best[name] = choose(value, self._best.get(name, value))
            return
        if not self._nonfinite:
            self._safely(lambda run: _mark(run, f"{name} is {value} at step {step}"))
        self._nonfinite.setdefault(name, step)

    def log_media(self, media: Media) -> None:
        if self._can_send("media stand"):
            with staging_in(self._folder):
                self._safely(lambda run: self._show(run, media))

    def _show(self, run: wandb.Run, media: Media) -> None:
        for path in too_large(media):
            self._say(f"{path}: {path.stat().st_size / 2**20:.1f} MB are too much, so it isn't sent.")
        run.log({media.name: as_wandb(media), STEP: media.step})

    def _can_send(self, what: str) -> bool:
        """Whether artifacts, as tables are, can be logged; for a server that is gone wandb would wait for each."""
        problem = self._find_problem()
        if problem is not None:
            self._say(f"{problem}; {what} in the run directory alone.")
        return problem is None

    def _find_problem(self) -> str | None:
        """Why what is sent can't arrive now. A server that didn't answer is asked again after a while."""
        if self._opened is None or self._opened.server is None:
            return None
        if self._problem is None or time.monotonic() - self._asked > ASK_AGAIN:
            self._problem, self._asked = self._opened.server.ask(), time.monotonic()
        return self._problem

    def _safely(self, do: Callable[[wandb.Run], Any]) -> None:
        """No trouble of a tracker's ends a training."""
        if self._opened is None:
            return
        try:
            do(self._opened.run)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}")

    def _say(self, what: str) -> None:
        """Once."""
        if what not in self._said:
            self._said.add(what)
            print(f"wandb: {what}")

    # ------------------------------------------------------------------------------------------------ the end

    def close(self, *, failed: bool) -> None:
        """Say how it ended; what is under way is waited for as long as the server answers."""
        opened = self._opened
        if opened is None:
            return
        self._safely(self._summarise)
        if self._options.artifacts and not failed and self._can_send("checkpoints stand"):
            self._safely(self._log_artifacts)
        problem = self._wait(opened)
        try:
            opened.run.finish(exit_code=int(failed))
        except TimeoutError:
            problem = problem or f"not everything was sent within {self._options.timeout:g} seconds"
        except Exception as error:
            problem = problem or f"{type(error).__name__}: {error}"
        if opened.claim is not None:
            opened.claim.close()
        artifact = artifact_name(opened.run.id) if self._artifacts else None
        self._write_record(opened, online=opened.server is not None and problem is None, artifact=artifact)
        if problem is not None:
            path = opened.run.settings.sync_dir
            self._say(f"{problem}. The run is whole in {path}: send it with `wandb sync {path}`.")
        self._opened = None

    def _summarise(self, run: wandb.Run) -> None:
        """What the history doesn't tell of itself."""
        if self._folder.summary.is_file():
            final = read_json(self._folder.summary)
            run.summary.update({name: value for name, value in final.items() if name not in self._last})
        if self._nonfinite:
            run.summary["nonfinite"] = self._nonfinite
        for name in self._nonfinite:
            if best := self._direction(name):
                kept = {best: self._best[name]} if name in self._best else {}
                run.summary[name] = {**kept, "last": self._last[name]}

    def _log_artifacts(self, run: wandb.Run) -> None:
        if redact(plain(self._config)) != plain(self._config):
            self._say("the composition holds a secret, so checkpoints, which hold it too, aren't sent.")
            return
        summary = read_json(self._folder.summary) if self._folder.summary.is_file() else {}
        metadata = {"metrics": summary, "run_dir": str(self._folder.path.absolute())}
        with staging_in(self._folder):
            for artifact, aliases in make_artifacts(self._folder, run.id, metadata):
                self._artifacts.append(run.log_artifact(artifact, aliases=aliases))

    def _wait(self, opened: Opened) -> str | None:
        """Until checkpoints are sent, however long that takes, as long as the server answers; why it ended earlier."""
        if opened.server is None:
            return None
        problem = self._find_problem()
        for artifact in self._artifacts:
            while problem is None:
                try:
                    artifact.wait(timeout=2)
                    break
                except WaitTimeoutError:
                    problem = opened.server.ask()
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
        return problem


def _mark(run: wandb.Run, what: str) -> None:
    run.tags = (*(run.tags or ()), NONFINITE)
    run.alert(f"{NONFINITE} metric", what)
