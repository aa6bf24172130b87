"""What a run is set to besides its plugins. Plain data, read by the same rules as a plugin's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plugformer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The top level of a composition.

    Args:
        seed: decides first weights, the order of samples, augmentation and dropout.
        run_dir: the folder that everything the run makes goes into.
        init_from: whose weights to begin with: another run's directory, a folder of Hugging Face's form, or a name on
            their hub.
        plugins: Python files whose registered classes join this run; from the command line only.
    """

    seed: int = 0
    run_dir: str = ""
    init_from: str | None = None
    plugins: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How samples become batches.

    Args:
        batch_size: samples that one optimiser step learns from, `trainer.accumulate` small batches together.
        eval_batch_size: samples in a batch of validation, test and prediction.
        num_workers: processes that encode samples beside the training one; has no effect on what is drawn.
        bucket: consecutive batches whose samples are sorted by length among each other, so that little is padded; 0 for
            none. In evaluation it changes the order of samples alone.
    """

    batch_size: int = 64
    eval_batch_size: int = 256
    num_workers: int = 0
    bucket: int = 0

    def __post_init__(self) -> None:
        _at_least(self, "loader", batch_size=1, eval_batch_size=1, num_workers=0, bucket=0)


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How the model is trained.

    Args:
        max_epochs: passes over the training samples.
        max_steps: optimiser steps after which training ends even if epochs are left.
        accelerator: where the model runs.
        precision: of weights and of the arithmetic.
        gradient_clip: largest norm of the gradient; larger ones are scaled down to it.
        accumulate: small batches whose gradients are summed for one optimiser step; divides `loader.batch_size`.
        compile: whether the model is compiled by torch.compile.
        deterministic: whether only algorithms are used that give the same bits twice.
        val_every: epochs between validations.
        log_every: optimiser steps between two rows of training metrics.
        limit_batches: batches of each epoch and split that are used, for trying things out.
        overfit_batches: trains and validates on this many training batches only, unshuffled and unaugmented.
        fast_dev_run: one batch of training, validation and test each, without checkpoints.
        profiler: writes where the time went into the run directory, as fit-profile.txt.
        progress: whether a progress bar is shown.
    """

    max_epochs: int = 50
    max_steps: int | None = None
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "32-true"
    gradient_clip: float | None = 1.0
    accumulate: int = 1
    compile: bool = False
    deterministic: bool = True
    val_every: int = 1
    log_every: int = 10
    limit_batches: int | None = None
    overfit_batches: int = 0
    fast_dev_run: bool = False
    profiler: Literal["simple", "advanced"] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        _at_least(self, "trainer", max_epochs=1, max_steps=1, accumulate=1, val_every=1, log_every=1, limit_batches=1)
        _at_least(self, "trainer", overfit_batches=0)
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise UserError(
                f"trainer.gradient_clip={self.gradient_clip}: must be greater than 0, or null for no clipping."
            )


def _at_least(settings: object, group: str, **least: int) -> None:
    """
    Raises:
        UserError: a number is smaller than the one given here for its name.
    """
    for name, smallest in least.items():
        value = getattr(settings, name)
        if value is not None and value < smallest:
            raise UserError(f"{group}.{name}={value}: must be at least {smallest}.")
