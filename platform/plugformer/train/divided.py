"""Models of which each process holds a part.

Checkpoints hold whole tensors, as those of one process do, so that a run can go on with any number of processes, and
whatever reads a run need not know how it was trained.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from plugformer.interfaces import Block
from plugformer.model import Model
from plugformer.nn.tensor_parallel import Part, divide
from plugformer.sharded import WEIGHTS, read_sharded, write_sharded
from plugformer.spread import gathered, part_of

BACKBONE = "model.trunk.backbone."  # of names in a training module's state


class Divided(ModelParallelStrategy):
    """Lightning's own, but for checkpoints: it would name the states of optimisers by another order of parameters than
    that of their groups, which is what those of one process have.

    Attributes:
        axes: along which tensors of the training module's state are divided, where they don't know it themselves.
    """

    def __init__(self, *, data_parallel_size: int, tensor_parallel_size: int) -> None:
        super().__init__(data_parallel_size, tensor_parallel_size, save_distributed_checkpoint=False)
        self.axes: dict[str, int] = {}
        self._is_divided = False

    def divide_once(self, model: Model) -> None:
        """Leave each process its part of the model, in place."""
        if not self._is_divided:
            self.divide(model)
            self._is_divided = True

    def divide(self, model: Model) -> None:
        raise NotImplementedError

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """On the first process; nothing on the others, who have to ask, too."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        return self._on_first({name: (value, self.axes.get(name)) for name, value in state.items()})

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own, parts = self.lightning_module.state_dict(), dict(checkpoint["state_dict"])
        for name in own.keys() & parts.keys():
            parts[name] = part_of(parts[name], own[name], self.axes.get(name))
        self.lightning_module.load_state_dict(parts, strict=strict)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As `lightning_module_state_dict`."""
        own = _bare(optimizer)
        state, parameters = own.state_dict(), _parameters(own)
        whole = {
            number: self._on_first({name: (value, _axis(value, parameters[number])) for name, value in states.items()})
            for number, states in state["state"].items()
        }
        return {**state, "state": whole}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            own = _bare(optimizer)
            parameters = _parameters(own)
            parts = {
                number: {name: _part(value, parameters[number]) for name, value in states.items()}
                for number, states in state["state"].items()
            }
            own.load_state_dict({**state, "state": parts})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def _on_first(self, tensors: Mapping[str, tuple[Any, int | None]]) -> dict[str, Any]:
        """One after the other, so that no device ever holds more than one whole tensor."""
        found = {}
        for name, (value, axis) in tensors.items():
            whole = gathered(value.detach(), axis) if isinstance(value, Tensor) else value
            if self.is_global_zero:
                found[name] = whole.cpu() if isinstance(whole, Tensor) else whole
        return found


class FullySharded(Divided):
    """Weights, gradients and the optimiser's states are spread over all processes, and each block has its weights whole
    only while it works (Zhao et al. 2023; torch's FSDP2). Each process has its part of the batch.

    Args:
        world: processes.
        precision: as `trainer.precision`; in bf16-mixed, blocks are sent in bfloat16, and gradients summed in float32.
        sharded_checkpoints: whether each process writes its own part of a checkpoint.
    """

    def __init__(self, *, world: int, precision: str, sharded_checkpoints: bool = False) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1)
        self._sharded_checkpoints = sharded_checkpoints
        mixed = precision == "bf16-mixed"
        # What autocast would round anyway. Embeddings and the residual stream stay as they are in other strategies.
        self._policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if mixed else None,
            reduce_dtype=torch.float32 if mixed else None,
            cast_forward_inputs=False,
        )

    def divide(self, model: Model) -> None:
        mesh = self.device_mesh["data_parallel"]
        blocks: list[Any] = [module for module in model.modules() if isinstance(module, Block)]
        # A block that recomputes is never called itself, but its parts are.
        parts = [
            part
            for block in blocks
            for part in ([block.attention, block.feed_forward] if block.recomputes else [block])
        ]
        for part in parts:
            fully_shard(part, mesh=mesh, mp_policy=self._policy)
        # Torch looks for tensors that lead back to the weights in tuples, not in an Output.
        model.register_forward_hook(lambda model, inputs, output: (output.loss, output))
        fully_shard(model, mesh=mesh)
        model.register_forward_hook(lambda model, inputs, pair: pair[1])
        # By default, what was called before is fetched ahead; but the first process calls more, to show it.
        for ahead, part in zip([*parts[:1], *parts], [*parts, model], strict=False):
            part.set_modules_to_backward_prefetch([ahead])

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self._sharded_checkpoints:
            write_sharded(checkpoint, Path(filepath))
        else:
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path)
        return read_sharded(path, self._like) if path.is_dir() else super().load_checkpoint(path, weights_only)

    def _like(self, name: str, shape: torch.Size) -> Tensor | None:
        """Spread as a tensor of a checkpoint is to be; None for those that are whole everywhere."""
        assert self.lightning_module is not None
        kind, _, rest = name.partition("/")
        own: Any = None
        if kind == WEIGHTS:
            own = self.lightning_module.state_dict().get(rest)
        elif self.optimizers:
            index, number, _ = rest.split("/", 2)
            own = _parameters(_bare(self.optimizers[int(index)]))[int(number)]
        spread = isinstance(own, DTensor) and own.shape == shape
        return torch.empty_like(own.detach()) if spread else None

    def _on_first(self, tensors: Mapping[str, tuple[Any, int | None]]) -> dict[str, Any]:
        if not self._sharded_checkpoints:
            return super()._on_first(tensors)
        return {name: value.detach() if isinstance(value, Tensor) else value for name, (value, _) in tensors.items()}


class TensorParallel(Divided):
    """Each process has some heads and some hidden units of every block, and the same batch.

    Args:
        world: processes.
    """

    def __init__(self, *, world: int) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=world)

    def divide(self, model: Model) -> None:
        found = divide(model.trunk.backbone, Part(self.global_rank, self.world_size))
        self.axes = {f"{BACKBONE}{name}": axis for name, axis in found.items()}


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within, parts of a model can be called by themselves: each process that has sharded weights has all of them.

    Every process has to come here and wait for the others; what they do within is their own affair.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """By the numbers that the optimiser's state has them under."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _axis(value: Any, parameter: nn.Parameter) -> int | None:
    """Along which a state of a divided parameter is divided."""
    alike = isinstance(value, Tensor) and value.shape == parameter.shape
    return getattr(parameter, "divided_along", None) if alike else None


def _part(value: Any, parameter: nn.Parameter) -> Any:
    """Of a state that was saved whole; as large as the parameter, or one number for all of it."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return part_of(value, parameter, getattr(parameter, "divided_along", None))
