"""Backbones of every direction and their options: against plain references, and step by step."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from tests.helpers import ROOT
from torch import nn
from torch.nn import functional as F

from plugformer.assemble import build_backbone
from plugformer.cli.compose import compose
from plugformer.errors import UserError
from plugformer.interfaces import Attention, Capabilities, Grid, Layout, Mask, Tokens, TokenSpec
from plugformer.nn.backbones import Decoder, Encoder, PrefixLM
from plugformer.nn.blocks import PreNorm
from plugformer.nn.cache import Growing
from plugformer.nn.feed_forward import Mlp
from plugformer.nn.full_attention import Full
from plugformer.nn.initialise import ResidualLinear, initialise
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.norms import LayerNorm
from plugformer.nn.positions import Learned, NoPosition
from plugformer.registry import offers
from plugformer.testing.common import randomise
from plugformer.testing.comparing import assert_close, noise

TEXT = Grid(("position",), (9,))
STACKS = {"encoder": Encoder, "decoder": Decoder, "prefix_lm": PrefixLM}
ABLE_TO_STEP = ["decoder", "prefix_lm"]


def backbone(name, *overrides, seed=0):
    """A small one as a run would have it, its weights as they first are."""
    config = compose(
        [f"backbone={name}", "backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=4", *overrides]
    )
    made = build_backbone(config, TokenSpec(TEXT, vocab_size=7))
    initialise(made, seed=seed)
    return made


def plain(cls=Decoder, **options):
    """One of the simplest parts, for what a composition can't say."""
    parts = {
        "make_block": PreNorm,
        "make_attention": lambda **context: Full(),
        "make_norm": LayerNorm,
        "make_feed_forward": Mlp,
        "make_position": lambda **context: Learned(dim=context["dim"], grids=(TEXT,)),
    }
    return cls(**parts | {"dim": 16, "num_layers": 2, "num_heads": 4} | options)


def tokens(length=9, batch=2, **parts):
    return Tokens(noise(batch, length, 16), Layout.of(TEXT).select(torch.arange(length)[None]), **parts)


# ---------------------------------------------------------------------------------------------- options


