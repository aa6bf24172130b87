"""How figures are written for people."""

from __future__ import annotations

import math

from plugformer.compare.groups import Spread

SIGNIFICANT = 4
MOST = 6  # digits behind the point


def written(spread: Spread | None) -> str:
    """Mean ± deviation, to the second significant digit of the deviation; a single value to four digits."""
    if spread is None:
        return "–"
    if math.isnan(spread.mean):
        return "NaN"
    if not spread.deviation:
        value = number(spread.mean)
        return value if spread.deviation is None else f"{value} ± 0"
    digits = min(MOST, max(0, 1 - _exponent(spread.deviation)))
    return f"{spread.mean:,.{digits}f} ± {spread.deviation:,.{digits}f}"


def number(value: float) -> str:
    """To four significant digits; whole numbers as they are."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value}".replace("inf", "∞")
    if float(value).is_integer() and abs(value) < 1e12 and not isinstance(value, float):
        return f"{value:,}"
    if value == 0 or 1e-4 <= abs(value) < 1e9:
        digits = max(0, SIGNIFICANT - 1 - _exponent(value)) if value else SIGNIFICANT
        return f"{value:,.{min(digits, MOST)}f}"
    return f"{value:.{SIGNIFICANT - 1}e}"


def scaled(spread: Spread | None, *, scale: float, digits: int) -> str:
    """A cost: mean ± deviation, in its unit."""
    if spread is None:
        return "–"
    if math.isnan(spread.mean):
        return "NaN"
    mean = f"{spread.mean / scale:,.{digits}f}"
    return f"{mean} ± {spread.deviation / scale:,.{digits}f}" if spread.deviation else mean


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))
