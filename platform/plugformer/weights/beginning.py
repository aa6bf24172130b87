"""The weights that a run begins from."""

import filecmp
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from plugformer.assemble import preview
from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, Tokenizer
from plugformer.model import Model
from plugformer.registry import build
from plugformer.weights.differences import (
    Difference,
    applied,
    differences,
    line,
    overrides,
    tokenizer_overrides,
    tokenizers_to_try,
)
from plugformer.weights.find import find_weights
from plugformer.weights.match import Match, match, shapes_of, table
from plugformer.weights.source import Weights


@dataclass(frozen=True)
class Beginning:
    """
    Attributes:
        weights: which.
        config: the run's composition, in which `init_from` says where they are from.
        source: the run's data, of which no sample is read.
    """

    weights: Weights
    config: Config
    source: DataSource

    @classmethod
    def of(cls, config: Config, *, source: DataSource, tokenizer: Tokenizer, model: Model) -> "Beginning | None":
        """The weights that a composition names, once it is sure that they fit; None if it names none.

        Args:
            config: a checked composition.
            source: its data.
            tokenizer, model: of `preview`.

        Raises:
            UserError: no weights there, or not of such a model.
        """
        if config["init_from"] is None:
            return None
        beginning = cls(find_weights(config["init_from"]), config, source)
        beginning.match(model)
        if tokenizer.spec.token_kind == "discrete" and beginning.weights.tokenizer is None:
            raise UserError(
                f"init_from={config['init_from']}: the tokenizer that these weights were trained with isn't there, so "
                "nobody can tell which token a row of the embedding is of.\n  Expected it "
                f"{_place_of_tokenizer(beginning.weights)}."
            )
        if found := differences(beginning.weights, config):
            theirs = ", ".join(each.said(each.theirs) for each in found)
            ours = ", ".join(each.said(each.ours) for each in found)
            warnings.warn(f"begins from weights that were trained with {theirs}; this run has {ours}.", stacklevel=2)
        return beginning

    def match(self, model: Model) -> Match:
        """
        Raises:
            UserError: the weights don't fit; with a table, and what would make them fit.
        """
        found = self._match(model, self.config)
        if found.fits:
            return found
        needed, works = self._overrides()
        hint = "Overrides that would make them fit" if works else "The weights' composition differs in"
        raise UserError(
            f"init_from={self.config['init_from']}: these weights are not of this run's model.\n"
            f"{table(shapes_of(model.state_dict()), shapes_of(self.weights.tensors), found)}\n"
            + (f"  {hint}:\n  {line(needed)}" if needed else "  Nothing is known of their composition.")
        )

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """
        Args:
            tokenizer: the run's, fitted. Where tokens are continuous, shapes have decided already.

        Raises:
            UserError: it isn't the one that the weights were trained with.
        """
        theirs = self.weights.tokenizer
        if tokenizer.spec.token_kind == "continuous" or theirs is None or _same(tokenizer, theirs, self.config):
            return
        needed = self._tokenizer_overrides()
        raise UserError(
            f"init_from={self.config['init_from']}: a row of the embedding is of a token, and this run's tokenizer has "
            "other tokens than the one that the weights were trained with."
            + (f"\n  Take that one:\n  {line(needed)}" if needed else "")
        )

    def fill(self, model: Model) -> Match:
        """Give a new model these weights, in its own precision; what it doesn't take of them stays as it is."""
        found = self.match(model)
        taken = {name: self.weights.tensors[name] for name in found.taken}
        model.load_state_dict(taken, strict=False)
        return found

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights are from, for the record of the run."""
        return {"path": self.weights.origin, "fingerprint": self.weights.fingerprint}

    def _match(self, model: Model, config: Config) -> Match:
        return match(model, self.weights, config, self.source.spec.labels)

    def _overrides(self) -> tuple[list[Difference], bool]:
        """What would make the weights fit, as little of it as can be, and whether that was tried and found to work."""
        of_model = overrides(self.weights, self.config)
        for name in tokenizers_to_try(self.weights, self.config):
            of_tokenizer = tokenizer_overrides(self.weights, self.config, name)
            needed = [*of_model, *(each for each in of_tokenizer if each.decides_tokens)]
            others = [each for each in of_tokenizer if not each.decides_tokens]  # most have no part in the model
            for some in ([], *([each] for each in others), others):
                if self._fits([*needed, *some]):
                    return [*needed, *some], True
        return [*of_model, *tokenizer_overrides(self.weights, self.config)], False

    def _tokenizer_overrides(self) -> list[Difference]:
        """What would give the run the tokenizer of the weights."""
        for name in tokenizers_to_try(self.weights, self.config):
            needed = tokenizer_overrides(self.weights, self.config, name)
            trained = [each for each in needed if each.decides_tokens]
            if any(each.trained for each in needed) and self._fits(trained):
                return trained
        return tokenizer_overrides(self.weights, self.config)

    def _fits(self, changes: list[Difference]) -> bool:
        with suppress(UserError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = applied(self.config, changes)
            return self._match(preview(config, source=self.source)[1], config).fits
        return False


def _same(tokenizer: Tokenizer, folder: Path, config: Config) -> bool:
    """Whether a tokenizer has learned what lies in a folder: both are written once more, in the same form."""
    theirs: Tokenizer = build("tokenizer", config["tokenizer"])
    try:
        theirs.load(folder)
    except (OSError, KeyError, ValueError):  # of another kind
        return False
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        tokenizer.save(Path(first))
        theirs.save(Path(second))
        names = sorted(path.name for path in Path(first).iterdir())
        if names != sorted(path.name for path in Path(second).iterdir()):
            return False
        equal, _, _ = filecmp.cmpfiles(first, second, names, shallow=False)
        return len(equal) == len(names)


def _place_of_tokenizer(weights: Weights) -> str:
    path = Path(weights.origin)
    return f"in {path.parent.parent / 'tokenizer'}" if path.suffix == ".ckpt" else "as tokenizer.json beside them"
