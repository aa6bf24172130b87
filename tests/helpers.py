"""What several test files share."""

import subprocess
import sys
from pathlib import Path

from plugformer.cli.compose import compose
from plugformer.config import Config

ROOT = Path(__file__).parents[1]

# A run that trains for a step in about a second.
QUICK = (
    "backbone.dim=16",
    "backbone.num_layers=1",
    "backbone.num_heads=2",
    "trainer.max_epochs=1",
    "trainer.limit_batches=2",
    "trainer.progress=false",
    "trainer.accelerator=cpu",
    "loader.batch_size=16",
    "logger=csv",
    "trainer.media=0",
)


def quick_config(*overrides: str) -> Config:
    """A checked composition that trains in about a second."""
    return compose([*QUICK, *overrides])


def plugformer(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "plugformer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300, check=False)
