"""The conformance kit names the faults that public implementations have had, and passes the same thing mended."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import faults

from plugformer.cli.main import main
from plugformer.errors import UserError
from plugformer.interfaces import Capabilities, Mask
from plugformer.measure import Exponent, crossover, fit_exponent, interleaved_times, peak_memory
from plugformer.registry import register
from plugformer.testing.complexity import Growth, certify
from plugformer.testing.judging import judge

CAUSAL, PAST = "is as causal as it declares", "sees other tokens"
PADDING, NOTHING = "padding changes nothing", "no visible key gives zeros"
SEEN = "padding is not seen wherever it stands"
SEGMENTS, MEMORY = "segments do not see each other", "memory grows no faster than claimed"
REPEATS, OTHER, ALONE = "repeats itself", "remembers no other length", "takes each sample alone"
CHECKPOINT, DRAWS, BUFFERS = (
    "checkpoint holds everything",
    "draws nothing in evaluation",
    "random buffers are the seeds",
)
FRONT, ROOM = "padding in front changes nothing", "sees nothing of room for later tokens"
LEAVES, CHOSEN = "a step leaves what is remembered as it was", "sequences can be chosen while decoding"
BEYOND = "goes on beyond its longest"
REDRAWS, MEMORY_READ = "redraws by seed and step alone", "reads no uninitialised memory"


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr("plugformer.registry._registered", {})
    return lambda cls: register("attention", "judged")(cls) and {"name": "judged"}


MOVES = "is found 'gradient': .* move outputs before them by .*, though they have no gradient to it"
ANEW = {OTHER, ALONE, CHECKPOINT, DRAWS, MEMORY_READ, REDRAWS}
# Of each fault: the law that names it, what the law says, and which other laws the fault breaks as well.
FAULTS: list[tuple[type, str, str, set[str]]] = [
    (faults.SumsTheWrongAxis, PAST, "causal, token 8 sees nothing of those before it", set()),
    (faults.IgnoresCausal, CAUSAL, "declares causality='strict' and is found 'none': outputs before 1 have a", set()),
    (faults.ForgetsTheDiagonal, CAUSAL, "declares causality='strict' and is found 'none'", set()),
    (faults.LeaksInTraining, CAUSAL, r"is found 'none': outputs before 1 have a gradient .* \(in training\)", set()),
    (faults.ForgetsCausalBesideSegments, CAUSAL, r"is found 'none': .* \(masking segments\)", set()),
    (faults.HidesItsBlocks, CAUSAL, "is found 'gradient': of 200 tokens, other tokens from 63 on", set()),
    (faults.TakesPaddingForRight, SEEN, "bidirectional, padding in front moves outputs by", {FRONT}),
    (faults.CountsBlocksFromThePadding, FRONT, "bidirectional, 17 tokens behind 1 of padding: differs by", set()),
    (faults.ForgetsTheStart, ROOM, "1 queries from place 0 on, with room behind them: differs by", set()),
    (faults.AddsInPlace, LEAVES, "another way to go on from the same state: differs by", set()),
    (faults.PutsHeadsFirst, CHOSEN, r"\[4, 2, 8, 9\], of a batch of 2: the batch must be the first axis", set()),
    (faults.StopsAtItsLongest, BEYOND, "prompt of 1: differs by", set()),
    (faults.StabilisesByTheWholeSequence, CAUSAL, MOVES, set()),
    (faults.SortedChunksAsStrict, CAUSAL, MOVES, set()),
    (faults.SwitchesForGood, OTHER, "what comes out after a batch of 1 tokens is not the same", set()),
    (faults.DropsTheMask, CAUSAL, "is found 'none'", {PADDING, FRONT, SEEN, NOTHING, SEGMENTS}),
    (faults.DropsThePadding, PADDING, "tokens padded to 17: differs by .*, 1e-05 is allowed", {FRONT, SEEN, NOTHING}),
    (faults.ClaimsToBeLinear, MEMORY, r"claims memory_exponent=1 and is found to grow with the power 2\.00", set()),
    (faults.HashesAnew, REPEATS, "what comes out is not the same", ANEW),
    (faults.DrawsFromTheRun, BUFFERS, "rotation depends on more than seed and layer", {REDRAWS}),
]


@pytest.mark.parametrize(("fault", "law", "says", "others"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_public_fault_is_named(registered, fault, law, says, others):
    failed = {verdict.law: verdict for verdict in judge("attention", registered(fault)) if verdict.outcome == "failed"}
    assert failed.keys() == {law, *others}, {law: verdict.why for law, verdict in failed.items()}
    assert re.search(says, failed[law].why), failed[law].why


MENDED = [
    faults.Dense,
    faults.HonoursRoom,
    faults.Blocks,
    faults.PaddedBlocks,
    faults.Linear,
    faults.LinearSteps,
    faults.Favor,
    faults.SortedChunks,
]


@pytest.mark.parametrize("mended", MENDED, ids=[cls.__name__ for cls in MENDED])
def test_the_same_thing_mended_passes(registered, mended):
    verdicts = list(judge("attention", registered(mended)))
    assert not {verdict.law: verdict.why for verdict in verdicts if verdict.outcome == "failed"}


HEADS = torch.zeros(2, 1, 4, 8)


@pytest.mark.parametrize(
    ("part", "mask", "keys", "bias"),
    [
        ("causality", Mask(causal=True), HEADS, None),
        ("key_padding", Mask(valid=torch.ones(2, 4, dtype=torch.bool)), HEADS, None),
        ("prefix", Mask(prefix=torch.tensor([1, 2])), HEADS, None),
        ("segments", Mask(segments=torch.zeros(2, 4, dtype=torch.long)), HEADS, None),
        ("room", Mask(start=torch.tensor(2)), HEADS, None),
        ("additive_bias", Mask(), HEADS, torch.zeros(2, 1, 4, 4)),
        ("cross_attention", Mask(), HEADS[:, :, :3], None),
        ("cross_attention", Mask(), HEADS.repeat(1, 1, 2, 1), None),
    ],
)
def test_no_mechanism_is_asked_for_what_it_does_not_declare(part, mask, keys, bias):
    class Able(faults.Dense):
        def forward(self, q, k, v, mask, bias=None):
            return q

    Able.capabilities = Capabilities(decoding="cache")
    assert Able()(HEADS, HEADS, HEADS, Mask()) is HEADS
    with pytest.raises(NotImplementedError, match=f"Able doesn't declare {part}, and was asked for it"):
        Able()(HEADS, keys, keys, mask, bias)
    Able.capabilities = replace(Able.capabilities, **{part: "strict" if part == "causality" else True})
    assert Able()(HEADS, keys, keys, mask, bias) is HEADS


# ---------------------------------------------------------------------------------------------- the certificate


def test_the_certificate_tells_how_cost_grows(registered):
    grown = certify(registered(faults.Dense), lengths=(128, 256, 512), repeats=1, num_heads=1, head_dim=8)
    assert [(growth.quantity, growth.causal) for growth in grown] == [
        (quantity, causal) for causal in (False, True) for quantity in ("memory", "time")
    ]
    for growth in grown:
        assert growth.holds
        assert len(growth.costs) == len(growth.exact) == 3
    memory = grown[0]
    assert memory.measured.value == pytest.approx(2, abs=0.15)
    assert memory.crossover is None


def test_the_certificate_refuses_a_claim_that_is_too_good(registered):
    grown = certify(registered(faults.ClaimsToBeLinear), lengths=(128, 256, 512), repeats=1, num_heads=1, head_dim=8)
    assert [growth.holds for growth in grown if growth.quantity == "memory"] == [False, False]


@pytest.mark.parametrize(
    ("quantity", "measured", "holds"),
    [
        ("memory", Exponent(1.29, 0.5), True),
        ("memory", Exponent(1.31, 0.5), False),
        ("time", Exponent(1.49, 0.1), True),
        ("time", Exponent(1.51, 0.1), False),
    ],
)
def test_time_has_its_uncertainty_and_memory_none(quantity, measured, holds):
    growth = Growth(quantity, False, (1, 2, 4), (1, 1, 1), (1, 1, 1), claimed=1.0, measured=measured, crossover=None)
    assert growth.holds == holds


# ---------------------------------------------------------------------------------------------- measuring


def test_peak_memory_is_exact_and_the_same_each_time():
    x = torch.zeros(1000)

    def three_at_once():
        a = x + 1
        b = a + 1
        del a
        return torch.cat([b, b])  # 1000 + 2000 floats; a is gone

    assert {peak_memory(three_at_once) for _ in range(3)} == {3000 * 4}
    assert peak_memory(x.relu_) == 0


def test_peak_memory_sees_the_backward_pass_and_what_is_inside_operators():
    x = torch.ones(8, 64, requires_grad=True)
    forward, both = peak_memory(lambda: (x @ x.T).exp().sum()), peak_memory(lambda: (x @ x.T).exp().sum().backward())
    assert both > forward > 0


def test_peak_memory_outlives_an_error():
    def fail():
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        peak_memory(fail)
    assert peak_memory(lambda: torch.zeros(10)) == 40


def test_times_are_interleaved():
    called = []
    times = interleaved_times({name: lambda name=name: called.append(name) for name in "abc"}, repeats=3)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(time >= 0 for each in times.values() for time in each)


def test_an_exponent_comes_with_its_error():
    exact = fit_exponent([1, 2, 4, 8], [3, 12, 48, 192])
    assert exact == pytest.approx((2, 0), abs=1e-9)
    x, y = [1, 2, 4, 8], [1.0, 2.3, 3.9, 8.4]
    (slope, _), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    assert fit_exponent(x, y) == pytest.approx((slope, covariance[0, 0] ** 0.5))
    assert fit_exponent([1, 2], [1, 4]) == (pytest.approx(2), math.inf)


@pytest.mark.parametrize(
    ("ours", "theirs", "length"),
    [
        ([4, 8, 16], [1, 4, 16.0001], pytest.approx(4, rel=1e-3)),  # lines that meet at the end
        ([4, 8, 16], [2, 8.0001, 32], pytest.approx(2, rel=1e-3)),
        ([1, 2, 4], [2, 8, 32], 1),
        ([3, 6, 12], [1, 2, 4], None),
        ([1, 9, 1], [2, 2, 2], pytest.approx(2 * 2 ** (math.log(4.5) / math.log(9)))),  # for good, not the first time
    ],
)
def test_a_crossover_is_for_good(ours, theirs, length):
    assert crossover([1, 2, 4], ours, theirs) == length


def test_of_two_crossovers_the_last_counts():
    assert 4 < (crossover([1, 2, 4, 8], [3, 1, 3, 1], [2, 2, 2, 2]) or 0) < 8


# ---------------------------------------------------------------------------------------------- the command

MINE = """
from plugformer.errors import UserError
from plugformer.interfaces import Attention, Capabilities
from plugformer.registry import register


