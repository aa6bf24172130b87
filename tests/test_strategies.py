"""Several processes train a model as one does."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from tests.prepared import audio_folder, parallel_text
from tests.ranks import on_ranks
from torch import nn
from torch.nn import functional as F

from plugformer.assemble import preview
from plugformer.cli.compose import compose
from plugformer.errors import UserError
from plugformer.interfaces import Attention, Mask
from plugformer.registry import build, find, offers, register
from plugformer.train.run import train
from plugformer.train.weighting import GlobalBatch

STEPS = 50
SAME = 1e-5  # in a loss
COMMON = [
    "backbone.dim=16",
    "backbone.num_layers=2",
    "backbone.num_heads=2",
    f"trainer.max_steps={STEPS}",
    "trainer.log_every=1",
    "trainer.val_every=5",
    "trainer.progress=false",
    "trainer.accelerator=cpu",
    "trainer.media=2",
    "loader.batch_size=12",
    "loader.eval_batch_size=16",
    "logger=csv",
]
DDP = ["trainer=ddp"]
FSDP = ["trainer=fsdp"]
TENSOR_PARALLEL = ["trainer=tensor_parallel"]
IN_ROUNDS = ["trainer.accumulate=3"]
# So that what is drawn anew is, if a mechanism draws.
ANEW = {"performer": "redraw_every", "random_feature": "redraw_every", "reformer_lsh": "rehash_every"}
SMALL = {"bigbird": {"block_size": 4}, "reformer_lsh": {"chunk_length": 8}}
MECHANISMS = {
    name: {**SMALL.get(name, {}), **({ANEW[name]: 7} if name in ANEW else {})} for name in offers("attention")
}
Cases = dict[str, list[str]]


# ---------------------------------------------------------------------------------------------- what is trained


def texts(folder: Path) -> list[str]:
    """Of many lengths, so that ranks have different numbers of tokens."""
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Number {number}, " * (1 + number % 5), encoding="utf-8")
    return ["data=text_files", f"data.paths=[{folder}/*.txt]", "tokenizer=text_bytes", "tokenizer.max_length=48"]


def sounds(folder: Path) -> list[str]:
    folder.mkdir()
    options = audio_folder(folder)
    return ["data=audio_folder", *(f"data.{key}={value}" for key, value in options.items()), "tokenizer=spectrogram"]


def pairs(folder: Path) -> list[str]:
    folder.mkdir()
    options = [f"data.{key}={json.dumps(value)}" for key, value in parallel_text(folder).items()]
    return ["data=parallel_text", *options, "tokenizer=text_bytes", "tokenizer.max_length=24"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    folder = tmp_path_factory.mktemp("data")
    of_text = texts(folder / "texts")
    return {
        "image": ["data=digits", "trainer.limit_batches=20", "task.monitor=accuracy"],
        "mlm": [*of_text, "task=mlm"],
        "causal_lm": [*of_text, "backbone=decoder", "task=causal_lm"],
        "audio": sounds(folder / "sounds"),
        "mae": ["data=digits", "trainer.limit_batches=20", "task=mae", "task.decoder_dim=16", "task.decoder_layers=1"],
        "seq2seq": [
            *pairs(folder / "pairs"),
            "backbone=encoder_decoder",
            "task=seq2seq",
            "task.max_new_tokens=8",
            "task.metrics=[bleu,chrf,exact_match,cer,wer]",
        ],
    }


def with_mechanism(name: str) -> list[str]:
    return [f"attention={name}", *(f"attention.{option}={value}" for option, value in MECHANISMS[name].items())]


# ---------------------------------------------------------------------------------------------- how it is compared


def runs(folder: Path, cases: Cases, *overrides: str) -> list[list[str]]:
    return [[*COMMON, *case, *overrides, f"run_dir={folder / name}"] for name, case in cases.items()]


def trained(overrides: list[str]) -> dict[str, float]:
    """Called on each rank; back comes the summary, without what only a clock tells."""
    summary, _ = train(compose(overrides))
    return {name: value for name, value in summary.items() if name != "train/seconds"}


def train_all(runs: list[list[str]]) -> None:
    for overrides in runs:
        trained(overrides)


def on_two(runs: list[list[str]]) -> None:
    one, other = on_ranks("tests.test_strategies:trained", runs)
    assert one == other, "every rank knows the same"


def history(run: Path) -> dict[str, list[float]]:
    """Every metric in the order of its steps."""
    found = defaultdict(list)
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    found[name].append(float(value))
    return found


def assert_equal_runs(one: Path, other: Path) -> None:
    """Losses and gradients of every step, and every metric of evaluation."""
    ours, theirs = history(one), history(other)
    assert len(ours["train/loss"]) == STEPS
    assert ours.keys() == theirs.keys()
    assert theirs["train/loss"] == pytest.approx(ours["train/loss"], rel=0, abs=SAME), other
    for name, values in ours.items():
        if name.partition("/")[0] in {"train", "val", "test"}:
            assert theirs[name] == pytest.approx(values, rel=1e-3, abs=1e-4), (other, name)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for summary in summaries:
        del summary["train/seconds"]
    assert summaries[1] == pytest.approx(summaries[0], rel=1e-3, abs=1e-4)


# ---------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize(
    "chosen",
    [("causal_lm",), pytest.param(("image", "mlm", "audio", "mae", "seq2seq"), marks=pytest.mark.slow)],
    ids=len,
)
def test_a_run_on_two_processes_and_in_rounds_is_that_of_one(
    tmp_path: Path, cases: Cases, chosen: tuple[str, ...]
) -> None:
    cases = {name: cases[name] for name in chosen}
    train_all(runs(tmp_path / "alone", cases))
    in_rounds = {name: cases[name] for name in chosen if name in ("mlm", "causal_lm")}
    train_all(runs(tmp_path / "rounds", in_rounds, *IN_ROUNDS))
    on_two(runs(tmp_path / "ddp", cases, *DDP) + runs(tmp_path / "both", in_rounds, *DDP, *IN_ROUNDS))
    for name in cases:
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "ddp" / name)
    for name in in_rounds:
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "rounds" / name)
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "both" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    [("lsh", "dropout"), ("image", "llama", "relative", "seq2seq")],
    ids=len,
)
def test_a_divided_model_learns_as_a_whole_one(tmp_path: Path, cases: Cases, chosen: tuple[str, ...]) -> None:
    llama = [*cases["causal_lm"], "feed_forward=glu", "position=rope", "norm=rms", "backbone.bias=false"]
    few = {
        "image": cases["image"],
        "llama": [*llama, "backbone.num_heads=4", "backbone.num_kv_heads=2", "backbone.qk_norm=rms"],
        "relative": [*cases["mlm"], "position=relative"],
        "seq2seq": cases["seq2seq"],
        "lsh": [*cases["image"], "block=reversible", *with_mechanism("reformer_lsh")],
    }
    few = {name: case for name, case in few.items() if name in chosen}
    alike = {"dropout": [*cases["mlm"], "position=alibi", "backbone.dropout=0.1"]} if "dropout" in chosen else {}
    rounds = {name: few[name] for name in ("llama",) if name in chosen}
    train_all(runs(tmp_path / "alone", {**few, **alike}))
    on_two(
        runs(tmp_path / "fsdp", few, *FSDP)
        + runs(tmp_path / "rounds", rounds, *FSDP, *IN_ROUNDS)
        + runs(tmp_path / "tensor_parallel", {**few, **alike}, *TENSOR_PARALLEL)
    )
    for name in few:
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "fsdp" / name)
    for name in rounds:
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "rounds" / name)
    for name in {**few, **alike}:
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "tensor_parallel" / name)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP, TENSOR_PARALLEL], ids=lambda overrides: overrides[0])
def test_with_every_mechanism(tmp_path: Path, cases: Cases, strategy: list[str]) -> None:
    all_of_them = {
        f"{modality}_{name}": [*cases[modality], *with_mechanism(name)]
        for modality in ("image", "audio", "mlm", "causal_lm")
        for name in MECHANISMS
    }
    train_all(runs(tmp_path / "alone", all_of_them))
    on_two(runs(tmp_path / "two", all_of_them, *strategy))
    for name in all_of_them:
        assert_equal_runs(tmp_path / "alone" / name, tmp_path / "two" / name)


# ---------------------------------------------------------------------------------------------- what is drawn


def mechanism(name: str, **options: int) -> Attention:
    context = {"num_heads": 4, "head_dim": 8, "max_length": 32, "causal": False, "layer": 1, "seed": 3}
    return build("attention", {"name": name, **options}, **context)


def drawn(rank: int) -> dict[str, list[float]]:
    """Sums of what each mechanism holds at several steps, after a history of this process's own."""
    torch.manual_seed(rank)
    found = defaultdict(list)
    for name, options in MECHANISMS.items():
        made = mechanism(name, **options)
        for step in (0, 6, 7, 8, 21):
            torch.rand(rank + 1)
            made.before_step(step)
            found[name] += [float(tensor.double().sum()) for tensor in made.buffers()]
    return found


