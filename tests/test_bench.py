"""The benchmark: what it is asked, what it measures, what it says, and the adapters of other projects' layers."""

import json
import os
import subprocess
import sys
import time
from io import StringIO
from itertools import pairwise
from math import inf

import pytest
import torch
from matplotlib.figure import Figure
from tests.helpers import ROOT, plugformer
from torch import Tensor, nn

from plugformer import register
from plugformer.bench import measuring
from plugformer.bench.asked import read_lengths, split_mechanisms
from plugformer.bench.layers import Candidate, mechanism_candidate
from plugformer.bench.measuring import measure, settle
from plugformer.bench.passes import Passes
from plugformer.bench.peers import Peer, load_peers
from plugformer.bench.plot import _spread, draw
from plugformer.bench.points import Cost, Point, find_growth
from plugformer.bench.report import find_growths
from plugformer.bench.settings import BenchSettings
from plugformer.bench.traffic import count_work
from plugformer.cli.bench import cost_table, growth_table, read
from plugformer.cli.main import main
from plugformer.errors import UserError
from plugformer.interfaces import Attention, Capabilities, Mask
from plugformer.nn.full_attention import Full

PEERS = ROOT / "benchmarks" / "peers.py"
SMALL = BenchSettings(length=[32], dim=16, num_heads=2, repeats=2, device="cpu", dtype="float32", limit_gib=8.0)


class Mean(Attention):
    """The mean of all values; not causal, with an option."""

    capabilities = Capabilities(time_exponent=1.0, memory_exponent=1.0)

    def __init__(self, *, factor: float = 1.0, window: int = 4) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None = None) -> Tensor:
        return self.factor * v.mean(2, keepdim=True).expand(q.shape)


