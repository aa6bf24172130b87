"""Speculative decoding: whatever the draft, what comes out is the model's."""

from collections import Counter

import pytest
import torch

from plugformer.assemble import build_backbone
from plugformer.cli.compose import compose
from plugformer.decode import speculative
from plugformer.decode.choosing import Choice
from plugformer.decode.sampling import sample
from plugformer.decode.session import Session
from plugformer.decode.speculative import speculate
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Grid, TokenSpec
from plugformer.model import Model, Trunk
from plugformer.registry import build
from plugformer.testing.common import randomise
from plugformer_text.embedding import TextEmbedding

VOCAB, ROOM = 13, 14
PROMPT = torch.tensor([[5, 1, 8, 8]])


def make_model(*overrides, seed=0, layers=2):
    """A language model whose distributions are far from uniform."""
    sizes = ("backbone.dim=16", f"backbone.num_layers={layers}", "backbone.num_heads=2")
    config = compose(["task=causal_lm", "backbone=decoder", "position=rope", "norm=rms", *sizes, *overrides])
    grid = Grid(("position",), (PROMPT.shape[1] + ROOM,))
    tokens = TokenSpec(grid, vocab_size=VOCAB)
    backbone = build_backbone(config, tokens)
    trunk = Trunk(embedding=TextEmbedding(vocab_size=VOCAB, dim=backbone.dim, grid=grid), backbone=backbone)
    task = build("task", config["task"], dim=backbone.dim, tokens=tokens, data=DataSpec(frozenset()))
    with torch.no_grad():
        return randomise(Model(trunk=trunk, task=task), seed=seed).eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def drafts(model):
    """From one that knows nothing of the model to the model itself."""
    near = make_model()
    with torch.no_grad():
        for parameter in near.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return {"random": make_model(seed=3, layers=1), "near": near, "itself": model}


def plainly(model, *, room=ROOM, cache="growing", **options):
    return sample(Session(model, room=room, cache=cache), PROMPT, None, choice=Choice(), room=room, **options)[0]


def speculated(model, draft, *, room=ROOM, draft_tokens=3, cache="growing", choice=None, **options):
    sessions = [Session(each, room=room, cache=cache) for each in (model, draft)]
    return speculate(*sessions, PROMPT, choice=choice or Choice(), room=room, draft_tokens=draft_tokens, **options)


# ---------------------------------------------------------------------------------------------- greedy


@pytest.mark.parametrize(
    ("draft_tokens", "cache"), [(1, "growing"), (2, "growing"), (30, "growing"), (4, "fixed"), (3, "none")]
)
@pytest.mark.parametrize("name", ["random", "near", "itself"])
def test_greedy_tokens_are_those_of_the_model_alone(model, drafts, name, draft_tokens, cache):
    expected = plainly(model)
    made = speculated(model, drafts[name], draft_tokens=draft_tokens, cache=cache)
    assert (made.continuation.ids, made.continuation.ended) == (expected.ids, "length")
    assert made.continuation.score == pytest.approx(expected.score, rel=1e-5)
    assert len(set(expected.ids)) > 3


@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_it_ends_where_there_is_no_more_room(model, drafts, room):
    for draft in drafts.values():
        made = speculated(model, draft, room=room, cache="fixed").continuation
        assert (made.ids, made.ended) == (plainly(model, room=room).ids, "length")


def test_it_ends_with_eos_wherever_that_stands(model, drafts):
    """At first, among what is accepted, in place of what is not, and after all that is."""
    tokens = plainly(model).ids
    for eos in set(tokens):
        expected = plainly(model, eos=eos)
        assert expected.ended == "eos"
        for name, draft in drafts.items():
            for draft_tokens in (1, 4):
                made = speculated(model, draft, draft_tokens=draft_tokens, eos=eos)
                assert (made.continuation.ids, made.continuation.ended) == (expected.ids, "eos")
                assert made.continuation.score == pytest.approx(expected.score, rel=1e-5)
                assert name != "itself" or made.proposed <= len(expected.ids), "nothing is proposed beyond it"


