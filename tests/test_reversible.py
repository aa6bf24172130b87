"""Reversible blocks: the paper's formulas, and gradients that are those of a chain which keeps everything."""

import subprocess
import sys

import pytest
import torch
from tests.helpers import ROOT, quick_config
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from plugformer.assemble import preview
from plugformer.errors import UserError
from plugformer.interfaces import Capabilities, Grid, Layout, Mask, Tokens
from plugformer.measure import peak_memory
from plugformer.nn.backbones import Decoder, Encoder, PrefixLM
from plugformer.nn.cache import Growing
from plugformer.nn.full_attention import Full
from plugformer.nn.replay import Replay, decide
from plugformer.nn.reversible import Reversible
from plugformer.registry import build, register
from plugformer.testing.common import randomise
from plugformer.testing.comparing import assert_close, noise

TEXT = Grid(("position",), (9,))


def make(cls=Encoder, *, position="relative", attention=Full, num_layers=3, norm=None, block=None, **options):
    """Weights in float64, in training."""
    model = cls(
        make_attention=lambda **context: attention(),
        make_position=lambda **context: build("position", {"name": position}, grids=(TEXT,), **context),
        make_norm=norm or (lambda **context: build("norm", {"name": "layer"}, **context)),
        make_feed_forward=lambda **context: build("feed_forward", {"name": "mlp"}, **context),
        make_block=lambda **context: Reversible(**(block or {}), **context),
        **({"dim": 16, "num_layers": num_layers, "num_heads": 2} | options),
    )
    return randomise(model).double().train()


def tokens(x=None, **parts):
    return Tokens(noise(4, 9, 16).double() if x is None else x, Layout.of(TEXT), **parts)


def stored(blocks, x, mask, *, memory, caches):
    """The formulas of Kitaev et al. 2020, equation 9, with everything kept."""
    x1 = x2 = x
    for block in blocks:
        y1 = x1 + block.drop(block.attention(block.attention_norm(x2), mask))
        y2 = x2 + block.drop(block.feed_forward(block.feed_forward_norm(y1)))
        x1, x2 = y1, y2
    return (x1 + x2) / 2


