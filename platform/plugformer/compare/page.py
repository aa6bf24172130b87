"""A comparison as one HTML page that needs nothing but itself: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from pathlib import Path

from plugformer import __version__
from plugformer.compare.attachments import choose
from plugformer.compare.chart_data import chart_data
from plugformer.compare.comparison import Comparison
from plugformer.compare.curves import Axis, check_axis
from plugformer.compare.markup import Markup, data_block, element
from plugformer.compare.page_configuration import configuration_section
from plugformer.compare.page_media import media_section
from plugformer.compare.page_runs import run_section
from plugformer.compare.page_summary import summary_section
from plugformer.errors import UserError, counted
from plugformer.run_dir import replacing


def write_page(comparison: Comparison, path: Path, *, axis: Axis = "step", media_mib: float = 16) -> Path:
    """
    Args:
        comparison: what is shown.
        path: of the file.
        axis: what curves are drawn over at first.
        media_mib: MiB of pictures and sounds, at most.

    Raises:
        UserError: it can't be written, or a run's media are damaged.
    """
    text = make_page(comparison, axis=axis, media_mib=media_mib)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html {path}: can't be written ({error.strerror}).") from None
    return path


def make_page(comparison: Comparison, *, axis: Axis = "step", media_mib: float = 16) -> str:
    check_axis(comparison.groups, axis)
    script, style = _own("page.js"), _own("page.css")
    title = f"{counted(len(comparison.runs), 'run')} compared"
    shown, left_out = choose(comparison.groups, limit=int(media_mib * 2**20))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script, style)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · Plugformer"),
        element("style", style),
    )
    body = element(
        "body",
        _header(comparison, title),
        element(
            "main",
            summary_section(comparison),
            _curves(),
            configuration_section(comparison),
            media_section(comparison, shown, left_out),
            run_section(comparison),
        ),
        data_block("data", chart_data(comparison, axis=axis)),
        element("script", script),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _own(name: str) -> Markup:
    """A file of this package, to stand in the page as it is."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _policy(script: str, style: str) -> str:
    """Only this script and style, and nothing from anywhere: were a text not escaped, it still could do nothing."""
    allowed = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "media-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{what} {where}" for what, where in allowed.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _header(comparison: Comparison, title: str) -> Markup:
    groups = counted(len(comparison.groups), "group")
    made = f"{groups} · {datetime.now().astimezone():%Y-%m-%d %H:%M} · Plugformer {__version__}"
    return element("header", element("h1", title), element("p", made, class_="quiet"))


def _curves() -> Markup:
    """Room for them, with what page.js makes of it."""
    return element(
        "section",
        element("h2", "Curves"),
        element("div", id="controls"),
        element("div", id="charts", class_="charts"),
        element(
            "details",
            element("summary", "All other metrics"),
            element("div", id="more", class_="charts"),
            id="others",
            hidden=True,
        ),
        element("noscript", element("p", "Curves need JavaScript; everything else here doesn't.", class_="quiet")),
    )
