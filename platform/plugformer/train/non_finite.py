"""Notices when training goes wrong."""

import math
import warnings
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from plugformer.run_dir import RunDir, read_json, write_json


class NonFiniteWatch(Logger):
    """Sees every metric that is logged: of the first that is NaN or infinite it warns, and all such are written down.

    Args:
        run: the run directory, in which they mark the run.
        expected: names of metrics that may be so without anything being wrong.
        told: names of those of which somebody else tells.
    """

    def __init__(
        self, run: RunDir, *, expected: frozenset[str] = frozenset(), told: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self._run, self._expected, self._told = run, expected, told
        self._found: dict[str, int | None] = read_json(run.non_finite) if run.non_finite.exists() else {}

    @property
    def name(self) -> str:
        return "non_finite"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are no metrics."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        new = [
            name
            for name, value in metrics.items()
            if not math.isfinite(value) and name not in self._found and name not in self._expected
        ]
        if not new:
            return
        untold = [name for name in new if name not in self._told]
        if untold and self._found.keys() <= self._told:
            self._warn(untold[0], metrics[untold[0]], step)
        self._found |= dict.fromkeys(new, step)
        write_json(self._run.non_finite, self._found)

    def _warn(self, name: str, value: float, step: int | None) -> None:
        what = "NaN" if math.isnan(value) else "infinite"
        warnings.warn(
            f"{name} is {what} at step {step}. Training goes on, and metrics are logged as they are.\n"
            f"  {self._run.non_finite} says which others follow. A lower optimizer.lr, more steps of warm-up, or "
            "trainer.precision=32-true may help.",
            stacklevel=2,
        )
