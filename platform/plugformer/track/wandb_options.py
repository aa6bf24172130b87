"""What a user may want of the tracker on W&B, and what W&B allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plugformer.errors import UserError

LONGEST = 128  # characters of a name
FORBIDDEN = "/\\#?%:"  # in a project's name


@dataclass(frozen=True, kw_only=True)
class WandbOptions:
    """As in the options of the logger of that name, without what makes them plain values."""

    project: str | None
    entity: str | None
    run_name: str | None
    group: str | None
    tags: Sequence[str]
    notes: str | None
    mode: str
    artifacts: bool
    timeout: float

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: W&B would refuse it.
        """
        for option in ("project", "entity", "run_name", "group"):
            value = getattr(self, option)
            if value is not None and not 0 < len(value) <= LONGEST:
                raise UserError(f"logger.wandb.{option}={value}: must be from 1 to {LONGEST} characters long.")
        for option in ("project", "entity"):
            if found := set(getattr(self, option) or "") & set(FORBIDDEN):
                raise UserError(
                    f"logger.wandb.{option}={getattr(self, option)}: W&B allows none of {' '.join(FORBIDDEN)} in it; "
                    f"it has {' '.join(sorted(found))}."
                )
        for tag in self.tags:
            if not 0 < len(tag) <= 64:
                raise UserError(f"logger.wandb.tags: each must be from 1 to 64 characters long, not {tag!r}.")
        if not self.timeout > 0:  # NaN neither
            raise UserError(f"logger.wandb.timeout={self.timeout:g}: must be greater than 0.")
