"""Texts that must fit into time steps."""

import warnings
from collections.abc import Sequence
from operator import eq
from typing import Literal

from plugformer.errors import UserError
from plugformer.interfaces import Features, Grid, Sample, Targets, TokenSpec
from plugformer_tasks.ctc_head import unwritten

Misfits = Literal["fail", "skip"]

_ADVICE = (
    "  Make more steps, as by narrower patches or a smaller hop, or fewer labels, as by a target_tokenizer of longer "
    "pieces.\n  Where clips hold less than their texts say, set task.misfits=skip to learn nothing of them."
)


class FittingTargets(Targets):
    """Those of another kind, whose `ids` CTC can spread over the steps of the inputs.

    Args:
        targets: which make `ids` of texts.
        tokens: what is known of the inputs.
        target: what is known of `ids`.
        misfits: what becomes of samples whose text finds no room. `fail`: an error. `skip`: a warning.
    """

    def __init__(self, targets: Targets, *, tokens: TokenSpec, target: TokenSpec, misfits: Misfits = "fail") -> None:
        self.targets = targets
        self.misfits = misfits
        self.grid = tokens.grid
        self.unwritten = frozenset(unwritten(target))

    def encode(self, sample: Sample, inputs: Features) -> Features:
        """
        Raises:
            UserError: more labels than steps, counting the blanks that repeated ones need between them.
        """
        features = self.targets.encode(sample, inputs)
        labels = [token for token in features["ids"].tolist() if token not in self.unwritten]
        repeated, steps = sum(map(eq, labels, labels[1:])), num_steps(inputs, self.grid)
        if len(labels) + repeated > steps:
            blanks = f" and {repeated} between equal ones" if repeated else ""
            told = (
                f"{sample.get('id', 'a sample')}: CTC finds no room for its text: {len(labels)} labels{blanks} need "
                f"{len(labels) + repeated} time steps, and its tokens make {steps}."
            )
            if self.misfits == "fail":
                raise UserError(f"{told}\n{_ADVICE}")
            warnings.warn(f"{told} It teaches nothing.", stacklevel=2)
        return features

    def collate(self, features: Sequence[Features]) -> Features:
        return self.targets.collate(features)

    def example(self, inputs: Features) -> Features:
        return self.targets.example(inputs)


def num_steps(inputs: Features, grid: Grid) -> int:
    """Real time steps of one sample's features."""
    if len(grid.shape) > 1:  # all places, in raster order
        if "valid" not in inputs:
            return grid.shape[-1]
        return int(inputs["valid"].view(-1, grid.shape[-1]).any(0).sum())
    if "valid" in inputs:
        return int(inputs["valid"].sum())
    return len(inputs["ids"]) if "ids" in inputs else len(grid)
