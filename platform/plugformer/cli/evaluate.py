"""`plugformer evaluate RUN_DIR [overrides]`: the metrics of a run's checkpoint on a split."""

from __future__ import annotations

from typing import Any, get_args

from plugformer.cli.compose import parse, register_files
from plugformer.errors import UserError

HELP = """usage: plugformer evaluate RUN_DIR [split=test] [checkpoint=best] [KEY=VALUE ...]

Prints the metrics of a trained model and writes them to RUN_DIR/evaluation/SPLIT_CHECKPOINT.json.

  RUN_DIR               a folder that `plugformer train` made, or an artifact of it: wandb:ENTITY/PROJECT/NAME:ALIAS
  split=NAME            train, val or test
  checkpoint=NAME       best or last
  plugins=[FILE]        plugin files that the run was trained with: files are never run unless named here
  KEY=VALUE             any option of the run, such as loader.eval_batch_size=64 or data.root=other_images
"""


OF_TRAINING = ("init_from", "optimizer", "schedule", "callback", "logger", "run_dir")  # that nothing here reads


def main(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP)
        return 0 if argv else 2
    path, *texts = argv
    overrides = parse(texts)
    register_files(overrides)

    from plugformer.config import check_config
    from plugformer.interfaces import Split
    from plugformer.overriding import override_config
    from plugformer.recorded import load_config
    from plugformer.run_dir import RunDir, write_json
    from plugformer.train.evaluate import evaluate
    from plugformer.weights.artifact import chosen_checkpoint, local

    values = {each.key_or_group: each.value() for each in overrides}
    values.pop("plugins", None)
    split: Any = values.pop("split", "test")
    checkpoint = str(values.pop("checkpoint", ""))
    if split not in get_args(Split):
        raise UserError(f"split={split}: expected one of {', '.join(get_args(Split))}.")
    for key, value in values.items():
        if key.partition(".")[0] in OF_TRAINING:
            raise UserError(f"{key}={value}: has no effect on a trained model's metrics. Leave it out.")
        if key.startswith("loader.train_share") and split != "train":
            raise UserError(f"{key}={value}: has no effect on split={split}. Leave it out, or set split=train.")
    run = RunDir(local(path))
    checkpoint = checkpoint or chosen_checkpoint(path, run)
    config = check_config(override_config(load_config(run.path), values))
    summary = evaluate(run.path, config, split=split, checkpoint=checkpoint)
    folder = run.path / "evaluation"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{split}_{checkpoint}.json", summary)
    print(folder / f"{split}_{checkpoint}.json")
    return 0
