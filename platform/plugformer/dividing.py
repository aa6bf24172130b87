"""What can't be divided among devices as asked is refused here, with what would work, before any data is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from plugformer.compatibility import plugins_that
from plugformer.errors import UserError
from plugformer.interfaces import Attention, Block, Optimizer, Position
from plugformer.model import Model
from plugformer.nn.blocks import ResidualBlock
from plugformer.nn.tensor_parallel import attentions_of, blocks_of, feed_forwards_of
from plugformer.registry import find
from plugformer.settings import TrainerSettings

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")  # others' steps are left out by what one process knows


def check_divides_model(config: Mapping[str, Any], model: Model) -> None:
    """
    Raises:
        UserError: a strategy that has nothing to divide, or a model, optimiser or precision that it can't go with.
    """
    settings = TrainerSettings(**config["trainer"])
    strategy, world = settings.strategy, settings.devices * settings.num_nodes
    if world == 1 and strategy != "auto":
        raise UserError(
            f"trainer.strategy={strategy}: divides work among devices, and there is one.\n"
            "  Set trainer.devices to how many there are, or trainer.strategy=auto."
        )
    if settings.checkpoint == "sharded" and strategy != "fsdp":
        raise UserError("trainer.checkpoint=sharded: only processes of trainer.strategy=fsdp have shards to write.")
    if strategy not in ("fsdp", "tensor_parallel"):
        return
    if settings.precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision={settings.precision}: can't go with trainer.strategy={strategy}.\n"
            f"  Set trainer.precision to {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, or trainer.strategy=ddp."
        )
    optimizer = config["optimizer"]["name"]
    if not cast("type[Optimizer]", find("optimizer", optimizer).load()).elementwise:
        raise UserError(
            f"optimizer={optimizer} needs whole matrices, of which trainer.strategy={strategy} leaves each device a "
            f"part.{_able('optimizer', lambda cls: cls.elementwise)} Or set trainer.strategy=ddp."
        )
    if strategy == "tensor_parallel":
        _check_tensor_parallel(config, model, world)


def _check_tensor_parallel(config: Mapping[str, Any], model: Model, world: int) -> None:
    backbone, name = model.trunk.backbone, {kind: config[kind]["name"] for kind in ("backbone", "block")}
    blocks = blocks_of(backbone)
    if not blocks:
        raise UserError(
            f"trainer.strategy=tensor_parallel: backbone={name['backbone']} with these options has no blocks to "
            "divide.\n  Set trainer.strategy=ddp."
        )
    for block in blocks:
        _check_block(config, block)
    for attention in attentions_of(backbone):
        _check_heads("num_heads", attention.num_heads, world)
        _check_heads("num_kv_heads", attention.value.out_features // attention.head_dim, world)
        _check_mechanism(config, attention.mechanism)
    for position in [module for module in backbone.modules() if isinstance(module, Position)]:
        if position.adds_bias and type(position).keep_heads is Position.keep_heads:
            able = _able("position", lambda cls: not cls.adds_bias or cls.keep_heads is not Position.keep_heads)
            raise UserError(
                f"position={config['position']['name']} biases each head, and can't be divided among devices.{able}"
            )
    for feed_forward in feed_forwards_of(backbone):
        for linear in (getattr(feed_forward, each) for each in feed_forward.by_columns):
            if linear.out_features % world:
                width = linear.out_features
                near = [width // world * world, -(-width // world) * world]
                raise UserError(
                    f"trainer.strategy=tensor_parallel: the {width} hidden units of feed_forward="
                    f"{config['feed_forward']['name']} can't be divided among {world} devices.\n"
                    f"  Choose a feed_forward.expansion that makes {' or '.join(str(each) for each in near if each)}, "
                    f"or another trainer.devices."
                )


def _check_block(config: Mapping[str, Any], block: Block) -> None:
    if not isinstance(block, ResidualBlock):
        able = _able("block", lambda cls: issubclass(cls, ResidualBlock))
        raise UserError(f"block={config['block']['name']} can't be divided among devices.{able}")
    if not hasattr(block.feed_forward, "by_columns"):
        able = _able("feed_forward", lambda cls: hasattr(cls, "by_columns"))
        raise UserError(
            f"feed_forward={config['feed_forward']['name']} doesn't say how its hidden layer can be divided among "
            f"devices.{able}"
        )


def _check_heads(option: str, heads: int, world: int) -> None:
    if heads % world:
        possible = [number for number in range(2, heads + 1) if heads % number == 0]
        devices = f"trainer.devices to {', '.join(map(str, possible))}, or " if possible else ""
        raise UserError(
            f"trainer.strategy=tensor_parallel: {heads} heads (backbone.{option}) can't be divided among {world} "
            f"devices.\n  Set {devices}backbone.{option} to a multiple of {world}."
        )


def _check_mechanism(config: Mapping[str, Any], mechanism: Attention) -> None:
    if not mechanism.capabilities.divides:
        kinds = ("attention", "cross_attention")
        chosen = [
            f"{kind}={config[kind]['name']}"
            for kind in kinds
            if kind in config and isinstance(mechanism, find(kind, config[kind]["name"]).load())
        ]
        raise UserError(
            f"{chosen[0] if chosen else type(mechanism).__name__} doesn't declare that its heads can be divided among "
            f"devices.{_able('attention', lambda cls: cls.capabilities.divides)}"
        )


def _able(kind: str, allows: Callable[[Any], bool]) -> str:
    names = plugins_that(kind, allows)
    return f"\n  These can: {', '.join(f'{kind}={name}' for name in names)}." if names else ""
