"""Caches: what is remembered between steps changes nothing but the time that they take."""

import subprocess
import sys
from dataclasses import replace
from functools import cache as remembered
from itertools import pairwise

import pytest
import torch
from tests.helpers import ROOT

from plugformer import build
from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.decode.session import Session
from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout
from plugformer.nn.cache import Row
from plugformer.nn.full_attention import Full
from plugformer.registry import offers

SIZES = ("backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=4", "tokenizer.max_length=24", "norm=rms")
POSITIONS = offers("position")
BACKBONES = {"decoder": "causal_lm", "prefix_lm": "prefix_lm"}
STATES = ("performer", "linear", "random_feature")
IDS = torch.randint(0, 256, (3, 16), generator=torch.Generator().manual_seed(0))
PROMPT, CHUNKS = 6, (1, 4, 3, 1, 1)
LACKING = torch.tensor([0, 2, 5])  # how many tokens shorter than the longest prompt each is
VALID = torch.arange(PROMPT) >= LACKING[:, None]


@remembered
def model(*overrides, backbone="decoder"):
    config = compose(
        [
            *("data=python_docs", "tokenizer=text_bytes", f"backbone={backbone}", f"task={BACKBONES[backbone]}"),
            *(*SIZES, *overrides),
        ]
    )
    source, tokenizer = build("data", config["data"]), build("tokenizer", config["tokenizer"])
    tokenizer.assume(source.spec)
    made, generator = build_model(config, tokenizer=tokenizer, data=source.spec), torch.Generator().manual_seed(0)
    with torch.no_grad():  # off the zeros, ones and small numbers that hide a mistake
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.double().eval()


def logits(module, ids, *chunks, valid=None, **options):
    """Of what follows the prompt and each token after it."""
    session = Session(module, room=ids.shape[1] - PROMPT, **options)
    prompt, *rest = ids.split([PROMPT, *chunks], 1)
    return torch.cat([session.start(prompt, valid), *(session.step(new) for new in rest)], 1)


def alone(module, row):
    """Of one row without its padding, in one piece."""
    start = LACKING[row]
    session = Session(module, room=IDS.shape[1] - PROMPT, cache="none")
    return torch.cat([session.start(IDS[row : row + 1, start:PROMPT]), session.step(IDS[row : row + 1, PROMPT:])], 1)


def close(ours, reference, tolerance=1e-9):
    assert reference.std() > 0.3, "tokens are told apart"
    torch.testing.assert_close(ours, reference, atol=tolerance, rtol=tolerance)


# ---------------------------------------------------------------------------------------------- the same logits


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("position", POSITIONS)
def test_steps_under_padding_are_each_row_alone_in_one_piece(position, backbone, cache):
    options = [f"position={position}", "backbone.num_kv_heads=2", "backbone.qk_norm=rms", "backbone.num_registers=2"]
    module = model(*options, backbone=backbone)
    ours = logits(module, IDS, *CHUNKS, valid=VALID, cache=cache)
    close(ours, torch.cat([alone(module, row) for row in range(len(IDS))]))


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("block", ["pre_norm", "reversible"])
@pytest.mark.parametrize("cache", ["growing", "fixed"])
def test_steps_are_the_whole_with_every_grouping_of_heads(cache, block, num_kv_heads):
    module = model(f"backbone.num_kv_heads={num_kv_heads}", f"block={block}", "position=rope")
    close(logits(module, IDS, *[1] * 10, valid=VALID, cache=cache), logits(module, IDS, 10, valid=VALID, cache="none"))


@pytest.mark.parametrize("cache", ["growing", "fixed"])
@pytest.mark.parametrize("attention", STATES)
def test_steps_from_a_state_are_the_whole(attention, cache):
    module = model(f"attention={attention}", "position=rope", "backbone.num_registers=2")
    ours = logits(module, IDS, *CHUNKS, valid=VALID, cache=cache)
    close(ours, torch.cat([alone(module, row) for row in range(len(IDS))]))


# ---------------------------------------------------------------------------------------------- back, and elsewhere


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
@pytest.mark.parametrize("position", POSITIONS)
def test_what_is_dropped_leaves_no_trace(position, cache):
    module = model(f"position={position}")
    session = Session(module, room=10, cache=cache)
    session.start(IDS[:, :PROMPT], VALID)
    session.step(IDS[:, PROMPT:9])
    for count in (1, 3):
        session.step(255 - IDS[:, 9 : 9 + count])
        session.drop(count)
    ours = session.step(IDS[:, 9:])
    close(ours, logits(module, IDS, 10, valid=VALID, cache="none")[:, 4:])


@pytest.mark.parametrize("rows", [[2, 2, 0], [1, 0, 2, 2, 0], [1]], ids=["as many", "more", "fewer"])
@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
@pytest.mark.parametrize("options", [("position=alibi",), ("position=rope", "attention=performer")], ids=str)
def test_chosen_rows_go_on_as_they_would(options, cache, rows):
    module, rows = model(*options), torch.tensor(rows)
    session = Session(module, room=10, cache=cache)
    session.start(IDS[:, :PROMPT], VALID)
    session.step(IDS[:, PROMPT:9])
    session.select(rows)
    other = torch.cat([IDS[rows, :9], 255 - IDS[rows, 9:]], 1)
    ours = session.step(other[:, 9:])
    close(ours, logits(module, other, 10, valid=VALID[rows], cache="none")[:, 4:])


