"""Beams and greedy decoding, against transformers on copied weights, all sequences there are, and each other."""

import copy
import json

import pytest
import torch
import transformers

from plugformer.assemble import build_backbone
from plugformer.cli.compose import compose
from plugformer.decode.beam import Ended, beam_search
from plugformer.decode.choosing import Choice
from plugformer.decode.continuation import Continuation
from plugformer.decode.sampling import sample
from plugformer.decode.session import Session
from plugformer.interfaces import DataSpec, Grid, TokenSpec
from plugformer.model import Model, Trunk, mechanisms
from plugformer.registry import build
from plugformer.testing.common import randomise
from plugformer_text.embedding import TextEmbedding

VOCAB, PAD, EOS, ROOM = 11, 0, 3, 9
LENGTHS = [6, 2, 1, 4, 6]
VALID = torch.arange(max(LENGTHS)) >= max(LENGTHS) - torch.tensor(LENGTHS)[:, None]
IDS = torch.randint(1, VOCAB, VALID.shape, generator=torch.Generator().manual_seed(0)).where(VALID, PAD)
CONFIGS = {"gpt2": transformers.GPT2Config, "llama": transformers.LlamaConfig}
SIZES = {
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": max(LENGTHS) + ROOM},
    "llama": {
        **{"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"num_hidden_layers": 2, "max_position_embeddings": max(LENGTHS) + ROOM},
    },
}


def ours_of(theirs):
    """The same model, of our parts."""
    said = json.loads(theirs.config.to_json_string())
    family = build("family", {"name": said["model_type"]})
    model = compose_model(flat(family.composition(said)))
    model.load_state_dict(family.read(theirs.state_dict(), said))
    return model


def flat(composition):
    """As overrides."""
    for kind, node in composition.items():
        yield f"{kind}={node['name']}"
        yield from (f"{kind}.{option}={json.dumps(value)}" for option, value in node.items() if option != "name")


def compose_model(overrides):
    config, grid = compose([*overrides]), Grid(("position",), (max(LENGTHS) + ROOM,))
    tokens = TokenSpec(grid, vocab_size=VOCAB, specials={"eos": EOS}, pads=True)
    backbone = build_backbone(config, tokens)
    trunk = Trunk(embedding=TextEmbedding(vocab_size=VOCAB, dim=backbone.dim, grid=grid), backbone=backbone)
    task = build("task", config["task"], dim=backbone.dim, tokens=tokens, data=DataSpec(frozenset()))
    return Model(trunk=trunk, task=task).eval()


@pytest.fixture(scope="module", params=sorted(SIZES))
def pair(request):
    """Our model and theirs."""
    config = CONFIGS[request.param](
        vocab_size=VOCAB, bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD, **SIZES[request.param]
    )
    torch.manual_seed(4)  # eos is likely enough to end sequences at any length
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # off the zeros and ones, and far from the uniform distribution
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return ours_of(theirs), theirs


def generate(theirs, ids, valid, **options):
    """Their continuations of each prompt, as (tokens before eos, how it ended, score)."""
    options = {"max_new_tokens": ROOM, "do_sample": False, "num_return_sequences": 1, **options}
    made = theirs.generate(
        ids, attention_mask=valid.long(), return_dict_in_generate=True, output_scores=True, **options
    )
    scores = made.sequences_scores if options.get("num_beams", 1) > 1 else torch.full([len(ids)], torch.nan)
    found = []
    for row, score in zip(made.sequences[:, ids.shape[1] :].tolist(), scores.tolist(), strict=True):
        end = row.index(EOS) if EOS in row else len(row)
        found.append((row[:end], "eos" if EOS in row else "length", score))
    count = options["num_return_sequences"]
    return [found[first : first + count] for first in range(0, len(found), count)]


def search(model, ids=IDS, valid=VALID, *, cache="growing", choice=None, **options):
    options = {"num_beams": 4, "num_samples": 4, "length_penalty": 1.0, "early_stopping": False, **options}
    session = Session(model, room=ROOM, cache=cache)
    return beam_search(session, ids, valid, room=ROOM, eos=EOS, choice=choice or Choice(), **options)


def plain(found):
    return [[(each.ids, each.ended) for each in group] for group in found]


def ranks(group, length_penalty):
    """Scores by which continuations are compared."""
    return [each.score / (len(each.ids) + (each.ended == "eos")) ** length_penalty for each in group]


# ---------------------------------------------------------------------------------------------- against transformers


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
def test_greedy_decoding_is_that_of_transformers(pair, cache):
    ours, theirs = pair
    made = sample(Session(ours, room=ROOM, cache=cache), IDS, VALID, choice=Choice(), room=ROOM, eos=EOS)
    expected = generate(theirs, IDS, VALID)
    assert [(each.ids, each.ended) for each in made] == [each[:2] for (each,) in expected]
    assert len({len(each.ids) for each in made}) > 2


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-0.7, 0.0, 1.0, 1.5])
def test_beams_are_those_of_transformers(pair, length_penalty, early_stopping):
    ours, theirs = pair
    options = {"num_beams": 4, "length_penalty": length_penalty, "early_stopping": early_stopping}
    made = search(ours, **options)
    expected = generate(theirs, IDS, VALID, num_return_sequences=4, **options)
    assert plain(made) == [[each[:2] for each in group] for group in expected]
    for group, others in zip(made, expected, strict=True):
        assert ranks(group, length_penalty) == pytest.approx([each[2] for each in others], rel=1e-5)
    assert len({len(each.ids) for group in made for each in group}) > 2
    assert [each[:1] for each in plain(made)] == plain(search(ours, num_samples=1, **options))


