"""The parts of a model against plain references, values and gradients."""

import itertools

import pytest
import torch
from torch import nn

from plugformer.assemble import build_backbone, build_model
from plugformer.cli.compose import compose
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Grid, Layout, Mask, Tokens, TokenSpec
from plugformer.nn.blocks import PostNorm, PreNorm
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.initialise import initialise
from plugformer.nn.multi_head import MultiHeadAttention, divide_heads
from plugformer.nn.norms import LayerNorm
from plugformer.nn.parameters import count_parameters, group_parameters
from plugformer.nn.positions import Learned, NoPosition, Sinusoidal
from plugformer.registry import build, offers

PLANE = Grid(("row", "column"), (3, 4))
TEXT = Grid(("position",), (5,))
DATA = DataSpec(frozenset({"id", "image", "label"}), labels=tuple("0123456789"), image=(1, 8, 8))


def small_model(*overrides):
    config = compose(["backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=2", *overrides])
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.assume(DATA)
    return build_model(config, tokenizer=tokenizer, data=DATA)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomise(module):
    """Move all weights off the zeros and ones that hide a mistake."""
    for number, parameter in enumerate(module.parameters()):
        parameter.copy_(0.3 * noise(*parameter.shape, seed=number))
    return module


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- attention


def softmax_attention(q, k, v, allowed, bias):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias
    weights = torch.exp(logits - logits.detach().amax(-1, keepdim=True)) * allowed
    return weights @ v / weights.sum(-1, keepdim=True).clamp(min=1e-30)


MASKS = {
    "nothing": Mask(),
    "causal": Mask(causal=True),
    "padding": Mask(valid=torch.tensor([[True] * 6, [True] * 4 + [False] * 2])),
    "prefix": Mask(causal=True, prefix=torch.tensor([3, 0])),
    "segments": Mask(segments=torch.tensor([[0, 0, 1, 1, 1, 2], [0] * 6])),
    "everything": Mask(
        causal=True,
        prefix=torch.tensor([2, 4]),
        segments=torch.tensor([[0, 0, 1, 1, 1, 2], [0] * 6]),
        valid=torch.tensor([[False] + [True] * 5, [True] * 4 + [False] * 2]),
    ),
}


@pytest.mark.parametrize("queries", [6, 2])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("restriction", MASKS)
def test_full_attention_is_the_plain_softmax(restriction, biased, kv_heads, queries):
    mask = MASKS[restriction]
    q = noise(2, 4, queries, 8).double().requires_grad_()
    k, v = (noise(2, kv_heads, 6, 8, seed=seed).double().requires_grad_() for seed in (1, 2))
    bias = noise(1, 4, queries, 6, seed=3).double().requires_grad_() if biased else None
    leaves = [q, k, v] if bias is None else [q, k, v, bias]
    allowed = mask.dense(queries, 6, q.device)
    expected = softmax_attention(q, k, v, torch.ones(1) if allowed is None else allowed, bias)
    actual = Full().eval()(q, k, v, mask, bias)
    upstream = noise(*expected.shape, seed=4)
    gradients = [torch.autograd.grad((out * upstream).sum(), leaves) for out in (actual, expected)]
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("biased", [False, True])
def test_a_query_that_sees_no_key_gets_zeros(biased):
    q = noise(2, 2, 4, 8).requires_grad_()
    valid = torch.tensor([[True] * 4, [False] * 4])
    out = Full()(q, q, q, Mask(valid=valid), noise(1, 2, 4, 4) if biased else None)
    out.sum().backward()
    assert out[0].ne(0).any()
    assert out[1].eq(0).all()
    assert q.grad.isfinite().all()


def multi_head(dim=16, num_heads=4, **options):
    attention = MultiHeadAttention(dim=dim, num_heads=num_heads, mechanism=Full(), position=NoPosition(), **options)
    return randomise(attention)


@torch.no_grad()
def copy_attention(ours, theirs):
    projections = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
    theirs.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@pytest.mark.parametrize("restriction", ["nothing", "causal", "padding", "segments"])
