"""How the composition that weights were trained in differs from a run's, and what would make them one."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.interfaces import Tokenizer
from plugformer.registry import find, offers
from plugformer.run_dir import plain
from plugformer.weights.source import Weights

OF_MODEL = ("backbone", "block", "attention", "cross_attention", "position", "norm", "feed_forward")
UNSAID = {"cross_attention": {"name": "full"}}  # what a composition means where it leaves a part out
TARGET = "target_tokenizer"
# Options that change how a model is trained or begins, and not what it computes once it is trained.
OF_TRAINING = frozenset({"dropout", "embedding_dropout", "drop_path", "init", "residual_init"})


class Difference(NamedTuple):
    """One choice or option.

    Attributes:
        option: `name` where the plugins differ.
        theirs, ours: its values.
        decides_tokens: whether without it no trained tokenizer can be taken.
    """

    kind: str
    option: str
    theirs: Any
    ours: Any
    decides_tokens: bool = False

    @property
    def trained(self) -> bool:
        """Whether it gives a tokenizer what another one has learned."""
        return self.kind in ("tokenizer", TARGET) and self.option in ("from_run", "file") and self.theirs is not None

    def said(self, value: Any) -> str:
        """As on the command line."""
        return override(self.kind if self.option == "name" else f"{self.kind}.{self.option}", value)


def differences(weights: Weights, config: Config) -> list[Difference]:
    """Of the parts of the model; what only matters in training left out, as is what the weights don't speak of."""
    return [each for kind in OF_MODEL for each in _of_kind(kind, weights, config, OF_TRAINING)]


def differences_of_tokens(weights: Weights, config: Config) -> list[Difference]:
    """Of the tokenizer, likewise: with other options, continuous tokens of one shape mean something else."""
    ours: type[Tokenizer] = find("tokenizer", config["tokenizer"]["name"]).load()
    return list(_of_kind("tokenizer", weights, config, ours.training_options))


def _of_kind(kind: str, weights: Weights, config: Config, left_out: frozenset[str]) -> Iterator[Difference]:
    theirs, ours = (plain(each.get(kind, UNSAID.get(kind, {}))) for each in (weights.composition, config))
    if theirs.get("name", ours["name"]) != ours["name"]:
        yield Difference(kind, "name", theirs["name"], ours["name"])
        return
    for option, value in theirs.items():
        if option in ours and value != ours[option] and option not in left_out:
            yield Difference(kind, option, value, ours[option])


def overrides(weights: Weights, config: Config) -> list[Difference]:
    """What would make the composition that of the weights: as `differences`, with the options of other plugins."""
    needed = []
    for found in differences(weights, config):
        needed.append(found)
        if found.option == "name":
            default, ours = _defaults(found.kind, found.theirs), plain(config.get(found.kind, {}))
            for option, value in plain(weights.composition.get(found.kind, {})).items():
                if option == "name" or option in OF_TRAINING:
                    continue
                # An experiment's value for an option of ours stays when another plugin is chosen.
                if default.get(option, ...) != value or ours.get(option, value) != value:
                    needed.append(Difference(found.kind, option, value, None))
    return needed


def target_overrides(weights: Weights, config: Config) -> list[Difference]:
    """What would give the run the tokenizer of the texts that the weights write; none of its own if they have none."""
    if any(name.startswith("trunk.target_embedding.") for name in weights.tensors):
        return tokenizer_overrides(weights, config, kind=TARGET) if TARGET in weights.composition else []
    return [Difference(TARGET, "name", None, config[TARGET]["name"], True)] if TARGET in config else []