@pytest.mark.parametrize("early_stopping", [True, False])
def test_beams_with_penalties_are_those_of_transformers(pair, early_stopping):
    ours, theirs = pair
    ids = IDS[VALID.all(1)]  # they penalise padding as well
    options = {"repetition_penalty": 1.7, "no_repeat_ngram": 2}
    made = search(ours, ids, None, early_stopping=early_stopping, choice=Choice(**options))
    options["no_repeat_ngram_size"] = options.pop("no_repeat_ngram")
    options |= {"num_beams": 4, "num_return_sequences": 4, "early_stopping": early_stopping}
    expected = generate(theirs, ids, torch.ones_like(ids), **options)
    assert plain(made) == [[each[:2] for each in group] for group in expected]
    assert plain(made) != plain(search(ours, ids, None, early_stopping=early_stopping))


# ---------------------------------------------------------------------------------------------- by definition


def everything(model, prompt, room):
    """All sequences of at most `room` tokens there are, as (tokens before eos, how they ended, log-probability)."""
    running, ended = [([], 0.0)], []
    for _ in range(room):
        ids = torch.tensor([[*prompt, *made] for made, _ in running])
        features = {"ids": ids, "positions": torch.arange(ids.shape[1]).expand_as(ids)}
        with torch.no_grad():
            hidden = model.trunk.backbone(model.trunk.embed(features))
            nats = model.task.logits(model.trunk, hidden[:, -1:])[:, 0].log_softmax(-1).tolist()
        ended += [(made, "eos", score + row[EOS]) for (made, score), row in zip(running, nats, strict=True)]
        running = [
            ([*made, token], score + row[token])
            for (made, score), row in zip(running, nats, strict=True)
            for token in range(VOCAB)
            if token != EOS
        ]
    return ended + [(made, "length", score) for made, score in running]


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 3.0])
def test_as_many_beams_as_sequences_find_the_best_of_all(pair, length_penalty):
    model, _ = pair
    prompts = IDS[:2, -2:]
    session = Session(model, room=3)
    found = beam_search(
        session,
        prompts,
        num_beams=VOCAB**2,
        num_samples=20,
        length_penalty=length_penalty,
        early_stopping="never",
        room=3,
        eos=EOS,
        choice=Choice(),
    )
    for group, prompt in zip(found, prompts.tolist(), strict=True):
        best = sorted(
            everything(model, prompt, 3),
            key=lambda each: -each[2] / (len(each[0]) + (each[1] == "eos")) ** length_penalty,
        )
        assert [(each.ids, each.ended) for each in group] == [each[:2] for each in best[:20]]
        assert [each.score for each in group] == pytest.approx([each[2] for each in best[:20]], rel=1e-5)


def test_one_beam_is_greedy_decoding(pair):
    greedy = sample(Session(pair[0], room=ROOM), IDS, VALID, choice=Choice(), room=ROOM, eos=EOS)
    beams = search(pair[0], num_beams=1, num_samples=1, early_stopping=True)
    assert plain(beams) == [[(each.ids, each.ended)] for each in greedy]
    assert [each.score for (each,) in beams] == pytest.approx([each.score for each in greedy], rel=1e-5)


