"""Texts that are written for sources: `plugformer predict` and `generate` of runs with an encoder-decoder."""

import io
import json
import subprocess
import sys
from itertools import product

import pytest
import soundfile
import torch
from PIL import Image

from plugformer.assemble import build_model, build_target_tokenizer, load_run
from plugformer.cli.compose import compose
from plugformer.cli.main import main
from plugformer.cli.predict import is_option
from plugformer.decode.beam import beam_search
from plugformer.decode.choosing import Choice
from plugformer.decode.session import Session
from plugformer.errors import UserError
from plugformer.generate import generate
from plugformer.interfaces import DataSpec
from plugformer.predict import predict
from plugformer.registry import build
from plugformer.run_dir import RunDir, write_json
from plugformer.settings import GenerateSettings
from plugformer.testing.common import randomise

SIZES = ("backbone.dim=16", "backbone.num_layers=1", "backbone.num_heads=2")
TRANSLATION = ("task=seq2seq", "task.tied=false", "backbone=encoder_decoder", "data=hangul_names", *SIZES)
BYTES = ("tokenizer=text_bytes", "tokenizer.max_length=24")
WRITTEN = ("target_tokenizer=text_bytes", "target_tokenizer.max_length=20")
SOURCES = ["한", "각뷁 and more", "a", "a longer text", "b"]
DRAWN = {"temperature": 1.0, "top_k": 50}
BEAMS = {"num_beams": 3, "num_samples": 2}
WAYS = pytest.mark.parametrize("options", [{}, DRAWN, BEAMS], ids=["greedy", "drawn", "beams"])


def make_run(path, *overrides, samples=()):
    """A run directory as training leaves it, with weights far from those that predict nothing."""
    config = compose([*TRANSLATION, *overrides, f"run_dir={path}"])
    run = RunDir.create(path)
    run.write_config(config)
    write_json(run.data, {"labels": []})
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.fit([*samples] or [{"text": "a text to learn from"}] * 3)
    tokenizer.save(run.tokenizer)
    target = build_target_tokenizer(config, tokenizer)
    if target is not tokenizer:
        run.target_tokenizer.mkdir()
        target.fit([{"text": "a text to learn from"}] * 3)
        target.save(run.target_tokenizer)
    with torch.no_grad():
        model = randomise(
            build_model(config, tokenizer=tokenizer, data=DataSpec(frozenset()), target_tokenizer=target), seed=5
        )
        if "output" in dict(model.task.named_children()):
            model.task.output.linear.weight[128:256] = 0.0  # bytes that alone are no character
            model.task.output.linear.weight[target.spec.specials["eos"]] *= -2.0  # some texts end, some do not
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, run.checkpoints / "best.ckpt")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(folder):
    return make_run(folder / "translation", *BYTES, *WRITTEN, "position=learned", "task.max_new_tokens=12")


@pytest.fixture(scope="module")
def endless(folder):
    return make_run(folder / "endless", *BYTES, "position=sinusoidal", "task.num_beams=1")


def texts(run, prompts, **settings):
    return list(generate(run, prompts, GenerateSettings(**{"max_new_tokens": 12, **settings})))


def plain(made):
    return [(each.prompt, each.sample, each.text, each.continuation.ended) for each in made]


