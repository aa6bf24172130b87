"""What is to be known of each run by itself: how to run it again, and what it was made of, by what, where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from plugformer.compare.comparison import Comparison
from plugformer.compare.marks import code_name
from plugformer.compare.markup import Markup, element
from plugformer.compare.numbers import number as figure
from plugformer.compare.page_parts import in_table, swatch
from plugformer.compare.run import Run
from plugformer.errors import counted
from plugformer.rerun import command_line
from plugformer.run_dir import plain
from plugformer.track.secrets import redact


def run_section(comparison: Comparison) -> Markup:
    """A fold a run."""
    folds = []
    for number, group in enumerate(comparison.groups):
        for run in group.runs:
            title = f" {group.label} · seed {run.seed}" + ("" if run.finished else " · not over")
            folds.append(element("details", element("summary", swatch(number), title), *_facts(run)))
    return element("section", element("h2", "Runs"), *folds, class_="runs")


def _facts(run: Run) -> Iterator[Markup]:
    yield element("dl", *_terms(run))
    if command := command_line(run.environment, run.job):
        yield element("h3", "Run it again")
        yield element("pre", redact(command))
    if run.job and (sweep := command_line(run.environment, {})):
        yield element("h3", "The whole sweep")
        yield element("pre", redact(sweep))
    if run.plugins:
        yield element("h3", "Parts")
        yield _plugins(run.plugins)
    metrics = run.summary if run.summary is not None else run.tested
    if metrics:
        heading = "Final metrics" if run.finished else "So far, of its best checkpoint"
        rows = [element("tr", element("th", name, scope="row"), _number(value)) for name, value in metrics.items()]
        yield _fold(heading, in_table([], rows))
    written = yaml.safe_dump(redact(plain(run.config)), sort_keys=False, allow_unicode=True)
    yield _fold("Configuration", element("pre", written))
    packages = run.environment.get("packages")
    if isinstance(packages, Mapping):
        lines = "\n".join(f"{name} {version}" for name, version in packages.items())
        yield _fold(counted(len(packages), "package"), element("pre", lines))


def _number(value: float) -> Markup:
    return element("td", figure(value), class_="number", title=repr(value))


def _fold(title: str, content: Markup) -> Markup:
    return element("details", element("summary", title), content)


def _terms(run: Run) -> Iterator[Markup]:
    sizes = run.data.get("samples")
    told = [f"{size:,} {split}" for split, size in sizes.items()] if isinstance(sizes, Mapping) else ["unknown"]
    terms = {
        "directory": str(run.path.resolve()),
        "data": f"{', '.join(told)} samples; fingerprint {run.data.get('fingerprint', 'unknown')}",
        "steps": f"{run.steps:,}",
        "best by": run.monitor + (f", at step {run.best_step + 1:,}" if run.best_step is not None else ""),
        "code": code_name(run) + ("; the changes stand in git.diff" if run.changes else ""),
        "Python": str(run.environment.get("python", "unknown")),
        "machine": str(run.environment.get("platform", "unknown")),
        "began with": _origin(run),
    }
    for term, text in terms.items():
        if text:
            yield element("dt", term)
            yield element("dd", text)


def _origin(run: Run) -> str:
    return str(run.config.get("init_from") or "")


def _plugins(plugins: Mapping[str, Any]) -> Markup:
    heads = [element("th", title, scope="col") for title in ("part", "name", "entry point", "package", "version")]
    rows = []
    for place, plugin in plugins.items():
        told = plugin if isinstance(plugin, Mapping) else {}
        cells = [element("td", str(told.get(key, ""))) for key in ("name", "entry_point", "package", "version")]
        rows.append(element("tr", element("th", place, scope="row"), *cells))
    return in_table(heads, rows)
