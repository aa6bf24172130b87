"""How figures for papers look, so that all of ours look alike."""

from typing import Any

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.direction": "out",
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}
MARKERS = "osD^vPX*"
