"""The encoder-decoder of blocks: against torch's transformer, and step by step with every part it can be made of."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.helpers import ROOT
from tests.two_sequences import COMPOSITION, IDS, PROMPT, SOURCE, check, logits, model, rows
from torch import nn

from plugformer.assemble import build_backbone, preview
from plugformer.cli.compose import compose
from plugformer.decode.session import Session
from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout, Mask, Memory, Tokens, TokenSpec
from plugformer.model import remembering
from plugformer.nn.blocks import PreNorm
from plugformer.nn.depth import parameter_depths
from plugformer.nn.initialise import ResidualLinear, initialise
from plugformer.nn.multi_head import MultiHeadAttention
from plugformer.nn.positions import NoPosition
from plugformer.registry import build, offers, register
from plugformer.testing.common import randomise
from plugformer.testing.comparing import assert_close, noise

TEXT = TokenSpec(Grid(("position",), (9,)), vocab_size=7)
STEPS = (3, 1, 1, 1)
CROSSING = ("performer", "linear", "random_feature")
exactly = {"atol": 1e-10, "rtol": 1e-10}


def backbone(*overrides):
    config = compose(["backbone=encoder_decoder", "backbone.dim=16", "backbone.num_layers=2", *overrides])
    return build_backbone(config, TEXT)


def tokens(length, *, seed=0, **parts):
    grid = Layout.of(TEXT.grid)
    return Tokens(noise(2, length, 16, seed=seed), grid.select(torch.arange(length)[None]), **parts)


# ---------------------------------------------------------------------------------------------- against torch


def copy_attention(ours, theirs):
    theirs.in_proj_weight.copy_(torch.cat([each.weight for each in (ours.query, ours.key, ours.value)]))
    theirs.in_proj_bias.copy_(torch.cat([each.bias for each in (ours.query, ours.key, ours.value)]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def copy_layer(ours, theirs):
    copy_attention(ours.attention, theirs.self_attn)
    norms = [ours.attention_norm, ours.feed_forward_norm]
    if ours.cross_attention is not None:
        copy_attention(ours.cross_attention, theirs.multihead_attn)
        norms.insert(1, ours.cross_attention_norm)
    for number, norm in enumerate(norms, 1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
    first, second = (part for part in ours.feed_forward.modules() if isinstance(part, nn.Linear))
    theirs.linear1.load_state_dict(first.state_dict())
    theirs.linear2.load_state_dict(second.state_dict())


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("block", ["pre_norm", "post_norm"])
def test_it_is_torchs_transformer(block):
    """Values and gradients, with padding on both sides."""
    ours = randomise(backbone(f"block={block}", "position=none", "backbone.num_decoder_layers=3"))
    first = block == "pre_norm"
    options = {"activation": "gelu", "norm_first": first, "batch_first": True, "dropout": 0.0}
    theirs = nn.Transformer(16, 4, 2, 3, 64, **options)
    for mine, its in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
        for layer, same in zip(mine.blocks, its.layers, strict=True):
            copy_layer(layer, same)
        its.norm = mine.norm if first else None  # which torch puts behind both in either case
    source = tokens(7, seed=1, valid=torch.arange(7) < torch.tensor([[7], [4]]))
    target = tokens(5, valid=torch.arange(5) < torch.tensor([[3], [5]]))
    leaves = [source.embeddings.requires_grad_(), target.embeddings.requires_grad_()]
    expected = theirs(
        *leaves,
        tgt_mask=torch.ones(5, 5).tril() == 0,
        src_key_padding_mask=~source.valid,
        tgt_key_padding_mask=~target.valid,
        memory_key_padding_mask=~source.valid,
    )
    actual = ours(target, memory=ours.encode(source))
    assert_close(actual[target.valid], expected[target.valid])
    gradients = [torch.autograd.grad(out[target.valid].square().sum(), leaves) for out in (actual, expected)]
    for mine, its in zip(*gradients, strict=True):
        assert_close(mine, its, tolerance=1e-4)


# ---------------------------------------------------------------------------------------------- step by step


@pytest.mark.parametrize("cache", ["growing", "fixed"])
@pytest.mark.parametrize("position", offers("position"))
def test_what_is_remembered_changes_nothing(position, cache):
    """Of tokens and of sources, one of which is padded."""
    made = model(f"position={position}", "norm=rms")
    torch.testing.assert_close(logits(made, *STEPS, cache=cache), logits(made, 6, cache="none"), **exactly)


OTHERS = {
    "blocks": ["block=sandwich", "backbone.num_decoder_layers=1"],
    "heads": ["backbone.num_kv_heads=2", "backbone.qk_norm=rms", "block=post_norm"],
} | {name: [f"cross_attention={name}"] for name in CROSSING}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_whatever_it_is_made_of(options):
    made = model(*options)
    whole = logits(made, 6, cache="none")
    for cache in ("growing", "fixed"):
        torch.testing.assert_close(logits(made, *STEPS, cache=cache), whole, **exactly)


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
def test_padding_of_prompts_and_sources_changes_nothing(cache):
    made = model("position=relative")
    lacking = torch.tensor([0, 1, 0])
    together = logits(made, *STEPS, valid=torch.arange(PROMPT) >= lacking[:, None], cache=cache)
    for row in range(3):
        real = int(SOURCE["valid"][row].sum())
        session = Session(made, source={"ids": SOURCE["ids"][row : row + 1, :real]}, room=6, cache="none")
        first = session.start(IDS[row : row + 1, lacking[row] : PROMPT])
        alone = torch.cat([first, session.step(IDS[row : row + 1, PROMPT:])], 1)
        torch.testing.assert_close(together[row : row + 1], alone, **exactly)


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
@pytest.mark.parametrize("mechanism", ["full", *CROSSING])
def test_copies_of_a_sequence_share_its_source(mechanism, cache):
    made, copies = model(f"cross_attention={mechanism}"), torch.arange(3).repeat_interleave(2)
    ids = torch.cat([IDS[copies, :PROMPT], torch.randint(0, 256, (6, 6))], 1)
    whole = logits(made, 6, source=rows(SOURCE, copies), ids=ids, cache="none")
    session = Session(made, source=SOURCE, room=6, cache=cache)
    start = session.start(IDS[:, :PROMPT])
    session.repeat(2)
    steps = [session.step(new) for new in ids[:, PROMPT:].split([3, 2, 1], 1)[:2]]
    torch.testing.assert_close(torch.cat([start[copies], *steps], 1), whole[:, :-1], **exactly)
    chosen = torch.tensor([5, 0, 3])
    session.select(chosen)
    torch.testing.assert_close(session.step(ids[chosen, -1:]), whole[chosen, -1:], **exactly)


def test_keys_and_values_of_a_source_are_made_once():
    made, calls = model(), []
    crossing = [module for name, module in made.named_modules() if name.endswith("cross_attention.key")]
    handles = [module.register_forward_hook(lambda *_: calls.append(1)) for module in crossing]
    logits(made, *STEPS)
    for handle in handles:
        handle.remove()
    assert len(calls) == len(crossing) == 2


def test_a_memory_keeps_what_was_made_of_it_in_the_rows_that_are_chosen():
    hidden, mask = noise(2, 5, 3), Mask(valid=torch.arange(5) < torch.tensor([[3], [5]]))
    memory = Memory(hidden, mask)
    memory.once("sum", lambda: (hidden.sum(1),))
    chosen = memory.repeat(2).repeat(2).select(torch.tensor([5, 1, 6]))
    assert chosen.copies == 1
    assert torch.equal(chosen.hidden, hidden[[1, 0, 1]])
    assert torch.equal(chosen.mask.valid, mask.valid[[1, 0, 1]])
    assert torch.equal(chosen.once("sum", lambda: pytest.fail("made anew"))[0], hidden.sum(1)[[1, 0, 1]])


COMPILED = """
import torch
from tests.two_sequences import IDS, SOURCE, logits, model, rows
torch._dynamo.config.error_on_recompile = True