def command(capsys, name, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([name, *map(str, arguments)])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def told(out):
    return [json.loads(line) for line in out.split("\n")[:-1]]


# ---------------------------------------------------------------------------------------------- what is written


@WAYS
def test_what_is_written_depends_on_no_cache(run, options):
    read_anew = texts(run, SOURCES, cache="none", **options)
    assert {each.continuation.ended for each in read_anew} == {"eos", "length"}
    for cache in ("growing", "fixed"):
        made = texts(run, SOURCES, cache=cache, **options)
        assert plain(made) == plain(read_anew)
        scores = [each.continuation.score for each in read_anew]
        assert [each.continuation.score for each in made] == pytest.approx(scores, abs=1e-4)


@WAYS
def test_what_is_written_depends_on_no_source_beside_it(run, options):
    together = plain(texts(run, SOURCES, **options))
    assert together == plain(texts(run, SOURCES, batch_size=3, **options))
    assert together == plain(each for source in SOURCES for each in texts(run, [source], **options))
    assert len(set(together)) == len(together)
    backwards = plain(texts(run, SOURCES[::-1], **options))
    assert sorted(together) == sorted(backwards)


@pytest.mark.parametrize("dropped", [True, False])
def test_what_is_written_depends_on_no_source_that_is_done(run, dropped, monkeypatch):
    """Whether those that are done stay in the batch or leave it."""
    expected = [plain(texts(run, SOURCES, **options)) for options in ({}, BEAMS)]
    monkeypatch.setattr(Session, "drops", lambda self, done, of: dropped and done > 0)
    assert [plain(texts(run, SOURCES, **options)) for options in ({}, BEAMS)] == expected


def test_a_seed_decides_what_is_drawn_and_a_source_that_comes_again_gets_further_samples(run):
    several = [each.text for each in texts(run, ["a"], num_samples=4, **DRAWN)]
    assert len(set(several)) > 2
    assert several == [each.text for each in texts(run, ["a"] * 4, **DRAWN)]
    assert several != [each.text for each in texts(run, ["a"], num_samples=4, seed=1, **DRAWN)]
    assert several != [each.text for each in texts(run, ["b"], num_samples=4, **DRAWN)]


def test_a_stop_string_ends_a_text(run):
    (whole,) = texts(run, ["b"])
    stop = whole.text[2:4]
    (stopped,) = texts(run, ["b"], stop=stop)
    assert stopped.text == whole.text.partition(stop)[0]
    assert stopped.continuation.ended == "stop"


def test_without_a_number_of_tokens_there_are_as_many_as_the_longest_target_has(run, endless):
    drawn = {**DRAWN, "num_samples": 8}
    for path, most in ((run, 20), (endless, 24)):
        made = texts(path, ["a", "b"], max_new_tokens=None, **drawn)
        assert plain(made) == plain(texts(path, ["a", "b"], max_new_tokens=most, **drawn))
        assert "length" in {each.continuation.ended for each in made}
    with pytest.warns(UserWarning, match="trained on sequences of up to 24 tokens; these may get 30 long"):
        texts(endless, ["a"], max_new_tokens=30)


def test_beams_as_many_as_there_are_texts_find_the_best_of_all(folder):
    words = ("tokenizer=text_symbols", "tokenizer.vocab_size=8", "tokenizer.min_frequency=1", "tokenizer.max_length=8")
    path = folder / "symbols"
    config = compose([*TRANSLATION, *words, f"run_dir={path}"])
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.fit([{"text": "a b c"}] * 3)
    model = build_model(config, tokenizer=tokenizer, data=DataSpec(frozenset())).eval()
    with torch.no_grad():
        randomise(model, seed=1)
    source = tokenizer.collate([tokenizer.encode({"text": text}) for text in ("a b", "c")])
    vocab, eos, start, room = tokenizer.spec.vocab_size, tokenizer.spec.specials["eos"], model.task.start, 3
    found = beam_search(
        Session(model, room=room, source=source),
        torch.full((2, 1), start),
        num_beams=vocab**2,
        num_samples=10,
        length_penalty=0.7,
        early_stopping="never",
        room=room,
        eos=eos,
        choice=Choice(),
    )
    others = [token for token in range(vocab) if token != eos]
    all_texts = [each for length in range(room) for each in product(*[others] * length, [eos])]
    all_texts += list(product(others, repeat=room))
    longest = torch.tensor([[start, *each, *[start] * (room - len(each))] for each in all_texts])
    with torch.no_grad():
        memory = model.trunk.backbone.encode(model.trunk.embed(source))
        for row, group in enumerate(found):
            one = memory.select(torch.tensor([row])).repeat(len(longest))
            hidden = model.trunk.backbone(model.trunk.embed_target({"ids": longest[:, :-1]}), memory=one)
            nats = model.task.logits(model.trunk, hidden).log_softmax(-1).gather(2, longest[:, 1:, None])[..., 0]
            scores = [nats[place, : len(each)].sum().item() for place, each in enumerate(all_texts)]
            ranked = sorted(zip(scores, all_texts, strict=True), key=lambda pair: -pair[0] / len(pair[1]) ** 0.7)
            for made, (score, ids) in zip(group, ranked, strict=False):
                assert [*made.ids, *[eos] * (made.ended == "eos")] == [*ids]
                assert made.score == pytest.approx(score, rel=1e-4)


def test_a_recurrent_decoder_goes_on_from_its_states(folder):
    path = make_run(folder / "recurrent", *BYTES, "backbone.decoder=gru", "position=sinusoidal")
    for options in ({}, BEAMS):
        read_anew = texts(path, SOURCES[:2], max_new_tokens=4, cache="none", **options)
        assert plain(texts(path, SOURCES[:2], max_new_tokens=4, **options)) == plain(read_anew)


# ---------------------------------------------------------------------------------------------- drafts


def test_a_model_is_its_own_best_draft(run):
    (expected,), (drafted,) = texts(run, ["각뷁"]), texts(run, ["각뷁"], draft=run, draft_tokens=3)
    assert drafted.text == expected.text
    assert drafted.accepted == drafted.proposed > 0


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((*BYTES, "target_tokenizer=text_bpe", "target_tokenizer.vocab_size=261"), "its target_tokenizer, text_bpe of"),
        (("tokenizer=text_bpe", "tokenizer.vocab_size=261", *WRITTEN), "its tokenizer, text_bpe of"),
        ((*BYTES, "task=causal_lm", "backbone=decoder"), "it goes on with sequences, and "),
    ],
)
def test_a_draft_that_reads_or_writes_other_tokens_is_refused(run, tmp_path, overrides, says):
    draft = make_run(tmp_path / "draft", *overrides)
    with pytest.raises(UserError, match=rf"^draft=\S+: {says}"):
        texts(run, ["a"], draft=draft)


