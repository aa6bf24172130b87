"""Recurrent sides of an encoder-decoder: against torch's layers and the paper's formulas, and step by step."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from tests.two_sequences import IDS, PROMPT, SOURCE, check, logits, model
from torch import nn
from torch.nn import functional as F

from plugformer.cli.compose import compose
from plugformer.compatibility import UNUSED
from plugformer.decode.beam import beam_search
from plugformer.decode.choosing import Choice
from plugformer.decode.session import Session
from plugformer.decode.speculative import check_goes_back
from plugformer.errors import UserError
from plugformer.interfaces import Grid, Layout, Mask, Memory, Tokens
from plugformer.model import remembering
from plugformer.nn.depth import parameter_depths
from plugformer.nn.recurrence import CELLS, LAYERS, Forward
from plugformer.nn.recurrent import Attending, RecurrentDecoder, RecurrentEncoder
from plugformer.registry import check as check_node
from plugformer.testing.backbone import BackboneSuite
from plugformer.testing.common import randomise
from plugformer.testing.comparing import assert_close, noise

UNITS = ["gru", "lstm"]
RNNSEARCH = ("position=none", "backbone.encoder=gru", "backbone.decoder=gru")
STEPS = (3, 1, 1, 1)
SMALL = {"dim": 8, "num_layers": 2}


class TestRnnSearch(BackboneSuite):
    name = "encoder_decoder"
    options: ClassVar[Mapping[str, Any]] = {"encoder": "gru", "decoder": "gru", **SMALL}


class TestTransformerAndLstm(BackboneSuite):
    name = "encoder_decoder"
    options: ClassVar[Mapping[str, Any]] = {"decoder": "lstm", "num_heads": 2, **SMALL}


class TestLstmAndTransformer(BackboneSuite):
    name = "encoder_decoder"
    options: ClassVar[Mapping[str, Any]] = {"encoder": "lstm", "num_heads": 2, **SMALL}


def text(x, valid=None):
    return Tokens(x, Layout.of(Grid(("position",), (x.shape[1],))), valid=valid)


def options(unit, **others):
    return {
        "unit": unit,
        "dim": 8,
        "num_layers": 1,
        "embedding_norm": nn.Identity(),
        "dropout": 0.0,
        "embedding_dropout": 0.0,
        **others,
    }


def decoder(unit="gru", begins_from="mean", **others):
    return randomise(RecurrentDecoder(init="truncated", begins_from=begins_from, **options(unit, **others)))


# ---------------------------------------------------------------------------------------------- against torch


@torch.no_grad()
def torchs(cell, unit, inputs):
    """Torch's layer with the weights of a cell, as far as they take the first `inputs`."""
    layer = LAYERS[unit](inputs, cell.hidden_size, batch_first=True)
    for name, weight in cell.named_parameters():
        getattr(layer, f"{name}_l0").copy_(weight[:, :inputs] if name == "weight_ih" else weight)
    return layer


def as_torch_has_it(state):
    parts = tuple(part[None] for part in state)
    return parts if len(parts) == 2 else parts[0]


def beginning(unit):
    return tuple(noise(2, 8, seed=seed) for seed in range(2 if unit == "lstm" else 1))


@pytest.mark.parametrize("unit", UNITS)
def test_a_layer_of_a_decoder_is_torchs(unit):
    """Values, last state and gradients."""
    ours, x, state = randomise(Forward(unit, inputs=6, dim=8)), noise(2, 5, 6).requires_grad_(), beginning(unit)
    theirs = torchs(ours.cell, unit, 6)
    out, last = ours(x, None, state)
    expected, after = theirs(x, as_torch_has_it(state))
    assert_close(out, expected)
    assert_close(torch.stack(last), torch.stack([part[0] for part in (after if unit == "lstm" else (after,))]))
    assert_close(torch.autograd.grad(out.square().sum(), x)[0], torch.autograd.grad(expected.square().sum(), x)[0])