def test_it_ends_where_it_is_told_to_stop(model, drafts):
    tokens = plainly(model).ids
    for count in (1, 2, 4, 7):
        for draft in drafts.values():
            told = []

            def stop(token, told=told, count=count):
                told.append(token)
                return len(told) == count

            made = speculated(model, draft, stop=stop).continuation
            assert made.ids == told == tokens[:count]
            assert made.ended == "stop"


def test_penalties_look_back_on_what_was_proposed_as_well(model, drafts):
    choice = Choice(repetition_penalty=1.6, no_repeat_ngram=2)
    expected = sample(Session(model, room=ROOM), PROMPT, None, choice=choice, room=ROOM)[0]
    assert expected.ids != plainly(model).ids
    for draft in drafts.values():
        assert speculated(model, draft, choice=choice).continuation.ids == expected.ids


# ---------------------------------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("choice", [Choice(), Choice(temperature=0.9, top_p=0.8)], ids=["greedy", "drawn"])
def test_a_model_accepts_all_it_proposes_itself(model, choice):
    generator = None if choice.greedy else torch.Generator().manual_seed(0)
    made = speculated(model, model, choice=choice, draft_tokens=4, generator=generator)
    assert made.accepted == made.proposed == 10  # after each four, one for nothing: 1 + 4 + 1 + 4 + 1 + 2 + 1
    assert len(made.continuation.ids) == ROOM


def test_the_better_the_draft_the_more_is_accepted(model, drafts):
    shares = {}
    for name, draft in drafts.items():
        made = speculated(model, draft)
        shares[name] = made.accepted / made.proposed
    assert shares["random"] < shares["near"] < shares["itself"] == 1


def test_the_model_reads_once_for_all_that_is_proposed(model, monkeypatch):
    read, step = [], Session.step
    monkeypatch.setattr(Session, "step", lambda self, ids: read.append((self.model, ids.shape[1])) or step(self, ids))
    draft = make_model()
    speculated(model, draft, draft_tokens=4, room=11)
    assert [count for each, count in read if each is model] == [5, 5]
    assert [count for each, count in read if each is draft] == [1, 1, 1, 1, 2, 1, 1, 1]


# ---------------------------------------------------------------------------------------------- drawn

FEW, SHORT, DRAWS = 3, 4, 600
CHOICES = {
    "plain": Choice(temperature=1.0),
    "cut": Choice(temperature=0.7, top_k=2),
    "penalised": Choice(temperature=1.3, repetition_penalty=2.0, top_p=0.95),
}


class Table(Session):
    """Says at random, but always the same, what follows a sequence: each has logits of its own."""

    def __init__(self, seed):
        self.cache, self.seed, self.known = "none", seed, {}

    def start(self, ids, valid=None):
        self.ids = ids[0].tolist()
        return self.logits()[None, None]

    def step(self, ids):
        rows = []
        for token in ids[0].tolist():
            self.ids.append(token)
            rows.append(self.logits())
        return torch.stack(rows)[None]

    def drop(self, count):
        del self.ids[len(self.ids) - count :]

    def logits(self):
        place = self.seed
        for token in self.ids:
            place = 10 * place + token
        if place not in self.known:
            self.known[place] = 2.0 * torch.randn(FEW, generator=torch.Generator().manual_seed(place))
        return self.known[place]


def probabilities(session, choice, prompt, eos, ids=()):
    """Of every continuation, `eos` included."""
    if len(ids) == SHORT or eos in ids:
        return {ids: 1.0}
    so_far = torch.tensor([[*prompt, *ids]])
    nextly = choice.scores(session.start(so_far)[0], so_far, None)[0].softmax(-1).tolist()
    return {
        rest: probability * share
        for token, probability in enumerate(nextly)
        if probability
        for rest, share in probabilities(session, choice, prompt, eos, (*ids, token)).items()
    }


