"""How deep in a model its parameters stand, to freeze the lower ones or to train them more slowly."""

from collections.abc import Iterator
from typing import Literal

from torch import nn

from plugformer.errors import UserError
from plugformer.interfaces import Block, Task, Trunk
from plugformer.nn.recurrence import RecurrentLayer

Frozen = int | Literal["none", "embedding", "trunk"]


def parameter_depths(trunk: Trunk, task: Task) -> dict[nn.Parameter, int]:
    """For each parameter, how many blocks stand under it, and one more if it stands in a block.

    Embedding, positions, registers and all else that the backbone holds before its blocks are at 0, block i at i + 1,
    and what it holds after them, such as the final norm, at the number of blocks + 1, as the head. The blocks of a
    decoder stand upon those of its encoder, and what stands between the two with the last of the encoder; embeddings
    of both are at 0. A parameter that is used in two places stands at the lower one.

    Raises:
        UserError: not every layer of the backbone is a block, so that nobody can tell.
    """
    backbone = trunk.backbone
    blocks = list(_outermost_layers(backbone))
    if len(blocks) != backbone.num_layers:
        raise UserError(
            f"{type(backbone).__name__} has {backbone.num_layers} layers and {len(blocks)} blocks in them, so which "
            "parameter is of which layer can't be told.\n  Set trainer.freeze=none and trainer.layer_decay=1."
        )
    top = len(blocks) + 1
    depths = dict.fromkeys(_embeddings(trunk), 0)
    for number, block in enumerate(blocks, 1):
        for parameter in block.parameters():
            depths.setdefault(parameter, number)
    reached = 0  # parameters come in the order in which the backbone took them in
    for parameter in backbone.parameters():
        reached = max(reached, depths.get(parameter, 0))
        depths.setdefault(parameter, top if reached == len(blocks) else reached)
    for parameter in task.parameters():
        depths.setdefault(parameter, top)
    return depths


def _embeddings(trunk: Trunk) -> list[nn.Parameter]:
    target = [] if trunk.target_embedding is None else trunk.target_embedding.parameters()
    return [*trunk.embedding.parameters(), *target]


def _outermost_layers(module: nn.Module) -> Iterator[Block | RecurrentLayer]:
    for child in module.children():
        if isinstance(child, Block | RecurrentLayer):
            yield child
        else:
            yield from _outermost_layers(child)


def check_layer_decay(trunk: Trunk, task: Task, decay: float) -> None:
    """
    Raises:
        UserError: the layers can't be told apart, or none of those under the head is trained.
    """
    if decay == 1:
        return
    depths = parameter_depths(trunk, task)
    if all(depth == max(depths.values()) for parameter, depth in depths.items() if parameter.requires_grad):
        raise UserError(
            f"trainer.layer_decay={decay}: has no effect, since all blocks are frozen.\n"
            "  Set trainer.layer_decay=1, or freeze less with trainer.freeze."
        )


def freeze(trunk: Trunk, task: Task, what: Frozen) -> None:
    """Let these parameters stay as they are.

    Args:
        trunk, task: whose.
        what: `embedding`: all at depth 0. A number: those of as many blocks too. `trunk`: all but the task's. `none`.

    Raises:
        UserError: more blocks than there are, or nothing is left to train.
    """
    if what == "none":
        return
    num_layers = trunk.backbone.num_layers
    if isinstance(what, int) and what > num_layers:
        raise UserError(
            f"trainer.freeze={what}: the backbone has only {num_layers} blocks.\n"
            f"  Set trainer.freeze to none, embedding, 1 to {num_layers}, or trunk for all but the head."
        )
    if what == "trunk":
        frozen = [*_embeddings(trunk), *trunk.backbone.parameters()]
    else:
        highest = 0 if what == "embedding" else what
        frozen = [parameter for parameter, depth in parameter_depths(trunk, task).items() if depth <= highest]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for part in (trunk.backbone, task) for parameter in part.parameters()):
        raise UserError(
            f"trainer.freeze={what}: nothing is left to train; {type(task).__name__} has no weights of its own.\n"
            f"  Set trainer.freeze to none, embedding, or a number up to {num_layers}."
        )