def test_what_mechanisms_draw_is_the_same_on_every_rank() -> None:
    one, other = drawn(0), drawn(1)
    assert one == other
    for name in ANEW:
        assert len(set(one[name])) > 3, "it was drawn anew"


@pytest.mark.parametrize("name", MECHANISMS)
def test_heads_that_are_kept_do_what_they_do_among_all(name: str) -> None:
    whole, part = (mechanism(name, **MECHANISMS[name]) for _ in range(2))
    for parameter in whole.parameters():
        nn.init.uniform_(parameter)
    part.load_state_dict(whole.state_dict())
    part.keep_heads(2, 2)
    for step in (0, 7):
        whole.before_step(step)
        part.before_step(step)
        q, k, v = torch.randn(3, 2, 4, 32, 8)
        k = q if whole.capabilities.shared_query_key else k
        torch.testing.assert_close(part(q[:, 2:], k[:, 2:], v[:, 2:], Mask()), whole(q, k, v, Mask())[:, 2:])


# ---------------------------------------------------------------------------------------------- weights of a loss


def test_rounds_of_unequal_size_make_the_mean_over_all() -> None:
    linear = nn.Linear(3, 1)
    x, y = torch.randn(12, 3), torch.randn(12)
    F.mse_loss(linear(x)[:, 0], y).backward()
    expected = linear.weight.grad.clone()
    linear.zero_grad()
    batch = GlobalBatch(accumulate=3)
    for _ in range(2):
        linear.zero_grad()
        for part, last in ((slice(0, 7), False), (slice(7, 12), True)):  # fewer rounds than losses are divided by
            loss = F.mse_loss(linear(x[part])[:, 0], y[part])
            (batch.add(loss, len(y[part]), last=last) / 3).backward()
        batch.finish(linear.parameters())
        torch.testing.assert_close(linear.weight.grad, expected)
        torch.testing.assert_close(batch.loss, F.mse_loss(linear(x)[:, 0], y).detach())