@register("attention", "mine")
class Mine(Attention):
    capabilities = Capabilities(causality={causality!r})

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        if scale < 0:
            raise UserError("attention.scale must not be negative.")
        self.scale = scale

    def forward(self, q, k, v, mask):
        return self.exact(self.scale * q, k, v, mask)
"""


@pytest.fixture
def conformance(tmp_path, monkeypatch, capsys):
    """The command on a stranger's single file."""
    monkeypatch.setattr("plugformer.registry._registered", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, causality: str = "strict") -> tuple[int, str, str]:
        file = tmp_path / f"{causality}.py"  # of another name, or it would not be read again
        file.write_text(MINE.format(causality=causality))
        with pytest.raises(SystemExit) as stopped:
            main(["conformance", f"plugins=[{file.name}]", *arguments])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_a_file_of_a_stranger_is_judged(conformance):
    code, out, _ = conformance("attention=mine", "attention.scale=2", "--lengths", "64,128,256")
    assert code == 0, out
    assert "attention=mine" in out
    assert "scale=2.0" in out
    assert re.search(r"Every law holds: \d+ passed, 0 failed, \d+ do not apply\.", out)
    assert "Nothing checked what it computes: it has no plain, no exact_options and no finer_options." in out
    assert "is as causal as it declares" in out
    assert "declares that it can't honour padding" in out
    assert "bidirectional" in out.partition("Complexity")[2]


