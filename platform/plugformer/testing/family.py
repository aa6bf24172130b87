"""Laws of families: what is read and what is written are the same model."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugformer.assemble import build_backbone
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Embedding, Family, Features, Grid, Layout, Tokenizer, Tokens, TokenSpec
from plugformer.model import Model, Trunk
from plugformer.registry import PARTS, build, check, offers
from plugformer.testing.common import Suite, randomise
from plugformer.testing.comparing import applies_if, noise

OF_MODEL = ("backbone", "block", "attention", "position", "norm", "feed_forward", "task")
SPECIALS = {"pad": 1, "mask": 2, "bos": 3, "eos": 4}


class FamilySuite(Suite):
    """The family on its own example: the model of ours that this would be, with random weights.

    Attributes:
        tokens: what is known of the tokens, 7 of them at most.
    """

    kind = "family"
    tokens: ClassVar[TokenSpec] = TokenSpec(
        Grid(("position",), (7,)), vocab_size=13, specials=SPECIALS, pads=True, around=frozenset({"bos", "eos"})
    )

    @cached_property
    def family(self) -> Family:
        return self.build()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The composition that the example asks for."""
        composition = self.family.composition(self.family.example)
        assert set(OF_MODEL) <= composition.keys(), "a composition says what every part of the model is"
        checked = {kind: check(kind, node) for kind, node in composition.items()}
        return {"tokenizer": {"name": "made_up"}, "seed": 0, **checked}

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Of the model of ours, none of them zero or one by design."""
        backbone = build_backbone(self.config, self.tokens)
        trunk = Trunk(embedding=_Lookup(self.tokens, dim=backbone.dim), backbone=backbone)
        task = build(
            "task",
            self.config["task"],
            dim=backbone.dim,
            tokens=self.tokens,
            data=DataSpec(frozenset()),
            target_tokenizer=tokenizer_of(self.tokens),
        )
        return dict(randomise(Model(trunk=trunk, task=task)).state_dict())

    @cached_property
    def said(self) -> dict[str, Any]:
        return self.family.form(self.config, self.tokens, self.weights)

    @cached_property
    def theirs(self) -> dict[str, Tensor]:
        return self.family.write(self.weights, self.said)

    # ------------------------------------------------------------------------------------------ options

    def test_composition_is_part_of_a_composition(self) -> None:
        for kind, node in self.family.composition(self.family.example).items():
            assert kind in PARTS, f"{kind} is no part of a composition"
            check(kind, node)

    def test_form_is_read_as_the_same_composition(self) -> None:
        assert self.said["model_type"] in self.family.model_types
        assert self.family.composition(self.said) == self.family.composition(self.family.example)

    def test_model_types_are_nobody_elses(self) -> None:
        assert self.family.model_types
        for name in offers("family"):
            if name != self.name:
                other: Family = build("family", {"name": name})
                assert not self.family.model_types & other.model_types, f"{name} claims them too"

    def test_a_config_without_sizes_is_refused(self) -> None:
        message = _refusal(lambda: self.family.composition({"model_type": min(self.family.model_types)}))
        assert message, "the config.json of no model is taken for one"

    def test_refusal_names_every_reason(self) -> None:
        """Each part that is another by itself, and all of them together."""
        parts = [*OF_MODEL, *(kind for kind in ("cross_attention",) if kind in self.config)]
        others = {kind: {**self.config[kind], "name": "another"} for kind in parts}
        for kinds in [*([kind] for kind in others), list(others)]:
            config = {**self.config, **{kind: others[kind] for kind in kinds}}
            message = _refusal(lambda config=config: self.family.form(config, self.tokens, self.weights))
            for kind in kinds:
                assert f"{kind}=another" in message, f"{kind}=another is no reason in: {message}"
        continuous = TokenSpec(Grid(("row", "column"), (2, 3)), token_dim=5)
        assert _refusal(lambda: self.family.form(self.config, continuous, self.weights)), "tokens that are no ids"

    def test_refuses_a_vocabulary_of_its_own_for_what_is_written(self) -> None:
        """What writes a sequence for another does so with one vocabulary for both."""
        direction = build_backbone(self.config, self.tokens).direction
        applies_if(direction == "encoder_decoder", f"is {direction}")
        config = {**self.config, "target_tokenizer": {"name": "another"}}
        message = _refusal(lambda: self.family.form(config, self.tokens, self.weights))
        assert "target_tokenizer=another" in message, f"it is no reason in: {message}"

    def test_refuses_weights_of_another_model(self) -> None:
        name = min(self.weights)
        lacking = {key: tensor for key, tensor in self.weights.items() if key != name}
        assert name in _refusal(lambda: self.family.form(self.config, self.tokens, lacking))
        further = {**self.weights, "trunk.further.weight": noise(3)}
        assert "trunk.further.weight" in _refusal(lambda: self.family.form(self.config, self.tokens, further))

    # ------------------------------------------------------------------------------------------ weights

    def test_what_is_written_is_read_bit_for_bit(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            weights = {name: tensor.to(dtype) for name, tensor in self.weights.items()}
            assert_equal(self.family.read(self.family.write(weights, self.said), self.said), weights)

    def test_what_is_read_is_written_bit_for_bit(self) -> None:
        again = self.family.write(self.family.read(self.theirs, self.said), self.said)
        assert_equal(again, self.theirs)

    def test_changes_nothing_that_it_is_given(self) -> None:
        ours = {name: tensor.clone() for name, tensor in self.weights.items()}
        theirs = {name: tensor.clone() for name, tensor in self.theirs.items()}
        self.family.read(self.theirs, self.said)
        assert_equal(self.theirs, theirs)
        assert_equal(self.weights, ours)

    def test_leaves_out_what_has_no_place(self) -> None:
        """As the heads of other tasks."""
        assert_equal(self.family.read({**self.theirs, "of.another.head": noise(3)}, self.said), self.weights)

    def test_says_which_tensors_are_missing(self) -> None:
        """Each of them by name; but a file may hold no head, and what isn't used is not missed."""
        trunk = {name: tensor for name, tensor in self.weights.items() if name.startswith("trunk.")}
        for name in self.theirs:
            lacking = {key: tensor for key, tensor in self.theirs.items() if key != name}
            message = _refusal(lambda lacking=lacking: self.family.read(lacking, self.said))
            if message:
                assert name in message, f"without {name}: {message}"
            else:
                found = self.family.read(lacking, self.said)
                assert_equal(found, self.weights if found.keys() > trunk.keys() else trunk)


class _Lookup(Embedding):
    """As tokenizers of text have it."""

    def __init__(self, tokens: TokenSpec, *, dim: int) -> None:
        super().__init__()
        self.grid = tokens.grid
        self.lookup = nn.Embedding(tokens.vocab_size or 1, dim)

    def forward(self, features: Features) -> Tokens:
        return Tokens(self.lookup(features["ids"]), Layout.of(self.grid))


def tokenizer_of(tokens: TokenSpec) -> Tokenizer:
    """One that knows what its tokens are, and makes none."""
    unable = dict.fromkeys(Tokenizer.__abstractmethods__)
    return type("MadeUp", (Tokenizer,), {**unable, "spec": tokens, "modality": "text"})()


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names, and the same bits."""
    assert found.keys() == expected.keys(), f"not in both: {sorted(found.keys() ^ expected.keys())}"
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, f"{name} is {found[name].dtype}"
        assert torch.equal(found[name], tensor), f"{name} is another"


def _refusal(attempt: Any) -> str:
    """The message with which something is refused; empty if it isn't."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    return ""
