"""What stands in the way of reading a table of runs as a fair comparison."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from itertools import count, product
from string import ascii_lowercase
from typing import Any, Literal

from plugformer.compare.configuration import Flat, differing, flatten, identity, told
from plugformer.compare.groups import Group
from plugformer.compare.run import Run
from plugformer.errors import counted

Kind = Literal[
    "data", "task", "monitor", "unfinished", "not a number", "tokens", "seeds", "code", "packages", "machine"
]
UNFAIR: tuple[Kind, ...] = ("data", "task", "monitor", "unfinished", "not a number")  # figures that don't compare
PER_TOKEN = ("loss", "perplexity", "accuracy")  # of a task that predicts tokens: means over them, whatever they are
SHOWN = 4  # packages that are named


@dataclass(frozen=True)
class Mark:
    """
    Attributes:
        sign: that stands at the groups.
        kind: what it is about.
        text: which runs, what of them, and what the others have.
        groups: their numbers, from 0.
        runs: paths of the runs.
    """

    sign: str
    kind: Kind
    text: str
    groups: tuple[int, ...]
    runs: tuple[str, ...]

    @property
    def unfair(self) -> bool:
        return self.kind in UNFAIR

    def spoils(self, metric: str) -> bool:
        """Whether this metric of the groups doesn't compare with that of others."""
        return self.unfair or (self.kind == "tokens" and metric.rpartition("/")[2] in PER_TOKEN)


def find_marks(groups: Sequence[Group], *, over: Sequence[str] = ()) -> list[Mark]:
    """
    Args:
        groups: of runs.
        over: keys in which runs of a group may differ; data are compared among runs in which they have one value.
    """
    signs = map("".join, (each for length in count(1) for each in product(ascii_lowercase, repeat=length)))
    found: list[tuple[Kind, Sequence[Run], str]] = []
    for alike in _alike(groups, over):
        found += _odd("data", alike, _data, _say_data)
    runs = [run for group in groups for run in group.runs]
    found += _odd("task", runs, lambda run: run.task, lambda run, usual: f"task={run.task}, not {usual.task}")
    found += _odd("monitor", runs, lambda run: run.monitor, _say_monitor)
    found += _unfinished(runs)
    found += _not_numbers(runs)
    found += _odd(
        "tokens", [run for run in runs if _predicts_tokens(run)], lambda run: identity(_tokens(run)), _say_tokens
    )
    found += _seeds(groups, over)
    found += _odd("code", runs, _code, _say_code)
    found += _odd("packages", runs, _packages, _say_packages)
    found += _odd("machine", runs, _machine, lambda run, usual: f"on {_machine(run)}, not {_machine(usual)}")
    return [_mark(next(signs), kind, text, members, groups) for kind, members, text in found]


def _mark(sign: str, kind: Kind, text: str, members: Sequence[Run], groups: Sequence[Group]) -> Mark:
    paths = [str(run.path) for run in members]
    numbers = [n for n, group in enumerate(groups) if any(str(run.path) in paths for run in group.runs)]
    whole = [n for n in numbers if all(str(run.path) in paths for run in groups[n].runs)]
    if len(whole) < len(numbers):  # of a group, some runs only
        partly = [str(run.path) for n in numbers if n not in whole for run in groups[n].runs if str(run.path) in paths]
        others = f", and all of {_listed([groups[n].label for n in whole])}" if whole else ""
        text = f"{text} ({_listed(partly)}{others})"
    return Mark(sign, kind, text, tuple(numbers), tuple(paths))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _alike(groups: Sequence[Group], over: Sequence[str]) -> list[list[Run]]:
    """Runs that should have seen the same data."""
    alike: dict[str, list[Run]] = {}
    for group in groups:
        for run in group.runs:
            alike.setdefault(_place(run, over), []).append(run)
    return list(alike.values())


def _place(run: Run, over: Sequence[str]) -> str:
    flat = flatten(run.config)
    return " ".join(f"{key}={told(flat.get(key))}" for key in over)


def _odd(
    kind: Kind, runs: Sequence[Run], read: Callable[[Run], Hashable], say: Callable[[Run, Run], str]
) -> Iterable[tuple[Kind, Sequence[Run], str]]:
    """Runs that differ from what most have; of equally many, from what the first has."""
    by_value: dict[Hashable, list[Run]] = {}
    for run in runs:
        by_value.setdefault(read(run), []).append(run)
    usual = max(by_value, key=lambda value: len(by_value[value]), default=None)
    for value, members in by_value.items():
        if value != usual:
            yield kind, members, say(members[0], by_value[usual][0])


def _data(run: Run) -> Hashable:
    return run.data.get("fingerprint"), _limit(run), *_sizes(run).items()


def _limit(run: Run) -> str | None:
    """How much of each split it used at most; None for all."""
    trainer, loader = run.config.get("trainer", {}), run.config.get("loader", {})
    batches = 1 if trainer.get("fast_dev_run") else trainer.get("limit_batches")
    if batches is None:
        return None
    small = loader.get("batch_size", 0) // trainer.get("accumulate", 1)
    return f"at most {batches} × {small} samples to train, {batches} × {loader.get('eval_batch_size')} to evaluate"


def _sizes(run: Run) -> dict[str, Any]:
    sizes = run.data.get("samples")
    return dict(sizes) if isinstance(sizes, dict) else {}


