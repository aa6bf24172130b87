"""A family as a table: options and tensors, ours beside theirs, read in one direction and written in the other."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Family, TokenSpec
from plugformer_huggingface.activations import activation_of, name_of
from plugformer_huggingface.places import Places, read_places, write_places

EMBEDDING = "trunk.embedding.lookup"
POSITIONS = "trunk.backbone.position.tables.0.0"
UNTIED = "task.output.linear"
# What a composition means where it leaves a part out.
OPEN = {"cross_attention": {"name": "full"}}


class TableFamily(Family):
    """
    Attributes:
        title: what people call such a model.
        architecture: its class with a language model's head, in transformers.
        prefix: what the names of its base model's tensors begin with, unless a file holds the base model alone.
        fixed: by kind, what a run must say to be such a model, whatever its size; of several names it may say any.
        same: options of ours and of theirs that have the same value.
        activation, hidden: their options for the feed-forward's activation and the width of its hidden layer.
        sizes: further options of theirs that are numbers.
        expand: our feed-forward's first matrix in the first block.
        dropout: their options for dropout and ours.
        silent: what config.json means where it says nothing.
        demanded: what config.json must say if it says anything, because ours can't be otherwise.
    """

    title: ClassVar[str]
    architecture: ClassVar[str]
    prefix: ClassVar[str]
    fixed: ClassVar[Mapping[str, Mapping[str, Any]]]
    same: ClassVar[Mapping[str, str]]
    activation: ClassVar[str] = "hidden_act"
    hidden: ClassVar[str] = "intermediate_size"
    sizes: ClassVar[Sequence[str]] = ()
    expand: ClassVar[str] = "trunk.backbone.blocks.0.feed_forward.expand.weight"
    dropout: ClassVar[Mapping[str, str]]
    silent: ClassVar[Mapping[str, Any]] = {}
    demanded: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def places(self, config: Mapping[str, Any]) -> Places:
        """Where each tensor of ours stands in theirs.

        Args:
            config: their config.json, with `silent` filled in.
        """

    # ------------------------------------------------------------------------------------------ in

    def composition(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        said = self.said(config)
        made = {kind: dict(node) for kind, node in self.fixed.items()}
        for ours, theirs in self.same.items():
            kind, _, option = ours.partition(".")
            made[kind][option] = said[theirs]
        made["feed_forward"]["expansion"] = said[self.hidden] / said[self.same["backbone.dim"]]
        made["feed_forward"] |= self.feed_forward(said)
        return made

    def feed_forward(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What their name of the activation says of our feed-forward."""
        return {"activation": activation_of(said[self.activation], where=self.activation)}

    def said(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Their config.json with what it means where it is silent.

        Raises:
            UserError: it says what ours can't be, or not enough.
        """
        said = {**self.silent, **{key: value for key, value in config.items() if value is not None}}
        problems = list(self.wrong_values(said)) or list(self.problems(said))
        if problems:
            raise UserError("\n  ".join([f"config.json: no {self.title} that a model of ours can be.", *problems]))
        return said

    def wrong_values(self, said: Mapping[str, Any]) -> Iterator[str]:
        """What a single option says that it can't, one at a time."""
        for key, value in self.demanded.items():
            if said.get(key, value) != value:
                yield f"{key}={_written(said[key])}: ours has {_written(value)}"
        for key in dict.fromkeys([*self.same.values(), self.hidden, *self.sizes]):
            if not isinstance(said.get(key), int | float):
                yield f"{key}={_written(said.get(key))}: expected a number"
            elif said[key] <= 0 and not isinstance(said[key], bool):
                yield f"{key}={_written(said[key])}: must be more than 0"

    def problems(self, said: Mapping[str, Any]) -> Iterator[str]:
        """What options say together that ours can't be, where each is a value that it can have."""
        yield from ()

    def read(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        if not any(name.startswith(self.prefix) for name in weights):  # the base model alone
            weights = {self.prefix + name: tensor for name, tensor in weights.items()}
        places = self.places(self.said(config))
        head = {ours: place for ours, place in places.items() if ours.startswith("task.")}
        if not any(place.theirs in weights for place in head.values()):
            places = {ours: place for ours, place in places.items() if ours not in head}
        missing = sorted({place.theirs for place in places.values()} - weights.keys())
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise UserError(
                f"The weights are not those of the {self.title} that config.json describes: "
                f"{len(missing)} of {len(places)} tensors are missing.\n  {', '.join(missing[:5])}{more}"
            )
        return read_places(weights, places)

    # ------------------------------------------------------------------------------------------ out

    def form(self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        reasons = list(self.reasons(config, tokens))
        reasons = reasons or [_missing(name) for name in (f"{EMBEDDING}.weight", self.expand) if name not in weights]
        made: dict[str, Any] = {}
        if not reasons:
            made = self.their_config(config, tokens, weights)
            names = self.places(self.said(made)).keys()
            reasons += [f"{name}: {self.title} has no such weight" for name in sorted(weights.keys() - names)]
            reasons += [_missing(name) for name in sorted(names - weights.keys())]
        if reasons:
            raise UserError("\n  ".join([f"Not a {self.title}:", *reasons]))
        return made

    def reasons(self, config: Mapping[str, Any], tokens: TokenSpec) -> Iterator[str]:
        """Why a run's model is no such model, one at a time."""
        if tokens.vocab_size is None or len(tokens.grid.axes) != 1:
            yield f"tokenizer={config['tokenizer']['name']}: {self.title} has discrete tokens in a line"
        for kind, node in self.fixed.items():
            its = _shortest(config.get(kind, OPEN.get(kind)))
            names = [node["name"]] if isinstance(node["name"], str) else node["name"]
            if its["name"] not in names:
                yield f"{kind}={its['name']}: {self.title} has {' or '.join(f'{kind}={name}' for name in names)}"
                continue
            for option, value in node.items():
                if option != "name" and its[option] != value:
                    place = f"{kind}.{option}"
                    yield f"{place}={_written(its[option])}: {self.title} has {place}={_written(value)}"
        for theirs in dict.fromkeys(self.same.values()):
            ours = [place for place, name in self.same.items() if name == theirs]
            values = [config[kind].get(option) for kind, _, option in (place.partition(".") for place in ours)]
            if len(set(values)) > 1 and None not in values:
                said = ", ".join(f"{place}={value}" for place, value in zip(ours, values, strict=True))
                yield f"{said}: {self.title} has one number for all of them"

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """The config.json of a run's model, which fits."""
        table = weights[f"{EMBEDDING}.weight"]
        made = {
            "architectures": [self.architecture],
            "model_type": min(self.model_types),
            "dtype": str(table.dtype).removeprefix("torch."),
            "vocab_size": table.shape[0],
            self.hidden: weights[self.expand].shape[0],
            self.activation: self.their_feed_forward(config["feed_forward"]),
            **{f"{role}_token_id": tokens.specials.get(role) for role in ("bos", "eos", "pad")},
            **self.demanded,
        }
        for ours, theirs in [*self.same.items(), *self.dropout.items()]:
            kind, _, option = ours.partition(".")
            made[theirs] = config[kind][option]
        return made

    def their_feed_forward(self, node: Mapping[str, Any]) -> str:
        """Their name of the activation of our feed-forward."""
        return name_of(node["activation"])

    def write(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        return write_places(weights, self.places(self.said(config)))


def _shortest(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """As many heads of keys as of queries is what null means too."""
    same = "num_kv_heads" in node and node["num_kv_heads"] == node["num_heads"]
    return {**node, "num_kv_heads": None} if same else node


def _missing(name: str) -> str:
    return f"{name}: missing from the run's weights"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