def tokenizer_overrides(
    weights: Weights, config: Config, name: str | None = None, *, kind: str = "tokenizer"
) -> list[Difference]:
    """What would give the run the tokenizer that the weights were trained with, as far as its options can say that.

    Args:
        weights: which.
        config: of the run.
        name: the plugin to take where the weights don't say which; by default the run's.
        kind: which of the run's tokenizers.
    """
    theirs, ours = plain(weights.composition.get(kind, {})), plain(config.get(kind, {}))
    own = ours.get("name")
    name = theirs.get("name", name or own)
    default = _defaults(kind, name)
    found = [] if name == own else [Difference(kind, "name", name, own, True)]
    trained = _trained(weights.tokenizer, default) if kind == "tokenizer" else _file(weights.target_tokenizer, default)
    if trained is not None:
        option, path = trained
        now = ours if name == own else {}
        # What an option leaves open by default, a trained tokenizer has decided.
        decided = [each for each, value in now.items() if value is not None and default.get(each, ...) is None]
        found += [Difference(kind, each, None, now[each], True) for each in decided if each != option]
        if now.get(option) != path:
            found.append(Difference(kind, option, path, now.get(option), True))
    settled = {each.option for each in found} | {each for each, value in default.items() if value is None and trained}
    for option, value in theirs.items():
        if option in default and option not in settled and option != "name":
            now = ours.get(option) if name == own else default[option]
            if now != value:
                found.append(Difference(kind, option, value, now))
    if not theirs and "max_length" in default:  # as many places as the weights have positions
        lengths = {len(tensor) for place, tensor in weights.tensors.items() if ".position." in place and tensor.dim()}
        found += [Difference("tokenizer", "max_length", length, ours.get("max_length")) for length in lengths]
    return found


def tokenizers_to_try(weights: Weights, config: Config) -> list[str]:
    """Names of plugins that the weights' tokenizer could be of, the likeliest first."""
    if "tokenizer" in weights.composition:
        return [str(weights.composition["tokenizer"]["name"])]
    own = config["tokenizer"]["name"]
    return [own, *(name for name in offers("tokenizer") if name != own and "file" in _defaults("tokenizer", name))]


def open_choices(name: str, config: Config) -> list[Difference]:
    """What a tokenizer leaves to the data, of which the options say all it could be, such as grey or colour."""
    ours = plain(config["tokenizer"])
    if name != ours["name"]:
        return []
    options = find("tokenizer", name).signature.parameters.values()
    return [
        Difference("tokenizer", option.name, value, None)
        for option in options
        if ours.get(option.name, ...) is None
        for part in get_args(option.type)
        if get_origin(part) is Literal
        for value in get_args(part)
    ]


def _trained(folder: Path | None, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """The option that takes a trained tokenizer, and its value."""
    if folder is not None and "from_run" in options and (folder.parent / "config.yaml").is_file():
        return "from_run", str(folder.parent)
    return _file(folder, options)


def _file(folder: Path | None, options: Mapping[str, Any]) -> tuple[str, str] | None:
    if folder is not None and "file" in options and (folder / "tokenizer.json").is_file():
        return "file", str(folder / "tokenizer.json")
    return None


def _defaults(kind: str, name: str) -> Mapping[str, Any]:
    try:
        return dict(plain(find(kind, name).options))
    except UserError:  # not installed here
        return {}


def applied(config: Config, changes: Sequence[Difference]) -> Config:
    """The composition with these overrides."""
    changed = {key: dict(node) if isinstance(node, dict) else node for key, node in config.items()}
    for each in changes:
        if each.option == "name" and each.theirs is None:
            del changed[each.kind]
        elif each.option == "name":
            changed[each.kind] = {"name": each.theirs}
        else:
            changed.setdefault(each.kind, dict(UNSAID.get(each.kind, {})))[each.option] = each.theirs
    return changed


def line(changes: Sequence[Difference]) -> str:
    return " ".join(each.said(each.theirs) for each in changes)


def override(key: str, value: Any) -> str:
    """`key=value` as one writes it in a shell."""
    if not isinstance(value, str):
        text = f"{key}={json.dumps(value, separators=(',', ':'), ensure_ascii=False)}"
        return text if re.fullmatch(r"[\w.=/+-]+", text) else f"'{text}'"
    plainly = re.fullmatch(r"[\w./+-]+", value)
    return f"{key}={value}" if plainly else f"'{key}=\"{value}\"'"
