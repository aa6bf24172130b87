"""`plugformer export RUN_DIR [to=DIR]`: a run's model as files that other programs load."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from plugformer.cli.values import read_settings
from plugformer.errors import UserError

HELP = """usage: plugformer export RUN_DIR [to=DIR] [checkpoint=best] [family=NAME] [plugins=[FILE]]

Writes a trained model as model.safetensors, config.json and tokenizer/, under our names, and into huggingface/ in the
form that transformers loads, where the architecture has one. init_from=DIR begins a run with either.

  RUN_DIR               a folder that `plugformer train` made
  to=DIR                a new or empty folder; by default RUN_DIR/export
  checkpoint=NAME       best or last
  family=NAME           which Hugging Face form, one of `plugformer plugins family`; by default the first that fits
  plugins=[FILE]        plugin files that the run was trained with: files are never run unless named here
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options, as `HELP` explains them."""

    to: str | None = None
    checkpoint: Literal["best", "last"] = "best"
    family: str | None = None


def main(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP)
        return 0 if argv else 2
    path, *texts = argv
    settings = read(texts)

    from plugformer.weights.export import export  # heavy: torch

    found = export(path, settings.to, checkpoint=settings.checkpoint, family=settings.family)
    print(f"{found.folder}: {found.num_tensors} tensors, {found.num_numbers:,} numbers")
    if found.huggingface is not None:
        folder, architecture = found.huggingface
        print(f"{folder}: for transformers.{architecture}")
        return 0
    print("No Hugging Face form fits. The nearest:")
    for reason in found.reasons:
        print("  " + reason.replace("\n", "\n  "))
    return 0


def read(texts: Iterable[str]) -> Settings:
    """
    Raises:
        UserError: an unknown option, one that is set twice, or a value that it can't have.
    """
    settings = read_settings(Settings, texts, "export")
    if settings.to == "":
        raise UserError("to=: an empty name. Leave it out for RUN_DIR/export.")
    return settings
