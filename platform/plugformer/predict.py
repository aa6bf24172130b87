"""What a trained model says of new inputs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from plugformer.assemble import load_run
from plugformer.data.loaders import make_loader
from plugformer.errors import UserError


def predict(
    path: str | Path, inputs: Sequence[str], *, checkpoint: str = "best", batch_size: int = 64
) -> Iterator[dict[str, Any]]:
    """Predictions in the order of the inputs, each with the `input` it is of.

    Args:
        path: a run directory.
        inputs: what the run's tokenizer reads: paths, or texts.
        checkpoint: `best` or `last`.
        batch_size: inputs at a time.

    Raises:
        UserError: not a run directory, or inputs that can't be read; all of them are named before anything is
            predicted.
    """
    tokenizer, model = load_run(path, checkpoint=checkpoint)
    samples, problems = [], []
    for source in inputs:
        try:
            samples.append(tokenizer.read(source))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} of {len(inputs)} inputs can't be read.", *problems]))
    sources = iter(inputs)
    for batch in make_loader(samples, tokenizer=tokenizer, targets=None, batch_size=batch_size):
        with torch.inference_mode():
            described = model.task.describe(model(batch))
        for found in described:
            yield {"input": next(sources), **found}