def run(model, chain=None, **parts):
    """What comes out, and the gradients of everything."""
    x = tokens().embeddings.to(next(model.parameters())).requires_grad_()
    model.chain, before = chain or model.chain, model.chain
    torch.manual_seed(0)
    out = model(tokens(x, **parts))
    leaves = [x, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad((out * noise(*out.shape, seed=1).to(out)).sum(), leaves)
    model.chain = before
    return [out, *gradients]


def assert_same(ours, theirs, tolerance=1e-10):
    """Relative to each tensor's largest number; and to the largest of all, for gradients that are zero by design."""
    largest = max(their.abs().max() for their in theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert (our - their).abs().max() <= tolerance * max(their.abs().max(), 1e-3 * largest)


PARTS = {
    "nothing": {},
    "padding": {"valid": torch.arange(9) < torch.tensor([[9], [5], [1], [7]])},
    "segments": {"segments": torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 4)},
}
DROPS = {
    "keeps": {},
    "drops": {"dropout": 0.3, "attention": lambda: Full(dropout=0.3), "block": {"drop_path": 0.3}},
}


@pytest.mark.parametrize("drops", DROPS)
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("cls", [Encoder, Decoder, PrefixLM])
def test_gradients_are_those_of_the_stored_chain(cls, parts, drops):
    model = make(cls, **DROPS[drops])
    extra = {"prefix": torch.tensor([3, 0, 1, 9])} if cls is PrefixLM else {}
    assert_same(run(model, **PARTS[parts], **extra), run(model, stored, **PARTS[parts], **extra))


def test_gradients_in_float32_are_close():
    model = make(**DROPS["drops"], num_layers=12)
    exact = run(model, stored)
    assert_same(run(model.float()), exact, 1e-3)


@pytest.mark.parametrize("chunks", [2, 4, 9, 50])
def test_chunks_change_nothing(chunks):
    whole, model = make(), make(block={"feed_forward_chunks": chunks})
    assert_same(run(model), run(whole, stored))
    dropping = make(dropout=0.3, block={"feed_forward_chunks": chunks, "drop_path": 0.5})
    assert_same(run(dropping), run(dropping, chunk_by_chunk))


def chunk_by_chunk(blocks, x, mask, *, memory, caches):
    """Pieces one after the other, with everything kept; a path is dropped for all of them."""
    y1 = y2 = x
    for block in blocks:
        y1 = y1 + block.drop(block.attention(block.attention_norm(y2), mask))
        pieces = y1.chunk(block.feed_forward_chunks, dim=1)
        done = [block.dropout(block.feed_forward(block.feed_forward_norm(piece))) for piece in pieces]
        y2 = y2 + block.drop_path(torch.cat(done, dim=1))
    return (y1 + y2) / 2


@pytest.mark.parametrize("record", [True, False])
def test_no_more_than_a_chunk_of_the_hidden_layer_is_made_at_once(record):
    model = make(block={"feed_forward_chunks": 4}).requires_grad_(record)
    lengths = []
    for block in model.blocks:
        block.feed_forward.register_forward_hook(lambda module, x, out: lengths.append(out.shape[1]))
    out = model(tokens())
    if record:
        out.sum().backward()
    assert sum(lengths) == (2 if record else 1) * 3 * 9
    assert max(lengths) == 3


def pass_of(block, num_layers, chunks=1):
    options = {"feed_forward_chunks": chunks} if block == "reversible" else {}
    sizes = {"num_layers": 1, "position": "none", "dim": 16, "num_heads": 1}
    model = make(**sizes)
    model.blocks = nn.ModuleList(
        build(
            "block",
            {"name": block, **options},
            attention=make(**sizes).blocks[0].attention,
            feed_forward=build("feed_forward", {"name": "mlp", "expansion": 32.0}, dim=16),
            make_norm=lambda: nn.LayerNorm(16),
            dropout=0.1,
        )
        for _ in range(num_layers)
    )
    model.double()
    model.chain = type(model.blocks[0]).chain
    x = noise(1, 128, 16).double().requires_grad_()
    for tensor in (x, *model.blocks.parameters()):
        tensor.grad = torch.zeros_like(tensor)
    return lambda: model.chain(list(model.blocks), x, Mask(), caches=[None] * num_layers).sum().backward()


def test_memory_is_flat_in_depth():
    few, many, chunked = (peak_memory(pass_of("reversible", *sizes)) for sizes in ((4, 1), (16, 1), (16, 8)))
    assert many < 1.1 * few  # the rest are generators' states and the graph's own numbers
    assert many < peak_memory(pass_of("pre_norm", 16)) / 4
    assert chunked < 0.7 * many


def test_a_graph_may_be_gone_through_twice():
    model = make(num_layers=2)
    loss = model(tokens()).sum()
    loss.backward(retain_graph=True)
    first = [parameter.grad.clone() for parameter in model.parameters()]
    loss.backward()
    assert_same([parameter.grad for parameter in model.parameters()], [2 * gradient for gradient in first], 1e-12)


def test_weights_must_not_change_before_the_backward_pass():
    model = make()
    out = model(tokens()).sum()
    with torch.no_grad():
        next(model.blocks.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="a weight was changed in place between the forward and the backward pass"):
        out.backward()


def test_gradients_add_up_over_batches():
    model = make(dropout=0.2)
    model.zero_grad()
    expected = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for seed in range(2):
        torch.manual_seed(seed)
        model(tokens()).square().sum().backward()
        model.chain, ours = stored, model.chain
        torch.manual_seed(seed)
        own = torch.autograd.grad(model(tokens()).square().sum(), list(model.parameters()))
        model.chain = ours
        expected = [one + other for one, other in zip(expected, own, strict=True)]
    assert_same([parameter.grad for parameter in model.parameters()], expected)


@pytest.mark.parametrize("frozen", ["blocks.0", "blocks.1.", "feed_forward", "attention", "blocks.2", "position"])
def test_some_weights_may_be_frozen(frozen):
    """And then the embeddings too."""
    model = make(**DROPS["drops"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    assert_same(run(model), run(model, stored))
    for chain in (stored, model.chain):
        torch.manual_seed(0)
        model.chain = chain
        model(tokens()).square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        model.zero_grad()
        expected = gradients if chain is stored else expected
    assert_same(gradients, expected)


def test_each_hook_of_a_weight_runs_once():
    """As distributed wrappers rely on; those of tables that all layers share, too."""
    model, hooked, accumulated = make(), [], []
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: hooked.append(name))
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: accumulated.append(name))
    model(tokens()).square().sum().backward()
    names = sorted(name for name, _ in model.named_parameters())
    assert any("position" in name for name in names)
    assert sorted(hooked) == sorted(accumulated) == names
    assert accumulated.index("blocks.2.attention.query.weight") < accumulated.index("blocks.0.attention.query.weight")


def test_the_backward_pass_draws_nothing():
    model = make(**DROPS["drops"])
    torch.manual_seed(0)
    out = model(tokens())
    after = torch.get_rng_state()
    out.sum().backward()
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(0)
    model.chain = stored
    model(tokens())
    assert torch.equal(torch.get_rng_state(), after)


def test_what_is_not_trained_is_the_same():
    model = make().eval()
    out = model(tokens())
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert_same([model(tokens())], [out], 1e-12)
    model.chain = stored
    assert_same([model(tokens())], [out], 1e-12)


def test_decoding_is_the_whole():
    model = make(Decoder, block={"feed_forward_chunks": 2}).eval()
    whole, state = model(tokens()), Growing(model.num_layers)
    for place in range(9):
        step = model(tokens().select(torch.full((4, 1), place)), state=state)
        assert_close(step[:, 0], whole[:, place], tolerance=1e-10)


def test_mixed_precision_is_repeated_in_the_backward_pass():
    """And what is added up is not rounded: else inversion would be far off."""
    model = make(**DROPS["drops"], num_layers=8).float()
    x = noise(4, 9, 16)
    both = []
    for chain in (model.chain, stored):
        model.chain = chain
        torch.manual_seed(0)
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(tokens(given)).square().mean()
        both.append([loss, *torch.autograd.grad(loss, [given, *model.parameters()])])
    assert_same(*both, 0.02)


def test_streams_are_float32_at_least_and_their_last_are_all_that_is_kept():
    model, kept = make(num_layers=8, position="none").bfloat16(), []
    x = noise(1, 9, 16).bfloat16().requires_grad_()
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.dtype) or tensor, lambda tensor: tensor):
        out = model.chain(list(model.blocks), x, Mask(), caches=[None] * 8)
    assert kept == [torch.float32] * 2
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert x.grad.dtype == torch.bfloat16