class Broken(Full):
    """Fails from 64 tokens on."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None = None) -> Tensor:
        if q.shape[2] >= 64:
            raise RuntimeError("too long for me\nwith details")
        return super().forward(q, k, v, mask, bias)


@pytest.fixture(autouse=True)
def _mechanisms(monkeypatch: pytest.MonkeyPatch) -> None:
    """For these tests alone: others try every mechanism there is."""
    monkeypatch.setattr("plugformer.registry._registered", {})
    register("attention", "bench_mean")(Mean)
    register("attention", "bench_broken")(Broken)


def candidates(text: str, settings: BenchSettings = SMALL) -> list[Candidate]:
    _, mechanisms, _ = read([f"attention={text}"])
    return [mechanism_candidate(mechanism, settings) for mechanism in mechanisms]


def with_lengths(*lengths: int, **options: object) -> BenchSettings:
    return BenchSettings(**(vars(SMALL) | {"length": list(lengths)} | options))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("512", [512]),
        ("512,1024", [512, 1024]),
        ("512,...,4096", [512, 1024, 2048, 4096]),
        ("512,…,1024", [512, 1024]),
        ("100,400,...,6400", [100, 400, 1600, 6400]),
        ("[8, 16]", [8, 16]),
    ],
)
def test_lengths_are_numbers_or_go_on_to_the_last(text, lengths):
    assert read_lengths(text) == lengths


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("512,...,5000", "length=512,...,5000: going on by a factor of 2 comes to 8192, not to 5000."),
        ("512,...", "no length stands after the dots"),
        ("...,512", "expected numbers of tokens"),
        ("many", "expected numbers of tokens, such as 512,1024,2048 or 512,...,16384, not 'many'"),
        ("8,4,...,2", "must rise"),
    ],
)
def test_lengths_that_are_none_are_refused(text, says):
    with pytest.raises(UserError, match=r".*") as refused:
        read_lengths(text)
    assert says in str(refused.value)


def test_options_are_given_by_mechanism_for_all_or_for_one_entry():
    overrides = ["attention=bench_mean,bench_mean(factor=3, window=2),full", "bench_mean.factor=2", "length=8,16"]
    settings, mechanisms, _ = read([*overrides, "causal=true"])
    assert [each.label for each in mechanisms] == ["bench_mean", "bench_mean(factor=3, window=2)", "full"]
    assert [dict(each.node) for each in mechanisms] == [
        {"name": "bench_mean", "factor": 2.0, "window": 4},
        {"name": "bench_mean", "factor": 3.0, "window": 2},
        {"name": "full", "dropout": 0.0},
    ]
    assert (settings.length, settings.causal) == ([8, 16], True)
    _, mechanisms, _ = read(["attention=full", "attention.dropout=0.5"])
    assert mechanisms[0].node["dropout"] == 0.5


def test_commas_inside_brackets_and_quotes_belong_to_an_option():
    assert [each.options for each in split_mechanisms("a(x=[1,2],y='p,q'),b")] == [("x=[1,2]", "y='p,q'"), ()]


MISTAKES = [
    ("attention=ful", "attention=ful: no such plugin. Did you mean full?"),
    ("attention=full lenght=3", "lenght: no such option of plugformer bench. Did you mean length?"),
    ("attention=full dim=ten", "dim=ten: expected an integer."),
    ("attention=full dtype=float23", "dtype=float23: expected one of auto, float32"),
    ("attention=full full.dropot=0.1", "full.dropot: no such option of attention=full. Did you mean full.dropout?"),
    ("attention=full(dropot=0.1)", "full.dropot: no such option of attention=full. Did you mean full.dropout?"),
    ("attention=full attention.x=1", "attention.x: no such option of attention=full."),
    ("attention=full(dropout=much)", "full.dropout=much: expected a number."),
    ("attention=full(dropout)", "attention=full(dropout): dropout: expected OPTION=VALUE."),
    (
        "attention=full bench_mean.factor=3",
        "bench_mean.factor: bench_mean is not among the mechanisms. Add it: attention=full,bench_mean",
    ),
    ("attention=full fulll.dropout=1", "fulll.dropout: fulll is not among the mechanisms. Did you mean full.dropout?"),
    ("attention=full,full", "attention=full,full: full stands there twice."),
    ("attention=full(dropout=1", "parentheses without an end"),
    ("attention=full,", "a name is missing"),
    ("length=32", "attention has no default: set attention=NAME,NAME,..."),
    ("attention=full repeats=0", "repeats=0: must be at least 1."),
    ("attention=full limit_s=0", "limit_s=0.0: must be more than 0."),
    ("attention=full limit_s=nan", "limit_s=nan: must be more than 0."),
    ("attention=full limit_gib=nan", "limit_gib=nan: must be more than 0."),
    ("attention=full threads=100000", f"threads=100000: this machine has {os.cpu_count()} cores. Set threads="),
    ("attention=full fit_from=0", "fit_from=0: must be at least 1."),
    (
        "attention=full length=8,16,32 fit_from=17",
        "fit_from=17: an exponent takes two lengths. Set fit_from=16 or",
    ),
    ("attention=full dim=10 num_heads=3", "dim=10 is not divisible by num_heads=3."),
    ("attention=full length=64,32", "length=64,32: must rise. Write length=32,64."),
    ("attention=full length=0", "length=0: must be numbers of tokens, each at least 1."),
    ("attention=full dim=1,2", "dim=1,2: several values, and one was expected."),
    ("attention=full dim=16 dim=32", "dim=32: dim is set already, to 16."),
    ("attention=full peers=nowhere.py:a", "peers=nowhere.py:a: no such file."),
    (f"attention=full peers={PEERS}:", f"peers={PEERS}:: a name is missing. Expected FILE.py or FILE.py:NAME,NAME."),
    (f"attention=full peers={PEERS}:fla_linear,", "a name is missing."),
    ("attention=full fast", "fast: expected KEY=VALUE."),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES)
def test_a_mistake_gets_one_message(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *arguments.split()])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, ""), err
    assert says in err
    assert not list(tmp_path.iterdir())


def test_a_mechanism_that_is_not_causal_is_refused_with_those_that_are(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "attention=bench_mean", "causal=true", "device=cpu", f"out={tmp_path / 'out'}"])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "causal=true: attention=bench_mean can't be causal." in message
    assert "These can:" in message
    assert "full" in message.partition("These can:")[2]
    assert "bench_mean" not in message.partition("These can:")[2]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["attention=full", "lenght=3"], ["attention=ful"]])
def test_help_and_mistakes_wait_for_nothing_heavy(arguments):
    code = (
        "import sys; from plugformer.cli.main import run\n"
        f"try: run(['bench', *{arguments}])\n"
        "except (SystemExit, ValueError): pass\n"
        "sys.exit(', '.join({'torch', 'matplotlib', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------------- what is measured


def test_every_layer_is_measured_at_every_length_in_both_passes():
    settings = with_lengths(32, 64, 128, repeats=3)
    points = measure(candidates("full,bench_mean"), settings)
    assert [(p.label, p.length) for p in points] == [(m, n) for n in (32, 64, 128) for m in ("full", "bench_mean")]
    for point in points:
        assert not point.note
        assert list(point.costs) == ["forward", "training"]
        for cost in point.costs.values():
            assert len(cost.seconds) == 3
            assert min(cost.seconds) > 0
        assert point.costs["training"].peak > point.costs["forward"].peak > 0


def test_memory_is_that_of_the_pass_and_the_same_each_time():
    class Keeps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            big = torch.empty(2**20)  # 4 MiB
            return x + big[0] * 0

    points = [measure([Candidate("keeps", lambda length: Keeps())], SMALL)[0] for _ in range(2)]
    peaks = [point.costs["forward"].peak for point in points]
    assert peaks[0] == peaks[1]
    assert 2**22 < peaks[0] < 2**22 + 2**14


def test_a_pass_back_reaches_input_and_weights_and_leaves_no_gradient():
    layer, seen = nn.Linear(4, 4), []
    layer.weight.register_hook(lambda gradient: seen.append("weight"))
    layer.register_full_backward_hook(
        lambda module, inputs, outputs: seen.append("input" if inputs[0] is not None else "")
    )
    passes = Passes(layer, torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    passes.training()
    assert sorted(seen) == ["input", "weight"]
    assert layer.training
    assert all(parameter.grad is None for parameter in layer.parameters())
    passes.forward()
    assert not layer.training
    assert len(seen) == 2


def test_what_fails_is_reported_and_the_others_go_on():
    def refuse(length: int) -> nn.Module:
        raise UserError("not for me")

    settings = with_lengths(32, 64)
    points = measure([*candidates("bench_broken,full"), Candidate("peer", refuse, is_peer=True)], settings)
    notes = {(point.label, point.length): (point.note, point.failed) for point in points}
    assert notes == {
        ("bench_broken", 32): ("", False),
        ("bench_broken", 64): ("failed: RuntimeError: too long for me", True),
        ("full", 32): ("", False),
        ("full", 64): ("", False),
        ("peer", 32): ("not for me", False),
        ("peer", 64): ("not for me", False),
    }


class Sleeps(nn.Module):
    """Takes time in proportion to the square of the length."""

    def forward(self, x: Tensor) -> Tensor:
        start = time.process_time()
        while time.process_time() - start < 2e-6 * x.shape[1] ** 2:
            pass
        return x * 1


def test_a_length_that_would_take_too_long_is_left_out_before_it_does():
    started = time.process_time()
    settings = with_lengths(64, 128, 256, 4096, limit_s=0.5, repeats=1)
    points = measure([Candidate("sleeps", lambda length: Sleeps())], settings)
    assert [bool(point.note) for point in points] == [False, False, False, True]
    assert points[-1].note.startswith("left out: about 3")  # 2e-6 · 4096² = 34 s
    assert points[-1].note.endswith("s a pass, over limit_s=0.5")
    assert time.process_time() - started < 10


def test_a_length_that_would_need_too_much_memory_is_left_out():
    settings = with_lengths(64, 128, 4096, limit_gib=0.001, repeats=1)
    points = measure(candidates("full"), settings)
    assert points[-1].note.startswith("left out: about 0.0 GiB, over limit_gib=")


def test_auto_is_settled_and_a_missing_device_is_refused():
    settings = settle(BenchSettings(length=[8], device="cpu"))
    assert (settings.device, settings.dtype) == ("cpu", "float32")
    assert settings.limit_gib is not None
    assert 0 < settings.limit_gib < 1e5
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device=cuda: torch sees no CUDA device here"):
            settle(BenchSettings(length=[8], device="cuda"))


def test_threads_are_as_asked_and_as_before_afterwards(monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(os, "cpu_count", lambda: before + 1)

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x * 1

    measure([Candidate("looks", lambda length: Looks())], with_lengths(8, threads=before + 1, repeats=1))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_compiled_layers_are_compiled_however_many_there_are(monkeypatch):
    compiled = []
    monkeypatch.setattr(measuring.torch, "compile", lambda layer, **options: compiled.append(layer) or layer)
    measure(candidates("full,bench_mean"), with_lengths(8, 16, compile=True, repeats=1))
    assert len(compiled) == 4


def test_work_is_counted():
    x = torch.ones(8, 16)
    work = count_work(lambda: x @ torch.ones(16, 4).transpose(0, 1).contiguous().t())
    assert work is not None
    assert work.flops == 2 * 8 * 16 * 4
    assert work.bytes >= 4 * (8 * 16 + 16 * 4 + 8 * 4)


# ---------------------------------------------------------------------------------------------- what follows


def made_up(label: str, times: dict[int, float]) -> list[Point]:
    return [
        Point(label, length, {"training": Cost(peak=1000 * length, seconds=[0.9 * time, time, 1.2 * time])})
        for length, time in times.items()
    ]


def test_growth_and_crossover_are_those_of_the_medians():
    points = made_up("full", {n: n**2 / 1e6 for n in (500, 1000, 2000, 4000)})
    points += made_up("linear", {n: n / 1e3 for n in (500, 1000, 2000, 4000, 8000)})
    growth = find_growth(points, "linear", "training")
    assert growth.time is not None
    assert growth.memory is not None
    assert growth.time.value == pytest.approx(1.0)
    assert growth.memory.value == pytest.approx(1.0)
    assert growth.crossover == pytest.approx(1000)
    assert not growth.crossover_is_bound
    assert (growth.speedup, growth.speedup_at) == (pytest.approx(4.0), 4000)
    assert find_growth(points, "full", "training").crossover is None
    assert find_growth(points, "full", "training", fit_from=2000).time.standard_error == inf
    assert find_growth(points, "nobody", "training").time is None
    json.dumps(growth.as_json(), allow_nan=False)


def test_quartiles_hold_the_middle_half():
    cost = Cost(peak=1, seconds=[5.0, 1.0, 2.0, 3.0, 4.0])
    assert (cost.median, cost.quartiles) == (3.0, (2.0, 4.0))
    assert Cost(peak=1, seconds=[2.0]).quartiles is None
    assert Cost(peak=1).median is None
    assert Cost(peak=1, seconds=[2.0], flops=6).rate(6) == 3.0


def test_labels_keep_their_distance_and_their_order():
    assert _spread([0.0, 100.0], 10) == [0.0, 100.0]
    placed = _spread([50.0, 50.0, 51.0, 58.0, 200.0], 10)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(placed))
    assert placed[-1] == 200.0
    assert sum(placed[:4]) == pytest.approx(sum([50.0, 50.0, 51.0, 58.0]))


def test_tables_name_what_was_not_measured(tmp_path):
    from rich.console import Console  # noqa: PLC0415

    points = [*made_up("full", {64: 1.0}), Point("peer", 64, note="not installed: pip install peer")]
    console = Console(width=200, record=True, file=StringIO())
    console.print(cost_table(points))
    growths = find_growths(points, [Candidate("full", lambda n: nn.Identity())], SMALL)
    console.print(growth_table(growths, [Candidate("full", lambda n: nn.Identity())]))
    text = console.export_text()
    assert "not installed: pip install peer" in text
    assert "1,000 [900–1,200]" in text or "1,000 [950–1,100]" in text
    assert draw(points[1:], growths, [], tmp_path, "") == []


@pytest.mark.parametrize("compared", [False, True])
def test_tables_compare_with_full_where_it_was_measured(compared):
    from rich.console import Console  # noqa: PLC0415

    labels = ["full", "linear"] if compared else ["linear"]
    shown = [Candidate(label, lambda n: nn.Identity()) for label in labels]
    points = [point for label in labels for point in made_up(label, {64: 0.5, 128: 1.0})]
    console = Console(width=200, record=True, file=StringIO())
    console.print(cost_table([point for point in points if point.length == 64]))
    console.print(growth_table(find_growths(points, shown, SMALL), shown))
    text = console.export_text()
    assert ("× full" in text) == ("faster than full" in text) == compared
    assert "500 [4" in text


def test_a_single_round_has_no_quartiles():
    from rich.console import Console  # noqa: PLC0415

    console = Console(width=200, record=True, file=StringIO())
    console.print(cost_table([Point("full", 64, {"training": Cost(peak=2**20, seconds=[0.5])})]))
    text = console.export_text()
    assert "500" in text
    assert "[" not in text


@pytest.mark.parametrize("lengths", [(64, 128), (64, 128, 256)])
def test_the_plot_has_exponents_from_three_points_on_and_the_units_of_the_tables(tmp_path, monkeypatch, lengths):
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure))
    points, shown = made_up("linear", {n: n / 1e3 for n in lengths}), [Candidate("linear", lambda n: nn.Identity())]
    draw(points, find_growths(points, shown, SMALL), shown, tmp_path, "")
    _, memory_panel = drawn[0].axes
    assert all(("N^" in str(panel.get_lines()[0].get_label())) == (len(lengths) > 2) for panel in drawn[0].axes)
    assert list(memory_panel.get_lines()[0].get_ydata()) == [1000 * n / 2**20 for n in lengths]
    assert memory_panel.yaxis.get_major_formatter()(20000, 0) == "20,000 MiB"


# ---------------------------------------------------------------------------------------------- the whole


def test_the_command_writes_table_json_and_plot(tmp_path):
    peers = tmp_path / "mine.py"
    peers.write_text(
        "from torch import nn\n"
        "from plugformer.bench.peers import Peer\n"
        "def lacking(**_): import not_there_at_all\n"
        "PEERS = {'plain': Peer(lambda *, dim, **_: nn.Linear(dim, dim), ''), 'other': Peer(lacking, ''),\n"
        "         'lacking': Peer(lacking, 'pip install it')}\n"
    )
    done = plugformer(
        *("bench", "attention=full,full(dropout=0.1)", "length=32,64,128", "dim=16", "num_heads=2", "repeats=2"),
        *(f"peers={peers}:plain,lacking", "device=cpu", f"out={tmp_path / 'out'}"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "128 tokens" in done.stdout
    assert "not installed: pip install it" in done.stdout
    written = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [each["label"] for each in written["candidates"]] == ["full", "full(dropout=0.1)", "plain", "lacking"]
    assert written["candidates"][1]["options"] == {"name": "full", "dropout": 0.1}
    assert len(written["points"]) == 4 * 3
    assert len(written["points"][0]["training"]["seconds"]) == 2
    assert written["settings"]["length"] == [32, 64, 128]
    assert (written["machine"]["threads"], written["machine"]["clock"]) == (1, "CPU time")
    assert "torch" in written["environment"]["packages"]
    assert {each["label"] for each in written["growth"] if each["time"]} == {"full", "full(dropout=0.1)", "plain"}
    assert (tmp_path / "out" / "bench.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_mechanism_of_ours_that_fails_is_a_failed_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "attention=bench_broken", "length=32,64", "dim=16", "num_heads=2", "repeats=1", "device=cpu",
              f"out={tmp_path}"])  # fmt: skip
    assert stopped.value.code == 1
    assert "too long for me" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- other projects


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PEERS = 3", "holds no PEERS"),
        ("1 / 0", "ZeroDivisionError"),
        (
            "from plugformer.bench.peers import Peer\nPEERS = {'mine': Peer(None, '')}",
            "no such peer. Did you mean mine?",
        ),
    ],
)
def test_a_file_of_peers_that_is_none_is_refused(tmp_path, text, says):
    (tmp_path / "peers.py").write_text(text)
    with pytest.raises(UserError) as refused:
        load_peers(tmp_path / "peers.py", ["mnie"])
    assert says in str(refused.value)


NEEDS = {
    "transformers_bigbird": "transformers",
    "transformers_reformer": "transformers",
    "transformers_reformer_1": "transformers",
    "reformer_pytorch": "reformer_pytorch",
    "reformer_pytorch_1": "reformer_pytorch",
    "performer_pytorch": "performer_pytorch",
    "performer_pytorch_fallback": "performer_pytorch",
    "x_transformers": "x_transformers",
    "fla_linear": "fla",
}


def peer(name: str) -> Peer:
    return load_peers(PEERS)[name]


def test_every_adapter_is_tested():
    assert set(load_peers(PEERS)) == set(NEEDS)


@pytest.mark.filterwarnings("ignore")  # of packages that are older than their dependencies
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_peer_attends_trains_and_sees_what_it_should(name, causal):
    pytest.importorskip(NEEDS[name])
    length = 768 if "bigbird" in name else 256
    try:
        layer = peer(name).make(dim=32, num_heads=2, length=length, causal=causal)
    except UserError as refused:
        assert any(word in str(refused) for word in ("CUDA", "causal", "bidirectional"))  # noqa: PT017
        return
    except ImportError:
        pytest.skip("a kernel is missing")
    x = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = layer(x)
    assert out.shape == x.shape
    out[:, length // 2].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 2)) > 0
    assert seen[: length // 2].any()
    assert seen[length // 2 + 1 :].any() != causal


@pytest.mark.parametrize(
    ("name", "length", "causal", "says"),
    [
        ("transformers_bigbird", 700, False, "only lengths that 64 divides"),
        ("transformers_bigbird", 704, False, "attends in full up to 704 tokens"),
        ("transformers_bigbird", 768, True, "its causal form sees the future"),
        ("transformers_reformer", 64, True, "attends in full up to 64 tokens"),
        ("transformers_reformer", 100, True, "only lengths that 64 divides"),
        ("reformer_pytorch", 192, True, "only lengths that 128 divides"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_peer_cannot_do_it_says(name, length, causal, says):
    pytest.importorskip(NEEDS[name])
    with pytest.raises(UserError, match=says):
        peer(name).make(dim=32, num_heads=2, length=length, causal=causal)


def test_the_bars_are_read_off_the_ratios():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import attention  # noqa: PLC0415
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    ours, theirs = made_up("ours", {8: 1.0}), made_up("theirs", {8: 3.0})
    theirs[0].costs["training"].peak *= 4
    faster, smaller = attention.compare([*ours, *theirs], "ours", "theirs", 2.0, 1 / 6)
    assert (faster.measured, faster.reached) == (pytest.approx(3.0), True)
    assert (smaller.measured, smaller.reached) == (0.25, False)
    (missing,) = attention.compare([*ours, Point("theirs", 8, note="not installed")], "ours", "theirs", 2.0, 1 / 6)
    assert (missing.measured, missing.reached, missing.note) == (None, False, "not installed")
    assert attention.show([faster, smaller, missing]).row_count == 3