def test_multi_head_attention_is_that_of_torch(restriction):
    mask = MASKS[restriction]
    ours, theirs = multi_head(), nn.MultiheadAttention(16, 4, batch_first=True)
    copy_attention(ours, theirs)
    x = noise(2, 6, 16)
    allowed = mask.dense(6, 6, x.device)
    hidden = None if allowed is None else ~allowed.expand(2, 4, 6, 6).flatten(0, 1)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual, expected = ours(mine, mask), theirs(other, other, other, attn_mask=hidden, need_weights=False)[0]
    assert_close(actual, expected)
    for out in (actual, expected):
        (out * noise(*x.shape, seed=1)).sum().backward()
    assert_close(mine.grad, other.grad)
    projections = (ours.query, ours.key, ours.value)
    assert_close(torch.cat([projection.weight.grad for projection in projections]), theirs.in_proj_weight.grad)
    assert_close(ours.output.weight.grad, theirs.out_proj.weight.grad)


def test_grouped_heads_are_full_heads_with_shared_weights():
    grouped, full = multi_head(num_kv_heads=2), multi_head()
    weights = grouped.state_dict()
    for name in ("key.weight", "key.bias", "value.weight", "value.bias"):
        weights[name] = weights[name].unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(weights)
    assert_close(grouped(noise(2, 6, 16), Mask(causal=True)), full(noise(2, 6, 16), Mask(causal=True)))


def test_heads_that_do_not_divide_are_told_what_would():
    with pytest.raises(UserError, match=r"dim=12 is not divisible by .*num_heads=5.\n.*: 1, 2, 3, 4, 6, 12$"):
        divide_heads(12, 5)
    with pytest.raises(UserError, match="num_heads=4 is not a multiple of num_kv_heads=3"):
        multi_head(num_kv_heads=3)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("block", "norm_first"), [(PreNorm, True), (PostNorm, False)])
def test_blocks_are_those_of_torch(block, norm_first, activation):
    ours = block(
        attention=multi_head(),
        feed_forward=Mlp(dim=16, expansion=2.0, activation=activation),
        make_norm=lambda: LayerNorm(dim=16),
    )
    randomise(ours)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, 0.0, activation, batch_first=True, norm_first=norm_first)
    copy_attention(ours.attention, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.feed_forward.expand.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.contract.state_dict())
    theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
    theirs.norm2.load_state_dict(ours.feed_forward_norm.state_dict())
    mask, x = MASKS["padding"], noise(2, 6, 16)
    actual = ours(x, mask)
    expected = theirs(x, src_key_padding_mask=~mask.valid)
    assert_close(actual, expected)
    for out in (actual, expected):
        (out * noise(*x.shape, seed=1)).sum().backward()
    assert_close(ours.feed_forward.expand.weight.grad, theirs.linear1.weight.grad)
    assert_close(ours.attention_norm.weight.grad, theirs.norm1.weight.grad)
    assert_close(ours.attention.output.weight.grad, theirs.self_attn.out_proj.weight.grad)


# ---------------------------------------------------------------------------------------------- positions


def test_learned_positions_are_rows_of_their_tables():
    table = Learned(dim=8, grids=(PLANE,), order="raster")
    nn.init.normal_(table.tables[0][0].weight)
    raster = table.add(torch.zeros(1, 12, 8), Layout.of(PLANE))
    assert torch.equal(raster[0], table.tables[0][0].weight)
    axes = Learned(dim=8, grids=(PLANE,), order="axes")
    rows, columns = (part.weight for part in axes.tables[0])
    added = axes.add(torch.zeros(1, 12, 8), Layout.of(PLANE))[0].unflatten(0, (3, 4))
    assert_close(added, rows[:, None] + columns[None])