def multi_head(**options):
    made = MultiHeadAttention(dim=16, num_heads=4, mechanism=Full(), position=NoPosition(), **options)
    return randomise(made)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_qk_norm_normalises_every_head_of_queries_and_keys(kind):
    ours = multi_head(qk_norm=kind, num_kv_heads=2)
    x = noise(2, 6, 16).requires_grad_()
    normalise = partial(F.layer_norm, eps=1e-5) if kind == "layer" else partial(F.rms_norm, eps=1e-6)

    def heads(projection, norm=None):
        split = projection(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        return split if norm is None else normalise(split, (4,), *norm.parameters())

    q, k, v = heads(ours.query, ours.query_norm), heads(ours.key, ours.key_norm), heads(ours.value)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    expected = ours.output(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
    actual = ours(x, Mask())
    assert_close(actual, expected)
    leaves = [x, *ours.parameters()]
    for mine, theirs in zip(
        *(torch.autograd.grad(out.square().sum(), leaves) for out in (actual, expected)), strict=True
    ):
        assert_close(mine, theirs, tolerance=1e-4)


def test_with_qk_norm_the_length_of_queries_is_nothing():
    ours = multi_head(qk_norm="rms", bias=False)
    before = ours(noise(2, 6, 16), Mask())
    with torch.no_grad():
        ours.query.weight.mul_(50)
        ours.key.weight.mul_(50)
    assert_close(ours(noise(2, 6, 16), Mask()), before)
    ours = multi_head(bias=False)
    before = ours(noise(2, 6, 16), Mask())
    with torch.no_grad():
        ours.query.weight.mul_(50)
    assert (ours(noise(2, 6, 16), Mask()) - before).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_qk_norm_keeps_to_mixed_precision(kind):
    """Without a warning that types differ."""
    model = backbone("encoder", f"backbone.qk_norm={kind}", f"norm={kind}")
    with torch.autocast("cpu", torch.bfloat16):
        normalised = model.blocks[0].attention.query_norm(noise(2, 4, 6, 4).bfloat16())
        assert normalised.dtype == torch.bfloat16
        mixed = model(tokens())
    assert (mixed - model(tokens())).abs().max() < 0.1


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_key_value_heads_are_as_many_as_told(name, heads):
    attention = backbone(name, f"backbone.num_kv_heads={heads}").blocks[0].attention
    assert attention.query.out_features == 16
    assert attention.key.out_features == attention.value.out_features == 4 * heads


@pytest.mark.parametrize("name", STACKS)
def test_without_bias_projections_have_none(name):
    attention = backbone(name, "backbone.bias=false").blocks[1].attention
    assert [each for each, _ in attention.named_parameters()] == [
        f"{projection}.weight" for projection in ("query", "key", "value", "output")
    ]


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_embedding_norm_is_after_positions_and_before_the_first_block(norm):
    model = randomise(
        backbone("encoder", "backbone.embedding_norm=true", f"norm={norm}", "backbone.num_layers=1")
    ).eval()
    first = []
    model.blocks[0].register_forward_pre_hook(lambda module, arguments: first.append(arguments[0]))
    given = tokens()
    model(given)
    assert_close(first[0], model.embedding_norm(model.position.add(given.embeddings, given.layout)))
    assert type(model.embedding_norm) is type(model.norm)


@pytest.mark.parametrize(
    ("options", "embeddings", "branches"),
    [
        ({"dropout": 0.5}, 0.5, 0.5),
        ({"dropout": 0.5, "embedding_dropout": 0.0}, 0.0, 0.5),
        ({"embedding_dropout": 0.25}, 0.25, 0.0),
    ],
)
def test_embeddings_have_a_dropout_of_their_own(options, embeddings, branches):
    model = plain(**options)
    assert model.dropout.p == embeddings
    assert {block.dropout.p for block in model.blocks} == {branches}
    assert {block.feed_forward.dropout.p for block in model.blocks} == {branches}


@pytest.mark.parametrize("cls", STACKS.values())
def test_tells_blocks_their_place_and_positions_the_direction(cls):
    told = []

    class Notes(PreNorm):
        def __init__(self, *, layer, num_layers, **context):
            super().__init__(**context)
            told.append((layer, num_layers))

    def make_position(*, causal, **context):
        told.append(causal)
        return NoPosition()

    plain(cls, make_block=Notes, make_position=make_position)
    assert told == [cls is Decoder, (0, 2), (1, 2)]  # within a prefix, tokens see ahead


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "backbone.num_layers=0: must be at least 1."),
        (
            {"num_heads": 5},
            "backbone.dim=16 is not divisible by backbone.num_heads=5.\n  Heads that divide it: 1, 2, 4,",
        ),
        (
            {"num_kv_heads": 3},
            "backbone.num_heads=4 is not a multiple of num_kv_heads=3.\n  backbone.num_kv_heads can be: 1, 2, 4",
        ),
        ({"num_kv_heads": 0}, "is not a multiple of num_kv_heads=0.\n  backbone.num_kv_heads can be: 1, 2, 4"),
        ({"dropout": 1.0}, "backbone.dropout=1.0: a probability from 0 to below 1."),
        ({"embedding_dropout": -0.1}, "backbone.embedding_dropout=-0.1: a probability from 0 to below 1."),
    ],
)
def test_what_can_not_be_is_refused(options, message):
    with pytest.raises(UserError) as error:
        plain(**options)
    assert message in str(error.value)


class SharedQueryKey(Full):
    capabilities = Capabilities(causality="strict", shared_query_key=True)


def test_shared_queries_and_keys_are_as_many():
    with pytest.raises(
        UserError, match=r"num_kv_heads=2: SharedQueryKey takes queries for keys.*\n.*num_kv_heads=null"
    ):
        plain(make_attention=lambda **context: SharedQueryKey(), num_kv_heads=2)
    attention = (
        plain(make_attention=lambda **context: SharedQueryKey(), num_kv_heads=4, qk_norm="rms").blocks[0].attention
    )
    assert attention.key is None


# ---------------------------------------------------------------------------------------------- first weights


