"""Artifacts from a W&B server."""

from __future__ import annotations

from pathlib import Path

import wandb

from plugformer.errors import UserError
from plugformer.track.wandb_artifacts import TYPE
from plugformer.track.wandb_server import Server

PATIENCE = 20  # seconds for an answer about an artifact


def download(name: str, folder: Path) -> Path:
    """
    Args:
        name: as `entity/project/name:alias`.
        folder: that artifacts are kept in.

    Raises:
        UserError: no such artifact, no key, or no server.
    """
    settings = wandb.setup().settings
    problem = "WANDB_MODE says so" if settings.mode in ("offline", "disabled", "dryrun") else None
    if problem := problem or Server.of(settings).find_problem():
        raise UserError(
            f"wandb:{name}: an artifact can only be had online: {problem}.\n"
            "  Where the run itself is at hand, give its run directory."
        )
    try:
        artifact = wandb.Api(timeout=PATIENCE).artifact(name)
        if artifact.type != TYPE:
            raise UserError(f"wandb:{name}: of type {artifact.type}; expected {TYPE}, as a run leaves it.")
        place = folder / artifact.entity / artifact.project / artifact.name.replace(":", "-")
        return Path(artifact.download(root=str(place), skip_cache=True))
    except (wandb.errors.CommError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"wandb:{name}: can't be had from W&B ({reason}).") from None
