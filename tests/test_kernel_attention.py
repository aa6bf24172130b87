"""Kernel attention: performer, random_feature and linear."""

import itertools
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from plugformer.errors import UserError
from plugformer.interfaces import Mask
from plugformer.registry import build
from plugformer.testing.comparing import assert_close, noise
from plugformer_attention.kernel.projection import orthogonal_directions

HEADS, DIM, LENGTH = 2, 8, 150  # more than two chunks
VARIANTS = {
    "performer": {"name": "performer"},
    "performer-relu": {"name": "performer", "features": "relu"},
    "performer-trigonometric": {"name": "performer", "features": "trigonometric"},
    "linear": {"name": "linear"},
    "random_feature": {"name": "random_feature"},
    "random_feature-arccos": {"name": "random_feature", "features": "arccos"},
    "random_feature-gate": {"name": "random_feature", "gate": "scalar"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def make(variant, *, causal=True, seed=0, head_dim=DIM, **options):
    node = {**VARIANTS[variant], **options}
    module = build(
        "attention", node, num_heads=HEADS, head_dim=head_dim, causal=causal, max_length=4096, layer=0, seed=seed
    )
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * noise(*parameter.shape, seed=number))
    return module


def heads(length=LENGTH, *, scale=1.0, dtype=torch.float64):
    return tuple((scale * noise(2, HEADS, length, DIM, seed=part)).to(dtype).requires_grad_() for part in range(3))


def gradients(out, inputs):
    return torch.autograd.grad((out * torch.arange(out.numel()).view(out.shape).sin()).sum(), inputs)


def masks(causal):
    valid = torch.arange(LENGTH) < torch.tensor([[LENGTH], [97]])
    left = torch.arange(LENGTH) >= torch.tensor([[0], [70]])
    segments = torch.bucketize(torch.arange(LENGTH), torch.tensor([3, 64, 70, 140]), right=True).expand(2, -1)
    several = torch.stack([segments[0], (torch.arange(LENGTH) > 90).long()])
    for padding, documents in itertools.product((None, valid, left), (None, several)):
        yield Mask(causal=causal, valid=padding, segments=documents)


def ways():
    return [(name, causal) for name in VARIANTS for causal in (False, True) if causal or not name.endswith("gate")]


# ---------------------------------------------------------------------------------------------- against plain versions


@pytest.mark.parametrize(("variant", "causal"), ways())
def test_is_its_plain_version(variant, causal):
    module, (q, k, v) = make(variant, causal=causal).double(), heads()
    for mask in masks(causal):
        fast, plain = module(q, k, v, mask), module.plain(q, k, v, mask)
        assert_close(fast, plain, tolerance=1e-8)
        inputs = (q, k, v, *module.parameters())
        for one, other in zip(gradients(fast, inputs), gradients(plain, inputs), strict=True):
            scale = other.abs().max() + 1
            assert_close(one / scale, other / scale, tolerance=1e-8)


def test_favor_is_performer_pytorchs():
    """Without the number that it adds to features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = pytest.importorskip("performer_pytorch.performer_pytorch", exc_type=ImportError)
    module, inputs = make("performer").double(), heads()
    q, k, v = inputs

    def theirs(x, *, query):
        projection = module.projection.directions.T
        return peer.softmax_kernel(x, projection_matrix=projection, is_query=query, eps=0.0)

    expected = peer.linear_attention(theirs(q, query=True), theirs(k, query=False), v)
    out = module(q, k, v, Mask())
    assert_close(out, expected, tolerance=1e-10)
    for one, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        assert_close(one, other, tolerance=1e-10)


def test_linear_is_the_papers():
    q, k, v = heads()
    products = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    for causal in (False, True):
        weights = products.tril() if causal else products
        expected = weights @ v / weights.sum(-1, keepdim=True)
        assert_close(make("linear")(q, k, v, Mask(causal=causal)), expected, tolerance=1e-10)


def test_the_gate_is_the_papers_recurrence():
    module, (q, k, v) = make("random_feature-gate", num_features=512).double(), heads(40)
    out = module(q, k, v, Mask(causal=True))

    def features(x):
        waves = F.normalize(x, dim=-1) * module.scale @ module.projection.directions
        return torch.cat([waves.sin(), waves.cos()], -1)

    gate = ((k * module.gate.weight[:, None]).sum(-1) + module.gate.bias).sigmoid()
    state, total = 0.0, 0.0
    for place in range(40):
        keep, f = gate[..., place, None], features(k)[:, :, place]
        state = keep[..., None] * state + (1 - keep)[..., None] * f[..., :, None] * v[:, :, place, None, :]
        total = keep * total + (1 - keep) * f
        query = features(q)[:, :, place]
        expected = (query[..., None] * state).sum(-2) / (query * total).sum(-1, keepdim=True)
        assert_close(out[:, :, place], expected, tolerance=1e-10)


def test_a_long_gated_sequence_keeps_its_digits():
    """The logarithms of its weights grow to thousands."""
    module, (q, k, v) = make("random_feature-gate", num_features=64), heads(3000, dtype=torch.float32)
    short = [part[:, :, -500:] for part in (q, k, v)]  # what is farther counts for nothing
    mask = Mask(causal=True)
    assert_close(module(q, k, v, mask)[:, :, -5:], module(*short, mask)[:, :, -5:])


# ---------------------------------------------------------------------------------------------- who sees what


@variants
def test_no_future_token_moves_the_past_by_a_bit(variant):
    module, (q, k, v) = make(variant), heads(dtype=torch.float32)
    mask = Mask(causal=True)
    before = module(q, k, v, mask)
    for cut, scale in itertools.product((1, 20, 63, 64, 65, 149), (0.0, 4.0, 30.0)):
        changed = [torch.cat([part[:, :, :cut], scale * part[:, :, cut:].flip(2)], 2) for part in (q, k, v)]
        after = module(*changed, mask)
        assert torch.equal(after[:, :, :cut], before[:, :, :cut])
        assert after.isfinite().all()


@variants
def test_queries_that_see_nothing_get_zeros(variant):
    module, inputs = make(variant), heads(dtype=torch.float32)
    valid = torch.arange(LENGTH) >= torch.tensor([[70], [LENGTH]])
    out = module(*inputs, Mask(causal=True, valid=valid))
    assert not out[0, :, :70].any()
    assert not out[1].any()
    assert out[0, :, 70:].any()
    assert all(gradient.isfinite().all() for gradient in gradients(out, inputs))


@pytest.mark.parametrize("variant", ["performer", "linear"])
def test_a_segment_of_small_keys_behind_one_of_large(variant):
    """Its sums are its own, however large those before are."""
    for causal in (False, True):
        module, (q, k, v) = make(variant, causal=causal), heads(dtype=torch.float32)
        with torch.no_grad():
            k[:, :, :90] *= 40
        segments = (torch.arange(LENGTH) >= 90).long().expand(2, -1)
        out = module(q, k, v, Mask(causal=causal, segments=segments))[:, :, 90:]
        alone = module(q[:, :, 90:], k[:, :, 90:], v[:, :, 90:], Mask(causal=causal))
        assert_close(out, alone)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "gate" not in name])
def test_fewer_queries_are_the_last(variant):
    module, (q, k, v) = make(variant), heads()
    mask = Mask(causal=True)
    assert_close(module(q[:, :, -30:], k, v, mask), module(q, k, v, mask)[:, :, -30:])


# ---------------------------------------------------------------------------------------------- decoding


@variants
def test_steps_are_the_whole_with_padding_on_the_left(variant):
    module, (q, k, v) = make(variant).double(), heads()
    valid = torch.arange(LENGTH) >= torch.tensor([[0], [75]])
    whole, state, outs, sizes = module(q, k, v, Mask(causal=True, valid=valid)), None, [], set()
    splits = [140, 1, 1, 1, 5, 2]
    for *new, real in zip(*(part.split(splits, 2) for part in (q, k, v)), valid.split(splits, 1), strict=True):
        out, state = module.step(*new, state, real)
        outs.append(out)
        sizes.add(sum(part.numel() for part in state))
    assert_close(torch.cat(outs, 2), whole, tolerance=1e-8)
    assert len(sizes) == 1, "the state grows"
    alone = module.step(*(part[1:, :, 75:] for part in (q, k, v)), None)[1]
    assert_close((state.sums[1] / state.sums[1].max()).double(), (alone.sums[0] / alone.sums[0].max()).double())


# ---------------------------------------------------------------------------------------------- numbers


@variants
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_logits_stay_finite_in_half_precision(variant, dtype):
    scale = (50 / DIM**0.5) ** 0.5  # logits of about 50
    inputs = heads(scale=scale, dtype=dtype)
    for causal in (False, True) if "gate" not in variant else (True,):
        module = make(variant, causal=causal).to(dtype)
        out = module(*inputs, Mask(causal=causal))
        assert out.dtype == dtype
        assert all(tensor.isfinite().all() for tensor in (out, *gradients(out, inputs)))


def test_autocast_does_not_reach_inside():
    module, (q, k, v) = make("performer"), heads(dtype=torch.float32)
    for causal in (False, True):
        mask = Mask(causal=causal)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(q, k, v, mask), module(q.clone(), k, v, mask))
            inside = module(q, k, v, mask)
        assert torch.equal(inside, module(q, k, v, mask))


def test_directions_are_orthogonal_and_as_likely_as_normal_ones():
    directions = orthogonal_directions(DIM, 4000 * DIM, torch.Generator().manual_seed(0))
    blocks = directions.T.reshape(-1, DIM, DIM)
    products = blocks @ blocks.mT
    assert_close(products, torch.diag_embed(products.diagonal(dim1=1, dim2=2)), tolerance=1e-10)
    for place in range(DIM):  # each of a block
        assert blocks[:, place].mean(0).abs().max() < 0.08  # 5 standard errors
        assert_close(blocks[:, place].square().mean(0), torch.ones(DIM).double(), tolerance=0.12)


# ---------------------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("name", ["performer", "random_feature"])
def test_draws_are_those_of_seed_and_step(name):
    one, other = make(name, redraw_every=10), make(name, redraw_every=10)
    first = one.projection.directions.clone()
    one.before_step(9)
    assert torch.equal(one.projection.directions, first)
    for step in (10, 20, 35):
        one.before_step(step)
    torch.rand(3)
    other.before_step(31)
    assert not torch.equal(one.projection.directions, first)
    assert torch.equal(one.projection.directions, other.projection.directions)
    for different in (make(name, seed=1, redraw_every=10), make(name)):
        different.before_step(31)
        assert not torch.equal(different.projection.directions, other.projection.directions)
    for never in (make(name, redraw_every=0), make(name)):
        never.before_step(10**6)
        assert torch.equal(never.projection.directions, first)


def test_a_checkpoint_goes_on_with_its_draw():
    """It holds what was drawn, and from when; so a run with another seed keeps it until the next draw is due."""
    trained, resumed = make("performer", redraw_every=10), make("performer", seed=1, redraw_every=10)
    trained.before_step(25)
    resumed.load_state_dict(trained.state_dict())
    resumed.before_step(26)
    assert torch.equal(resumed.projection.directions, trained.projection.directions)
    resumed.before_step(30)
    assert not torch.equal(resumed.projection.directions, trained.projection.directions)


def test_costs_no_memory_without_a_device():
    with torch.device("meta"):
        module = make("performer")
        q = torch.empty(2, HEADS, LENGTH, DIM, requires_grad=True)
        for mask in (Mask(), Mask(causal=True)):
            out = module(q, q, q, mask)
            assert out.is_meta
            assert torch.autograd.grad(out.sum(), q)[0].shape == q.shape


# ---------------------------------------------------------------------------------------------- what can't be


@pytest.mark.parametrize(
    ("variant", "options", "words"),
    [
        ("performer", {"num_features": 0}, ["attention.num_features=0", "null", "16"]),
        ("performer-trigonometric", {"num_features": 9}, ["attention.num_features=9", "even", "num_features=10"]),
        ("random_feature", {"num_features": 9}, ["attention.num_features=9", "even", "num_features=10"]),
        ("performer", {"redraw_every": -1}, ["attention.redraw_every=-1", "0 for never"]),
        ("random_feature", {"gate": "scalar", "causal": False}, ["attention.gate=scalar", "causal", "gate=none"]),
    ],
)
def test_refuses(variant, options, words):
    with pytest.raises(UserError) as error:
        make(variant, **options)
    assert all(word in str(error.value) for word in words), error.value


def test_warns_of_too_few_features():
    with pytest.warns(UserWarning, match=r"num_features=4 is less than the width 8 .* null gives 16"):
        make("performer", num_features=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("performer", num_features=DIM)


@variants
def test_refuses_a_packed_memory(variant):
    module, (q, k, v) = make(variant), heads()
    segments = torch.zeros(2, LENGTH, dtype=torch.long)
    says = (UserError, r"tokenizer\.packing=none")
    if not module.capabilities.cross_attention:
        says = (NotImplementedError, "doesn't declare cross_attention")
    with pytest.raises(says[0], match=says[1]):
        module(q, k, v, Mask(segments=segments, query_segments=segments))


def test_trigonometric_features_average_with_weights_that_are_small():
    """All values are one, so every average is one, however little a key weighs beside the largest there could be."""
    kept = Mask(causal=True)
    for features in ("positive", "trigonometric"):
        module = make("performer", features=features, num_features=2**12, head_dim=32)
        q, k = (noise(1, HEADS, 20, 32, seed=part) for part in range(2))
        out = module(q, k, torch.ones_like(q), kept)
        assert_close(out, torch.ones_like(out), tolerance=1e-4)


def test_segments_in_pieces_are_refused_and_padding_between_joins():
    module, (q, k, v) = make("performer"), heads()
    place = torch.arange(LENGTH).expand(2, -1)
    with pytest.raises(RuntimeError, match="the tokens of each segment to stand together"):
        module(q, k, v, Mask(causal=True, segments=place // 10 % 2))
    segments = place // 50
    holes = torch.where(place % 50 == 20, -1, segments)
    valid = holes >= 0
    expected = module(q, k, v, Mask(causal=True, segments=segments, valid=valid))
    assert torch.equal(module(q, k, v, Mask(causal=True, segments=holes, valid=valid)), expected)


def test_a_mask_of_batch_one_is_every_samples():
    segments = torch.arange(LENGTH)[None] // 60
    valid = torch.arange(LENGTH)[None] < LENGTH - 9
    for variant in VARIANTS:
        module, (q, k, v) = make(variant), heads()
        wide = Mask(causal=True, segments=segments.expand(2, -1), valid=valid.expand(2, -1))
        assert_close(module(q, k, v, Mask(causal=True, segments=segments, valid=valid)), module(q, k, v, wide))


def test_pickles_with_its_draw():
    module = make("performer", redraw_every=3)
    module.before_step(7)
    copy = pickle.loads(pickle.dumps(module))
    assert torch.equal(copy.projection.directions, module.projection.directions)


# ---------------------------------------------------------------------------------------------- compiled


COMPILED = """
import torch
from plugformer.interfaces import Mask
from plugformer.registry import build

causal, options = {causal}, {options}
module = build("attention", options, num_heads=2, head_dim=8, causal=causal, max_length=150, layer=0, seed=0)
inputs = [torch.randn(2, 2, 150, 8, requires_grad=True) for _ in range(3)]
valid = torch.arange(150) < torch.tensor([[150], [97]])
segments = (torch.arange(150) > 70).long().expand(2, -1)
for mask in (Mask(causal=causal), Mask(causal=causal, valid=valid, segments=segments)):
    results = []
    for way in (module, torch.compile(module, fullgraph=True, dynamic=False)):
        out = way(*inputs, mask)
        results.append([out, *torch.autograd.grad(out.sin().sum(), [*inputs, *module.parameters()])])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "causal"), [("performer", False), ("performer", True), ("random_feature-gate", True)]
)
def test_compiles_as_one_graph(variant, causal):
    """In a process of its own, for the checks of shapes that tests make are nothing a compiler can follow."""
    script = COMPILED.format(causal=causal, options=VARIANTS[variant])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("causal", [False, True])
def test_operations_are_counted(causal):
    """Twice the length has twice of them, and there are at least those of the formula as it stands in the paper."""
    counted = []
    for length in (512, 1024):
        mechanism = make("performer", num_features=16, causal=causal)
        q, k, v = (part.requires_grad_() for part in heads(length))
        with FlopCounterMode(display=False) as counter:
            mechanism(q, k, v, Mask(causal=causal)).sum().backward()
        counted.append(counter.get_total_flops())
    batch, num_heads, _, head_dim = q.shape
    forward = 2 * batch * num_heads * 512 * (2 * head_dim * 16 + 2 * 16 * (head_dim + 1))
    assert 3 * forward <= counted[0] <= (16 if causal else 4) * forward  # squares are the larger part
    assert counted[1] == 2 * counted[0]