for options in OPTIONS:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    made = model(*options)
    for other, length in (([0, 1, 2], 7), ([2, 2, 0], 7), ([1, 0, 1], 5), ([0, 0, 0], 6)):
        source = {key: part[:, :length] for key, part in rows(SOURCE, torch.tensor(other)).items()}
        if length == 6:  # nothing is padded
            del source["valid"]
        ours = logits(made, *[1] * 6, source=source, cache="fixed", compile=True, backend="BACKEND")
        torch.testing.assert_close(ours, logits(made, 6, source=source, cache="none"), atol=1e-6, rtol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
"""
GROUPED = ["position=rope", "backbone.num_kv_heads=2"]
BOTH = ["position=none", "backbone.encoder=gru", "backbone.decoder=lstm"]
ALL = [GROUPED, ["position=relative"], ["cross_attention=performer"], BOTH, ["backbone.decoder=gru"]]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "options"), [("eager", [GROUPED, BOTH]), ("inductor", ALL)])
def test_steps_are_compiled_once_for_all_sources(backend, options):
    """In a process where shapes in annotations are not checked."""
    code = COMPILED.replace("BACKEND", backend).replace("OPTIONS", repr(options))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=580)


TAUGHT = """
import torch
from torch._dynamo.testing import CompileCounter
from tests.two_sequences import SOURCE, model

counted = set()
for length in (3, 30):
    torch._dynamo.reset()
    made, counter = model("backbone.decoder=lstm", "tokenizer.max_length=32", "task.val_samples=0"), CompileCounter()
    ids = torch.randint(0, 256, (3, length))
    batch = {"inputs": SOURCE, "targets": {"ids": ids, "valid": ids >= 0, "following": ids}}
    assert torch.equal(torch.compile(made, backend=counter)(batch).loss, made(batch).loss)
    counted.add(counter.op_count)
assert len(counted) == 1, counted
"""


@pytest.mark.slow
def test_what_is_compiled_does_not_grow_with_what_a_recurrent_decoder_is_taught():
    subprocess.run([sys.executable, "-c", TAUGHT], cwd=ROOT, check=True, timeout=580)


# ---------------------------------------------------------------------------------------------- its parts


def test_distances_have_no_direction_in_the_decoder_and_none_between_sequences():
    made = backbone("position=relative")
    assert [table.one_sided for table in made.encoder.position.tables] == [False]
    assert [table.one_sided for table in made.decoder.position.tables] == [True]
    for block in made.decoder.blocks:
        assert isinstance(block.cross_attention._position[0], NoPosition)


def test_each_place_has_the_mechanism_that_was_chosen_for_it():
    made = backbone("attention=linear", "cross_attention=performer", "backbone.num_decoder_layers=1")
    names = {role: [type(each).__name__ for each in found] for role, found in made.mechanisms().items()}
    assert names == {"encoder": ["Linear"] * 2, "decoder": ["Linear"], "cross": ["Performer"]}
    assert [type(each).__name__ for each in remembering(model("attention=linear"))] == ["Linear"] * 2


def test_branches_are_counted_on_each_side():
    """A block of a decoder has three."""
    scaled, same = (backbone(f"backbone.residual_init={which}", "backbone.num_decoder_layers=3") for which in
                    ("depth_scaled", "same"))  # fmt: skip
    for made in (scaled, same):
        initialise(made, seed=0)
    for side, branches in (("encoder", 2 * 2), ("decoder", 3 * 3)):
        pairs = zip(getattr(scaled, side).modules(), getattr(same, side).modules(), strict=True)
        found = [(mine, its) for mine, its in pairs if isinstance(mine, ResidualLinear)]
        assert len(found) == branches
        for mine, its in found:
            assert_close(mine.weight, its.weight / branches**0.5)


def test_blocks_of_the_decoder_stand_upon_those_of_the_encoder():
    made = model("backbone.num_decoder_layers=1", "position=relative", "backbone.embedding_norm=true")
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    depths = {names[id(parameter)]: depth for parameter, depth in parameter_depths(made.trunk, made.task).items()}
    assert len(depths) == len(names)
    for name, depth in depths.items():
        expected = {
            "trunk.embedding": 0,
            "trunk.backbone.encoder.position": 0,
            "trunk.backbone.encoder.embedding_norm": 0,
            "trunk.backbone.encoder.blocks.0": 1,
            "trunk.backbone.encoder.blocks.1": 2,
            "trunk.backbone.encoder.norm": 2,
            "trunk.backbone.decoder.position": 2,
            "trunk.backbone.decoder.embedding_norm": 2,
            "trunk.backbone.decoder.blocks.0": 3,
            "trunk.backbone.decoder.norm": 4,
            "task": 4,
        }
        assert depth == next(value for start, value in expected.items() if name.startswith(start)), name


def test_documents_of_packed_sequences_see_their_own_alone():
    made = randomise(backbone()).eval()
    source, target = tokens(7, seed=1), tokens(5)
    packed = made(
        replace(target, segments=torch.tensor([[0, 0, 1, 1, 1]] * 2)),
        memory=made.encode(replace(source, segments=torch.tensor([[0, 0, 0, 0, 1, 1, 1]] * 2))),
    )
    for of_target, of_source in ((slice(0, 2), slice(0, 4)), (slice(2, 5), slice(4, 7))):
        places = [torch.arange(length)[part].expand(2, -1) for length, part in ((5, of_target), (7, of_source))]
        alone = made(target.select(places[0]), memory=made.encode(source.select(places[1])))
        assert_close(packed[:, of_target], alone)
    with pytest.raises(AssertionError, match="packed together"):
        made(target, memory=made.encode(replace(source, segments=torch.zeros(2, 7).long())))


# ---------------------------------------------------------------------------------------------- what can't be


class Deaf(PreNorm):
    """A block of one that has never heard of encoders."""

    crosses = False

    def __init__(self, *, attention: MultiHeadAttention, feed_forward: nn.Module, make_norm: object) -> None:
        super().__init__(attention=attention, feed_forward=feed_forward, make_norm=make_norm)


WORKING = "cross_attention=full, cross_attention=linear, cross_attention=performer, cross_attention=random_feature"
REFUSED = {
    ("block=reversible",): "block=reversible has no cross-attention, as backbone=encoder_decoder with these options "
    "needs.\n  These would work: block=post_norm, block=pre_norm, block=sandwich",
    ("block=deaf",): "block=deaf has no cross-attention, as backbone=encoder_decoder with these options needs.\n"
    "  These would work: block=post_norm, block=pre_norm, block=sandwich",
    ("cross_attention=bigbird",): "cross_attention=bigbird can't attend from one sequence to another, as "
    f"backbone=encoder_decoder needs.\n  These would work: {WORKING}",
    ("cross_attention=reformer_lsh",): "cross_attention=reformer_lsh can't attend from one sequence to another, as "
    f"backbone=encoder_decoder needs.\n  These would work: {WORKING}",
    ("position=alibi", "attention=linear"): "attention=linear can't take an additive bias, as position=alibi needs.\n"
    "  These would work: attention=full",
    ("backbone.num_decoder_layers=0",): "backbone.num_decoder_layers=0: must be at least 1.",
    ("backbone.embedding_dropout=1",): "backbone.embedding_dropout=1.0: a probability from 0 to below 1.",
    ("backbone.num_heads=3",): "backbone.dim=16 is not divisible by backbone.num_heads=3.\n"
    "  Heads that divide it: 1, 2, 4, 8, 16",
    ("backbone=encoder", "task=seq2seq"): "task=seq2seq with these options needs an encoder_decoder backbone; "
    "backbone=encoder is bidirectional.\n  These would work: backbone=encoder_decoder",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_can_not_be_combined_is_refused(overrides, monkeypatch):
    monkeypatch.setattr("plugformer.registry._registered", {})
    register("block", "deaf")(Deaf)
    with pytest.raises(UserError, match=f"^{re.escape(REFUSED[overrides])}"):
        check(*overrides)


def test_a_relative_bias_asks_nothing_of_cross_attention():
    check("position=alibi", "cross_attention=linear")


def test_cross_attention_needs_a_place():
    config = compose([*COMPOSITION[:3], "backbone=encoder", "task=mlm", "cross_attention=full"])
    told = r"^cross_attention=full: backbone=encoder has no cross-attention. Leave it out"
    with pytest.raises(UserError, match=told):
        preview(config, source=build("data", config["data"]))
