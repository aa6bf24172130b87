"""The weights that a run begins from."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from plugformer.assemble import preview
from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.interfaces import DataSource, Tokenizer, TokenSpec
from plugformer.model import Model
from plugformer.registry import build
from plugformer.tokens import same_tokens
from plugformer.weights.differences import (
    TARGET,
    Difference,
    applied,
    differences,
    differences_of_tokens,
    line,
    open_choices,
    overrides,
    target_overrides,
    tokenizer_overrides,
    tokenizers_to_try,
)
from plugformer.weights.find import find_weights
from plugformer.weights.match import Match, match, shapes_of, table
from plugformer.weights.positions import interpolate, tokens_of
from plugformer.weights.source import Weights


@dataclass(frozen=True)
class Beginning:
    """
    Attributes:
        weights: which.
        config: the run's composition, in which `init_from` says where they are from.
        source: the run's data, of which no sample is read.
        tokens: the run's.
        writes: whether the run has a tokenizer of its own for what is written.
    """

    weights: Weights
    config: Config
    source: DataSource
    tokens: TokenSpec
    writes: bool = False

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
        beginning = cls(find_weights(config["init_from"]), config, source, tokenizer.spec, TARGET in config)
        beginning.match(model)
        if tokenizer.spec.token_kind == "discrete" and beginning.weights.tokenizer is None:
            raise beginning._nobody_can_tell("tokenizer", "embedding")
        if beginning.writes and beginning.weights.target_tokenizer is None:
            raise beginning._nobody_can_tell(TARGET, "target_embedding")
        found = differences(beginning.weights, config)
        if tokenizer.spec.token_kind == "continuous":  # of discrete ones, `check_tokenizer` compares each
            found += differences_of_tokens(beginning.weights, config)
        if found:
            theirs = ", ".join(each.said(each.theirs) for each in found)
            ours = ", ".join(each.said(each.ours) for each in found)
            warnings.warn(f"begins from weights that were trained with {theirs}; this run has {ours}.", stacklevel=2)
        return beginning

    def match(self, model: Model) -> Match:
        """
        Raises:
            UserError: the weights don't fit; with a table, and what would make them fit.
        """
        return self._fitting(model)[0]

    def _fitting(self, model: Model) -> tuple[Match, Weights]:
        """What a model takes, and the weights with the positions of its grid."""
        found, weights = self._match(model, self.config, self.tokens)
        if found.fits:
            return found, weights
        raise UserError(
            f"init_from={self.config['init_from']}: these weights are not of this run's model.\n"
            f"{table(shapes_of(model.state_dict()), shapes_of(self.weights.tensors), found)}\n  {self._advice()}"
        )

    def _advice(self) -> str:
        needed, works = self._overrides()
        if works:
            return f"Overrides that would make them fit:\n  {line(needed)}"
        if needed:
            return f"The weights' composition differs in:\n  {line(needed)}"
        if not self.weights.composition:
            return "Nothing is known of their composition."
        return "Their composition is this run's, so it is the data that differs."

    def check_tokenizer(self, tokenizer: Tokenizer, target: Tokenizer | None = None) -> None:
        """
        Args:
            tokenizer: the run's, fitted. Where tokens are continuous, shapes have decided already.
            target: likewise, of texts that are to be written.

        Raises:
            UserError: it isn't the one that the weights were trained with.
        """
        if not self._same(tokenizer, "tokenizer", self.weights.tokenizer):
            raise self._other_tokens("embedding", "tokenizer", self._tokenizer_overrides())
        if self.writes and target is not None and not self._same(target, TARGET, self.weights.target_tokenizer):
            raise self._other_tokens("target_embedding", TARGET, target_overrides(self.weights, self.config))

    def _same(self, tokenizer: Tokenizer, kind: str, theirs: Path | None) -> bool:
        return tokenizer.spec.token_kind == "continuous" or theirs is None or self._learned(tokenizer, kind, theirs)

    def _other_tokens(self, table: str, kind: str, needed: list[Difference]) -> UserError:
        return UserError(
            f"init_from={self.config['init_from']}: a row of the {table} is of a token, and this run's {kind} has "
            "other tokens than the one that the weights were trained with."
            + (f"\n  Take that one:\n  {line(needed)}" if needed else "")
        )

    def _nobody_can_tell(self, kind: str, table: str) -> UserError:
        return UserError(
            f"init_from={self.config['init_from']}: the {kind} that these weights were trained with isn't there, so "
            f"nobody can tell which token a row of the {table} is of.\n  Expected it "
            f"{_place_of_tokenizer(self.weights, kind)}."
        )

    def fill(self, model: Model) -> Match:
        """Give a new model these weights, in its own precision; what it doesn't take of them stays as it is."""
        found, weights = self._fitting(model)
        taken = {name: weights.tensors[name] for name in found.taken}
        model.load_state_dict(taken, strict=False)
        return found

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights are from, for the record of the run."""
        return {"path": self.weights.origin, "fingerprint": self.weights.fingerprint}

    def _match(self, model: Model, config: Config, tokens: TokenSpec) -> tuple[Match, Weights]:
        weights, interpolated = interpolate(self.weights, model, self._their_tokens, tokens)
        return match(model, weights, config, self.source.spec.labels, interpolated), weights

    @cached_property
    def _their_tokens(self) -> TokenSpec | None:
        return tokens_of(self.weights)

    def _overrides(self) -> tuple[list[Difference], bool]:
        """What would make the weights fit, as little of it as can be, and whether that was tried and found to work."""
        of_target = target_overrides(self.weights, self.config)
        of_model = [*overrides(self.weights, self.config), *(each for each in of_target if each.decides_tokens)]
        of_target = [each for each in of_target if not each.decides_tokens]
        for name in tokenizers_to_try(self.weights, self.config):
            of_tokenizer = tokenizer_overrides(self.weights, self.config, name)
            needed = [*of_model, *(each for each in of_tokenizer if each.decides_tokens)]
            others = [each for each in of_tokenizer if not each.decides_tokens]  # most have no part in the model
            others += of_target
            choices = open_choices(name, self.config)
            for some in ([], *([each] for each in [*others, *choices]), others, *([*others, each] for each in choices)):
                if self._fits([*needed, *some]):
                    return [*needed, *self._least(needed, some)], True
        return [*of_model, *tokenizer_overrides(self.weights, self.config)], False

    def _least(self, needed: list[Difference], some: list[Difference]) -> list[Difference]:
        """Those of `some` without which the weights wouldn't fit."""
        for each in reversed(some):
            fewer = [other for other in some if other is not each]
            if self._fits([*needed, *fewer]):
                some = fewer
        return some

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
            tokenizer, model = preview(config, source=self.source)
            return self._match(model, config, tokenizer.spec)[0].fits
        return False

    def _learned(self, tokenizer: Tokenizer, kind: str, folder: Path) -> bool:
        """Whether the run's tokenizer has learned what lies in a folder."""
        theirs: Tokenizer = build(kind, self.config[kind])
        try:
            theirs.load(folder)
        except (OSError, KeyError, ValueError):  # of another kind
            return False
        return same_tokens(tokenizer, theirs)


def _place_of_tokenizer(weights: Weights, kind: str) -> str:
    path = Path(weights.origin)
    return f"in {path.parent.parent / kind}" if path.suffix == ".ckpt" else "as tokenizer.json beside them"