@pytest.mark.parametrize("cache", ["growing", "fixed"])
def test_a_state_takes_nothing_back(cache):
    session = Session(model("attention=linear"), room=2, cache=cache)
    session.start(IDS)
    session.step(IDS[:, :1])
    with pytest.raises(AssertionError, match="can't go back"):
        session.drop(1)


def test_a_bias_is_that_of_the_queries_even_where_those_before_are_gone():
    alibi, keys = build("position", {"name": "alibi"}, num_heads=2), Layout.of(Grid(("position",), (64,)))
    for length in range(1, 65):
        bias = alibi.bias(keys.last(length), keys)
        assert torch.equal(bias[0, :, :, -1] == 0, (torch.arange(length) == length - 1).expand(2, -1))


# ---------------------------------------------------------------------------------------------- memory


def test_what_a_row_holds_is_never_copied_while_there_is_room():
    row, values = Row(1, room=5), torch.randn(2, 20, 3)
    first, *rest = values.split([3, 1, 4, 12], 1)
    place = row.extend(first).data_ptr()
    for new in rest[:2]:
        assert row.extend(new).data_ptr() == place
    row.drop(2)
    again = row.extend(values[:, 6:8])
    assert again.data_ptr() == place
    assert torch.equal(again, values[:, :8])
    moved = row.extend(rest[2])
    assert torch.equal(moved, values)
    assert moved.data_ptr() != place


def test_a_row_is_moved_ever_more_seldom():
    row = Row(0)
    places = [row.extend(torch.ones(1)).data_ptr() for _ in range(1000)]
    assert sum(a != b for a, b in pairwise(places)) <= 10  # once a doubling


def test_rows_that_are_chosen_keep_their_room():
    row, values, chosen = Row(1, room=5), torch.randn(3, 8, 2), torch.tensor([2, 0, 2, 1])
    row.extend(values[:, :3])
    row.select(chosen)
    place = row.extend(values[chosen, 3:4]).data_ptr()
    whole = row.extend(values[chosen, 4:])
    assert torch.equal(whole, values[chosen])
    assert whole.data_ptr() == place


@pytest.mark.parametrize("cache", ["growing", "fixed"])
def test_keys_stay_where_they_are_while_there_is_room(cache):
    session = Session(model("position=rope"), room=10, cache=cache)
    session.start(IDS[:, :PROMPT])

    def places():
        parts = [part for each in session.state.caches for part in (each.k, each.v)]
        return [(part.memory if isinstance(part, Row) else part).data_ptr() for part in parts]

    before = places()
    for new in IDS[:, PROMPT:].split(1, 1):
        session.step(new)
    assert places() == before


def test_more_tokens_than_there_is_room_for_are_noticed():
    session = Session(model(), room=1, cache="fixed")
    session.start(IDS[:, :2])
    session.step(IDS[:, :1])
    with pytest.raises(AssertionError, match="room"):
        session.step(IDS[:, :1])


# ---------------------------------------------------------------------------------------------- compiled


# What positions are made of, such as the turns of RoPE, is float32, and inductor rounds sines in its own way.
COMPILED = """
import torch
from functools import partial
from tests import test_caches
from tests.test_caches import IDS, PROMPT, VALID, logits, model
from plugformer.decode.session import Session
torch._dynamo.config.error_on_recompile = True
close = partial(test_caches.close, tolerance=1e-6)

for options in OPTIONS:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = model(*options)
    fixed = logits(module, IDS, *[1] * 10, valid=VALID, cache="fixed")
    for _ in range(2):
        options = {"cache": "fixed", "compile": True, "backend": "BACKEND"}
        close(logits(module, IDS, *[1] * 10, valid=VALID, **options), fixed)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for length in (3, 5):  # of another length, in memory of the same size
        session = Session(module, room=10 + length, **options)
        close(session.start(IDS[:, :length]), Session(module, room=1).start(IDS[:, :length]))
        if length == 3:
            torch._dynamo.config.error_on_recompile = False  # no longer is anything padded
        session.step(IDS[:, length : length + 1])
        torch._dynamo.config.error_on_recompile = True
        ours = session.step(IDS[:, length + 1 : length + 2])
        close(ours[:, 0], Session(module, room=1).start(IDS[:, : length + 2])[:, 0])
"""


GROUPED = ["position=rope", "backbone.num_kv_heads=2"]
ALL = [GROUPED, ["position=alibi"], ["position=relative"], ["attention=performer"], ["attention=linear"]]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "options"), [("eager", [GROUPED]), ("inductor", ALL)])
def test_steps_are_compiled_once_for_all(backend, options):
    """In a process where shapes in annotations are not checked."""
    code = COMPILED.replace("BACKEND", backend).replace("OPTIONS", repr(options))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=580)


# ---------------------------------------------------------------------------------------------- what can't be


@pytest.mark.parametrize("cache", ["growing", "none"])
def test_only_steps_of_one_shape_are_compiled(cache):
    with pytest.raises(UserError, match=rf"^compile=true: .* cache={cache} has none. Set cache=fixed.$"):
        Session(model(), room=1, cache=cache, compile=True)


def test_a_mechanism_that_knows_no_room_is_named(monkeypatch):
    monkeypatch.setattr(Full, "capabilities", replace(Full.capabilities, room=False))
    with pytest.raises(UserError, match=r"^cache=fixed: Full can't .* fixed size, .*\n  Set cache=growing.$"):
        Session(model(), room=1, cache="fixed")


def test_a_mechanism_that_can_not_go_on_is_named():
    with pytest.raises(UserError, match=r"^cache=growing: ReformerLSH can't go on .* Set cache=none.$"):
        Session(model("attention=reformer_lsh", "attention.causality=gradient"), room=1)
