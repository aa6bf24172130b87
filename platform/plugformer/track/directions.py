"""Whether less or more of a metric is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from plugformer.interfaces import Monitor

# By the last part of their names. Of any other metric nothing is claimed.
LESS = {"loss", "perplexity", "bits_per_byte", "error", "against_mean", "against_neighbour", "mae", "mse", "rmse"}
LESS |= {"cer", "mer", "ter", "wer"}
MORE = {"accuracy", "balanced_accuracy", "exact_match", "f1", "precision", "recall", "auroc", "correlation", "r2"}
MORE |= {"bleu", "chrf", "rouge", "psnr", "ssim"}


def direction(metric: str, monitor: Monitor) -> Literal["min", "max"] | None:
    """Of `split/metric`: what of its values is the best; None where nobody says."""
    if metric == monitor.metric:
        return monitor.mode
    split, _, name = metric.partition("/")
    if split != "val":
        return None
    return "min" if name in LESS else "max" if name in MORE else None