# ---------------------------------------------------------------------------------------------- generate


def test_a_text_that_is_written_for_a_prompt_stands_without_it(run, capsys):
    (expected,) = texts(run, ["각뷁"])
    for more in ((), ("stream=true",)):
        shown = command(capsys, "generate", run, "prompt=각뷁", "max_new_tokens=12", *more)
        assert shown == (0, f"{expected.text}\n", "")
    _, out, _ = command(capsys, "generate", run, "prompt=각뷁", "max_new_tokens=12", "json=true")
    assert [each["text"] for each in told(out)] == [expected.text]


# ---------------------------------------------------------------------------------------------- predict


def expected_of(run, sources, **settings):
    """As the task decodes in its test, unless they say otherwise."""
    return [
        {"input": each.prompt, "text": each.text, "score": each.continuation.score, "ended": each.continuation.ended}
        for each in texts(run, sources, **{"num_beams": 4, "batch_size": 64, **settings})
    ]


def test_inputs_are_written_for_as_the_run_is_tested(run, endless, capsys):
    code, out, err = command(capsys, "predict", run, *SOURCES)
    assert (code, err) == (0, "")
    assert told(out) == expected_of(run, SOURCES)
    assert list(predict(endless, ["a"])) == expected_of(endless, ["a"], num_beams=1, max_new_tokens=24)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 2, "length_penalty": 0.6, "early_stopping": True, "no_repeat_ngram": 2, "max_new_tokens": 5},
        {"temperature": 1.0, "seed": 3, "num_beams": 1},
    ],
)
def test_options_of_generate_apply_wherever_they_stand(run, capsys, options):
    written = [f"{key}={str(value).lower()}" for key, value in options.items()]
    code, out, _ = command(capsys, "predict", run, written[0], *SOURCES, "--batch-size", "64", *written[1:])
    assert code == 0
    assert told(out) == expected_of(run, SOURCES, **options)


def test_to_draw_turns_beams_off(run):
    assert list(predict(run, ["a"], options=DRAWN)) == expected_of(run, ["a"], num_beams=1, **DRAWN)


def test_a_source_that_is_cut_is_told_of(run):
    with pytest.warns(UserWarning, match=r"^'long long .*'…: of its 50 tokens only the first 22 are read"):
        (cut,) = predict(run, ["long " * 10])
    assert cut["text"] == next(predict(run, [("long " * 10)[:22]]))["text"]


def test_of_several_samples_each_says_which_it_is(run):
    made = list(predict(run, ["a", "b"], options={"num_samples": 2}))
    assert [(each["input"], each["sample"]) for each in made] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