def weights(model):
    return {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def residual(model):
    return {name for name, module in model.named_modules() if isinstance(module, ResidualLinear)}


def test_two_maps_of_a_block_write_to_the_residual_stream():
    for feed_forward in offers("feed_forward"):
        names = residual(backbone("decoder", f"feed_forward={feed_forward}"))
        assert len(names) == 4
        assert {name for name in names if "attention" in name} == {f"blocks.{n}.attention.output" for n in (0, 1)}


@pytest.mark.parametrize("init", ["truncated", "xavier", "lecun"])
def test_depth_scaled_is_the_same_over_the_root_of_the_branches_and_nothing_else_changes(init):
    same, scaled = (
        backbone("decoder", f"backbone.init={init}", f"backbone.residual_init={r}") for r in ("same", "depth_scaled")
    )
    for name, weight in weights(same).items():
        if name in residual(same):
            torch.testing.assert_close(weights(scaled)[name], weight / 2)  # 1/√(2 · 2 layers)
        else:
            assert torch.equal(weights(scaled)[name], weight)
    deep = backbone("decoder", "backbone.residual_init=depth_scaled", "backbone.num_layers=8")
    first = "blocks.0.attention.output"
    torch.testing.assert_close(weights(deep)[first], weights(backbone("decoder"))[first] / 4)


@pytest.mark.parametrize("block", ["pre_norm", "post_norm"])
@pytest.mark.parametrize("feed_forward", offers("feed_forward"))
def test_with_zero_every_branch_adds_nothing(feed_forward, block):
    model = backbone("encoder", "backbone.residual_init=zero", f"feed_forward={feed_forward}", f"block={block}").eval()
    x = tokens()
    embedded = model.position.add(x.embeddings, x.layout)
    assert_close(model(x), F.layer_norm(embedded, (16,)), tolerance=1e-4)


@pytest.mark.parametrize(
    ("init", "deviation"), [("truncated", 0.0176), ("xavier", (2 / (64 + 256)) ** 0.5), ("lecun", 64**-0.5)]
)
def test_linear_maps_start_as_the_scheme_says(init, deviation):
    model = backbone("encoder", "backbone.dim=64", f"backbone.init={init}")
    expand = weights(model)["blocks.0.feed_forward.expand"]
    assert expand.std().item() == pytest.approx(deviation, rel=0.03)
    assert abs(expand.mean().item()) < 0.05 * deviation
    if init == "truncated":
        assert expand.abs().max() <= 0.04
    if init == "xavier":
        assert expand.abs().max() <= (6 / (64 + 256)) ** 0.5
    assert all(not module.bias.any() for module in model.modules() if isinstance(module, nn.Linear))
    table = model.position.tables[0][0].weight
    assert torch.equal(table, backbone("encoder", "backbone.dim=64").position.tables[0][0].weight), "not a linear map"


def test_a_scheme_is_for_what_is_inside():
    model = nn.ModuleDict({"backbone": plain(init="lecun"), "head": nn.Linear(16, 3)})
    other = nn.ModuleDict({"backbone": plain(), "head": nn.Linear(16, 3)})
    for each in (model, other):
        initialise(each, seed=0)
    assert torch.equal(model["head"].weight, other["head"].weight)
    assert not torch.equal(
        model["backbone"].blocks[0].attention.query.weight, other["backbone"].blocks[0].attention.query.weight
    )


class Unmarked(nn.Sequential):
    def __init__(self, *, dim, dropout):
        super().__init__(nn.Linear(dim, dim))


def test_a_branch_that_can_not_be_scaled_is_named():
    with pytest.raises(
        UserError, match=r"residual_init=zero: Unmarked doesn't say which .*ResidualLinear.\n.*=same\.$"
    ):
        plain(make_feed_forward=Unmarked, residual_init="zero")
    plain(make_feed_forward=Unmarked)


# ---------------------------------------------------------------------------------------------- step by step


def new_state(model):
    return Growing(model.num_layers)


def stepped(model, whole, chunks):
    state = new_state(model)
    places = torch.arange(len(TEXT)).expand(whole.embeddings.shape[0], -1).split(chunks, dim=1)
    return torch.cat([model(whole.select(place), state=state) for place in places], dim=1)


PARTS = {
    "nothing": {},
    "left padding": {"valid": torch.arange(9) >= torch.tensor([[3], [0]])},
    "segments": {"segments": torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2], [0] * 9])},
    "all": {
        "valid": torch.arange(9) >= torch.tensor([[3], [0]]),
        "segments": torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 1, 1]]),
    },
}


@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 1, 3]])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", ABLE_TO_STEP)
def test_steps_are_the_whole_whatever_masks(name, parts, chunks):
    model = randomise(backbone(name, "backbone.num_kv_heads=2", "backbone.qk_norm=rms")).eval()
    whole = tokens(**PARTS[parts])
    seen = whole.valid if whole.valid is not None else torch.ones(2, 9, dtype=torch.bool)
    assert_close(stepped(model, whole, chunks)[seen], model(whole)[seen])


# ---------------------------------------------------------------------------------------------- registers


@pytest.mark.parametrize("name", STACKS)
def test_registers_are_tokens_before_the_others_that_are_dropped_again(name):
    model, bare = backbone(name, "backbone.num_registers=2", "position=none"), backbone(name, "position=none")
    bare.load_state_dict({key: value for key, value in model.state_dict().items() if key != "registers.weight"})
    whole = tokens(valid=torch.arange(9) < torch.tensor([[5], [9]]))
    assert_close(model.eval()(whole), bare.eval()(whole.prepend(model.registers.weight))[:, 2:])
    assert (model(whole) - bare(whole)).abs().max() > 1e-3


