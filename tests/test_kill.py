"""A run that is killed, wherever and whenever, goes on as if nothing had been: `make test-kill`."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tests.helpers import ROOT

PATIENCE = 900  # seconds for all trials


@pytest.mark.slow
@pytest.mark.parametrize(("world", "count"), [(1, 12), (2, 8)])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, world, count):
    command = [sys.executable, "-m", "tests.kill_driver", str(tmp_path / "trials"), str(world), "0", str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said, errors = driver.communicate(timeout=PATIENCE)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    trials = [json.loads(line) for line in said.splitlines()]
    assert len(trials) == count, errors
    assert [trial for trial in trials if trial["wrong"]] == []