def test_a_round_without_any_item_counts_for_nothing() -> None:
    weight = nn.Parameter(torch.tensor(2.0))
    batch = GlobalBatch(accumulate=2)
    (batch.add(0 * weight, torch.tensor(0), last=False) / 2).backward()
    (batch.add(3 * weight, torch.tensor(5), last=True) / 2).backward()
    batch.finish([weight])
    assert weight.grad == pytest.approx(3)
    assert batch.loss == pytest.approx(6)


# ---------------------------------------------------------------------------------------------- what can't be divided


class Undivided(nn.Module):
    """Says nothing of its linear maps."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class UndividedAttention(find("attention", "full").load()):
    """Declares less."""

    capabilities = type(find("attention", "full").load().capabilities)(causality="strict", key_padding=True)


REFUSED = {
    "trainer=ddp trainer.devices=1": "trainer.strategy=ddp: divides work among devices, and there is one",
    "trainer=fsdp trainer.precision=16-mixed": "trainer.precision=16-mixed: can't go with trainer.strategy=fsdp",
    "trainer=fsdp optimizer=adafactor": "optimizer=adafactor needs whole matrices.*optimizer=adamw",
    "trainer=ddp trainer.checkpoint=sharded": "trainer.checkpoint=sharded: only processes of trainer.strategy=fsdp",
    "backbone.num_heads=3 backbone.dim=48": r"3 heads \(backbone.num_heads\).*Set trainer.devices to 3",
    "backbone.num_kv_heads=1": r"1 heads \(backbone.num_kv_heads\).*backbone.num_kv_heads to a multiple of 2",
    "feed_forward.expansion=0.3125 backbone.dim=48": "the 15 hidden units of feed_forward=mlp.*makes 14 or 16",
    "attention=undivided": "attention=undivided doesn't declare that its heads.*attention=full",
    "feed_forward=undivided": "feed_forward=undivided doesn't say how.*feed_forward=glu",
}


@pytest.fixture
def undivided(monkeypatch) -> None:
    monkeypatch.setattr("plugformer.registry._registered", {})
    register("feed_forward", "undivided")(Undivided)
    register("attention", "undivided")(UndividedAttention)


@pytest.mark.usefixtures("undivided")
@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_be_divided_is_refused_with_what_can(overrides: str) -> None:
    chosen = overrides.split()
    if not overrides.startswith("trainer="):
        chosen = [*TENSOR_PARALLEL, *chosen]
    config = compose(chosen)
    source = build("data", config["data"])
    with pytest.raises(UserError, match=f"(?s){REFUSED[overrides]}"):
        preview(config, source=source)
