"""What a trained model says of new inputs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from plugformer.assemble import load_run
from plugformer.data.collate import Collate
from plugformer.data.draws import InOrder
from plugformer.data.encoded import EncodedSamples
from plugformer.errors import UserError
from plugformer.interfaces import Batch, Sample, Token, Tokenizer


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
    for batch in _batches(samples, tokenizer=tokenizer, batch_size=batch_size):
        with torch.inference_mode():
            described = model.task.describe(model(batch))
        for found in described:
            yield {"input": next(sources), **_spoken(found, tokenizer)}


def _batches(samples: Sequence[Sample], *, tokenizer: Tokenizer, batch_size: int) -> DataLoader[Batch]:
    """Each input by itself, even if the run packed several into a sequence."""
    encoded: Dataset[Any] = EncodedSamples(samples, tokenizer=tokenizer, targets=None)
    return DataLoader(
        encoded,
        batch_size=batch_size,
        sampler=InOrder(len(samples)),
        collate_fn=Collate(tokenizer=tokenizer, targets=None),
    )


def _spoken(value: Any, tokenizer: Tokenizer) -> Any:
    """What a task describes, with tokens as the tokenizer decodes them, or as numbers where it can't."""
    if isinstance(value, dict):
        return {key: _spoken(each, tokenizer) for key, each in value.items()}
    if isinstance(value, list):
        return [_spoken(each, tokenizer) for each in value]
    if isinstance(value, Token):
        try:
            return tokenizer.decode(torch.tensor([value]))
        except NotImplementedError:
            return int(value)
    return value
