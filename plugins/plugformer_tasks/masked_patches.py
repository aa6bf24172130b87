"""Hidden continuous tokens from those that are visible."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

from plugformer.data.encoded import seeded
from plugformer.interfaces import Batch, Features, Monitor, Needs, Output, Task, Tokenizer, Tokens, Trunk
from plugformer.nn.initialise import STD
from plugformer_tasks.hidden_places import HiddenPlaces
from plugformer_tasks.neighbours import nearest_visible
from plugformer_tasks.patch_output import PatchesOutput, PatchOutput, describe_errors, with_pictures
from plugformer_tasks.places import placed, taken

NEEDS = Needs(directions=frozenset({"bidirectional"}), token_kinds=frozenset({"continuous"}), separate_tokens=True)


class MaskedPatches(Task):
    """Predicts raw tokens that were hidden. A subclass says how they are hidden from the model.

    Which are hidden is drawn anew each time a sample is seen in training, and is always the same in validation. In
    prediction it is the same for all samples of as many tokens.
    """

    needs = NEEDS
    monitor = Monitor("val/loss", "min")
    targets: HiddenPlaces
    output: PatchOutput

    @abstractmethod
    def states(
        self, trunk: Trunk, tokens: Tokens, *, hidden: Int[Tensor, "batch hidden"], visible: Int[Tensor, "batch seen"]
    ) -> Float[Tensor, "batch hidden width"]:
        """What is known of each hidden token.

        Args:
            trunk: that sees the visible ones.
            tokens: all, without `raw`.
            hidden, visible: places, filled up with -1.
        """

    def forward(self, trunk: Trunk, batch: Batch) -> PatchesOutput:
        tokens = trunk.embed(batch["inputs"])
        places = batch["targets"] or self._same_places(tokens)
        output = self._predicted(trunk, tokens, places)
        if not batch["targets"]:
            output.pictures = self._pictures(tokens, places, output)
        return output

    def _predicted(self, trunk: Trunk, tokens: Tokens, places: Features) -> PatchesOutput:
        assert tokens.raw is not None, "an embedding of continuous tokens gives them as they were, too"
        hidden, visible = places["hidden"], places["visible"]
        neighbour = None
        if not self.training:
            neighbour = taken(tokens.raw, nearest_visible(tokens.layout.coordinates, hidden, visible))
        states = self.states(trunk, replace(tokens, raw=None), hidden=hidden, visible=visible)
        return self.output(states, taken(tokens.raw, hidden), hidden >= 0, neighbour)

    def _same_places(self, tokens: Tokens) -> Features:
        """The targets that each sequence would have if it were drawn with one seed for all."""
        each: list[Features] = [{}] * len(tokens.embeddings)
        if tokens.valid is not None:
            each = [{"valid": valid} for valid in tokens.valid.cpu()]
        encoded = []
        for features in each:
            with seeded(0):
                encoded.append(self.targets.encode({}, features))
        return {key: value.to(tokens.embeddings.device) for key, value in self.targets.collate(encoded).items()}

    def _pictures(self, tokens: Tokens, places: Features, output: PatchesOutput) -> dict[str, Tensor]:
        """Tokens as they were, without the hidden ones, and with what is predicted in their place."""
        raw, hidden, visible = tokens.raw, places["hidden"], places["visible"]
        assert raw is not None and output.predicted is not None
        nothing = torch.full_like(raw, torch.nan)
        masked = placed(nothing, visible, taken(raw, visible))
        predicted = self.output.shown(output.predicted, taken(raw, hidden))
        return {
            "original": placed(masked, hidden, taken(raw, hidden)),
            "masked": masked,
            "reconstruction": placed(masked, hidden, predicted.to(raw)),
        }

    def metrics(self) -> Mapping[str, Metric]:
        return self.output.metrics()

    def describe(self, output: Output) -> list[dict[str, Any]]:
        """How many tokens were hidden, their mean squared error, and that over the error of copying a neighbour."""
        return describe_errors(output, counted="hidden")

    def losses(self, output: Output) -> Float[Tensor, "batch"]:
        assert isinstance(output, PatchesOutput), "of another task"
        return self.output.losses(output)

    def show(self, trunk: Trunk, batch: Batch, output: Output, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """Pictures of what was there, of what was visible of it, and of what is predicted; and how good that is."""
        assert isinstance(output, PatchesOutput), "of another task"
        pictures = self._pictures(trunk.embed(batch["inputs"]), batch["targets"], output)
        return with_pictures(self.describe(output), pictures)


class MaskVector(nn.Module):
    """A learned vector in the place of what is hidden."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.vector, std=STD)

    def forward(
        self, x: Float[Tensor, "batch length dim"], hidden: Int[Tensor, "batch hidden"]
    ) -> Float[Tensor, "batch length dim"]:
        """The vector at these places, and all others as they are; -1 is no place."""
        return placed(x, hidden, self.vector.to(x).expand(*hidden.shape, -1))
