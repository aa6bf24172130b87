"""With the same weights, our BERT, RoBERTa, GPT-2 and Llama are those of transformers: states, logits, gradients."""

from typing import Any

import pytest
import torch
from tests.peers import DIM, IDS, LENGTH, MAKE, VALID, call_ours, call_theirs, make_ours
from torch import nn
from torch.nn import functional as F

from plugformer.model import Model
from plugformer.nn.initialise import initialise
from plugformer.registry import build
from plugformer_huggingface.table import TableFamily


def copy(ours: Model, theirs: nn.Module, family: TableFamily, said: dict[str, Any], *, to_ours: bool) -> None:
    """Every parameter of either, or it is told."""
    if to_ours:
        ours.load_state_dict(family.read(theirs.state_dict(), said))
        return
    written = family.write(ours.state_dict(), said)
    assert {name for name, _ in theirs.named_parameters()} == written.keys()
    theirs.load_state_dict(written, strict=False)  # what is tied has two names there


@pytest.fixture(
    scope="module",
    params=[(name, way) for name in MAKE for way in ("to ours", "to theirs")],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def parity(request):
    """Both models after one backward pass over the same tokens, and (hidden states, logits) of both: ours first."""
    name, way = request.param
    family, theirs = build("family", {"name": name}), MAKE[name]()
    said = theirs.config.to_dict()
    ours = make_ours(family.composition(said))
    initialise(ours, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # off the zeros and ones that hide a mistake
        for parameter in [*ours.parameters(), *(p for p in theirs.parameters() if p.requires_grad)]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    copy(ours, theirs, family, said, to_ours=way == "to ours")
    outputs = [call_ours(ours.eval()), call_theirs(theirs.eval())]
    for _, logits in outputs:
        F.cross_entropy(logits[:, :-1][VALID[:, 1:]], IDS[:, 1:][VALID[:, 1:]]).backward()
    return ours, theirs, family.places(family.said(said)), *outputs


def test_hidden_states_agree(parity):
    *_, (ours, _), (theirs, _) = parity
    assert ours.shape == (3, LENGTH, DIM)
    assert ours[VALID].std() > 0.1
    assert (ours - theirs)[VALID].abs().max() < 1e-5


def test_logits_agree(parity):
    *_, (_, ours), (_, theirs) = parity
    assert ours[VALID].std(0).min() > 0.1, "the tokens are told apart"
    assert (ours - theirs)[VALID].abs().max() < 1e-5


def test_gradients_of_all_parameters_agree(parity):
    ours, theirs, places, *_ = parity
    its = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        place, part = places[name]
        if not name.endswith("attention.key.bias"):  # softmax cancels it: both are rounding around zero
            assert parameter.grad.abs().max() > 1e-4, name
        assert (parameter.grad - part.of(its[place].grad)).abs().max() < 1e-5, name
