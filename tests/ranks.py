"""Several processes that train one model, for tests: each calls a function of a test module."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

PATIENCE = 300  # seconds


def on_ranks(function: str, arguments: Sequence[Any], *, world: int = 2) -> list[list[Any]]:
    """What a function returns on each rank, for one argument after the other; all of it is of JSON.

    Args:
        function: as `module:name`.
        arguments: for each, the ranks meet anew.
        world: processes.
    """
    common = {**os.environ, "WORLD_SIZE": f"{world}", "MASTER_ADDR": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.json"
        given.write_text(json.dumps(list(zip(_free_ports(len(arguments)), arguments, strict=True))))
        results = [Path(folder) / f"{number}.json" for number in range(world)]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.ranks", function, str(given), str(result)],
                env={**common, "RANK": f"{number}", "LOCAL_RANK": f"{number}", "OMP_NUM_THREADS": "1"},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number, result in enumerate(results)
        ]
        try:
            said = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        assert not any(rank.returncode for rank in ranks), "\n\n".join(said)
        return [json.loads(result.read_text()) for result in results]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> None:
    function, given, result = sys.argv[1:]
    module, _, name = function.partition(":")
    call, found = getattr(import_module(module), name), []
    for port, argument in json.loads(Path(given).read_text()):
        os.environ["MASTER_PORT"] = f"{port}"
        found.append(call(argument))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
