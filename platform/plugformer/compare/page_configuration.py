"""In what runs differ, as a table of the page."""

from __future__ import annotations

from collections.abc import Iterator

from plugformer.compare.comparison import Comparison
from plugformer.compare.configuration import flatten, told
from plugformer.compare.markup import Markup, element
from plugformer.compare.page_parts import in_table, swatch
from plugformer.track.secrets import redact


def configuration_section(comparison: Comparison) -> Markup:
    keys = [key for key in comparison.all_differences() if key != "run_dir"]
    told_apart = set(comparison.keys)
    keys = [key for key in keys if key in told_apart] + [key for key in keys if key not in told_apart]
    if not keys:
        return element("section", element("h2", "Configuration"), element("p", "All the same."))
    heads = [element("th", "key", scope="col")]
    heads += [
        element("th", swatch(number), " ", group.label, scope="col") for number, group in enumerate(comparison.groups)
    ]
    rows = [element("tr", *_difference(comparison, key), class_=None if key in told_apart else "quiet") for key in keys]
    return element(
        "section",
        element("h2", "Configuration"),
        element(
            "p",
            "What isn't the same in all runs. In grey: what a part's choice brings with it, what the runs of a row "
            "differ in, and what makes no difference to results.",
            class_="quiet",
        ),
        in_table(heads, rows),
    )


def _difference(comparison: Comparison, key: str) -> Iterator[Markup]:
    yield element("th", key, scope="row")
    for group in comparison.groups:
        flats = [redact(flatten(run.config)) for run in group.runs]
        values = dict.fromkeys(told(flat[key]) if key in flat else "–" for flat in flats)
        yield element("td", ", ".join(values))