@pytest.mark.parametrize("unit", UNITS)
def test_a_layer_that_finds_nothing_is_torchs(unit):
    """What was found has no weight in the cell."""
    ours, x, state = randomise(Attending(unit, dim=8)), noise(2, 5, 8), beginning(unit)
    with torch.no_grad():
        ours.cell.weight_ih[:, 8:] = 0
    out, _, _ = ours(x, None, state, Memory(noise(2, 4, 8), Mask()), remember=False)
    assert_close(out, torchs(ours.cell, unit, 8)(x, as_torch_has_it(state))[0])


@pytest.mark.parametrize("unit", UNITS)
def test_an_encoder_is_torchs_without_its_padding(unit):
    """Wherever it stands, even amid the sequence, as in the raster of a grid of which a part is real."""
    ours, x = randomise(RecurrentEncoder(**options(unit, num_layers=2))), noise(3, 6, 8)
    valid = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [0, 0, 1, 1, 1, 1]]).bool()
    out = ours(text(x, valid))
    for row in range(3):
        alone = x[row, valid[row]][None]
        for layer in ours.layers:
            alone, _ = layer.layer(alone)
        assert_close(out[row, valid[row]], alone[0])
    assert_close(ours(text(x[:1])), out[:1])


# ---------------------------------------------------------------------------------------------- against the paper


def plain(ours, unit, embedded, memory, valid, told):
    """Appendix A of Bahdanau et al. 2015, a token at a time; of gates, torch's own cell."""
    cell = CELLS[unit](16, 8)
    cell.load_state_dict(ours.first.cell.state_dict())
    states = (told @ ours.beginning.weight.T + ours.beginning.bias).tanh().chunk(2 if unit == "lstm" else 1, -1)
    out = []
    for x in embedded.unbind(1):
        asked = (states[0] @ ours.first.query.weight.T)[:, None]
        keys = memory @ ours.first.key.weight.T + ours.first.key.bias
        energies = ((asked + keys).tanh() @ ours.first.energy.weight[0]).masked_fill(~valid, -torch.inf)
        found = (energies.softmax(1)[..., None] * memory).sum(1)
        made = cell(torch.cat([x, found], 1), states if unit == "lstm" else states[0])
        states = made if unit == "lstm" else (made,)
        read = F.linear(torch.cat([states[0], x, found], 1), ours.readout.weight, ours.readout.bias)
        out.append(torch.maximum(read[:, ::2], read[:, 1::2]))
    return torch.stack(out, 1)


