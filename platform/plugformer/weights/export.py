"""Out of a run directory: its model in our own form, and in Hugging Face's where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from plugformer.assemble import load_data_spec, load_run
from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.interfaces import Family, Tokenizer
from plugformer.recorded import load_config
from plugformer.registry import build, find
from plugformer.run_dir import RunDir, making
from plugformer.weights.huggingface import families
from plugformer.weights.huggingface_form import write_huggingface_form
from plugformer.weights.own_form import write_own_form

HUGGINGFACE = "huggingface"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: in our own form.
        num_tensors, num_numbers: the model's.
        huggingface: the folder in Hugging Face's form, and the class that loads it; None if no family fits.
        reasons: of the families that are nearest, why they don't fit.
    """

    folder: Path
    num_tensors: int
    num_numbers: int
    huggingface: tuple[Path, str] | None
    reasons: tuple[str, ...] = ()


def export(
    path: str | Path, to: str | Path | None = None, *, checkpoint: str = "best", family: str | None = None
) -> Exported:
    """Write a trained model as files that hold data alone. All of them appear at once, or none does.

    Args:
        path: the run directory.
        to: the folder to make, new or empty; by default `export` in the run directory.
        checkpoint: `best` or `last`.
        family: which Hugging Face form; by default the first that fits, by name.

    Raises:
        UserError: not a run directory, a folder that holds something, or not a model of the `family` asked for.
    """
    if family is not None:
        find("family", family)
    run = RunDir.open(path)
    folder = Path(to) if to is not None else run.path / "export"
    _check_free(folder)
    config = load_config(path)
    tokenizer, model = load_run(path, config, checkpoint=checkpoint)
    weights = model.state_dict()
    chosen, reasons = _fitting(config, tokenizer, weights, family)
    try:
        with making(folder) as made:
            write_own_form(made, config=config, tokenizer=tokenizer, model=model, labels=load_data_spec(run).labels)
            if chosen is not None:
                (made / HUGGINGFACE).mkdir()
                write_huggingface_form(
                    made / HUGGINGFACE,
                    said=chosen[1],
                    weights=chosen[0].write(weights, chosen[1]),
                    tokenizer=tokenizer,
                    generates=model.task.generates,
                    continues=model.task.generates and model.trunk.backbone.direction != "encoder_decoder",
                )
    except OSError as error:
        raise UserError(f"to={folder}: can't be written ({error.strerror}).") from None
    return Exported(
        folder,
        len(weights),
        sum(tensor.numel() for tensor in weights.values()),
        None if chosen is None else (folder / HUGGINGFACE, chosen[1]["architectures"][0]),
        reasons,
    )


def _check_free(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise UserError(f"to={folder}: is there already. Remove it, or choose another folder with to=FOLDER.")


def _fitting(
    config: Config, tokenizer: Tokenizer, weights: Mapping[str, Tensor], asked: str | None
) -> tuple[tuple[Family, dict[str, Any]] | None, tuple[str, ...]]:
    """The family that the model is of, with its config.json; or why it is none of the nearest."""
    if asked is not None:
        family: Family = build("family", {"name": asked})
        return (family, family.form(config, tokenizer.spec, weights)), ()
    refusals = []
    for _, family in families():
        try:
            return (family, family.form(config, tokenizer.spec, weights)), ()
        except UserError as error:
            refusals.append(str(error))
    nearest = min(map(_distance, refusals), default=None)
    return None, tuple(refusal for refusal in refusals if _distance(refusal) == nearest)


def _distance(refusal: str) -> tuple[int, int]:
    """Another backbone or task is farther than anything else; then the number of reasons."""
    reasons = [line.strip() for line in refusal.splitlines()]
    return sum(reason.startswith(("backbone=", "task=")) for reason in reasons), len(reasons)
