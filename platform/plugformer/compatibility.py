"""What can't be combined is refused here, by name and with what would work, before any data is read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from plugformer.errors import UserError
from plugformer.interfaces import Attention, Block, Capabilities, DataSpec, Position, Role, Tokenizer
from plugformer.model import Model
from plugformer.registry import find, offers

# What a composition says of a part that its backbone has no use for: what it says by itself, and that there are no
# positions.
UNUSED = {"block": "pre_norm", "attention": "full", "position": "none", "norm": "layer", "feed_forward": "mlp"}


def check_target(config: Mapping[str, Any], *, target: Tokenizer | None) -> None:
    """
    Args:
        config: a checked composition.
        target: the tokenizer of texts that are to be written, if there is one.

    Raises:
        UserError: a task that writes texts without one, or one that none writes with.
    """
    task, tokenizer = config["task"]["name"], config["tokenizer"]["name"]
    writes = "target_tokenizer" in find("task", task).signature.parameters
    if writes and target is None:
        able = plugins_that("tokenizer", lambda cls: cls.modality == "text")
        raise UserError(
            f"task={task} writes texts, and tokenizer={tokenizer} makes none.\n  Choose a tokenizer for them: "
            f"{', '.join(f'target_tokenizer={name}' for name in able)}"
        )
    if not writes and "target_tokenizer" in config:
        raise UserError(
            f"target_tokenizer={config['target_tokenizer']['name']}: task={task} writes no texts with a tokenizer "
            "of their own. Leave it out, or choose a task that does."
        )
    if writes and target is not None and target.modality != "text":
        raise UserError(
            f"target_tokenizer={config['target_tokenizer']['name']}: what is written is text; this one is of "
            f"{target.modality}."
        )


def check_compatible(config: Mapping[str, Any], *, source: DataSpec, tokenizer: Tokenizer, model: Model) -> None:
    """
    Raises:
        UserError: the first pair of parts that can't go together.
    """
    name = {kind: node["name"] for kind, node in config.items() if isinstance(node, Mapping) and "name" in node}
    backbone, needs, spec = model.trunk.backbone, model.task.needs, tokenizer.spec
    if tokenizer.modality not in source.keys:
        raise UserError(
            f"tokenizer={name['tokenizer']} reads {tokenizer.modality}, and data={name['data']} has only "
            f"{', '.join(sorted(source.keys))}.{_working('tokenizer', lambda cls: cls.modality in source.keys)}"
        )
    if lacking := sorted(needs.keys - source.keys):
        raise UserError(f"task={name['task']} needs {', '.join(lacking)}, which data={name['data']} doesn't have.")
    if spec.token_kind not in needs.token_kinds:
        raise UserError(
            f"task={name['task']} needs {' or '.join(sorted(needs.token_kinds))} tokens; those of "
            f"tokenizer={name['tokenizer']} are {spec.token_kind}."
        )
    if backbone.direction not in needs.directions:
        possible = " or ".join(sorted(needs.directions))
        raise UserError(
            f"task={name['task']} with these options needs {'an' if possible[0] in 'aeiou' else 'a'} {possible} "
            f"backbone; backbone={name['backbone']} is {backbone.direction}."
            f"{_working('backbone', lambda cls: cls.direction in needs.directions)}"
        )
    if spec.overlaps and needs.separate_tokens:
        raise UserError(
            f"task={name['task']} predicts tokens; those of tokenizer={name['tokenizer']} with these options share "
            "numbers with their neighbours, from which they could be copied.\n  Choose patches that don't overlap."
        )
    if spec.mixes and not model.task.mixes:
        raise UserError(
            f"task={name['task']} can't learn from mixed samples, and tokenizer={name['tokenizer']} with these options "
            "mixes those of a training batch.\n  Mix none."
        )
    if spec.packs and needs.whole_samples:
        raise UserError(
            f"task={name['task']} needs one sample in each sequence; tokenizer={name['tokenizer']} with these options "
            "packs several into one.\n  Set tokenizer.packing=none."
        )
    if spec.segments and config["backbone"].get("num_registers"):
        raise UserError(
            f"backbone.num_registers={config['backbone']['num_registers']}: registers belong to one document; "
            f"tokenizer={name['tokenizer']} with these options packs several into one sequence.\n"
            "  Set backbone.num_registers=0 or tokenizer.packing=none."
        )
    if "cross_attention" in name and backbone.direction != "encoder_decoder":
        raise UserError(
            f"cross_attention={name['cross_attention']}: backbone={name['backbone']} has no cross-attention. Leave it "
            f"out.{_working('backbone', lambda cls: cls.direction == 'encoder_decoder')}"
        )
    for kind in sorted(backbone.unused & config.keys()):
        _check_unused(kind, config, name)
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    crosses = backbone.direction == "encoder_decoder" and "cross_attention" not in backbone.unused
    if crosses and not all(block.crosses for block in blocks):
        raise UserError(
            f"block={name['block']} has no cross-attention, as backbone={name['backbone']} with these options needs."
            f"{_working('block', lambda cls: cls.crosses)}"
        )
    for role, alike in backbone.mechanisms().items():
        for mechanism in {type(each): each for each in alike}.values():
            _check_mechanism(mechanism, role, name, tokenizer=tokenizer, model=model)


def _check_unused(kind: str, config: Mapping[str, Any], name: Mapping[str, str]) -> None:
    """
    Raises:
        UserError: a part is chosen that the backbone has no use for, or one of its options.
    """
    idle = UNUSED.get(kind)
    if idle is not None and name[kind] == idle:
        chosen, options = config[kind], find(kind, idle).options
        which = next((f"{kind}.{key}={chosen[key]}" for key in options if chosen[key] != options[key]), None)
        if which is None:
            return
    else:
        which = f"{kind}={name[kind]}"
    leave = "Leave it out." if idle is None or name[kind] == idle else f"Set {kind}={idle}."
    raise UserError(f"{which}: backbone={name['backbone']} with these options has no use for it. {leave}")


def _check_mechanism(
    mechanism: Attention, role: Role, name: Mapping[str, str], *, tokenizer: Tokenizer, model: Model
) -> None:
    """
    Raises:
        UserError: a mechanism that can't do what its place in the backbone asks of it.
    """
    backbone, spec, reads = model.trunk.backbone, tokenizer.spec, f"tokenizer={name['tokenizer']}"
    written = model.task.target_tokenizer
    if role == "decoder" and backbone.direction == "encoder_decoder" and written not in (None, tokenizer):
        assert written is not None
        spec, reads = written.spec, f"target_tokenizer={name['target_tokenizer']}"
    needed: dict[str, Callable[[Capabilities], bool]] = {}
    if role == "cross":
        needed[f"attend from one sequence to another, as backbone={name['backbone']} needs"] = lambda can: (
            can.cross_attention and not can.shared_query_key
        )
    if role == "decoder":
        needed[f"be causal, as backbone={name['backbone']} needs"] = lambda can: can.causality != "none"
    if backbone.direction == "prefix":
        needed[f"honour prefixes, as backbone={name['backbone']} needs"] = lambda can: can.prefix
    if spec.pads:
        needed[f"honour key padding, as {reads} needs"] = lambda can: can.key_padding
    if spec.segments:
        needed[f"honour segments, as {reads} needs"] = lambda can: can.segments
    if role != "cross" and any(module.adds_bias for module in model.modules() if isinstance(module, Position)):
        needed[f"take an additive bias, as position={name['position']} needs"] = lambda can: can.additive_bias
    if any(module.recomputes for module in model.modules() if isinstance(module, Block)):
        needed[f"do the same when run once more, as block={name['block']} needs"] = lambda can: can.replays
    part = "cross_attention" if role == "cross" else "attention"
    chosen = f"{part}={name.get(part, 'full')}"
    for what, allows in needed.items():
        if not allows(mechanism.capabilities):
            raise UserError(f"{chosen} can't {what}.{_working_mechanism(part, allows)}")
    if role == "decoder" and mechanism.capabilities.causality == "gradient":
        warnings.warn(
            f"{chosen} is causal in its gradients alone: future tokens can change past outputs, so losses are not "
            "those of predicting one token after the other.",
            stacklevel=3,
        )
    if (seen := model.task.seen(len(spec.grid))) < mechanism.capabilities.min_length:
        shown = f", of which task={name['task']} shows it {seen}" if seen < len(spec.grid) else ""
        raise UserError(
            f"{chosen} needs at least {mechanism.capabilities.min_length} tokens; {reads} makes {len(spec.grid)}"
            f"{shown}."
        )


def _working_mechanism(part: str, allows: Callable[[Capabilities], bool]) -> str:
    return _working(part, lambda cls: allows(cls.capabilities))


def _working(kind: str, allows: Callable[[Any], bool]) -> str:
    """The installed plugins of a kind that would do, as the end of a message."""
    able = plugins_that(kind, allows)
    return f"\n  These would work: {', '.join(f'{kind}={name}' for name in able)}" if able else ""


def plugins_that(kind: str, allows: Callable[[Any], bool]) -> list[str]:
    """The names of the installed plugins of a kind whose class `allows` it."""
    able = []
    for name in offers(kind):
        try:
            if allows(find(kind, name).load()):
                able.append(name)
        except (UserError, AttributeError):  # broken, or it depends on its options: no use as a suggestion
            continue
    return able
