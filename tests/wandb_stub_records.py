"""Runs, artifacts and sweeps as a W&B server knows them."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class StubRun:
    """A run as the server knows it.

    Attributes:
        name: its id, as wandb calls it.
        path: entity, project and id.
        told: the last value of everything that was said of it when it was created or changed.
        streams: lines of each streamed file by their number, as `wandb-history.jsonl`.
        files: what was uploaded.
        used: ids of artifacts.
        exit_code: None while it runs.
    """

    name: str
    path: tuple[str, str, str]
    told: Json = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    files: dict[str, bytes] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    alerts: list[Json] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def display_name(self) -> str:
        return self.told.get("displayName") or self.name

    @property
    def config(self) -> Json:
        """Without wandb's own part."""
        values: Json = json.loads(self.told.get("config") or "{}")
        return {key: each["value"] for key, each in values.items() if key != "_wandb"}

    @property
    def history(self) -> list[Json]:
        return [json.loads(line) for line in self.lines("wandb-history.jsonl")]

    @property
    def summary(self) -> Json:
        lines = self.lines("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    @property
    def state(self) -> str:
        return "running" if self.exit_code is None else "failed" if self.exit_code else "finished"

    def lines(self, stream: str) -> list[str]:
        return [line for _, line in sorted(self.streams[stream].items())]

    def values(self, metric: str) -> list[Any]:
        return [row[metric] for row in self.history if metric in row]

    def stream(self, said: Json) -> None:
        """Take what a process has to tell of it while it runs."""
        for name, part in said.get("files", {}).items():
            start = 0 if name == "wandb-summary.json" else part["offset"]
            self.streams[name].update(enumerate(part["content"], start))
        if said.get("complete"):
            self.exit_code = said["exitcode"]


@dataclass
class StubArtifact:
    """One version of an artifact.

    Attributes:
        path: entity, project and collection.
        run: id of the run that logged it.
        files: by their path in it.
    """

    id: str
    path: tuple[str, str, str]
    type: str
    digest: str
    run: str
    aliases: list[str]
    metadata: Json
    version: int = -1
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path[2]

    @property
    def committed(self) -> bool:
        return self.version >= 0


@dataclass
class StubSweep:
    """A grid, of which agents get one combination after another.

    Attributes:
        jobs: combinations that no agent has had yet.
        runs: ids of the runs that agents were told to do.
    """

    name: str
    path: tuple[str, str, str]
    config: Json
    jobs: list[Json]
    runs: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