@pytest.mark.parametrize(("grid", "order"), [(TEXT, "axes"), (TEXT, "raster"), (PLANE, "axes"), (PLANE, "raster")])
def test_sinusoidal_positions_follow_the_formula(grid, order):
    added = Sinusoidal(dim=8, grids=(grid,), base=100.0, order=order).add(
        torch.zeros(1, len(grid), 8), Layout.of(grid)
    )[0]
    for number, place in enumerate(itertools.product(*map(range, grid.shape))):
        numbers = [number] if order == "raster" else place
        width = 8 // len(numbers)
        expected = []
        for each in numbers:
            angles = [torch.tensor(each / 100 ** (2 * i / width)) for i in range(width // 2)]
            expected += [angle.sin() for angle in angles] + [angle.cos() for angle in angles]
        assert_close(added[number], torch.stack(expected))


def test_sinusoidal_names_the_width_it_needs():
    with pytest.raises(UserError, match=r"position=sinusoidal: backbone.dim=6 must be divisible by 4"):
        Sinusoidal(dim=6, grids=(PLANE,))


def encoder(position, *overrides, grid=PLANE):
    config = compose(["backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=2", *overrides])
    config["position"] = {"name": position}
    return randomise(build_backbone(config, TokenSpec(grid, token_dim=4))).eval()


def shuffled(tokens, order, *, with_coordinates):
    moved = tokens.select(order)
    return moved if with_coordinates else Tokens(moved.embeddings, tokens.layout)


@pytest.mark.parametrize("position", offers("position"))
def test_moving_tokens_with_their_coordinates_moves_the_output(position):
    backbone, tokens = encoder(position), Tokens(noise(2, 12, 16), Layout.of(PLANE))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    expected = backbone(tokens)[:, order[0]]
    assert_close(backbone(shuffled(tokens, order, with_coordinates=True)), expected)
    is_set_function = position == "none"
    without = backbone(shuffled(tokens, order, with_coordinates=False))
    assert ((without - expected).abs().max() < 1e-5) == is_set_function


# ---------------------------------------------------------------------------------------------- weights


def test_one_seed_gives_bit_equal_weights_whatever_was_drawn_before():
    first = small_model("seed=3").state_dict()
    torch.rand(7)
    second, other = small_model("seed=3").state_dict(), small_model("seed=4").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["task.head.weight"], other["task.head.weight"])


@pytest.mark.parametrize(
    ("swap", "touched"),
    [
        ("feed_forward.expansion=2", "feed_forward."),
        ("position=sinusoidal", "position."),
        ("tokenizer.patch_size=4", "embedding.projection.weight position."),
        ("task.pool=mean", "pooling."),
        ("block=post_norm", "backbone.norm."),
    ],
)
def test_swapping_a_part_leaves_every_other_weight_bit_equal(swap, touched):
    before, after = small_model().state_dict(), small_model(swap).state_dict()
    changed = {name for name in before | after if name not in before or name not in after}
    changed |= {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert changed
    assert all(any(part in name for part in touched.split()) for name in changed), changed


def test_initialising_leaves_the_global_generator_alone():
    module = nn.Linear(3, 3)
    state = torch.random.get_rng_state()
    initialise(module, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_without_a_way_to_be_drawn_are_named():
    module = nn.Module()
    module.scale = nn.Parameter(torch.ones(2))
    with pytest.raises(AssertionError, match=r"Module holds scale and has no reset_parameters\(\)"):
        initialise(module, seed=0)


def test_weight_decay_is_for_matrices_alone():
    model = small_model("position.order=axes")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = group_parameters(model)
    decayed, undecayed = ([names[id(parameter)] for parameter in group] for group in (groups.decayed, groups.undecayed))
    assert sorted(decayed + undecayed) == sorted(names.values()), "every parameter once"
    spared = ("bias", "norm", "position", "pooling")
    assert {name for name in names.values() if any(word in name for word in spared)} == set(undecayed)
    assert count_parameters(model) == sum(p.numel() for p in [*groups.decayed, *groups.undecayed])


def test_frozen_weights_are_in_no_group():
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    groups = group_parameters(model)
    assert (len(groups.decayed), groups.undecayed) == (1, [])
