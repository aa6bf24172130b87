"""Where the tokens of one sample look, in a few layers and heads."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from plugformer.interfaces import Attention, Backbone, Batch
from plugformer.model import Model
from plugformer.nn.implied_attention import implied_attention
from plugformer.track.media import Cell, MediaFile
from plugformer.train.listening import listening
from plugformer.train.showing.panels import SIDE, Panel, coloured, draw_panels, enlarged

TOKENS = 128  # that are shown
HEADS = 4


def attention_rows(model: Model, batch: Batch, folder: Path, *, name: str) -> list[list[Cell]]:
    """A row for each layer that is shown: its number and a picture of its heads' implied attention.

    Args:
        model: in evaluation mode.
        batch: of one sample.
        folder: for the pictures.
        name: of the sample.
    """
    chosen = list(some_layers(model.trunk.backbone))
    with listening([mechanism for _, mechanism in chosen]) as calls:
        model.task(model.trunk, batch)
    rows: list[list[Cell]] = []
    for layer, mechanism in chosen:
        if id(mechanism) not in calls:
            continue
        q, k, v, *given = calls[id(mechanism)]
        weights = implied_attention(mechanism, q, k, v, *given, most=TOKENS)
        if weights is None:
            continue
        path = folder / f"{layer.replace(' ', '_')}.png"
        caption = f"{layer}, sample {name}{_cut(q.shape[2], k.shape[2])}"
        panels = [
            Panel(f"head {head}, up to {float(each.max()):.2f}", matrix(each))
            for head, each in enumerate(weights[:HEADS], 1)
        ]
        draw_panels(panels, path, title=caption, axes=("query", "key"))
        rows.append([layer, MediaFile("image", path, caption)])
    return rows


def some_layers(backbone: Backbone) -> Iterator[tuple[str, Attention]]:
    """The first, the middle and the last with their names, such as `decoder layer 2 of 6`; where there are several
    roles, the first and the last of each."""
    roles = {role: list(each) for role, each in backbone.mechanisms().items() if each}
    for role, mechanisms in roles.items():
        count = len(mechanisms)
        numbers = {0, count - 1} if len(roles) > 1 else {0, count // 2, count - 1}
        for number in sorted(numbers):
            yield f"{role} layer {number + 1} of {count}", mechanisms[number]


def matrix(weights: Float[Tensor, "queries keys"]) -> np.ndarray:
    """Pixels of a head: dark is 0 or less, bright the greatest weight of a row, which may see many keys or few."""
    values = weights.float().cpu().numpy()
    shares = (values / values.max(1, keepdims=True).clip(1e-12)).clip(0, 1)
    scale = max(1, round(SIDE / max(shares.shape)))
    return enlarged(coloured(shares), scale, scale)


def _cut(queries: int, keys: int) -> str:
    if max(queries, keys) <= TOKENS:
        return ""
    cut = [f"{min(count, TOKENS)} of {count} {what}" for what, count in (("queries", queries), ("keys", keys))]
    return f", the first {' and '.join(cut)}"