@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 1, 3]])
@pytest.mark.parametrize("name", ABLE_TO_STEP)
def test_registers_come_before_the_first_step_alone(name, chunks):
    model = randomise(backbone(name, "backbone.num_registers=2")).eval()
    assert_close(stepped(model, tokens(), chunks), model(tokens()))


def test_fewer_registers_than_none_are_refused():
    with pytest.raises(UserError, match=r"^backbone.num_registers=-1: must be at least 0.$"):
        backbone("encoder", "backbone.num_registers=-1")


# ---------------------------------------------------------------------------------------------- step by step


@pytest.mark.parametrize("position", offers("position"))
def test_steps_are_the_whole_under_every_position(position):
    """Also where the documents of a packed sequence count from 0 each."""
    model = randomise(backbone("decoder", f"position={position}")).eval()
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2], list(range(9))])[..., None]
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2], [0] * 9])
    layout = Layout(places, torch.zeros(2, 9, dtype=torch.long), (TEXT,))
    whole = Tokens(noise(2, 9, 16), layout, segments=segments)
    out = model(whole)
    assert_close(stepped(model, whole, [2, 3, 1, 1, 1, 1]), out)
    alone = Tokens(whole.embeddings[:1, 4:6], Layout.of(TEXT).select(torch.tensor([[0, 1]])))
    assert_close(model(alone), out[:1, 4:6])


def test_a_prefix_is_seen_from_the_first_step_on():
    model = randomise(backbone("prefix_lm")).eval()
    whole = tokens(prefix=torch.tensor([4, 2]))
    assert_close(stepped(model, whole, [4, 1, 1, 1, 1, 1]), model(whole))
    assert (model(whole) - model(tokens()))[0, 0].abs().max() > 1e-3
    assert_close(model(tokens(prefix=torch.tensor([9, 9]))), encoder_like(model)(tokens()))


def encoder_like(model):
    """The same weights in a backbone in which every token sees every other."""
    encoder = backbone("encoder").eval()
    encoder.load_state_dict(model.state_dict())
    return encoder


class Mean(Attention):
    """Of the values so far: the simplest thing that decodes from a state of constant size."""

    capabilities = Capabilities(causality="strict", decoding="state")

    def forward(self, q, k, v, mask, bias=None):
        return v.cumsum(2) / torch.arange(1, v.shape[2] + 1)[:, None]

    def step(self, q, k, v, state, valid=None):
        total, count = (torch.zeros_like(v[:, :, :1]), 0) if state is None else state
        sums = total + v.cumsum(2)
        return sums / (count + torch.arange(1, v.shape[2] + 1)[:, None]), (sums[:, :, -1:], count + v.shape[2])


def test_a_mechanism_may_go_on_from_a_state_of_its_own():
    model = randomise(plain(make_attention=lambda **context: Mean(), num_kv_heads=2)).eval()
    assert_close(stepped(model, tokens(), [3, 1, 1, 2, 2]), model(tokens()))
    with pytest.raises(AssertionError, match="knows of padding alone"):
        stepped(model, tokens(**PARTS["segments"]), [9])


class NeverSteps(Full):
    capabilities = Capabilities(causality="strict")


def test_what_can_not_step_does_not_do_so_silently():
    with pytest.raises(AssertionError, match="can't go on token by token"):
        stepped(plain(make_attention=lambda **context: NeverSteps()), tokens(), [9])
    with pytest.raises(AssertionError, match="sees the whole of a sequence at once"):
        stepped(plain(Encoder), tokens(), [9])
    with pytest.raises(AssertionError, match="prefix_lm does"):
        plain(Decoder)(tokens(prefix=torch.tensor([2, 2])))


# ---------------------------------------------------------------------------------------------- compiled, on meta

COMPILED = """
import torch
from tests.test_backbones import PARTS, STACKS, backbone, randomise, tokens
for name in STACKS:
    model = randomise(backbone(name, "backbone.num_kv_heads=1", "backbone.qk_norm=rms", "backbone.embedding_norm=true"))
    compiled, given = torch.compile(model, backend="eager", fullgraph=True), tokens(**PARTS["all"])
    assert torch.equal(compiled(given), model(given))
"""


def test_is_one_graph():
    """In a process where shapes in annotations are not checked."""
    subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("name", STACKS)
def test_needs_no_storage(name):
    with torch.device("meta"):
        model = backbone(name, "backbone.init=lecun", "backbone.residual_init=depth_scaled", "backbone.qk_norm=layer")
        assert model(tokens()).shape == (2, 9, 16)
