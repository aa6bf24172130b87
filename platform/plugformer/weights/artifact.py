"""Runs that a tracker's server keeps."""

from pathlib import Path

from plugformer.data.cache import user_cache
from plugformer.run_dir import RunDir
from plugformer.track.references import fetch, is_reference


def local(where: str) -> Path:
    """A path as it is; of an artifact, `wandb:ENTITY/PROJECT/NAME:ALIAS`, a run directory that it was loaded into.

    Raises:
        UserError: no such artifact, or it can't be had now.
    """
    return fetch(where, user_cache() / "artifacts") if is_reference(where) else Path(where).expanduser()


def chosen_checkpoint(where: str, run: RunDir) -> str:
    """The name of a run's best; of an artifact, which has but one, that which its alias chose."""
    found = [path.stem for path in run.checkpoints.glob("*.ckpt")]
    return found[0] if is_reference(where) and len(found) == 1 else "best"