# ---------------------------------------------------------------------------------------------- decisions


class Buckets(Full):
    """Changes its mind, as hash buckets do after a rounding error, unless it is asked only once."""

    def __init__(self):
        super().__init__()
        self.choices = 0

    def forward(self, q, k, v, mask, bias=None):
        def choose():
            self.choices += 1
            return (q[..., 0] * (-1) ** self.choices > 0).to(torch.uint8)

        return super().forward(q, k, v * decide(choose)[..., None], mask, bias)


def test_what_was_decided_is_decided():
    model = make(attention=Buckets)
    ours = run(model)
    assert [block.attention.mechanism.choices for block in model.blocks] == [1, 1, 1]
    for block in model.blocks:
        block.attention.mechanism.choices = 0
    assert_same(ours, run(model, stored))


def test_decisions_come_back_in_their_order_and_any_number_of_times():
    replay, made = Replay(torch.device("cpu")), iter(range(100))

    def part():
        first = decide(lambda: torch.tensor(next(made)))
        return [first, decide(lambda: torch.tensor(next(made))), torch.rand(())]

    with replay.first():
        first = part()
    torch.rand(3)
    after = torch.get_rng_state()
    for _ in range(2):
        with replay.again():
            assert part() == first
        assert torch.equal(torch.get_rng_state(), after)
    assert part() != first
    with pytest.raises(AssertionError, match="more is decided than the first time"), replay.again():
        part() + part()


