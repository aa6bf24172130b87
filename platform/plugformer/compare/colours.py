"""Colours that eyes of every kind tell apart, on white and on black (after Okabe and Ito 2008)."""

# Blue, vermilion, green, purple, orange, sky, brown, grey; then again with other dashes.
ON_LIGHT = ("#0072B2", "#D55E00", "#00875F", "#B5588E", "#B87A00", "#2A92C9", "#7A4B2A", "#6B6B6B")
ON_DARK = ("#5AB4F0", "#FF8A4C", "#3DCFA0", "#EE9CCB", "#F0B840", "#9ADCFF", "#CFA17E", "#B8B8B8")
DASHES = ((), (6, 2), (2, 2), (8, 2, 2, 2))  # on, off, … in line widths


def dashes(number: int) -> tuple[int, ...]:
    """Of the group of this number."""
    return DASHES[(number // len(ON_LIGHT)) % len(DASHES)]
