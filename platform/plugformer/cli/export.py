"""`plugformer export RUN_DIR [to=DIR]`: a run's model as files that other programs load."""

from __future__ import annotations

from plugformer.cli.compose import parse, register_files
from plugformer.errors import unknown

HELP = """usage: plugformer export RUN_DIR [to=DIR] [checkpoint=best] [family=NAME] [plugins=[FILE]]

Writes a trained model as model.safetensors, config.json and tokenizer/, under our names, and into huggingface/ in the
form that transformers loads, where the architecture has one. init_from=DIR begins a run with either.

  RUN_DIR               a folder that `plugformer train` made
  to=DIR                a new or empty folder; by default RUN_DIR/export
  checkpoint=NAME       best or last
  family=NAME           which Hugging Face form, one of `plugformer plugins family`; by default the first that fits
  plugins=[FILE]        plugin files that the run was trained with: files are never run unless named here
"""

OPTIONS = ("to", "checkpoint", "family", "plugins")


def main(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP)
        return 0 if argv else 2
    path, *texts = argv
    overrides = parse(texts)
    for each in overrides:
        if each.key_or_group not in OPTIONS:
            raise unknown(f"{each.key_or_group}: no such option of export", each.key_or_group, OPTIONS)
    register_files(overrides)

    from plugformer.weights.export import export  # heavy: torch

    values = {each.key_or_group: each.value() for each in overrides}
    to, family = values.get("to"), values.get("family")
    found = export(
        path,
        None if to is None else str(to),
        checkpoint=str(values.get("checkpoint", "best")),
        family=None if family is None else str(family),
    )
    print(f"{found.folder}: {found.num_tensors} tensors, {found.num_numbers:,} numbers")
    if found.huggingface is not None:
        folder, architecture = found.huggingface
        print(f"{folder}: for transformers.{architecture}")
        return 0
    print("No Hugging Face form fits. The nearest:")
    for reason in found.reasons:
        print("  " + reason.replace("\n", "\n  "))
    return 0