def test_decisions_carry_no_gradient():
    x = noise(3).requires_grad_()
    assert not decide(lambda: x * 2).requires_grad


# ---------------------------------------------------------------------------------------------- what is refused


def test_gradients_of_gradients_are_refused():
    x = tokens().embeddings.requires_grad_()
    with pytest.raises(UserError, match=r"gradients of gradients \(create_graph=True\).*\n  Set block=pre_norm\.$"):
        torch.autograd.grad(make()(tokens(x)).sum(), x, create_graph=True)


@pytest.mark.parametrize("chunks", [0, -1])
def test_there_is_a_chunk(chunks):
    with pytest.raises(UserError, match=rf"^block.feed_forward_chunks={chunks}: must be at least 1\.$"):
        make(block={"feed_forward_chunks": chunks})


class BatchNorm(nn.Module):
    def __init__(self, *, dim):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x):
        return self.norm(x.mT).mT


def test_running_statistics_are_refused():
    with pytest.raises(
        UserError, match=r"block=reversible can't go with norm BatchNorm, .* running statistics(.|\n)*Set norm=layer"
    ):
        make(norm=BatchNorm)


class Counts(nn.LayerNorm):
    def __init__(self, *, dim):
        super().__init__(dim)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return super().forward(x)


def test_a_part_that_changes_while_it_runs_is_refused():
    with pytest.raises(UserError, match=r"blocks\.0\.attention_norm\.count changes when it is run\.\n.*pre_norm\.$"):
        make(norm=Counts)(tokens())


class Moody(Full):
    """Draws where nobody can repeat it."""

    capabilities = Capabilities(causality="strict", additive_bias=True, replays=False)

    def forward(self, q, k, v, mask, bias=None):
        out = super().forward(q, k, v, mask, bias)
        return out.exp() if next(MOODS) else out


MOODS = iter([False, False, False, True])


def test_a_part_that_does_something_else_is_caught():
    loss = make(attention=Moody)(tokens()).sum()
    with pytest.raises(UserError, match=r"did something else when it was run once more(.|\n)*replay\.decide\.$"):
        loss.backward()


def test_a_mechanism_that_can_not_be_replayed_is_refused_before_any_data_is_read(monkeypatch):
    monkeypatch.setattr("plugformer.registry._registered", {})
    monkeypatch.setattr("plugformer.compatibility.offers", lambda kind: ["full", "moody"])
    register("attention", "moody")(Moody)
    config = quick_config("attention=moody", "block=reversible")
    with pytest.raises(UserError) as error:
        preview(config, source=build("data", config["data"]))
    message = str(error.value)
    assert message.startswith("attention=moody can't do the same when run once more, as block=reversible needs.")
    assert message.endswith("These would work: attention=full")
    config = quick_config("attention=moody")
    preview(config, source=build("data", config["data"]))


# ---------------------------------------------------------------------------------------------- compiled, distributed

ELSEWHERE = """
import sys, tempfile, torch
from tests.test_reversible import assert_same, make, stored, tokens
from torch.nn.parallel import DistributedDataParallel

def gradients(model, call):
    model.zero_grad()
    torch.manual_seed(0)
    call(tokens()).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]

for options in ({}, {"feed_forward_chunks": 2}):
    model = make(block=options, num_layers=2)
    expected = gradients(model, model)
    for backend in ("eager", "aot_eager"):
        assert_same(gradients(model, torch.compile(model, backend=backend)), expected)
    model.train(False)
    with torch.no_grad():
        whole = torch.compile(model, backend="eager", fullgraph=True)(tokens())
    assert_same([whole], [model(tokens())])

with tempfile.TemporaryDirectory() as folder:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    model = make(dropout=0.3)
    expected = gradients(model, model)
    for unused in (False, True):
        assert_same(gradients(model, DistributedDataParallel(model, find_unused_parameters=unused)), expected)
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_is_the_same_compiled_and_distributed():
    """In a process where shapes in annotations are not checked."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