@pytest.mark.parametrize("way", ["file", "standard input", "mark at its front"])
def test_texts_come_from_files_and_standard_input(run, capsys, tmp_path, monkeypatch, way):
    encoding = "utf-8-sig" if way.startswith("mark") else "utf-8"
    (tmp_path / "lines.txt").write_text("한\na longer text\n", encoding=encoding)
    monkeypatch.setattr("sys.stdin", io.StringIO("한\na longer text\n"))
    given = "-" if way == "standard input" else tmp_path / "lines.txt"
    code, out, _ = command(capsys, "predict", run, "a", given, "b")
    assert code == 0
    assert told(out) == expected_of(run, ["a", "한", "a longer text", "b"])


def test_behind_a_double_dash_everything_is_an_input(run, capsys):
    code, out, _ = command(capsys, "predict", run, "x = 1", "k=v", "--", "num_beams=2", "--x")
    assert code == 0
    assert [each["input"] for each in told(out)] == ["x = 1", "k=v", "num_beams=2", "--x"]


@pytest.mark.parametrize(
    ("word", "is_one"),
    [("num_beams=4", True), ("num_beam=4", True), ("+num_beams=4", True), ("x=1", False), ("num_beams = 4", False)],
)
def test_an_option_is_what_is_written_like_one(word, is_one):
    assert is_option(word) == is_one


def test_all_that_cannot_be_read_is_named_before_anything_is_written(run, capsys, tmp_path, monkeypatch):
    lines, empty, bytes_ = (tmp_path / name for name in ("lines.txt", "empty.txt", "bytes.txt"))
    lines.write_text("a\n\nb\n  \n")
    empty.write_text("")
    bytes_.write_bytes(b"\xff\xfe\xfa")
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n\n"))
    given = ["good", lines, "nowhere.txt", "./nowhere", empty, bytes_, "-", "-", ""]
    code, out, err = command(capsys, "predict", run, *given)
    assert (code, out) == (2, "")
    for says in (
        "8 of 9 inputs can't be read.",
        "lines.txt: nothing stands in lines 2, 4.",
        "nowhere.txt: there is no such file. A text that looks like a path can stand on standard input: -",
        "./nowhere: there is no such file.",
        "empty.txt: there are no texts in it.",
        "bytes.txt: can't be read (not UTF-8: invalid start byte).",
        "standard input: nothing stands in line 2.",
        "-: standard input can be read once, and stands there several times.",
        "An empty text: there is nothing to write for.",
    ):
        assert says in err


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("predict", "num_beam=4", "num_beam: no such option of plugformer predict. Did you mean num_beams?"),
        ("predict", "num_beams=4 num_beams=3", "num_beams=3: num_beams is set already."),
        ("predict", "num_beams=many", "num_beams=many: expected an integer."),
        ("predict", "num_beams=0", "num_beams=0: must be at least 1."),
        ("predict", "num_beams=300", "num_beams=300: more than there are tokens, 260.\n  Set num_beams=260 or less."),
        ("predict", "num_samples=5", "num_samples=5: greater than num_beams=4."),
        ("predict", "stop=x", "stop=x: can't go with beam search. Set num_beams=1."),
        ("predict", "prompt=x", "prompt: no option of plugformer predict: inputs stand by themselves."),
        ("predict", "batch_size=2", "batch_size: no option of plugformer predict: set --batch-size."),
        ("predict", "checkpoint=last", "checkpoint: no option of plugformer predict: set --checkpoint."),
        ("predict", "stream=true", "stream: no option of plugformer predict: each text is a JSON object"),
        ("predict", "draft=x", "draft: no option of plugformer predict: a draft is for one text at a time"),
        ("predict", "--pictures x", "pictures=x: task=seq2seq with tokenizer=text_bytes has nothing to show."),
        ("predict", "max_new_tokens=21", "max_new_tokens=21: more than position=learned has places (20).\n  Set "),
        ("generate", "", "writes a text for what it reads, and nothing was given.\n  Set prompt=…, a text or"),
        ("generate", "prompt=", "An empty text: there is nothing to write for."),
        ("generate", "prompt=a max_new_tokens=21", "max_new_tokens=21: more than position=learned has places (20)."),
        ("generate", "prompt=a num_beams=300", "num_beams=300: more than there are tokens, 260."),
    ],
)
def test_nonsense_gets_one_message(run, capsys, name, arguments, says):
    code, out, err = command(capsys, name, run, *["a"] * (name == "predict"), *arguments.split())
    assert (code, out) == (2, "")
    assert says in err


