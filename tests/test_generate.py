"""Which token comes next, the text that tokens become, and `plugformer generate`."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from transformers.generation import logits_process

from plugformer.assemble import build_model, load_run
from plugformer.cli.compose import compose
from plugformer.cli.main import main
from plugformer.decode.choosing import Choice, sample_from
from plugformer.decode.sampling import sample
from plugformer.decode.session import Session
from plugformer.decode.streaming import Writer
from plugformer.errors import UserError
from plugformer.generate import generate
from plugformer.interfaces import DataSpec
from plugformer.nn.full_attention import Full
from plugformer.predict import predict
from plugformer.registry import build
from plugformer.run_dir import RunDir, write_json
from plugformer.settings import GenerateSettings
from plugformer.testing.common import randomise

VOCAB = 40
IDS = torch.randint(0, VOCAB, (6, 30), generator=torch.Generator().manual_seed(1))
LOGITS = 3 * torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(2))

# ---------------------------------------------------------------------------------------------- which token

PROCESSORS = {
    "repetition_penalty": (1.3, logits_process.RepetitionPenaltyLogitsProcessor),
    "no_repeat_ngram": (2, logits_process.NoRepeatNGramLogitsProcessor),
    "temperature": (0.7, logits_process.TemperatureLogitsWarper),
    "top_k": (12, logits_process.TopKLogitsWarper),
    "top_p": (0.8, logits_process.TopPLogitsWarper),
    "min_p": (0.05, logits_process.MinPLogitsWarper),
}


@pytest.mark.parametrize("names", [[name] for name in PROCESSORS] + [list(PROCESSORS)], ids="+".join)
def test_scores_are_those_of_transformers(names):
    options = {name: PROCESSORS[name][0] for name in names}
    expected = LOGITS
    for name in names:
        expected = PROCESSORS[name][1](options[name])(IDS, expected)
    actual = Choice(**{"temperature": 1.0, **options}).scores(LOGITS, IDS, None)
    torch.testing.assert_close(actual, expected)
    assert not torch.equal(actual, LOGITS)


def test_padding_never_stood_there():
    choice = Choice(temperature=1.0, repetition_penalty=2.0, no_repeat_ngram=2)
    for lacking in range(4):
        pad = IDS[:, -1:].expand(-1, lacking)  # would repeat the last token, and make runs with it
        ids, valid = torch.cat([pad, IDS], 1), torch.arange(lacking + IDS.shape[1]).expand(len(IDS), -1) >= lacking
        assert torch.equal(choice.scores(LOGITS, ids, valid), choice.scores(LOGITS, IDS, None))


def test_greedy_takes_the_likeliest_that_is_left():
    choice = Choice(no_repeat_ngram=1)
    drawn = choice.draw(choice.scores(LOGITS, IDS, None), None)
    for logits, ids, token in zip(LOGITS, IDS, drawn, strict=True):
        left = [number for number in range(VOCAB) if number not in ids]
        assert token == max(left, key=lambda number: logits[number])


def test_where_nothing_is_left_it_says_so():
    with pytest.raises(UserError, match="no_repeat_ngram=1: no token is left"):
        Choice(no_repeat_ngram=1).scores(LOGITS, torch.arange(VOCAB).expand(6, -1), None)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    probability = LOGITS[0].softmax(0).where(torch.arange(VOCAB) % 3 > 0, 0.0)
    count = 20_000
    drawn = sample_from(probability.expand(count, -1), torch.Generator().manual_seed(0))
    expected = count * probability / probability.sum()
    found = drawn.bincount(minlength=VOCAB)
    assert not found[probability == 0].any()
    some = expected > 5
    statistic = ((found - expected)[some] ** 2 / expected[some]).sum()
    assert statistic < some.sum() + 4 * (2 * some.sum()) ** 0.5  # four deviations above the mean of chi-square


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (1 - 2**-53, 2)])
def test_the_smallest_and_the_greatest_number_draw_nothing_impossible(monkeypatch, number, token):
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.full((count,), number, dtype=torch.float64))
    assert sample_from(torch.tensor([[0.0, 0.1, 0.3, 0.0]]), torch.Generator()).tolist() == [token]


def test_a_generator_of_its_own_makes_a_draw_independent_of_the_others():
    probability = LOGITS.softmax(-1)
    together = sample_from(probability, [torch.Generator().manual_seed(row) for row in range(6)])
    alone = [sample_from(probability[[row]], torch.Generator().manual_seed(row)) for row in range(6)]
    assert torch.equal(together, torch.cat(alone))


# ---------------------------------------------------------------------------------------------- what text they are

TEXT = "Tea — 茶 – is nice.\n\nنص 🎉👩‍👩‍👧 and é́ tea, the tea\n  is nice. The\ttea"
WORDS = "the tea is nice and the tea is the nice tea and nice is the tea"


@pytest.fixture(scope="module")
def tokenizers():
    made = {}
    for name, size, text in [
        *[("text_bytes", None, TEXT), ("text_bpe", 300, TEXT), ("text_unigram", 39, TEXT)],
        *[("text_wordpiece", 33, WORDS), ("text_symbols", 9, WORDS)],
    ]:
        options = {} if size is None else {"vocab_size": size, "min_frequency": 1}
        made[name] = build("tokenizer", {"name": name, **options}), text
        made[name][0].fit([{"text": text}] * 3)
    return made


def write(tokenizer, ids, prompt, *, stop=()):
    """The text, its pieces, and the number of tokens it took."""
    pieces, taken = [], 0
    writer = Writer(tokenizer.decode, prompt, stop=stop, emit=pieces.append)
    for token in ids:
        taken += 1
        if writer.take(token):
            break
    return writer.end(), pieces, taken


def beginnings(tokenizer, text):
    """Ids of the text, divided into a prompt and the rest in all ways that leave characters whole."""
    ids = tokenizer.prompt(text)["ids"].tolist()
    for count in range(1, len(ids)):
        if "\ufffd" not in tokenizer.decode(torch.tensor(ids[:count])):
            yield ids[:count], ids[count:]


@pytest.mark.parametrize("name", ["text_bytes", "text_bpe", "text_unigram", "text_wordpiece", "text_symbols"])
def test_pieces_are_whole_and_make_the_text_that_follows_the_prompt(tokenizers, name):
    tokenizer, text = tokenizers[name]
    cases = list(beginnings(tokenizer, text))
    assert len(cases) > 8
    for prompt, rest in cases:
        written, pieces, _ = write(tokenizer, rest, prompt)
        whole = tokenizer.decode(torch.tensor(prompt + rest))
        assert tokenizer.decode(torch.tensor(prompt)) + written == whole
        assert "".join(pieces) == written
        assert "\ufffd" not in written
        assert len(pieces) > 1 or len(rest) < 5


@pytest.mark.parametrize("name", ["text_bytes", "text_bpe"])
def test_what_never_becomes_a_character_is_shown_as_decoding_shows_it(tokenizers, name):
    tokenizer, _ = tokenizers[name]
    ids = torch.randint(0, 256, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    written, pieces, _ = write(tokenizer, ids, tokenizer.prompt("a")["ids"].tolist())
    assert written == tokenizer.decode(torch.tensor(ids)) == "".join(pieces)


def stops_at(text, stop):
    """Where the text ends by the plainest means, character by character."""
    for end in range(len(text) + 1):
        begun = [end - len(string) for string in stop if text[:end].endswith(string)]
        if begun:
            return min(begun)
    return None


@pytest.mark.parametrize("name", ["text_bytes", "text_bpe", "text_unigram", "text_wordpiece"])
@pytest.mark.parametrize("length", [1, 5])
def test_the_text_ends_before_a_stop_string_wherever_tokens_begin_and_end(tokenizers, name, length):
    tokenizer, text = tokenizers[name]
    prompt, ids = next(beginnings(tokenizer, text))
    whole, *_ = write(tokenizer, ids, prompt)
    for begin in range(0, len(whole) - length, 2):
        stop = [whole[begin : begin + length], "never", whole[begin + 1 : begin + length] + "never"]
        written, pieces, taken = write(tokenizer, ids, prompt, stop=stop)
        assert written == whole[: stops_at(whole, stop)]
        for shown in accumulate(pieces):
            assert whole.startswith(shown)
        assert "".join(pieces) == written
        if "\ufffd" not in (seen := tokenizer.decode(torch.tensor(prompt + ids[: taken - 1]))):  # no token too many
            assert stops_at(seen[len(tokenizer.decode(torch.tensor(prompt))) :], stop) is None


def test_the_stop_string_that_is_complete_first_counts_however_tokens_cut_the_text():
    text, stop = "xabcdy", ["abcd", "c", "bc"]
    for cut in range(2 ** (len(text) - 1)):
        pieces = [text[0]]
        for place, letter in enumerate(text[1:]):
            pieces = [*pieces, letter] if cut >> place & 1 else [*pieces[:-1], pieces[-1] + letter]
        writer = Writer(lambda ids, pieces=pieces: "".join(pieces[number] for number in ids), [], stop=stop)
        any(writer.take(number) for number in range(len(pieces)))
        assert writer.end() == "xa"


def test_text_comes_as_soon_as_it_can(tokenizers):
    tokenizer, _ = tokenizers["text_bytes"]
    pieces = []
    writer = Writer(tokenizer.decode, tokenizer.prompt("x")["ids"].tolist(), stop=["abc"], emit=pieces.append)
    come = []
    for byte in "uaabé".encode():
        writer.take(byte)
        come.append("".join(pieces))
    assert come == ["u", "u", "ua", "ua", "ua", "uaabé"]  # "ab" may go on with c until é is whole


# ---------------------------------------------------------------------------------------------- runs

SIZES = ("backbone.dim=16", "backbone.num_layers=2", "backbone.num_heads=2", "tokenizer.max_length=48")
GPT = (
    "task=causal_lm",
    "task.tied=false",
    "backbone=decoder",
    "position=rope",
    "tokenizer=text_bytes",
    "data=python_docs",
)


def make_run(path, *overrides):
    """A run directory as training leaves it, with weights far from those that predict nothing."""
    config = compose([*GPT, *SIZES, *overrides, f"run_dir={path}"])
    run = RunDir.create(path)
    run.write_config(config)
    write_json(run.data, {"labels": []})
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.fit([{"text": TEXT}] * 3)
    tokenizer.save(run.tokenizer)
    with torch.no_grad():
        model = randomise(build_model(config, tokenizer=tokenizer, data=DataSpec(frozenset())), seed=5)
        model.task.output.linear.weight[128:256] = 0.0  # bytes that alone are no character
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, run.checkpoints / "best.ckpt")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "gpt")


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "learned", "position=learned")


def command(capsys, *arguments):
    """What it prints; whether it fails is the exit code."""
    with pytest.raises(SystemExit) as exit_:
        main(["generate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def texts(run, prompts, **settings):
    return list(generate(run, prompts, GenerateSettings(**{"max_new_tokens": 12, **settings})))


# ---------------------------------------------------------------------------------------------- sequences

PROMPTS = ["import os", "", "def f(x):\n    return", "a", "import os"]
DRAWN = {"temperature": 1.0, "top_k": 50, "repetition_penalty": 1.2}


def plainly(model, prompt, *, choice, room, eos, generator):
    """Token by token with everything read anew."""
    ids, score = prompt, 0.0
    while len(ids) < len(prompt) + room:
        tokens = model.trunk.embed({"ids": ids[None], "positions": torch.arange(len(ids))[None]})
        logits = model.task.logits(model.trunk, model.trunk.backbone(tokens))[:, -1]
        token = choice.draw(choice.scores(logits, ids[None], None), generator)
        score += logits.log_softmax(-1)[0, token].item()
        if token == eos:
            return ids[len(prompt) :].tolist(), score, "eos"
        ids = torch.cat([ids, token])
    return ids[len(prompt) :].tolist(), score, "length"


ROOM = 20


@pytest.fixture(scope="module", params=["greedy", "drawn"])
def alone(request, run):
    """Model, prompts, choice, a token that ends some of the sequences, and what becomes of each of them."""
    tokenizer, model = load_run(run)
    choice = Choice(**({} if request.param == "greedy" else DRAWN))
    prompts = [tokenizer.prompt(text)["ids"] for text in PROMPTS]

    @torch.inference_mode()
    def go_on(eos):
        return [
            plainly(model, prompt, choice=choice, room=ROOM, eos=eos, generator=torch.Generator().manual_seed(seed))
            for seed, prompt in enumerate(prompts)
        ]

    free = [ids for ids, _, _ in go_on(eos=None)]
    eos = next(token for token in free[0][5:] if not all(token in ids for ids in free))
    return model, prompts, choice, eos, go_on(eos)


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
def test_each_sequence_goes_on_as_if_it_were_alone_and_read_anew(alone, cache):
    model, prompts, choice, eos, expected = alone
    assert {ended for _, _, ended in expected} == {"eos", "length"}
    length = max(map(len, prompts))
    ids = torch.stack([torch.nn.functional.pad(each, (length - len(each), 0), value=7) for each in prompts])
    valid = torch.arange(length) >= length - torch.tensor([len(each) for each in prompts])[:, None]
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    session = Session(model, room=ROOM, cache=cache)
    made = sample(session, ids, valid, choice=choice, room=ROOM, eos=eos, generators=generators)
    assert [(each.ids, each.ended) for each in made] == [(ids, ended) for ids, _, ended in expected]
    assert [each.score for each in made] == pytest.approx([score for _, score, _ in expected], abs=1e-4)


@pytest.mark.parametrize("options", [{}, DRAWN, {"num_beams": 3, "num_samples": 2}], ids=["greedy", "drawn", "beams"])
def test_what_follows_a_prompt_does_not_depend_on_the_prompts_beside_it(run, options):
    prompts = PROMPTS[:-1]
    together = [(each.prompt, each.text) for each in texts(run, prompts, **options)]
    assert together == [(each.prompt, each.text) for each in texts(run, prompts, batch_size=3, **options)]
    assert together == [(p, each.text) for p in prompts for each in texts(run, [p], **options)]
    assert len(set(together)) == len(together)


def test_a_seed_decides_what_is_drawn_and_a_prompt_that_comes_again_gets_further_samples(run):
    several = [each.text for each in texts(run, ["a"], num_samples=4, **DRAWN)]
    assert len(set(several)) == 4
    assert several == [each.text for each in texts(run, ["a"] * 4, **DRAWN)]
    assert several == [each.text for each in texts(run, ["a"] * 2, num_samples=2, **DRAWN)]
    other = [each.text for each in texts(run, ["a"], num_samples=4, seed=1, **DRAWN)]
    assert not {*several} & {*other}


@pytest.mark.parametrize("options", [{}, DRAWN, {"draft": True}], ids=["greedy", "drawn", "draft"])
def test_text_that_is_shown_as_it_comes_is_the_text(run, options):
    options = {key: run if key == "draft" else value for key, value in options.items()}
    pieces = []
    (whole,) = texts(run, ["a"], max_new_tokens=40, **options)
    stop = whole.text[20:23]
    settings = GenerateSettings(max_new_tokens=40, stop=stop, **options)
    (shown,) = generate(run, ["a"], settings, emit=pieces.append)
    assert "".join(pieces) == shown.text == whole.text.partition(stop)[0]
    assert shown.continuation.ended == "stop"
    assert len(pieces) > 1


def test_a_stop_string_that_never_comes_ends_nothing(run):
    (plain,), (stopped,) = texts(run, ["a"]), texts(run, ["a"], stop=["never comes"])
    assert (stopped.text, stopped.continuation.ended) == (plain.text, "length")


def test_a_model_is_its_own_best_draft(run):
    (plain,), (drafted,) = texts(run, ["a"]), texts(run, ["a"], draft=run, draft_tokens=3)
    assert drafted.text == plain.text
    assert drafted.accepted == drafted.proposed > 0


# ---------------------------------------------------------------------------------------------- the command


def test_plain_text_is_the_prompt_and_what_follows(run, capsys):
    (expected,) = texts(run, ["a [b"])
    assert command(capsys, run, "prompt=a [b", "max_new_tokens=12") == (0, f"a [b{expected.text}\n", "")
    shown = command(capsys, run, "prompt=a [b", "max_new_tokens=12", "stream=true")
    assert shown == (0, f"a [b{expected.text}\n", "")


def test_of_several_texts_each_says_which_it_is(run, capsys):
    made = texts(run, ["a", "b"], num_samples=2, temperature=1.0)
    lines = [
        f"== prompt {each.number + 1}, sample {each.sample + 1}: {len(each.continuation.ids)} tokens, "
        f"{each.continuation.ended}\n{each.prompt}{each.text}\n"
        for each in made
    ]
    arguments = ["prompt=[a,b]", "num_samples=2", "temperature=1", "max_new_tokens=12"]
    assert command(capsys, run, *arguments) == (0, "".join(lines), "")


@pytest.mark.parametrize("way", ["prompt=[a,'b, c']", "lines", "objects", "standard input"])
def test_prompts_come_from_everywhere_and_leave_as_json(run, capsys, tmp_path, monkeypatch, way):
    file = tmp_path / ("prompts.jsonl" if way == "objects" else "prompts")
    file.write_text('{"prompt": "a"}\n\n{"prompt": "b, c"}\n' if way == "objects" else "a\nb, c\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(file.read_text()))
    chosen = {"standard input": "prompts=-"}.get(way, f"prompts={file}" if "=" not in way else way)
    code, out, _ = command(capsys, run, chosen, "json=true", "max_new_tokens=12")
    expected = texts(run, ["a", "b, c"])
    assert [json.loads(line) for line in out.split("\n")[:-1]] == [
        {"prompt": each.prompt, "text": each.text, "tokens": each.continuation.ids}
        | {"score": each.continuation.score, "ended": "length"}
        for each in expected
    ]
    assert code == 0


def test_a_mark_at_the_front_of_a_file_is_no_part_of_a_prompt(run, capsys, tmp_path):
    (tmp_path / "prompts").write_text("a\n", encoding="utf-8-sig")
    (expected,) = texts(run, ["a"])
    shown = command(capsys, run, f"prompts={tmp_path / 'prompts'}", "max_new_tokens=12")
    assert shown == (0, f"a{expected.text}\n", "")


def test_of_no_prompts_there_are_no_texts(run):
    assert texts(run, []) == []


def test_a_prompt_of_several_lines_comes_from_standard_input(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    (expected,) = texts(run, ["a\nb"])
    assert command(capsys, run, "prompt=-", "max_new_tokens=12") == (0, f"a\nb{expected.text}\n", "")


def test_what_a_model_predicts_next_is_what_it_would_begin_with(run):
    made, said = texts(run, PROMPTS, max_new_tokens=1), predict(run, PROMPTS)
    assert [each["next"][0]["token"] for each in said] == [each.text for each in made]
    assert len(list(predict(run, ["a" * 60, "a"]))) == 2  # more tokens than training had places, and fewer


# ---------------------------------------------------------------------------------------------- what can't be


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("temprature=1", "temprature: no such option of plugformer generate. Did you mean temperature?"),
        ("+temperature=1", "+temperature: no such option of plugformer generate. Did you mean temperature?"),
        ("temperature=1 temperature=2", "temperature=2: temperature is set already."),
        ("temperature=-1", "temperature=-1.0: must be 0, or from 0.0001 to 10000."),
        ("temperature=1e-40", "temperature=1e-40: must be 0, or from 0.0001 to 10000."),
        ("temperature=nan", "temperature=nan: must be 0, or from 0.0001 to 10000."),
        ("temperature=hot", "temperature=hot: expected a number."),
        ("temperature=1 top_p=0", "top_p=0.0: must be greater than 0 and at most 1."),
        ("temperature=1 top_p=1.5", "top_p=1.5: must be greater than 0 and at most 1."),
        ("temperature=1 top_k=0", "top_k=0: must be at least 1."),
        ("temperature=1 min_p=2", "min_p=2.0: must be at least 0 and at most 1."),
        ("repetition_penalty=0", "repetition_penalty=0.0: must be from 0.0001 to 10000."),
        ("num_beams=2 length_penalty=1e5", "length_penalty=100000.0: must be from -10 to 10."),
        ("num_beams=2 length_penalty=-1e5", "length_penalty=-100000.0: must be from -10 to 10."),
        ("max_new_tokens=0", "max_new_tokens=0: must be at least 1."),
        ("top_p=0.9", "top_p=0.9: has no effect at temperature=0. Set temperature=1 to draw."),
        ("seed=1", "seed=1: has no effect at temperature=0. Set temperature=1 to draw."),
        ("num_beams=2 temperature=1", "beam search draws nothing."),
        ("num_beams=2 num_samples=3", "num_samples=3: greater than num_beams=2.\n  Set num_beams=3 or more"),
        ("num_samples=3", "num_samples=3: greater than num_beams=1."),
        ("num_beams=2 stop=x", "stop=x: can't go with beam search. Set num_beams=1."),
        ("num_beams=2 draft=x", "draft=x: can't go with beam search. Set num_beams=1."),
        ("early_stopping=true", "early_stopping=true: is of beam search. Set num_beams=2 or more."),
        ("draft_tokens=2", "draft_tokens=2: has no effect without a draft. Set draft=RUN_DIR."),
        ("draft=x batch_size=2", "batch_size=2: has no effect with a draft"),
        ("stop=", "stop: an empty string stands everywhere."),
        ("json=true stream=true", "stream=true: JSON lines come whole."),
        ("prompt=[a,b] stream=true", "stream=true: several texts would come mixed."),
        ("prompt=a prompts=b", "prompt and prompts: set one of them."),
        ("prompt=[-,-]", "prompt: standard input can be read once, and - stands there several times."),
        ("prompt=[]", "prompt=[]: an empty list."),
        ("prompt=[a", "A text that begins with a bracket is written prompt=['[...']."),
        ("prompts=nowhere", "prompts=nowhere: can't be read (No such file or directory)."),
        ("cache=fixd", "Did you mean fixed?"),
        ("checkpoint=last", "last.ckpt: no such checkpoint; there is best."),
        ("num_beams=300", "num_beams=300: more than there are tokens, 260.\n  Set num_beams=260 or less."),
        ("compile=true cache=growing", "compile=true: needs steps of one shape"),
    ],
)
def test_nonsense_gets_one_message(run, capsys, overrides, says):
    code, out, err = command(capsys, run, *overrides.split())
    assert code == 2
    assert says in err
    assert not out


def test_a_task_that_generates_nothing_says_which_would(tmp_path, capsys):
    bert = make_run(tmp_path / "bert", "task=mlm", "backbone=encoder")
    code, _, err = command(capsys, bert, "prompt=a")
    assert code == 2
    assert "bert: task=mlm can't go on with a sequence." in err
    assert "task=causal_lm, task=denoise, task=prefix_lm, task=seq2seq" in err


def test_a_table_of_positions_holds_so_many(bounded, capsys):
    code, _, err = command(capsys, bounded, f"prompt={'a' * 60}")
    assert code == 2  # bos, 60 letters, and one more
    assert "a prompt of 61 tokens and one that follows are 14 more than position=learned has places (48)." in err
    assert "Shorten the prompt, or train a model whose positions have no end: position=" in err
    assert "position=rope" in err
    assert "position=learned," not in err
    code, _, err = command(capsys, bounded, f"prompt={'a' * 40}", "max_new_tokens=20")
    assert "they are 13 more than position=learned has places (48)." in err
    assert "Set max_new_tokens=7 or null" in err
    with pytest.raises(UserError, match="its 61 tokens are 13 more than position=learned has places"):
        list(predict(bounded, ["a" * 60]))


def test_without_a_number_of_tokens_a_table_is_filled_and_nothing_else_is_endless(bounded, run):
    made = texts(bounded, ["a" * 40, "a"], max_new_tokens=None)
    assert [len(each.continuation.ids) for each in made] == [7, 46]
    (alone,) = texts(bounded, ["a" * 40], max_new_tokens=None)
    assert alone.text == made[0].text
    with pytest.warns(UserWarning, match="trained on sequences of up to 48 tokens; these may get 102 long") as seen:
        (made,) = texts(run, ["a"], max_new_tokens=None)
    assert len(made.continuation.ids) == 100
    assert len(seen) == 1


def test_a_prompt_of_half_a_character_is_shown_once_and_in_brief(run):
    with pytest.raises(UserError, match=r"^'a{40}…': a text: character 60 is U\+D83D, a lone surrogate") as error:
        texts(run, ["a" * 60 + "\ud83d"])
    assert "a" * 41 not in str(error.value)


def test_an_empty_prompt_needs_a_token_to_begin_with(tmp_path):
    with pytest.raises(UserError, match="An empty prompt: there is nothing to go on with"):
        texts(make_run(tmp_path / "run", "tokenizer.bos=false"), [""])


def test_a_run_without_its_tokenizer_says_so(tmp_path):
    path = make_run(tmp_path / "run")
    for file in (path / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"^\S+tokenizer\.json: can't be read .*\n  Copy the folder tokenizer/ "):
        texts(path, ["a"])


def test_a_draft_of_another_tokenizer_is_refused(run, tmp_path):
    draft = make_run(tmp_path / "draft", "tokenizer=text_bpe", "tokenizer.vocab_size=260", "tokenizer.min_frequency=1")
    with pytest.raises(UserError, match=r"isn't that of .*: what they learned differs") as error:
        texts(run, ["a"], draft=draft)
    assert f"tokenizer.from_run={run}" in str(error.value)


def test_a_draft_that_takes_nothing_back_is_refused_before_anything_is_shown(run, tmp_path, capsys):
    draft = make_run(tmp_path / "draft", "attention=linear")
    code, out, err = command(capsys, run, "prompt=a", f"draft={draft}", "stream=true")
    assert (code, out) == (2, "")
    assert "draft: the draft's attention (Linear) decodes from a state" in err


@pytest.mark.parametrize("cache", ["auto", "growing", "fixed"])
def test_a_mechanism_that_has_no_steps_is_named(run, monkeypatch, cache):
    expected = [each.text for each in texts(run, PROMPTS)]
    monkeypatch.setattr(Full, "capabilities", replace(Full.capabilities, decoding="none", room=False))
    if cache == "auto":
        with pytest.warns(UserWarning, match="attention=full can't go on token by token.* is slow"):
            assert [each.text for each in texts(run, PROMPTS)] == expected
    else:
        with pytest.raises(UserError, match=f"cache={cache}: attention=full can't go on token by token"):
            texts(run, PROMPTS, cache=cache)


def test_a_mechanism_that_keeps_no_room_is_named(run, monkeypatch):
    monkeypatch.setattr(Full, "capabilities", replace(Full.capabilities, room=False))
    assert texts(run, ["a"])
    for settings in ({"cache": "fixed"}, {"compile": True}):
        with pytest.raises(UserError, match="attention=full can't work in memory of a fixed size"):
            texts(run, ["a"], **settings)


@pytest.mark.parametrize("arguments", [["RUN", "temprature=1"], ["RUN", "top_p=0.9"]])
def test_a_mistake_waits_for_nothing_heavy(arguments):
    program = (
        "import sys; from plugformer.cli.main import main\n"
        "try: main(['generate', *sys.argv[1:]])\n"
        "except SystemExit: print('HEAVY', *{'torch', 'transformers'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "HEAVY"