def test_what_fails_is_told_to_people_and_machines(conformance):
    code, out, _ = conformance("attention=mine", "--no-complexity", causality="gradient")
    assert (code, "passed, 1 failed," in out, "Complexity" in out) == (1, True, False)
    code, out, _ = conformance("attention=mine", "--no-complexity", "--json", causality="gradient")
    told = json.loads(out)
    assert (code, told["passed"], told["options"], told["complexity"]) == (1, False, {"scale": 1.0}, [])
    (failed,) = [law for law in told["laws"] if law["outcome"] == "failed"]
    assert failed["law"] == CAUSAL
    assert failed["why"].startswith("declares causality='gradient' and is found 'strict': nothing that was put behind")
    deviations = {law["law"]: law["deviation"] for law in told["laws"]}
    assert deviations["repeats itself"] == 0.0
    assert deviations["keeps shape and dtype"] is None


def test_json_holds_the_certificate(conformance):
    code, out, _ = conformance("attention=mine", "--json", "--lengths", "128,256,512")
    memory, *_ = json.loads(out)["complexity"]
    assert code == 0
    assert (memory["quantity"], memory["causal"], memory["lengths"]) == ("memory", False, [128, 256, 512])
    assert memory["measured"]["value"] == pytest.approx(2, abs=0.2)
    assert memory["limit"] == 2.3