def test_more_beams_than_tokens_are_all_tokens_once(pair):
    session = Session(pair[0], room=1)
    (group,) = beam_search(
        session,
        IDS[:1],
        num_beams=2 * VOCAB,
        num_samples=2 * VOCAB,
        length_penalty=1.0,
        early_stopping=False,
        room=1,
        eos=EOS,
        choice=Choice(),
    )
    assert sorted(each.ids for each in group) == sorted([[], *([token] for token in range(VOCAB) if token != EOS)])
    assert sum(torch.tensor(each.score).exp() for each in group) == pytest.approx(1.0, rel=1e-5)


def test_scores_are_the_log_probabilities_of_the_model_whatever_is_penalised(pair):
    model, choice = pair[0], Choice(repetition_penalty=1.7, no_repeat_ngram=2)
    for group, prompt in zip(search(model, choice=choice), IDS[VALID].split(LENGTHS), strict=True):
        for each in group:
            tokens = torch.tensor(each.ids + [EOS] * (each.ended == "eos"))
            session = Session(model, room=ROOM)
            logits = torch.cat([session.start(prompt[None])[0], session.step(tokens[None, :-1])[0]])
            nats = logits.log_softmax(-1).gather(1, tokens[:, None]).sum().item()
            assert each.score == pytest.approx(nats, rel=1e-5)


def test_no_step_is_taken_once_all_prompts_are_done(pair, monkeypatch):
    options = {"num_beams": 2, "num_samples": 2, "early_stopping": True}
    ending = [{each.ended for each in group} == {"eos"} for group in search(pair[0], **options)]
    steps, step = [], Session.step
    monkeypatch.setattr(Session, "step", lambda self, ids: steps.append(ids) or step(self, ids))
    found = search(pair[0], IDS[ending], VALID[ending], **options)
    assert 1 <= len(steps) == max(len(each.ids) for group in found for each in group) < ROOM - 1


@pytest.mark.parametrize(("length_penalty", "least"), [(-1.0, -1.5), (0.0, -3.0), (1.0, -30.0)])
def test_never_stopping_early_hopes_for_the_length_most_in_favour(length_penalty, least):
    """The worst that ended is ranked -3; the best running beam has two tokens, and room for ten."""
    for score in (least + 0.1, least - 0.1):
        ended = Ended(1, length_penalty, "never", 10)
        ended.add(Continuation([], -3.0, "eos"), -3.0, 1)
        ended.close(score, 2)
        assert ended.open == (score > least)


@pytest.mark.parametrize(
    "choice", [Choice(), Choice(repetition_penalty=1.7, no_repeat_ngram=2)], ids=["plain", "penalised"]
)
def test_what_is_found_depends_on_no_other_prompt_nor_on_padding(pair, choice):
    together = search(pair[0], choice=choice)
    prompts = [row[None, -length:] for row, length in zip(IDS, LENGTHS, strict=True)]
    alone = [search(pair[0], prompt, None, choice=choice)[0] for prompt in prompts]
    assert plain(together) == plain(alone)
    for group, other in zip(together, alone, strict=True):
        assert ranks(group, 1.0) == pytest.approx(ranks(other, 1.0), rel=1e-5)


@pytest.mark.parametrize("cache", ["fixed", "none"])
def test_what_is_found_depends_on_no_cache(pair, cache):
    assert plain(search(pair[0], cache=cache)) == plain(search(pair[0]))


def test_what_is_found_depends_on_no_precision(pair):
    exact = copy.deepcopy(pair[0]).double()
    assert plain(search(exact)) == plain(search(pair[0]))
    assert search(exact.bfloat16())


@pytest.mark.parametrize("attention", ["linear", "performer"])
def test_beams_go_on_from_their_own_states(attention):
    sizes = ("backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=2")
    model = compose_model(["task=causal_lm", "backbone=decoder", "position=rope", f"attention={attention}", *sizes])
    with torch.no_grad():
        randomise(model)
    assert {each.capabilities.decoding for each in mechanisms(model)} == {"state"}
    assert plain(search(model)) == plain(search(model, cache="none"))
