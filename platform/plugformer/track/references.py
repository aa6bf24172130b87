"""Artifacts of W&B by what a user calls them: `wandb:entity/project/name:alias`."""

from __future__ import annotations

from pathlib import Path

from plugformer.errors import UserError

PREFIX = "wandb:"


def is_reference(where: str) -> bool:
    return where.startswith(PREFIX)


def name_in(reference: str) -> str:
    """As wandb takes it: `entity/project/name:alias`.

    Raises:
        UserError: not of that form.
    """
    name = reference.removeprefix(PREFIX)
    path, _, alias = name.partition(":")
    parts = path.split("/")
    if not alias or len(parts) not in (2, 3) or not all(parts):
        raise UserError(
            f"{reference}: not an artifact; expected wandb:ENTITY/PROJECT/NAME:ALIAS, as in "
            "wandb:me/plugformer/model-1a2b3c4d:best."
        )
    return name


def fetch(reference: str, folder: Path) -> Path:
    """A folder with the artifact's files, in the form of a run directory.

    Args:
        reference: as a user writes it.
        folder: that artifacts are kept in; each version is loaded once.

    Raises:
        UserError: no such artifact, no key, or no server.
    """
    name = name_in(reference)
    from plugformer.track.wandb_download import download  # noqa: PLC0415  # wandb takes half a second

    return download(name, folder)
