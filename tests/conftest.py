"""What holds for all tests."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory):
    """Nothing that tests make or find out is kept in the user's cache, nor is anything taken from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp("wandb")))
        patch.setenv("WANDB_MODE", "disabled")  # whatever key whoever tests may have
        yield


@pytest.fixture(autouse=True)
def _same_draws():
    """What a test draws without saying how is the same each time, in whatever order tests are run."""
    torch.manual_seed(0)
