"""What `plugformer check` says of a run is what the run costs."""

import pytest
from tests.helpers import quick_config
from tests.prepared import run_with
from torch.autograd.graph import saved_tensors_hooks

from plugformer.assemble import build_model, preview
from plugformer.budget import Budget, estimate, example_batch
from plugformer.cli.main import main
from plugformer.config import Config
from plugformer.nn.parameters import group_parameters
from plugformer.registry import build, find, offers

VARIATIONS = {
    "plain": [],
    "dropout": ["backbone.dropout=0.1", "attention.dropout=0.1"],
    "double": ["trainer.precision=64-true"],
    "accumulated": ["trainer.accumulate=4"],
    **{f"position={name}": [f"position={name}"] for name in offers("position")},
    **{f"block={name}": [f"block={name}"] for name in offers("block")},
    **{f"attention={name}": [f"attention={name}"] for name in offers("attention")},
}


def measured(config: Config, batch_size: int) -> Budget:
    """The same figures of a model with numbers in it."""
    source = build("data", config["data"])
    tokenizer, _ = preview(config, source=source)
    model = build_model(config, tokenizer=tokenizer, data=source.spec).train()
    if config["trainer"]["precision"] == "64-true":
        model.double()
    batch = example_batch(tokenizer, model.task.targets, batch_size)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(batch).loss
    loss.backward()
    optimizer = build("optimizer", config["optimizer"]).build(group_parameters(model))
    optimizer.step()
    return Budget(
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        written=0,
        length=len(tokenizer.spec.grid),
        batch_size=batch_size,
        flops=0,
        weights=sum(parameter.nbytes for parameter in model.parameters()),
        gradients=sum(parameter.grad.nbytes for parameter in model.parameters()),
        optimizer=sum(value.nbytes for state in optimizer.state.values() for value in state.values()),
        activations=sum(kept.values()),
    )


@pytest.mark.parametrize("overrides", VARIATIONS.values(), ids=VARIATIONS.keys())
def test_sizes_are_those_of_a_real_step(overrides):
    config = quick_config(*overrides)
    estimated = estimate(config)
    real = measured(config, config["loader"]["batch_size"] // config["trainer"]["accumulate"])
    for name in ("parameters", "length", "batch_size", "weights", "gradients", "optimizer", "activations"):
        assert getattr(estimated, name) == getattr(real, name), name
    assert estimated.memory == real.memory


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_operations_are_those_of_the_papers(dropout):
    """Twice the multiplications: of every linear map once forward and twice back (the first maps pixels, which need no
    gradient), and of scores and mixtures, which the fused kernel computes once more on its way back."""
    dim, layers, batch, tokens, patch, classes = 16, 1, 16, 16, 4, 10
    length = tokens + 1
    projections = 4 * dim * dim + 2 * dim * 4 * dim
    linear = 3 * layers * length * projections + 2 * tokens * patch * dim + 3 * dim * classes
    passes = 2 + (5 if dropout == 0 else 4)
    attention = passes * layers * length * length * dim
    config = quick_config("tokenizer.patch_size=2", f"attention.dropout={dropout}")
    assert estimate(config).flops == 2 * batch * (linear + attention)


def test_memory_grows_linearly_with_the_length_where_attention_is_fused():
    few, many = (estimate(quick_config(f"tokenizer.image_size={side}")) for side in (32, 64))
    assert many.length == 4 * few.length
    assert many.activations < 4.2 * few.activations


READ_WHOLE = {"csv", "jsonl", "parquet", "hf"}  # what labels and splits there are stands in the rows


@pytest.mark.parametrize("name", sorted({*offers("data")} - READ_WHOLE))
def test_check_reads_no_data(name, tmp_path, monkeypatch, capsys):
    """Headers of images at most: here each file is cut off where its pixels begin."""
    overrides = run_with("data", name, tmp_path)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"IDAT") + 4])

    def read(*_):
        raise AssertionError("a sample was read")

    source = find("data", name).load()
    monkeypatch.setattr(source, "samples", read)
    monkeypatch.setattr(source, "verify", read)
    with pytest.raises(SystemExit) as ended:
        main(["check", *overrides])
    assert ended.value.code == 0
    assert "All parts go together" in capsys.readouterr().out