def _say_data(run: Run, usual: Run) -> str:
    if not run.data:
        return "saw data that isn't known: there is no data.json"
    if not usual.data:
        return f"saw {_sizes_and_name(run)}; of the others it isn't known"
    if _limit(run) != _limit(usual) and run.data == usual.data:
        own, theirs = (each or "all" for each in (_limit(run), _limit(usual)))
        return f"used other parts of the same data: {own}, not {theirs}"
    if run.data.get("fingerprint") == usual.data.get("fingerprint"):
        return f"used other splits: {_sizes_and_name(run)}, not {_sizes_and_name(usual)}"
    return f"saw other data: {_sizes_and_name(run)}, not {_sizes_and_name(usual)}"


def _sizes_and_name(run: Run) -> str:
    sizes = " / ".join(f"{size:,} {split}" for split, size in _sizes(run).items())
    return f"{sizes} (fingerprint {run.data.get('fingerprint')})"


def _say_monitor(run: Run, usual: Run) -> str:
    return f"best checkpoint chosen by {run.monitor}, not {usual.monitor}"


def _unfinished(runs: Sequence[Run]) -> Iterable[tuple[Kind, Sequence[Run], str]]:
    for run in runs:
        if run.finished:
            continue
        when = "nothing was logged" if run.written is None else f"last written {_ago(time.time() - run.written)} ago"
        so_far = "what its best checkpoint has so far" if run.best_step is not None else "what was logged"
        yield (
            "unfinished",
            [run],
            f"{run.path} isn't over: still running, killed or failed, as there is no summary.json; "
            f"{counted(run.steps, 'step')} done, {when}; shown is {so_far}",
        )


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return counted(int(seconds // size), unit)
    return counted(max(0, int(seconds)), "second")


def _not_numbers(runs: Sequence[Run]) -> Iterable[tuple[Kind, Sequence[Run], str]]:
    for run in runs:
        if run.non_finite:
            steps = [step for step in run.non_finite.values() if step is not None]
            since = f", first at step {min(steps)}" if steps else ""
            yield "not a number", [run], f"{run.path}: NaN or infinite: {_listed(list(run.non_finite))}{since}"


def _predicts_tokens(run: Run) -> bool:
    return any(name.endswith("/perplexity") for name in (*(run.summary or ()), *run.history))


def _tokens(run: Run) -> Flat:
    """Which tokens it predicts, as options say: its tokenizer's, or those of what it writes."""
    key = "target_tokenizer" if run.config.get("target_tokenizer") else "tokenizer"
    return flatten({key: run.config.get(key)})


def _say_tokens(run: Run, usual: Run) -> str:
    own, theirs = _tokens(run), _tokens(usual)
    said = [f"{key}={told(own.get(key))}, not {told(theirs.get(key))}" for key in differing([own, theirs])]
    return f"predicts other tokens: {'; '.join(said)}; {', '.join(PER_TOKEN)} are means over tokens"


def _seeds(groups: Sequence[Group], over: Sequence[str]) -> Iterable[tuple[Kind, Sequence[Run], str]]:
    """Groups of finished runs that weren't repeated like the others, and runs that repeat a seed."""
    finished = [group for group in groups if group.finished]
    usual = _usual_seeds(finished, over)
    for group in finished:
        own = _seeds_of(group, over)
        twice = [seed for seed, times in Counter(own).items() if times > 1]
        if twice:
            yield "seeds", group.runs, f"seed {_listed(twice)} more than once: these runs aren't independent"
        elif set(own) != set(usual):
            have = f"{'seeds' if len(own) > 1 else 'seed'} {_listed(own)}"
            yield "seeds", group.runs, f"{have}, where others have {_listed(usual)}"


def _usual_seeds(groups: Sequence[Group], over: Sequence[str]) -> list[str]:
    """Those of most groups; of equally many, the most seeds."""
    seen = Counter(tuple(dict.fromkeys(_seeds_of(group, over))) for group in groups)
    most = max(seen.values(), default=0)
    return max((list(seeds) for seeds, times in seen.items() if times == most), key=len, default=[])


def _seeds_of(group: Group, over: Sequence[str]) -> list[str]:
    return [f"{run.seed}" + (f" ({_place(run, over)})" if over else "") for run in group.runs]


def _code(run: Run) -> Hashable:
    return run.environment.get("git_revision"), run.changes


def _say_code(run: Run, usual: Run) -> str:
    return f"other code: {code_name(run)}, not {code_name(usual)}"


def code_name(run: Run) -> str:
    """The revision, and a name for what was changed since."""
    revision = str(run.environment.get("git_revision") or "no known revision")[:12]
    return f"{revision} with changes {run.changes}" if run.changes else revision


def _packages(run: Run) -> tuple[tuple[str, str], ...]:
    versions = {**_versions(run), "python": run.environment.get("python")}
    return tuple(sorted((name, str(version)) for name, version in versions.items()))


def _versions(run: Run) -> dict[str, Any]:
    packages = run.environment.get("packages")
    return dict(packages) if isinstance(packages, dict) else {}


def _say_packages(run: Run, usual: Run) -> str:
    theirs, own = dict(_packages(usual)), dict(_packages(run))
    differing = [name for name in dict.fromkeys([*own, *theirs]) if own.get(name) != theirs.get(name)]
    ours = _needed()
    differing.sort(key=lambda name: (name != "python", _canonical(name) not in ours))
    lines = [f"{name} {own.get(name, 'missing')}, not {theirs.get(name, 'missing')}" for name in differing]
    return f"other packages: {'; '.join(lines[:SHOWN])}" + (f"; {len(lines) - SHOWN} more" if lines[SHOWN:] else "")


def _needed() -> set[str]:
    """Packages that Plugformer itself needs, which are named first."""
    try:
        lines = requires("plugformer") or []
    except PackageNotFoundError:
        return set()
    names = (re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line)
    return {_canonical(name[0]) for name in names if name}


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _machine(run: Run) -> str:
    return str(run.environment.get("platform") or "an unknown machine")
