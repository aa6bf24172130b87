"""bad_batches.jsonl: which samples training went wrong with, an object a line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
from torch import Tensor, distributed

from plugformer.data.encoded import EncodedSamples
from plugformer.run_dir import RunDir, plain


@dataclass(frozen=True)
class SeenBatch:
    """What this process has seen of a global batch.

    Attributes:
        step: from 0, as in metrics.csv.
        loss: of the global batch.
        index: int `[samples]` of each small batch.
    """

    step: int
    epoch: int
    loss: float
    index: Sequence[Tensor]


def append(run: RunDir, wrong: str, batches: Sequence[SeenBatch], trainer: pl.Trainer) -> None:
    """Write a line: what is wrong with the last of these batches, the one before it, and the samples of each, by the
    processes that had them. All processes call it together.

    A sample is its index among the training samples, or among the sequences they are packed into, and its own id if it
    has one.
    """
    dataset = cast("EncodedSamples", cast("Any", trainer.train_dataloader).dataset)
    own = [[_described(dataset, number) for part in batch.index for number in part.tolist()] for batch in batches]
    of_ranks: list[Any] = [own]
    if trainer.world_size > 1:
        of_ranks = [None] * trainer.world_size
        distributed.all_gather_object(of_ranks, own)
    if not trainer.is_global_zero:
        return
    line = {
        "wrong": wrong,
        "to_look_at": f"plugformer.train.bad_samples.bad_samples({str(run.path)!r})",
        "batches": [
            {
                "step": batch.step,
                "epoch": batch.epoch,
                "loss": batch.loss,
                "samples": {f"rank {rank}": samples[number] for rank, samples in enumerate(of_ranks)},
            }
            for number, batch in enumerate(batches)
        ],
    }
    with run.bad_batches.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain(line), ensure_ascii=False, allow_nan=False) + "\n")


def _described(dataset: EncodedSamples, index: int) -> dict[str, Any]:
    name = dataset.samples[index].get("id")
    return {"index": index} if name is None else {"index": index, "id": str(name)}