def test_a_certificate_that_cannot_be_had_loses_no_verdict(conformance, monkeypatch):
    def run_out(node, **_):
        raise MemoryError("nothing left")

    monkeypatch.setattr("plugformer.testing.complexity.certify", run_out)
    code, out, _ = conformance("attention=mine")
    assert code == 1
    assert "passed, 1 failed," in out
    assert "MemoryError: nothing left" in out
    code, out, _ = conformance("attention=mine", "--json")
    told = json.loads(out)
    failed = [law for law in told["laws"] if law["outcome"] == "failed"]
    assert (code, told["passed"], told["complexity"], len(failed)) == (1, False, [], 1)
    assert failed[0]["why"] == "MemoryError: nothing left"
    assert len(told["laws"]) > 20


def test_a_mechanism_that_declares_nothing_is_refused(registered):
    class Silent(faults.Attention):
        def forward(self, q, k, v, mask):
            return v

    with pytest.raises(UserError, match=r"attention=judged: Silent has no capabilities, and laws hold it to what"):
        next(judge("attention", registered(Silent)))


def test_the_kit_takes_no_shorter_sequence_than_the_mechanism(registered):
    class Long(faults.Dense):
        capabilities = replace(faults.Dense.capabilities, min_length=70)

        def forward(self, q, k, v, mask):
            assert q.shape[2] >= 70
            return super().forward(q, k, v, mask)

    verdicts = list(judge("attention", registered(Long)))
    assert not {verdict.law: verdict.why for verdict in verdicts if verdict.outcome == "failed"}
    (memory, *_) = certify({"name": "judged"}, lengths=(35, 70, 140), repeats=1, num_heads=1, head_dim=8)
    assert memory.lengths == (70, 140, 280)


def test_a_mechanism_may_go_without_queries_and_keys(registered):
    class Mean(faults.Attention):
        capabilities = Capabilities(time_exponent=1.0, memory_exponent=1.0)

        def forward(self, q, k, v, mask):
            return v.mean(2, keepdim=True).expand_as(q)

    verdicts = list(judge("attention", registered(Mean)))
    assert not {verdict.law: verdict.why for verdict in verdicts if verdict.outcome == "failed"}


def test_parts_of_other_kinds_are_judged_too(conformance):
    code, out, _ = conformance("norm=rms")
    assert (code, "takes each token alone" in out, "Complexity" in out) == (0, True, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("attention=ful", "attention=ful: no such plugin. Did you mean full?"),
        ("attention=mine attention.scal=2", "attention.scal: no such option. Did you mean attention.scale?"),
        ("attention=mine attention.scale=large", "attention.scale=large: expected a number."),
        ("attention=mine attention.scale=-1", "attention.scale must not be negative."),
        ("attention.scale=2", "conformance: no plugin is chosen, and one is judged at a time. Choose it as KIND=NAME"),
        ("attention=mine norm=rms", "conformance: attention and norm are chosen"),
        ("attention=full,local", "attention=full,local: expected the name of one plugin, as in attention=full."),
        ("attention=mine norm.eps=1", "norm.eps=1: attention=mine is judged, and this is no option of it."),
        ("attenton=mine", "attenton=mine: attenton is no kind of plugin. Did you mean attention?"),
        ("attention=mine seed=3", "seed=3: seed is no kind of plugin."),
        ("attention=mine --js", "unrecognized arguments: --js"),
        ("attention=mine --lengths 512", "expected three or more, rising, as in 512,1024,2048"),
        ("attention=mine --lengths 512,a,b", "expected three or more, rising"),
    ],
)
def test_a_mistake_is_refused(conformance, arguments, says):
    code, out, err = conformance(*arguments.split())
    assert (code, out) == (2, "")
    assert says in err
