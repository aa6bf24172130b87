"""The swappable parts inside a block against installed peers and plain formulas, values and gradients."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Gemma2Config, GPTNeoXConfig, LlamaConfig, T5Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer, Gemma2RotaryEmbedding
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseGatedActDense

from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout, Mask, Tokens
from plugformer.nn.backbones import Encoder
from plugformer.nn.blocks import DropPath, Sandwich
from plugformer.nn.feed_forward import Glu, Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.initialise import initialise
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.norms import FixNorm, LayerNorm, RMSNorm, ScaleNorm
from plugformer.nn.parameters import group_parameters
from plugformer.nn.positions import NoPosition
from plugformer.nn.relative import Alibi, Relative, slopes
from plugformer.nn.rotary import Rope
from plugformer.registry import build, offers

PLANE = Grid(("row", "column"), (3, 4))


def text(length):
    return Grid(("position",), (length,))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomise(module):
    """Move all weights off the zeros and ones that hide a mistake."""
    for number, parameter in enumerate(module.parameters()):
        parameter.copy_(0.3 * noise(*parameter.shape, seed=number))
    return module


def assert_close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def assert_same_function(ours, theirs, x, weights=(), tolerance=1e-5):
    """Of one input, with the same gradients to it and to pairs of weights."""
    mine, other = (x.clone().requires_grad_() for _ in range(2))
    actual, expected = ours(mine), theirs(other)
    assert_close(actual, expected, tolerance)
    upstream = noise(*expected.shape, seed=9).to(expected)
    (actual * upstream).sum().backward()
    (expected * upstream).sum().backward()
    assert_close(mine.grad, other.grad, tolerance)
    for weight, its in weights:
        assert_close(weight.grad, its.grad, tolerance)


# ---------------------------------------------------------------------------------------------- rotary positions

LENGTH = 40  # more than the 16 places that the peers below were made for
ROPES = {
    "plain": ({}, {"rope_type": "default"}),
    "base": ({"base": 500.0}, {"rope_type": "default", "rope_theta": 500.0}),
    "linear": ({"scaling": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    # Dynamic scaling raises the base by 2 · 40 / 16 - (2 - 1) at length 40.
    "ntk": ({"scaling": "ntk", "factor": 4.0}, {"rope_type": "dynamic", "factor": 2.0}),
}


@pytest.mark.parametrize("case", ROPES)
def test_rope_is_that_of_llama(case):
    options, theirs = ROPES[case]
    config = LlamaConfig(
        hidden_size=16,
        num_attention_heads=2,
        max_position_embeddings=16,
        rope_parameters={"rope_theta": 10_000.0, **theirs},
    )
    ours = Rope(head_dim=8, grids=(text(LENGTH),), **options)
    x, places = noise(2, 2, LENGTH, 8), torch.arange(LENGTH)[None]
    cos, sin = modeling_llama.LlamaRotaryEmbedding(config)(x, places)
    assert_same_function(
        lambda x: ours.rotate(x, Layout.of(text(LENGTH))),
        lambda x: modeling_llama.apply_rotary_pos_emb(x, x, cos, sin)[0],
        x,
    )


def test_partial_rope_is_that_of_gpt_neox():
    config = GPTNeoXConfig(
        hidden_size=32,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25},
    )
    ours, x = Rope(head_dim=16, grids=(text(LENGTH),), fraction=0.25), noise(2, 2, LENGTH, 16)
    cos, sin = modeling_gpt_neox.GPTNeoXRotaryEmbedding(config)(x, torch.arange(LENGTH)[None])
    assert cos.shape[-1] == 4
    assert_same_function(
        lambda x: ours.rotate(x, Layout.of(text(LENGTH))),
        lambda x: modeling_gpt_neox.apply_rotary_pos_emb(x, x, cos, sin)[0],
        x,
    )
    assert torch.equal(ours.rotate(x, Layout.of(text(LENGTH)))[..., 4:], x[..., 4:])


def test_rope_turns_a_share_of_the_pairs_for_each_axis():
    """Each share as one axis alone would turn it."""
    rope, x = Rope(head_dim=16, grids=(PLANE,)), noise(1, 2, 12, 16)
    out, pairs = rope.rotate(x, Layout.of(PLANE)), x.unflatten(-1, (2, 2, 4))  # halves, axes, pairs
    for axis, size in enumerate(PLANE.shape):
        alone = Rope(head_dim=8, grids=(text(size),))
        places = PLANE.coordinates()[None, :, axis : axis + 1]
        layout = Layout(places, torch.zeros(1, 12, dtype=torch.long), (text(size),))
        expected = alone.rotate(pairs[..., axis, :].flatten(-2), layout)
        assert_close(out.unflatten(-1, (2, 2, 4))[..., axis, :].flatten(-2), expected)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("options", [{}, {"fraction": 0.5}, {"scaling": "linear", "factor": 2.0}])
def test_rope_makes_logits_of_differences_alone(options, axis):
    rope, layout = Rope(head_dim=16, grids=(PLANE,), **options), Layout.of(PLANE)
    q, k = noise(1, 2, 12, 16), noise(1, 2, 12, 16, seed=1)
    shift = torch.zeros(2, dtype=torch.long)
    shift[axis] = 7
    moved = Layout(layout.coordinates + shift, layout.grid_index, layout.grids)

    def logits(queries, keys):
        return rope.rotate(q, queries) @ rope.rotate(k, keys).transpose(-1, -2)

    assert_close(logits(moved, moved), logits(layout, layout))
    assert (logits(moved, layout) - logits(layout, layout)).abs().max() > 0.1
    assert_close(rope.rotate(q, moved).norm(dim=-1), q.norm(dim=-1))


def test_rope_turns_by_ones_own_grid_alone():
    layout, x = scattered(), noise(1, 2, 28, 8)
    out = Rope(head_dim=8, grids=layout.grids).rotate(x, layout)
    assert torch.equal(out[:, :, :11], x[:, :, :11])
    for grid, places in ((PLANE, slice(11, 23)), (text(5), slice(23, 28))):
        alone = Rope(head_dim=8, grids=(grid,)).rotate(x[:, :, places], Layout.of(grid))
        assert_close(out[:, :, places], alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fraction": 0.3},
            r"position.fraction=0.3: turns 5 of the 16 channels of a head .* a multiple of 4 for \('row', 'column'\)."
            r"\n  Fractions that are: 0.25, 0.5, 0.75, 1$",
        ),
        ({"fraction": 0.01}, "turns 0 of the 16 channels"),
        ({"fraction": 1.5}, "position.fraction=1.5: must be more than 0 and at most 1"),
        ({"head_dim": 2}, r"turns 2 of the 2 channels .*\n  Fractions that are: none; make heads wider"),
        ({"factor": 2.0}, r"position.factor=2.0 does nothing with position.scaling=none.\n  Set position.scaling=lin"),
        ({"factor": 0.5, "scaling": "ntk"}, "position.factor=0.5: must be at least 1"),
        ({"base": 1.0}, "position.base=1.0: must be more than 1"),
        (
            {"fraction": 0.25, "scaling": "ntk", "factor": 2.0},
            r"one pair .* too few to stretch.\n  Set .*scaling=linear",
        ),
    ],
)
def test_rope_says_what_it_can_not_turn(options, message):
    with pytest.raises(UserError, match=message):
        Rope(grids=(PLANE,), **{"head_dim": 16, **options})


# ---------------------------------------------------------------------------------------------- biases


def test_alibi_slopes_are_those_of_the_paper():
    assert slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert slopes(16)[:2] == [2**-0.5, 0.5]
    assert slopes(12) == slopes(8) + slopes(16)[0:8:2]


@pytest.mark.parametrize("heads", [*range(1, 13), 20])
def test_causal_alibi_is_that_of_bloom(heads):
    """Bloom leaves out what is the same for all keys of a query."""
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    bias = Alibi(num_heads=heads).bias(Layout.of(text(9)), Layout.of(text(9)))
    theirs = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32)[None]
    logits = noise(1, heads, 9, 9)
    actual, expected = ((logits + each).masked_fill(future, -torch.inf).softmax(-1) for each in (bias, theirs))
    assert_close(actual, expected)


def test_alibi_is_the_distance_times_a_slope():
    bias = Alibi(num_heads=4).bias(Layout.of(PLANE), Layout.of(PLANE))
    assert torch.equal(bias, bias.transpose(-1, -2))
    for (i, a), (j, b) in itertools.product(enumerate(itertools.product(range(3), range(4))), repeat=2):
        assert_close(bias[0, :, i, j], -torch.tensor([0.25, 0.0625, 0.015625, 0.00390625]) * math.dist(a, b))


def test_alibi_rounds_once():
    """Far places are no whole numbers in half precision, and these slopes no powers of two."""
    layout, half = Layout.of(text(1500)), Alibi(num_heads=12).bfloat16()
    distance = (torch.arange(1500.0)[:, None] - torch.arange(1500.0)).abs()
    bias = half.bias(layout, layout)
    assert bias.dtype == torch.bfloat16
    assert torch.equal(bias[0], (-half.slopes.float() * distance).bfloat16())


def t5(num_buckets, max_distance, *, causal):
    config = T5Config(
        d_model=8,
        d_kv=4,
        num_heads=2,
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=max_distance,
        is_decoder=causal,
    )
    return T5Attention(config, has_relative_attention_bias=True, layer_idx=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (6, 7), (4, 500)])
def test_relative_is_that_of_t5(num_buckets, max_distance, causal):
    length, layout = 200, Layout.of(text(200))
    ours = Relative(
        num_heads=2, grids=(text(length),), causal=causal, num_buckets=num_buckets, max_distance=max_distance
    )
    theirs = t5(num_buckets, max_distance, causal=causal)
    randomise(ours)
    theirs.relative_attention_bias.weight.data = ours.tables[0].values.weight.data.clone()
    upstream = noise(1, 2, length, length)
    actual, expected = ours.bias(layout, layout), theirs.compute_bias(length, length)
    assert torch.equal(actual, expected)
    assert torch.equal(ours.bias(layout.last(3), layout), theirs.compute_bias(3, length, past_seen_tokens=length - 3))
    for bias in (actual, expected):
        (bias * upstream).sum().backward()
    assert_close(ours.tables[0].values.weight.grad, theirs.relative_attention_bias.weight.grad, 1e-3)  # sums of 40 000


@pytest.mark.parametrize("causal", [False, True])
def test_relative_sums_a_bias_of_each_axis_both_ways(causal):
    """Causal or not: a patch before may be to the right."""
    ours = randomise(Relative(num_heads=2, grids=(PLANE,), causal=causal, num_buckets=8, max_distance=9))
    bias = ours.bias(Layout.of(PLANE), Layout.of(PLANE))
    alone = []
    for axis, size in enumerate(PLANE.shape):
        line = Relative(num_heads=2, grids=(text(size),), num_buckets=8, max_distance=9)
        line.tables[0].values.weight.data = ours.tables[axis].values.weight.data
        alone.append(line.bias(Layout.of(text(size)), Layout.of(text(size))))
    for (i, a), (j, b) in itertools.product(enumerate(itertools.product(range(3), range(4))), repeat=2):
        assert_close(bias[0, :, i, j], alone[0][0, :, a[0], b[0]] + alone[1][0, :, a[1], b[1]])


def scattered():
    """Tokens of two grids and of none, all with coordinates of some kind."""
    first = Layout.of(PLANE)
    nowhere = Layout(first.coordinates[:, 1:] + 1, torch.full((1, 11), -1), first.grids)
    return Layout.concatenate([nowhere, first, Layout.of(text(5))])


@pytest.mark.parametrize("make", [Alibi, lambda num_heads: Relative(num_heads=num_heads, grids=(PLANE, text(5)))])
def test_there_is_no_bias_between_grids_or_off_them(make):
    layout = scattered()
    bias = randomise(make(num_heads=2)).bias(layout, layout)
    index = layout.grid_index[0]
    related = (index[:, None] == index) & (index >= 0)
    assert bias[0, :, ~related].eq(0).all()
    far = related & ~torch.eye(len(index), dtype=torch.bool)
    assert bias[0, :, far].ne(0).all()


def test_the_bias_table_is_not_decayed():
    tables = list(Relative(num_heads=2, grids=(PLANE,)).parameters())
    groups = group_parameters(nn.ModuleList([Relative(num_heads=2, grids=(PLANE,)), nn.Linear(2, 2)]))
    assert len(tables) == 2
    assert [parameter.shape for parameter in groups.decayed] == [(2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_buckets": 7}, "position.num_buckets=7: must be even and at least 4"),
        ({"num_buckets": 2}, "position.num_buckets=2: must be even and at least 4"),
        ({"max_distance": 16}, "position.max_distance=16: must be more than 16, half of position.num_buckets=32"),
    ],
)
def test_relative_says_what_leaves_no_range(options, message):
    with pytest.raises(UserError, match=message):
        Relative(num_heads=2, grids=(PLANE,), **options)


# ---------------------------------------------------------------------------------------------- all positions


def position(name, grid, *, causal=False):
    context = {"dim": 16, "num_heads": 2, "head_dim": 8, "grids": (grid,), "causal": causal}
    return build("position", {"name": name}, **context)


def attention(name, grid, *, causal=False):
    return randomise(
        MultiHeadAttention(dim=16, num_heads=2, mechanism=Full(), position=position(name, grid, causal=causal))
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", offers("position"))
def test_documents_in_one_sequence_are_as_if_alone(name, causal):
    """Coordinates begin anew with each."""
    grid, lengths = text(7), (7, 4)
    layer, x = attention(name, grid, causal=causal), noise(1, sum(lengths), 16)
    alone = [Layout.of(grid).select(torch.arange(length)[None]) for length in lengths]
    together = Layout.concatenate(alone)
    segments = torch.tensor([[0] * lengths[0] + [1] * lengths[1]])
    out = layer(x, Mask(causal=causal, segments=segments, layout=together))
    parts = zip(x.split(lengths, 1), alone, strict=True)
    expected = [layer(part, Mask(causal=causal, layout=layout)) for part, layout in parts]
    assert_close(out, torch.cat(expected, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", offers("position"))
def test_positions_go_with_attention_in_other_precisions(name, dtype):
    layer, x, mask = attention(name, PLANE), noise(2, 12, 16), Mask(layout=Layout.of(PLANE))
    expected = layer(x, mask)
    out = layer.to(dtype)(x.to(dtype), mask)
    assert out.dtype == dtype
    assert_close(out.float(), expected, 0.05 if dtype == torch.bfloat16 else 1e-5)


PARTS = [(kind, name) for kind in ("position", "norm", "feed_forward", "block") for name in offers(kind)]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_works_without_storage(kind, name):
    chosen = {"position": "learned", "norm": "layer", "feed_forward": "mlp", "block": "pre_norm", kind: name}
    with torch.device("meta"):
        backbone = encoder(**{kind: {"name": name} for kind, name in chosen.items()})
        out = backbone(Tokens(torch.empty(2, 12, 16), Layout.of(PLANE)))
    assert (out.shape, out.device.type) == ((2, 12, 16), "meta")


def encoder(num_layers=2, **nodes):
    nodes = {"position": {"name": "learned"}, "norm": {"name": "layer"}, "feed_forward": {"name": "mlp"}} | nodes
    return Encoder(
        make_attention=lambda **context: Full(),
        make_position=lambda **context: build("position", nodes["position"], grids=(PLANE,), **context),
        make_norm=lambda **context: build("norm", nodes["norm"], **context),
        make_feed_forward=lambda **context: build("feed_forward", nodes["feed_forward"], **context),
        make_block=lambda **context: build("block", nodes.get("block", {"name": "pre_norm"}), **context),
        dim=16,
        num_layers=num_layers,
        num_heads=2,
    )


# ---------------------------------------------------------------------------------------------- norms


def test_rms_is_that_of_llama_and_torch():
    x = 3 * noise(2, 5, 16)
    for theirs in (modeling_llama.LlamaRMSNorm(16, eps=1e-6), nn.RMSNorm(16, eps=1e-6)):
        ours = randomise(RMSNorm(dim=16))
        theirs.load_state_dict(ours.state_dict())
        assert_same_function(ours, theirs, x, [(ours.weight, theirs.weight)])
        assert_same_function(ours, theirs, 1e-4 * x)  # where eps counts
        assert_close(ours.bfloat16()(x.bfloat16()), theirs.bfloat16()(x.bfloat16()), 2**-7)


def test_scale_gives_every_token_the_learned_length():
    ours, x = randomise(ScaleNorm(dim=16)), noise(2, 5, 16)
    length = nn.Parameter(ours.length.detach().clone())
    assert [parameter.numel() for parameter in ours.parameters()] == [1]
    assert_same_function(
        ours, lambda x: length * x / x.square().sum(-1, keepdim=True).sqrt(), x, [(ours.length, length)]
    )
    assert_close(ours(x).norm(dim=-1), length.abs().expand(2, 5))


def test_fix_is_scale_before_it_learns():
    scale, fix, x = ScaleNorm(dim=16), FixNorm(dim=16), noise(2, 5, 16)
    assert not list(fix.parameters())
    assert_same_function(fix, scale, x)
    assert_close(fix(x).norm(dim=-1), torch.full((2, 5), 4.0))
    assert_close(fix(1000 * x), fix(x))


@pytest.mark.parametrize("name", offers("norm"))
def test_norms_start_with_tokens_of_length_root_dim(name):
    """So that they can be swapped for each other at the same learning rate."""
    norm, x = build("norm", {"name": name}, dim=16), noise(2, 5, 16)
    initialise(norm, seed=0)
    assert_close(norm(x).norm(dim=-1), torch.full((2, 5), 4.0), 1e-4)


# ---------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_weights_are_dropped_with_a_probability(dropout):
    with pytest.raises(UserError, match=rf"^attention\.dropout={dropout}: a probability from 0 to below 1\.$"):
        Full(dropout=dropout)


# ---------------------------------------------------------------------------------------------- feed-forwards

ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu2": lambda x: x.clamp(min=0) ** 2,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu", "relu2"])
def test_mlp_follows_the_formula(activation, bias):
    ours, x = randomise(Mlp(dim=8, expansion=2.0, activation=activation, bias=bias)), noise(2, 5, 8)
    first, second, b, c = ours.expand.weight, ours.contract.weight, ours.expand.bias, ours.contract.bias
    assert (b is not None) == (c is not None) == bias
    b, c = (0.0, 0.0) if b is None else (b, c)
    assert_same_function(ours, lambda x: ACTIVATIONS[activation](x @ first.T + b) @ second.T + c, x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "gelu", "gelu_tanh", "silu"])
def test_glu_follows_the_formula(activation, bias):
    ours, x = randomise(Glu(dim=8, activation=activation, bias=bias)), noise(2, 5, 8)
    w, v, last = ours.gate.weight, ours.expand.weight, ours.contract.weight
    b, c, d = (part.bias if bias else 0.0 for part in (ours.gate, ours.expand, ours.contract))
    assert bias or not [name for name, _ in ours.named_parameters() if "bias" in name]
    assert_same_function(ours, lambda x: (ACTIVATIONS[activation](x @ w.T + b) * (x @ v.T + c)) @ last.T + d, x)


def test_glu_is_that_of_llama_t5_and_torch():
    x = noise(2, 5, 16)
    llama = modeling_llama.LlamaMLP(LlamaConfig(hidden_size=16, num_attention_heads=2, intermediate_size=48))
    ours = randomise(Glu(dim=16))
    parts = [(ours.gate, llama.gate_proj), (ours.expand, llama.up_proj), (ours.contract, llama.down_proj)]
    same_weights(parts)
    assert_same_function(ours, llama, x, [(part.weight, its.weight) for part, its in parts])
    geglu = T5DenseGatedActDense(T5Config(d_model=16, d_ff=48, feed_forward_proj="gated-gelu", dropout_rate=0.0))
    ours = randomise(Glu(dim=16, activation="gelu_tanh"))
    same_weights([(ours.gate, geglu.wi_0), (ours.expand, geglu.wi_1), (ours.contract, geglu.wo)])
    assert_same_function(ours, geglu, x)
    ours = randomise(Glu(dim=16, activation="sigmoid"))
    both = torch.cat([ours.expand.weight, ours.gate.weight])
    assert_same_function(ours, lambda x: F.glu(x @ both.T) @ ours.contract.weight.T, x)


@torch.no_grad()
def same_weights(pairs):
    for ours, theirs in pairs:
        theirs.weight.copy_(ours.weight)


@pytest.mark.parametrize(
    ("dim", "options", "hidden"),
    [
        (4096, {"multiple_of": 256}, 11008),  # Llama 7B
        (5120, {"multiple_of": 256}, 13824),  # Llama 13B
        (384, {}, 1024),
        (64, {}, 176),
        (64, {"multiple_of": 1}, 171),
        (10, {"expansion": 1.6, "multiple_of": 16}, 16),
    ],
)
def test_glu_rounds_its_width_up(dim, options, hidden):
    with torch.device("meta"):
        assert Glu(dim=dim, **options).contract.in_features == hidden


def test_a_glu_of_default_width_has_the_weights_of_an_mlp():
    ours, theirs = (sum(p.numel() for p in part.parameters()) for part in (Glu(dim=96), Mlp(dim=96, bias=False)))
    assert ours == theirs


def test_feed_forwards_say_which_width_is_impossible():
    with pytest.raises(UserError, match=r"feed_forward.expansion=0.01: leaves no hidden layer of backbone.dim=16"):
        Mlp(dim=16, expansion=0.01)
    with pytest.raises(UserError, match=r"feed_forward.multiple_of=0: must be at least 1"):
        Glu(dim=16, multiple_of=0)


# ---------------------------------------------------------------------------------------------- blocks


def test_sandwich_is_the_layer_of_gemma_2():
    """With its rotary positions, norms and gated feed-forward."""
    config = Gemma2Config(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=None,
        layer_types=["full_attention"],
        num_hidden_layers=1,
    )
    config._attn_implementation = "eager"
    theirs, grid = Gemma2DecoderLayer(config, 0), text(6)
    rope = Rope(head_dim=8, grids=(grid,))
    ours = Sandwich(
        attention=MultiHeadAttention(dim=16, num_heads=2, mechanism=Full(), position=rope, bias=False),
        feed_forward=Glu(dim=16, expansion=2.0, activation="gelu_tanh"),
        make_norm=lambda: RMSNorm(dim=16),
    )
    randomise(ours)
    attn, mlp = theirs.self_attn, theirs.mlp
    same_weights(
        [
            (ours.attention.query, attn.q_proj),
            (ours.attention.key, attn.k_proj),
            (ours.attention.value, attn.v_proj),
            (ours.attention.output, attn.o_proj),
            (ours.feed_forward.gate, mlp.gate_proj),
            (ours.feed_forward.expand, mlp.up_proj),
            (ours.feed_forward.contract, mlp.down_proj),
        ]
    )
    norms = [
        (ours.attention_norm, theirs.input_layernorm),
        (ours.attention_end_norm, theirs.post_attention_layernorm),
        (ours.feed_forward_norm, theirs.pre_feedforward_layernorm),
        (ours.feed_forward_end_norm, theirs.post_feedforward_layernorm),
    ]
    for norm, its in norms:
        its.weight.data = norm.weight.data - 1  # theirs holds what is added to 1
    x = noise(2, 6, 16)
    angles = Gemma2RotaryEmbedding(config)(x, torch.arange(6)[None])
    hidden = torch.zeros(1, 1, 6, 6).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf)
    weights = [(norm.weight, its.weight) for norm, its in norms] + [(ours.attention.query.weight, attn.q_proj.weight)]
    assert_same_function(
        lambda x: ours(x, Mask(causal=True, layout=Layout.of(grid))),
        lambda x: theirs(x, position_embeddings=angles, attention_mask=hidden),
        x,
        weights,
    )


def block(name="pre_norm", **options):
    part = build(
        "block",
        {"name": name, **options.pop("node", {})},
        attention=MultiHeadAttention(dim=16, num_heads=2, mechanism=Full(), position=NoPosition()),
        feed_forward=Mlp(dim=16),
        make_norm=lambda: LayerNorm(dim=16),
        **options,
    )
    return randomise(part)


@pytest.mark.parametrize("name", offers("block"))
def test_branches_are_dropped_more_often_the_deeper_they_are(name):
    """In proportion to the depth: Huang et al. 2016, equation 4."""
    backbone = encoder(num_layers=4, block={"name": name, "drop_path": 0.4})
    rates = [part.rate for part in backbone.modules() if isinstance(part, DropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("name", offers("block"))
def test_dropped_paths_are_those_of_whole_samples(name):
    """What comes out for a sample is made of its branches, each gone or enlarged, whatever happens to the others."""
    part, x = block(name, node={"drop_path": 0.25}), noise(1, 5, 16)
    possible = {}
    for kept in itertools.product((0.0, 1 / 0.75), repeat=2):
        factors = iter(kept)
        part.drop_path = Scaled(factors)
        possible[kept] = part.eval()(x, Mask())[0]
    part.drop_path = DropPath(0.25)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = part.train()(x.expand(400, -1, -1), Mask())
    counts = {kept: sum(torch.allclose(each, other, atol=1e-5) for each in out) for kept, other in possible.items()}
    assert sum(counts.values()) == 400, "something else came out"
    for kept, count in counts.items():
        share = math.prod(0.75 if factor else 0.25 for factor in kept)
        assert abs(count / 400 - share) < 0.08  # about four standard deviations


class Scaled(nn.Module):
    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, x):
        return x * next(self.factors)


@pytest.mark.parametrize("name", offers("block"))
def test_paths_are_dropped_in_training_only(name):
    part, plain, x = block(name, node={"drop_path": 0.5}), block(name), noise(8, 5, 16)
    assert torch.equal(part.eval()(x, Mask()), plain.eval()(x, Mask()))
    assert not torch.equal(part.train()(x, Mask()), plain(x, Mask()))
    state = torch.random.get_rng_state()
    plain.train()(x, Mask())
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is drawn where nothing is dropped"


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_path_can_not_be_dropped_always(rate):
    with pytest.raises(UserError, match=rf"block.drop_path={rate}: must be at least 0 and less than 1"):
        block(node={"drop_path": rate})
