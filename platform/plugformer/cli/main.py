"""`plugformer COMMAND …`: finds the command, and turns what goes wrong into one message and an exit code."""

import importlib
import os
import sys
import traceback
import warnings

from plugformer import __version__
from plugformer.cli.commands import COMMANDS
from plugformer.errors import UserError, message, unknown

HELP = f"""Plugformer {__version__}: transformer experiments composed from plugins.

usage: plugformer COMMAND [ARGUMENT ...] [--traceback]

{chr(10).join(f"  {name:<10} {does}" for name, does in COMMANDS.items())}

  plugformer train experiment=digits                        train an experiment
  plugformer train experiment=digits backbone.num_layers=2  … with other parts and options
  plugformer train -m experiment=digits seed=0,1,2          … as a sweep
  plugformer COMMAND --help                                 more on a command
  eval "$(plugformer -sc install=bash)"                     completion in this shell

Exit codes: 0 done; 1 a run or check failed; 2 a mistake in what was asked; 75 training was stopped by SIGTERM or
SIGUSR1 and is saved, so that a scheduler may start the same command again; 130 stopped by Ctrl-C, and saved where it
trained. --traceback shows where an error arose.
"""


def main(argv: list[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in arguments
    warnings.formatwarning = _format_warning
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        code = run(arguments)
        sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        _report(error, show_traceback)
        sys.exit(2)
    except KeyboardInterrupt:
        print("plugformer: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        _report(error, show_traceback)
        sys.exit(1)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    command, *rest = arguments or ["--help"]
    if command in ("-h", "--help", "--version"):
        print(__version__ if command == "--version" else HELP)
        return 0
    if command in ("-sc", "--shell-completion"):
        return importlib.import_module("plugformer.cli.completion").main(rest)
    if command == "_rank":  # for our own launcher alone
        return importlib.import_module("plugformer.cli.rank").main(rest)
    if command not in COMMANDS:
        raise unknown(f"{command}: no such command", command, COMMANDS, "Commands")
    return importlib.import_module(f"plugformer.cli.{command}").main(rest)


_usual_format = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What we say to users needs no line of source."""
    if category is UserWarning:
        return f"plugformer: {message}\n"
    return _usual_format(message, category, filename, lineno, line)


def _report(error: Exception, show_traceback: bool) -> None:
    if show_traceback:
        traceback.print_exc()
    print(f"plugformer: {message(error)}", file=sys.stderr)
