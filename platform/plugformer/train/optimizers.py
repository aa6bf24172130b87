"""Optimisers of torch and its kin under their names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import lion_pytorch
import torch

from plugformer.errors import UserError
from plugformer.interfaces import Optimizer, ParameterGroups

Values = TypeVar("Values", bound=tuple[float, ...])


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); norms, biases and embeddings are not decayed.

    Args:
        lr: the highest learning rate, reached after warm-up.
        weight_decay: times the learning rate, the share of each matrix that is taken off per step.
        betas: decay of the running mean of gradients and of their squares.
        eps: added to the root of the mean square.
    """

    elementwise: ClassVar[bool] = True

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.lr, self.betas, self.eps = _positive(lr=lr), _decays(betas=betas), eps
        self.weight_decay = _not_negative(weight_decay=weight_decay)

    def build(self, groups: ParameterGroups) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups.with_decay(self.weight_decay), lr=self.lr, betas=self.betas, eps=self.eps)


class Adafactor(Optimizer):
    """Adam whose mean squares are kept as one row and one column a matrix (Shazeer and Stern 2018).

    A step is in proportion to the root mean square of the parameter that it changes, and to the smaller of the learning
    rate and one over the root of the step's number.

    Args:
        lr: the highest learning rate, reached after warm-up.
        weight_decay: times the learning rate, the share of each matrix that is taken off per step.
        beta2_decay: power of the step's number by which the mean squares learn less and less.
        smallest: a parameter's root mean square counts as at least this.
        clip: the highest root mean square of an update.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        beta2_decay: float = -0.8,
        smallest: float = 1e-3,
        clip: float = 1.0,
    ) -> None:
        if clip < 1:
            raise UserError(f"optimizer.clip={clip}: must be at least 1.")
        if not -1 <= beta2_decay < 0:
            raise UserError(f"optimizer.beta2_decay={beta2_decay}: must be from -1 to below 0.")
        self.lr, self.beta2_decay, self.smallest, self.clip = _positive(lr=lr), beta2_decay, smallest, clip
        self.weight_decay = _not_negative(weight_decay=weight_decay)

    def build(self, groups: ParameterGroups) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(
            groups.with_decay(self.weight_decay),
            lr=self.lr,
            beta2_decay=self.beta2_decay,
            eps=(None, self.smallest),
            d=self.clip,
        )


class Lion(Optimizer):
    """Steps of one size in the sign of a running mean of gradients, with decoupled weight decay (Chen et al. 2023).

    The paper advises a learning rate 3 to 10 times smaller than AdamW's, and a weight decay as much larger.

    Args:
        lr: the highest learning rate, reached after warm-up.
        weight_decay: times the learning rate, the share of each matrix that is taken off per step.
        betas: decay of the mean whose sign is taken, and of the one that is remembered.
    """

    elementwise: ClassVar[bool] = True

    def __init__(
        self, *, lr: float = 1e-4, weight_decay: float = 0.5, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        self.lr, self.betas = _positive(lr=lr), _decays(betas=betas)
        self.weight_decay = _not_negative(weight_decay=weight_decay)

    def build(self, groups: ParameterGroups) -> torch.optim.Optimizer:
        return lion_pytorch.Lion(groups.with_decay(self.weight_decay), lr=self.lr, betas=self.betas)


class Muon(Optimizer):
    """Momentum made orthogonal for the matrices inside the backbone, AdamW for all else (Jordan et al. 2024).

    Args:
        lr: the highest learning rate of the backbone's matrices, reached after warm-up.
        adamw_lr: that of all else; null for the same.
        weight_decay: times the learning rate, the share of each matrix that is taken off per step.
        momentum: decay of the running mean of a matrix's gradients (Nesterov).
        scale: a matrix's step by its shape. adamw: as long as one of AdamW (Liu et al. 2025, section 2.2), so that
            `lr` is like AdamW's; original: of norm 1, which wants an `lr` around 0.02.
        betas: of AdamW: decay of the running mean of gradients and of their squares.
        eps: of AdamW: added to the root of the mean square.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        adamw_lr: float | None = None,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        scale: Literal["adamw", "original"] = "adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.lr, self.scale = _positive(lr=lr), scale
        if not 0 <= momentum < 1:
            raise UserError(f"optimizer.momentum={momentum}: is from 0 to below 1.")
        self.momentum = momentum
        self.weight_decay = _not_negative(weight_decay=weight_decay)
        adamw_lr = lr if adamw_lr is None else _positive(adamw_lr=adamw_lr)
        self.adamw = AdamW(lr=adamw_lr, weight_decay=weight_decay, betas=betas, eps=eps)

    def build(self, groups: ParameterGroups) -> torch.optim.Optimizer:
        hidden = set(map(id, groups.hidden))
        rest = replace(groups, decayed=[parameter for parameter in groups.decayed if id(parameter) not in hidden])
        parts: list[torch.optim.Optimizer] = []
        if groups.hidden:
            parts.append(
                torch.optim.Muon(
                    groups.hidden,
                    lr=self.lr,
                    weight_decay=self.weight_decay,
                    momentum=self.momentum,
                    adjust_lr_fn="match_rms_adamw" if self.scale == "adamw" else "original",
                )
            )
        if rest.decayed or rest.undecayed:
            parts.append(self.adamw.build(rest))
        return Together(parts)


class Together(torch.optim.Optimizer):
    """Several optimisers, each of its own parameters, as one: one list of groups, one state, one step.

    The parts share this one's groups and state, so that what a schedule or a checkpoint sets here is set there.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state


def _positive(**options: float) -> float:
    ((name, value),) = options.items()
    if not value > 0:
        raise UserError(f"optimizer.{name}={value}: must be greater than 0.")
    return value


def _not_negative(**options: float) -> float:
    ((name, value),) = options.items()
    if not value >= 0:
        raise UserError(f"optimizer.{name}={value}: must not be negative.")
    return value


def _decays(**options: Values) -> Values:
    ((name, values),) = options.items()
    if not all(0 <= value < 1 for value in values):
        raise UserError(f"optimizer.{name}={values}: each is from 0 to below 1.")
    return values
