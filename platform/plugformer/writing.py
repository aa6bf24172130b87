"""What a run writes for new inputs, where its task writes one sequence for another: translations, captions …"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plugformer.config import Config
from plugformer.errors import UserError
from plugformer.generate import Generated, write
from plugformer.generating import Generating, load_generating
from plugformer.prompts import Prompt
from plugformer.settings import GenerateSettings

TESTED = ("num_beams", "length_penalty", "max_new_tokens")  # options of tasks that say how their tests decode
LIKE_A_PATH = re.compile(r"(~|\.{1,2})?/\S+|\S+\.(txt|text|lines|tsv|csv|jsonl)")
INSTEAD = {
    "prompt": "inputs stand by themselves",
    "prompts": "inputs stand by themselves; a file of texts can be one",
    "checkpoint": "set --checkpoint",
    "batch_size": "set --batch-size",
    "stream": "each text is a JSON object of its own line",
    "json": "each text is a JSON object of its own line",
    "draft": "a draft is for one text at a time, as `plugformer generate` writes them",
    "draft_tokens": "a draft is for one text at a time, as `plugformer generate` writes them",
}


def check_options(options: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: one that can't be set here.
    """
    for name in options:
        if name in INSTEAD:
            raise UserError(f"{name}: no option of plugformer predict: {INSTEAD[name]}.")


def write_for(
    path: str | Path,
    config: Config,
    inputs: Sequence[str],
    options: Mapping[str, Any],
    *,
    checkpoint: str,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """For each input, in their order: `input`, `text`, its `score` in nats and how it `ended`; with several samples of
    each, also which `sample` it is.

    Args:
        path: a run directory.
        config: its composition.
        inputs: paths or, where texts are read, as `read_texts` takes them.
        options: of GenerateSettings; by default as the run's task decodes in its test.
        checkpoint: `best` or `last`.
        batch_size: texts, or beams, that are written at once.

    Raises:
        UserError: options that can't be, or inputs that can't be read; all of them are named before anything is
            written.
    """
    settings = decoding(config, {**options, "checkpoint": checkpoint, "batch_size": batch_size})
    model = load_generating(path, settings)
    for each in write(model, None, read_inputs(inputs, model), settings):
        yield _record(each, settings)


def decoding(config: Config, options: Mapping[str, Any]) -> GenerateSettings:
    """How texts are written: as the run's task does in its test, unless options say otherwise.

    Raises:
        UserError: options that can't be.
    """
    tested = {name: config["task"][name] for name in TESTED if config["task"].get(name) is not None}
    if options.get("temperature", 0.0) > 0:
        tested.pop("num_beams", None)
    if {**tested, **options}.get("num_beams", 1) == 1:
        tested.pop("length_penalty", None)
    return GenerateSettings(**{**tested, **options})


def read_inputs(inputs: Sequence[str], model: Generating) -> list[Prompt]:
    """
    Raises:
        UserError: inputs that can't be read; all of them are named.
    """
    texts, problems = read_texts(inputs) if model.tokenizer.modality == "text" else (list(inputs), [])
    count, prompts = len(texts) + len(problems), []
    for text in texts:
        try:
            prompts.append(model.read(text))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} of {count} inputs can't be read.", *problems]))
    return prompts


def read_texts(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts, and what is wrong with inputs that hold none.

    Args:
        inputs: texts, files of texts, one a line, and `-` for the lines of standard input.
    """
    texts: list[str] = []
    problems: list[str] = []
    for number, given in enumerate(inputs):
        try:
            if given == "-" and "-" in inputs[:number]:
                raise UserError("-: standard input can be read once, and stands there several times.")
            texts += [given] if given != "-" and not _is_file(given) else _lines(given)
        except UserError as error:
            problems.append(str(error))
    return texts, problems


def _is_file(given: str) -> bool:
    """
    Raises:
        UserError: it looks like the path of a file, and there is none.
    """
    try:
        if Path(given).expanduser().is_file():
            return True
    except (OSError, RuntimeError):  # too long for a path, or the home of nobody
        pass
    if LIKE_A_PATH.fullmatch(given):
        raise UserError(f"{given}: there is no such file. A text that looks like a path can stand on standard input: -")
    return False


def _lines(given: str) -> list[str]:
    """
    Raises:
        UserError: the file, or standard input, can't be read, holds nothing, or an empty line.
    """
    where = "standard input" if given == "-" else given
    try:
        content = sys.stdin.read() if given == "-" else Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error.reason}"
        raise UserError(f"{where}: can't be read ({reason}).") from None
    lines = content.removeprefix("\ufeff").removesuffix("\n").split("\n")
    if not content.strip():
        raise UserError(f"{where}: there are no texts in it.")
    if empty := [str(number) for number, line in enumerate(lines, 1) if not line.strip()]:
        raise UserError(f"{where}: nothing stands in line{'s' if len(empty) > 1 else ''} {', '.join(empty)}.")
    return lines


def _record(text: Generated, settings: GenerateSettings) -> dict[str, Any]:
    its = text.continuation
    which = {"sample": text.sample} if settings.num_samples > 1 else {}
    return {"input": text.prompt, **which, "text": text.text, "score": its.score, "ended": its.ended}
