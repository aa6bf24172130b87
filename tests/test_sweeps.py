"""Sweeps: what is checked before the first job, and the files that a W&B server hands out jobs by."""

import pytest
import yaml
from tests.helpers import ROOT

from plugformer.cli.compose import compose_sweep
from plugformer.errors import UserError

FILES = sorted((ROOT / "docs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_value_of_a_sweep_file_can_be_composed(path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "run")
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    program, *overrides = sweep["command"][1:-1]
    assert (sweep["program"], program, overrides.pop(0)) == ("plugformer", "${program}", "train")
    assert (sweep["command"][0], sweep["command"][-1]) == ("${env}", "${args_no_hyphens}")
    values = [f"{key}={','.join(map(str, each['values']))}" for key, each in sweep["parameters"].items()]
    compose_sweep([*overrides, *values])


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=interval(0.001,0.01)",
        "optimizer.lr=tag(log,interval(0.001,0.01))",
        "backbone.num_layers=int(interval(1,3))",
        "seed=range(1,3)",
        "seed=shuffle(1,2,3)",
        "experiment=glob(digits*)",
    ],
)
def test_a_sweeper_may_be_given_whatever_it_understands(override):
    compose_sweep(["hydra/sweeper=basic", override])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lrr=interval(0.001,0.01)", "Did you mean optimizer.lr?"),
        ("trainer.max_epochs=interval(0.1,0.5)", "trainer.max_epochs=0.1: expected an integer"),
        ("seed=range(1,3,0.5)", "expected an integer"),
        ("attention=full,perfromer", "Did you mean performer?"),
    ],
)
def test_a_mistake_in_a_sweep_is_found_before_its_first_job(override, says):
    with pytest.raises(UserError) as refused:
        compose_sweep([override])
    assert says in str(refused.value)
