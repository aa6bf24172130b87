"""`plugformer predict RUN_DIR INPUT... [KEY=VALUE ...]`: what a run's model says of new inputs, as JSON lines."""

from __future__ import annotations

import argparse
import json
import re

from plugformer.cli.compose import parse, register_files
from plugformer.cli.generate import read_option
from plugformer.cli.values import read_options
from plugformer.errors import nearest
from plugformer.settings import GenerateSettings
from plugformer.signatures import read_class

DESCRIPTION = """What a run's model says of new inputs: one JSON object a line, in the order of the inputs.

A run whose task writes one sequence for another translates texts, transcribes sounds, captions images: input, text,
score (log-probability in nats), ended. Where it reads texts, an INPUT is a text, a file of texts, one a line, or - for
the lines of standard input. Texts are written as in the run's test, with the num_beams, length_penalty and
max_new_tokens of its task, or token by token the likeliest; options of `plugformer generate` say otherwise, as in

  plugformer predict runs/en_ko 'Add another' num_beams=4 length_penalty=0.6 no_repeat_ngram=3
  plugformer predict runs/en_ko messages.txt num_beams=1 max_new_tokens=40
  plugformer predict runs/en_ko -- 'a text with=an equals sign'
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "plugformer predict",
        usage="plugformer predict [options] RUN_DIR INPUT... [KEY=VALUE ...] [-- INPUT...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a folder that `plugformer train` made")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="a file, or text for a text tokenizer")
    parser.add_argument("--checkpoint", default="best", help="best (the default) or last")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="at a time; default 64")
    parser.add_argument(
        "--pictures",
        metavar="DIR",
        help="a folder for PNG files, one an input, where the task has something to show, such as what was masked and "
        "its reconstruction (default: pictures/ in the run directory); those of equal names are replaced",
    )
    parser.add_argument(
        "--plugins", nargs="*", default=[], metavar="FILE", help="plugin files the run was trained with"
    )
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_intermixed_args(argv[:end])
    options = [word for word in arguments.inputs if is_option(word)]
    inputs = [word for word in arguments.inputs if not is_option(word)] + argv[end + 1 :]
    if not inputs:
        parser.error("the following arguments are required: INPUT")
    register_files(parse([f"plugins=[{','.join(arguments.plugins)}]"]))
    read = read_options(GenerateSettings, options, "plugformer predict", read=read_option)

    from plugformer.predict import predict  # heavy: torch

    for found in predict(
        arguments.run_dir,
        inputs,
        checkpoint=arguments.checkpoint,
        batch_size=arguments.batch_size,
        pictures=arguments.pictures,
        options=read,
    ):
        print(json.dumps(found, ensure_ascii=False))
    return 0


def is_option(word: str) -> bool:
    """Whether it is KEY=VALUE, or likely meant to be; all else is an input."""
    written = re.match(r"\+{0,2}(\w+)=", word)
    return written is not None and _known(written[1])


def _known(key: str) -> bool:
    return nearest(key, read_class(GenerateSettings).parameters) is not None
