"""`plugformer predict RUN_DIR INPUT...`: what a run's model says of new inputs, as JSON lines."""

from __future__ import annotations

import argparse
import json

from plugformer.cli.compose import parse, register_files


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "plugformer predict",
        description="What a run's model says of new inputs: one JSON object a line, in the order of the inputs.",
    )
    parser.add_argument("run_dir", help="a folder that `plugformer train` made")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a file, or text for a text tokenizer")
    parser.add_argument("--checkpoint", default="best", help="best (the default) or last")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--pictures",
        metavar="DIR",
        help="a folder for PNG files, one an input, where the task has something to show, such as what was masked and "
        "its reconstruction (default: pictures/ in the run directory); those of equal names are replaced",
    )
    parser.add_argument(
        "--plugins", nargs="*", default=[], metavar="FILE", help="plugin files the run was trained with"
    )
    arguments = parser.parse_args(argv)
    register_files(parse([f"plugins=[{','.join(arguments.plugins)}]"]))

    from plugformer.predict import predict  # heavy: torch

    for found in predict(
        arguments.run_dir,
        arguments.inputs,
        checkpoint=arguments.checkpoint,
        batch_size=arguments.batch_size,
        pictures=arguments.pictures,
    ):
        print(json.dumps(found, ensure_ascii=False))
    return 0
