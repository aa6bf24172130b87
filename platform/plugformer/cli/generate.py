"""`plugformer generate RUN_DIR [prompt=…] [KEY=VALUE …]`: how a run goes on with prompts, or writes for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugformer.cli.values import help_line, read_settings, read_value, type_and_default
from plugformer.errors import UserError
from plugformer.settings import GenerateSettings
from plugformer.signatures import read_class

if TYPE_CHECKING:
    from plugformer.generate import Generated

HELP = """usage: plugformer generate RUN_DIR [prompt=TEXT] [KEY=VALUE ...]

Goes on with prompts, token by token. Of one text, the prompt and what follows it are printed as they come; of several,
each with a line above it that says which it is and how it ended. A run whose task writes one sequence for another, such
as a translation, a transcript or a caption, writes a text for each prompt: a text or, of images and sounds, a file; the
prompt isn't printed then.

  plugformer generate runs/gpt prompt='import os'
  plugformer generate runs/gpt prompt='def ' temperature=0.8 top_p=0.95 num_samples=3
  plugformer generate runs/gpt prompts=prompts.txt num_beams=4 json=true
  plugformer generate runs/gpt prompt=- stop=$'\\n\\n' draft=runs/small < beginning.py
  plugformer generate runs/en_ko prompt='Add another' num_beams=4 num_samples=4

A text is taken as it stands behind the equals sign; a list is written [one,'another, with a comma'].

  RUN_DIR               a folder that `plugformer train` made
  plugins=[FILE]        plugin files that the run was trained with: files are never run unless named here
"""
TEXTS = ("prompt", "stop")


def main(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(HELP + _options_help())
        return 0 if argv else 2
    path, *texts = argv
    settings = read(texts)
    prompts = read_prompts(settings)
    several = len(prompts) * settings.num_samples > 1
    if several and settings.stream:
        raise UserError("stream=true: several texts would come mixed. Leave it out, or ask for one.")
    can_stream = not several and not settings.json and settings.num_beams == 1
    streams = settings.stream if settings.stream is not None else can_stream and sys.stdout.isatty()

    from plugformer.generate import generate
    from plugformer.generating import has_sources
    from plugformer.recorded import load_config

    goes_on = not has_sources(load_config(path))
    if not goes_on and settings.prompt is None and settings.prompts is None:
        raise UserError(
            f"{path}: this run writes a text for what it reads, and nothing was given.\n"
            "  Set prompt=…, a text or, of images and sounds, a file; or prompts=FILE, one a line."
        )
    made = generate(path, prompts, settings, emit=_show if streams else None)
    if streams and goes_on:
        _show(prompts[0])
    for text in made:
        if streams:
            _show("\n")
        elif settings.json:
            print(json.dumps(_record(text), ensure_ascii=False), flush=True)
        else:
            heading = _heading(text, settings, len(prompts)) if several else ""
            _print(text, heading, begun=text.prompt if goes_on else "")
        if text.proposed is not None:
            print(f"draft: {text.accepted} of {text.proposed} proposed tokens accepted", file=sys.stderr)
    return 0


# ---------------------------------------------------------------------------------------------- what is asked


def read(overrides: Sequence[str]) -> GenerateSettings:
    """
    Raises:
        UserError: anything that is wrong with them, with the nearest names.
    """
    return read_settings(GenerateSettings, overrides, "plugformer generate", read=read_option)


def read_option(text: str) -> Any:
    """Of KEY=VALUE: a text as it stands, all else in the notation of all commands."""
    key, equals, value = text.partition("=")
    is_text = key in TEXTS and bool(equals)
    if not is_text:
        return read_value(text)
    if not value.startswith("[") and value != "null":
        return value
    try:
        return read_value(text)
    except UserError as error:
        raise UserError(f"{error}\n  A text that begins with a bracket is written {key}=['[...'].") from None


def read_prompts(settings: GenerateSettings) -> list[str]:
    """
    Raises:
        UserError: there are none, or they can't be read.
    """
    if settings.prompts is not None:
        return _read_file(settings.prompts)
    if settings.prompt == []:
        raise UserError("prompt=[]: an empty list. To begin with nothing, leave prompt out.")
    prompts = [settings.prompt] if isinstance(settings.prompt, str) else settings.prompt or [""]
    if prompts.count("-") > 1:
        raise UserError("prompt: standard input can be read once, and - stands there several times.")
    return [sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt for prompt in prompts]


def _read_file(path: Path) -> list[str]:
    try:
        content = sys.stdin.read() if str(path) == "-" else path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error.reason}"
        raise UserError(f"prompts={path}: can't be read ({reason}).") from None
    lines = content.removesuffix("\n").split("\n") if content else []
    if path.suffix == ".jsonl":
        lines = [_prompt_of(line, f"prompts={path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not lines:
        raise UserError(f"prompts={path}: there are none in it.")
    return lines


def _prompt_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}).") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'{where}: expected an object with a text under "prompt", as in {{"prompt": "import os"}}.')
    return row["prompt"]


# ---------------------------------------------------------------------------------------------- what is shown


def _options_help() -> str:
    options = read_class(GenerateSettings).parameters.values()
    told = [(each.name, type_and_default(each, each.default), each.help) for each in options]
    return "\n".join(help_line(*each, indent=24, width=110) for each in told)


def _show(piece: str) -> None:
    print(piece, end="", flush=True)


def _print(text: Generated, heading: str, *, begun: str) -> None:
    if heading:
        print(f"== {heading}: {len(text.continuation.ids)} tokens, {text.continuation.ended}")
    print(f"{begun}{text.text}", flush=True)


def _heading(text: Generated, settings: GenerateSettings, num_prompts: int) -> str:
    prompt = f"prompt {text.number + 1}" if num_prompts > 1 else ""
    sample = f"sample {text.sample + 1}" if settings.num_samples > 1 else ""
    return ", ".join(filter(None, [prompt, sample]))


def _record(text: Generated) -> dict[str, Any]:
    its = text.continuation
    record = {"prompt": text.prompt, "text": text.text, "tokens": its.ids, "score": its.score, "ended": its.ended}
    return record if text.proposed is None else {**record, "proposed": text.proposed, "accepted": text.accepted}