@pytest.mark.parametrize("begins_from", ["mean", "backward"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_decoder_is_the_papers(unit, begins_from):
    ours, x, hidden = decoder(unit, begins_from), noise(2, 5, 8), noise(2, 4, 8, seed=1)
    valid, leaves = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0]]).bool(), [x.requires_grad_(), hidden.requires_grad_()]
    if begins_from == "mean":
        told = torch.stack([hidden[0].mean(0), hidden[1, 1:3].mean(0)])
    else:  # the half that was read from the end, at the first token that is real
        told = torch.stack([hidden[0, 0, 4:], hidden[1, 1, 4:]])
    actual = ours(text(x), memory=Memory(hidden, Mask(valid=valid)))
    expected = plain(ours, unit, x, hidden, valid, told)
    assert_close(actual, expected)
    gradients = [torch.autograd.grad(out.square().sum(), leaves, retain_graph=True) for out in (actual, expected)]
    for mine, its in zip(*gradients, strict=True):
        assert_close(mine, its, tolerance=1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_gradients_are_those_of_what_it_computes(unit):
    ours = decoder(unit, num_layers=2, dim=4).double()
    valid = torch.tensor([[True, True, False]])

    def out(x, hidden):
        return ours(text(x), memory=Memory(hidden, Mask(valid=valid)))

    leaves = [noise(1, length, 4, seed=length).double().requires_grad_() for length in (2, 3)]
    assert torch.autograd.gradcheck(out, leaves)


def test_further_layers_are_given_what_the_first_found():
    ours, x, memory = decoder(num_layers=2), noise(2, 5, 8), Memory(noise(2, 4, 8, seed=1), Mask())
    below, found, _ = ours.first(x, None, ours._begin(memory)[0], memory, remember=False)
    top, _ = ours.further[0](torch.cat([below, found], -1), None, ours._begin(memory)[1])
    read = ours.readout(torch.cat([top, x, found], -1))
    assert_close(ours(text(x), memory=memory), torch.maximum(read[..., ::2], read[..., 1::2]))


def test_a_source_of_nothing_but_padding_harms_no_other():
    ours, hidden = decoder(), noise(2, 4, 8).requires_grad_()
    valid = torch.tensor([[True] * 4, [False] * 4])
    out = ours(text(noise(2, 5, 8)), memory=Memory(hidden, Mask(valid=valid)))
    out.sum().backward()
    assert out.isfinite().all()
    assert hidden.grad.isfinite().all()


def test_dropout_is_for_training_alone():
    ours, x, memory = decoder(dropout=0.5, num_layers=2), noise(2, 5, 8), Memory(noise(2, 4, 8), Mask())
    assert torch.equal(ours.eval()(text(x), memory=memory), ours(text(x), memory=memory))
    assert not torch.equal(ours.train()(text(x), memory=memory), ours(text(x), memory=memory))


# ---------------------------------------------------------------------------------------------- step by step


@pytest.mark.parametrize("sides", [RNNSEARCH, ("backbone.decoder=lstm",), ("backbone.encoder=lstm",)], ids=str)
def test_steps_are_the_whole(sides):
    """Beside padding of sources and prompts, with copies of a sequence, and some of these."""
    made, valid = model(*sides), torch.arange(PROMPT) >= torch.tensor([[0], [1], [0]])
    whole = logits(made, 6, valid=valid, cache="none")
    copies, chosen = torch.arange(3).repeat_interleave(2), torch.tensor([5, 0, 3])
    for cache in ("growing", "fixed"):
        ours = logits(made, *STEPS, valid=valid, cache=cache)
        torch.testing.assert_close(ours, whole, atol=1e-10, rtol=1e-10)
        session = Session(made, source=SOURCE, room=6, cache=cache)
        session.start(IDS[:, :PROMPT], valid)
        session.repeat(2)
        session.step(IDS[copies, PROMPT:6])
        session.select(chosen)
        ours = session.step(IDS[copies[chosen], 6:])
        torch.testing.assert_close(ours, whole[copies[chosen], -2:], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("cache", ["growing", "fixed"])
def test_beams_are_those_without_a_memory(cache):
    made, first = model(*RNNSEARCH), torch.full((3, 1), model(*RNNSEARCH).task.start)
    settings = {"num_beams": 3, "num_samples": 2, "length_penalty": 1.0, "early_stopping": False, "room": 5}

    def beams(cache):
        session = Session(made, source=SOURCE, room=5, cache=cache)
        return [
            [each.ids for each in found] for found in beam_search(session, first, eos=2, choice=Choice(), **settings)
        ]

    assert beams(cache) == beams("none")


def test_what_is_made_of_a_source_is_made_once():
    made, calls = model(*RNNSEARCH), []
    handle = made.trunk.backbone.decoder.first.key.register_forward_hook(lambda *_: calls.append(1))
    logits(made, *STEPS)
    handle.remove()
    assert calls == [1]


def test_it_takes_nothing_back():
    session = Session(model(*RNNSEARCH), source=SOURCE, room=6)
    told = "draft: the model's decoder is recurrent, and can't take back tokens that were proposed and not accepted.\n"
    with pytest.raises(UserError, match=f"^{re.escape(told)}  Generate without a draft, set cache=none, or"):
        check_goes_back(session, "model")
    check_goes_back(Session(model(*RNNSEARCH), source=SOURCE, room=6, cache="none"), "model")
    check_goes_back(Session(model("backbone.encoder=gru"), source=SOURCE, room=6), "model")


# ---------------------------------------------------------------------------------------------- in a run


def test_its_mechanisms_are_those_of_blocks():
    roles = {sides: {role: len(found) for role, found in model(*sides).trunk.backbone.mechanisms().items()} for sides in
             (RNNSEARCH, ("backbone.decoder=gru",), ("backbone.encoder=gru",))}  # fmt: skip
    assert list(roles.values()) == [
        {"encoder": 0, "decoder": 0, "cross": 0},
        {"encoder": 2, "decoder": 0, "cross": 0},
        {"encoder": 0, "decoder": 2, "cross": 2},
    ]
    assert not remembering(model(*RNNSEARCH))


def test_layers_stand_upon_each_other():
    made = model(*RNNSEARCH)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    depths = {names[id(parameter)]: depth for parameter, depth in parameter_depths(made.trunk, made.task).items()}
    assert len(depths) == len(names)
    places = {
        "trunk.embedding": 0,
        "trunk.backbone.encoder.layers.0": 1,
        "trunk.backbone.encoder.layers.1": 2,
        "trunk.backbone.decoder.beginning": 2,
        "trunk.backbone.decoder.first": 3,
        "trunk.backbone.decoder.further.0": 4,
        "trunk.backbone.decoder.readout": 5,
        "task": 5,
    }
    for name, depth in depths.items():
        assert depth == next(place for start, place in places.items() if name.startswith(start)), name


def test_what_a_part_is_called_that_has_no_use_is_its_default():
    config = compose([])
    for kind, name in UNUSED.items():
        if kind != "position":
            assert config[kind] == check_node(kind, {"name": name})


NO_USE = "backbone=encoder_decoder with these options has no use for it."
NO_BLOCKS = "with backbone.encoder=gru and backbone.decoder=gru there are no blocks that it could tell anything."
REFUSED = {
    RNNSEARCH[1:]: f"position=learned: {NO_USE} Set position=none.",
    (*RNNSEARCH, "attention=performer"): f"attention=performer: {NO_USE} Set attention=full.",
    (*RNNSEARCH, "block=sandwich"): f"block=sandwich: {NO_USE} Set block=pre_norm.",
    (*RNNSEARCH, "block.drop_path=0.1"): f"block.drop_path=0.1: {NO_USE} Leave it out.",
    (*RNNSEARCH, "feed_forward=glu"): f"feed_forward=glu: {NO_USE} Set feed_forward=mlp.",
    (*RNNSEARCH, "norm=rms"): f"norm=rms: {NO_USE} Set norm=layer.",
    (*RNNSEARCH, "cross_attention=full"): f"cross_attention=full: {NO_USE} Leave it out.",
    ("backbone.decoder=gru", "cross_attention=full"): f"cross_attention=full: {NO_USE} Leave it out.",
    (*RNNSEARCH, "backbone.num_heads=2"): f"backbone.num_heads=2: {NO_BLOCKS} Leave it out, or let one side be a",
    (*RNNSEARCH, "backbone.residual_init=zero"): f"backbone.residual_init=zero: {NO_BLOCKS} Leave it out, or let",
    (*RNNSEARCH, "backbone.dim=17"): "backbone.dim=17: backbone.encoder=gru reads from both sides with half of it "
    "each.\n  Set backbone.dim=18.",
    ("backbone.encoder=gru", "block=reversible"): "block=reversible has no cross-attention, as ",
}
ALLOWED = (
    RNNSEARCH,
    (*RNNSEARCH, "norm=rms", "backbone.embedding_norm=true", "backbone.init=lecun", "backbone.dropout=0.1"),
    ("backbone.decoder=gru", "block=reversible", "attention=performer", "position=rope"),
    ("backbone.encoder=lstm", "cross_attention=performer", "position=relative", "backbone.num_heads=2"),
    (*RNNSEARCH, "trainer.freeze=2", "trainer.layer_decay=0.5"),
)


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_has_no_use_is_refused(overrides):
    with pytest.raises(UserError, match=f"^{re.escape(REFUSED[overrides])}"):
        check(*overrides)


@pytest.mark.parametrize("overrides", ALLOWED, ids=" ".join)
def test_all_else_is_allowed(overrides):
    check(*overrides)