def surprise(choice, draft_tokens, eos=None):
    """By how many of its standard deviations the chi-square statistic of many draws is above its mean, and the share
    of proposals that are accepted."""
    session, draft, generator = Table(0), Table(1), torch.Generator().manual_seed(0)
    expected = probabilities(session, choice, (0, 1), eos)
    options = {"choice": choice, "draft_tokens": draft_tokens, "room": SHORT, "eos": eos, "generator": generator}
    drawn, proposed, accepted = Counter(), 0, 0
    for _ in range(DRAWS):
        made = speculate(session, draft, torch.tensor([[0, 1]]), **options)
        drawn[(*made.continuation.ids, *[eos] * (made.continuation.ended == "eos"))] += 1
        proposed, accepted = proposed + made.proposed, accepted + made.accepted
    often = {each: share for each, share in expected.items() if DRAWS * share >= 5}
    counts = [(drawn[each], DRAWS * share) for each, share in often.items()]
    counts.append(tuple(DRAWS - sum(column) for column in zip(*counts, strict=True)))  # all the others are one
    chi_square = sum((count - mean) ** 2 / mean for count, mean in counts)
    impossible, freedom = drawn.keys() - expected.keys(), len(counts) - 1
    return float("inf") if impossible else (chi_square - freedom) / (2 * freedom) ** 0.5, accepted / proposed


@pytest.mark.parametrize(("name", "draft_tokens", "eos"), [("plain", 3, 2), ("cut", 1, None), ("penalised", 2, None)])
def test_what_is_drawn_has_the_distribution_of_the_model_alone(name, draft_tokens, eos):
    found, accepted = surprise(CHOICES[name], draft_tokens, eos)
    assert found < 3
    assert 0.2 < accepted < 0.9, "a draft that is neither right nor useless"


def believing(proposed, p, q, generator):
    """Accepts all."""
    *_, last = p
    return [*proposed, speculative.draw(last, generator)]


def forgetful(proposed, p, q, generator):
    """Draws from all of p in place of what it doesn't accept, not from what is left of it."""
    accepted = []
    for token, ours, theirs in zip(proposed, p, q, strict=False):
        if torch.rand((), generator=generator) >= ours[token] / theirs[token]:
            return [*accepted, speculative.draw(ours, generator)]
        accepted.append(token)
    return [*accepted, speculative.draw(next(p), generator)]


@pytest.mark.parametrize("judge", [believing, forgetful])
def test_the_law_above_tells_a_wrong_judge(judge, monkeypatch):
    monkeypatch.setattr(speculative, "judge", judge)
    assert surprise(CHOICES["plain"], 3)[0] > 10


def test_what_is_drawn_depends_on_the_generator_alone():
    def drawn(seed):
        options = {"choice": CHOICES["plain"], "draft_tokens": 3, "room": SHORT}
        generator = torch.Generator().manual_seed(seed)
        return [
            speculate(Table(0), Table(1), PROMPT[:, :2], generator=generator, **options).continuation.ids
            for _ in range(5)
        ]

    first = drawn(0)
    torch.manual_seed(7)
    assert drawn(0) == first != drawn(1)


# ---------------------------------------------------------------------------------------------- what can't be


@pytest.mark.parametrize("whose", ["model", "draft"])
def test_attention_that_decodes_from_a_state_is_refused(model, whose):
    stateful = make_model("attention=linear", layers=1)
    pair = (stateful, model) if whose == "model" else (model, stateful)
    with pytest.raises(UserError) as refused:
        speculated(*pair)
    assert str(refused.value) == (
        f"draft: the {whose}'s attention (Linear) decodes from a state, and can't take back tokens that were "
        "proposed and not accepted.\n"
        "  Generate without a draft, set cache=none, or take a run whose attention decodes from keys and values, such "
        "as attention=full."
    )
    assert speculated(*pair, cache="none").continuation.ids == plainly(pair[0], cache="none").ids
