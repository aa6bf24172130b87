"""`plugformer _rank FILE [plugins=[FILE]]`: one of the processes of a job, as `plugformer train` starts them.

Its standard input is held open by who started it, for as long as that one lives. What goes wrong is written beside
FILE, for the launcher to tell.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from plugformer.cli.compose import parse, register_files
from plugformer.config import check_config
from plugformer.errors import message
from plugformer.launch.failure import INTERRUPTED, Failure
from plugformer.launch.frozen import Frozen
from plugformer.launch.lifeline import end_with_launcher
from plugformer.launch.warned import keep_warnings
from plugformer.ranks import Rank


def main(argv: list[str]) -> int:
    end_with_launcher()
    path, *texts = argv
    said_to = Path(path).parent / "ranks" / f"{Rank.of().number}"
    keep_warnings(said_to.with_suffix(".warnings"))
    try:
        register_files(parse(texts))
        frozen = Frozen.read(path)
        config = check_config(frozen.config)
        sys.argv[:] = frozen.command  # which the run writes down

        from plugformer.train.run import train  # heavy: torch and Lightning

        train(config, job=frozen.job)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        said = message(error)
        if "--traceback" in sys.orig_argv:
            said = "".join(traceback.format_exception(error)) + said
        failure = Failure.of(error, said)
        failure.write(said_to.with_suffix(".json"))
        return failure.code
    return 0