def test_a_task_that_writes_nothing_has_no_such_options(folder, capsys):
    bert = make_run(folder / "bert", *BYTES, "task=mlm", "backbone=encoder")
    code, _, err = command(capsys, "predict", bert, "a", "num_beams=4")
    assert code == 2
    assert "num_beams=4: task=mlm writes no texts for its inputs. Leave it out or, if it is an input, put" in err
    code, out, _ = command(capsys, "predict", bert, "x=[MASK]", "--", "num_beams=4 [MASK]")
    assert code == 0
    assert [each["input"] for each in told(out)] == ["x=[MASK]", "num_beams=4 [MASK]"]


def test_help_says_what_an_input_is(capsys):
    code, out, _ = command(capsys, "predict", "--help")
    assert code == 0
    assert "an INPUT is a text, a file of texts, one a line, or - for\nthe lines of standard input." in out


def test_a_mistake_waits_for_nothing_heavy():
    program = (
        "import sys; from plugformer.cli.main import main\n"
        "try: main(['predict', 'RUN', 'a', 'num_beam=1'])\n"
        "except SystemExit: print('HEAVY', *{'torch', 'transformers'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "HEAVY"


# ---------------------------------------------------------------------------------------------- images and sounds


@pytest.fixture(scope="module")
def pictures(folder):
    paths = []
    for number in range(3):
        pixels = torch.randint(0, 256, (8, 8), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def sounds(folder):
    paths = []
    for number, seconds in enumerate((0.3, 0.5, 0.2)):
        wave = torch.randn(int(8000 * seconds), generator=torch.Generator().manual_seed(number)) * 0.1
        paths.append(str(folder / f"{number}.wav"))
        soundfile.write(paths[-1], wave.numpy(), 8000)
    return paths


@pytest.fixture(scope="module", params=["images", "sounds"])
def reading(request, folder, pictures, sounds):
    """A run that reads images or sounds, and files of it."""
    data, name = {"images": ("digits", "vit_patch"), "sounds": ("spoken_digits", "spectrogram")}[request.param]
    files = pictures if request.param == "images" else sounds
    config = compose([f"data={data}", f"tokenizer={name}"])
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.assume(DataSpec(frozenset({"image", "audio"}), image=(1, 8, 8), rate=8000, duration=0.5))
    samples = [tokenizer.read(path) for path in files]
    path = make_run(folder / request.param, f"data={data}", f"tokenizer={name}", *WRITTEN, samples=samples)
    return path, files


def test_files_are_captioned_and_transcribed(reading, capsys):
    run, files = reading
    code, out, err = command(capsys, "predict", run, *files, "max_new_tokens=12")
    assert (code, err) == (0, "")
    assert told(out) == expected_of(run, files)
    assert len({each["text"] for each in told(out)}) > 1
    code, out, _ = command(capsys, "generate", run, f"prompt={files[0]}", "max_new_tokens=12", "num_beams=4")
    assert out == expected_of(run, files)[0]["text"] + "\n"


@WAYS
def test_what_is_written_for_a_file_depends_on_no_other_and_no_cache(reading, options):
    run, files = reading
    together = plain(texts(run, files, **options))
    assert together == plain(each for file in files for each in texts(run, [file], **options))
    assert together == plain(texts(run, files, cache="none", **options))
    assert texts(run, files, precision="64-true", **options)


def test_files_that_are_not_there_are_all_named(reading, capsys):
    run, files = reading
    code, out, err = command(capsys, "predict", run, files[0], "nowhere", "no.where")
    assert (code, out) == (2, "")
    assert "2 of 3 inputs can't be read." in err
    assert "nowhere" in err
    assert "no.where" in err


def test_what_is_read_again_is_the_run_that_was_saved(run):
    tokenizer, model = load_run(run)
    assert tokenizer is not model.task.target_tokenizer
    assert model.task.target_tokenizer.spec.grid.shape == (20,)
