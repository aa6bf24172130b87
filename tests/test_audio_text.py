"""Clips and what is said in them: each with its own text, no phrase on two sides of a split, and what is refused."""

import csv
import json
import pickle
import shutil
import unicodedata

import pytest
import soundfile
import torch

from plugformer.data.audio import read_audio
from plugformer.data.phrases import letters
from plugformer.data.splits import SPLITS, linked
from plugformer.data.templates import Template
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer.testing.comparing import noise

ROOT = {"root": ".", "file": "{name}_desc_es.ogg", "text_line": "es.utf8={text}"}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)


def clip(path, number, *, frames=800):
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, noise(frames, 1, seed=number).mul(0.1).numpy(), 8000)


@pytest.fixture
def stamps(tmp_path):
    """Tux Paint's layout: thirty names in three folders; beside each, its texts and a Spanish clip."""
    for number in range(30):
        path = tmp_path / "abc"[number % 3] / f"stamp {number}.txt"
        clip(path.with_name(f"{path.stem}_desc_es.ogg"), number)
        lines = [f"A picture {number}.", "an.utf8=Una imachen", f"es.utf8=Una imagen {number}.", "fr.utf8=Une image"]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def source(**options):
    return build("data", {"name": "audio_text", **options})


def everything(made):
    made.verify()
    return [sample for split in SPLITS for sample in made.samples(split)]


def heard(made):
    """The waveforms by their texts."""
    return {sample["target_text"]: sample["audio"].waveform for sample in everything(made)}


# ---------------------------------------------------------------------------------------------- layouts


def in_a_table(folder, clips, suffix):
    rows = [{"path": str(path), "text": text} for text, path in clips.items()]
    table = folder / f"clips{suffix}"
    if suffix == ".jsonl":
        table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writerows([["path", "text"], *(row.values() for row in rows)])
    return {"paths": [table.name]}


def beside_their_texts(folder, clips):
    for number, (text, path) in enumerate(clips.items()):
        shutil.copy(path, folder / f"{number}.ogg")
        (folder / f"{number}.txt").write_text(f"\ufeff{text}\r\n", encoding="utf-8")
    return {"root": folder, "file": "{name}.ogg"}


def in_one_transcript_of_a_folder(folder, clips):
    """LibriSpeech's layout."""
    said = {}
    for number, (text, path) in enumerate(clips.items()):
        name = f"{number % 5}-{number}"
        (folder / name[0]).mkdir(exist_ok=True)
        shutil.copy(path, folder / name[0] / f"{name}.ogg")
        said.setdefault(name[0], []).append(f"{name} {text}")
    for speaker, lines in said.items():
        (folder / speaker / f"{speaker}.trans.txt").write_text("\n".join(lines), encoding="utf-8")
    return {
        "root": folder,
        "file": "{group}/{group}-{number}.ogg",
        "text_file": "{group}/{group}.trans.txt",
        "text_line": "{group}-{number} {text}",
    }


def test_every_layout_brings_each_clip_with_its_own_text(stamps):
    clips = {f"Una imagen {n}.": stamps / "abc"[n % 3] / f"stamp {n}_desc_es.ogg" for n in range(30)}
    expected = {text: read_audio(path).waveform for text, path in clips.items()}
    layouts = [ROOT, *(in_a_table(stamps, clips, suffix) for suffix in (".csv", ".tsv", ".jsonl"))]
    for make in (beside_their_texts, in_one_transcript_of_a_folder):
        (stamps / make.__name__).mkdir()
        layouts.append(make(stamps / make.__name__, clips))
        if make is beside_their_texts:
            shutil.move(stamps / make.__name__, stamps.parent / f"{stamps.name}-{make.__name__}")
            layouts[-1]["root"] = stamps.parent / f"{stamps.name}-{make.__name__}"
    for options in layouts:
        made = source(**options)
        assert made.spec.keys == {"id", "audio", "target_text", "group"}
        assert (made.spec.rate, made.spec.duration) == (8000, 0.1)
        found = heard(made)
        assert found.keys() == expected.keys(), options
        assert all(torch.equal(found[text], expected[text]) for text in expected), options


def test_a_number_chooses_a_line_and_names_are_paths_below_the_root(stamps):
    made = source(**{**ROOT, "text_line": 1})
    assert {sample["target_text"] for sample in everything(made)} == {f"A picture {n}." for n in range(30)}
    assert {s["id"] for s in everything(made)} == {f"{'abc'[n % 3]}/stamp {n}_desc_es.ogg" for n in range(30)}


def test_fields_group_and_split_do_what_such_columns_do(tmp_path):
    for number in range(40):
        name = f"{'train' if number < 30 else 'dev'}/s{number % 10}-{number}"
        clip(tmp_path / f"{name}.wav", number)
        (tmp_path / f"{name}.txt").write_text(f"Word {number}", encoding="utf-8")
    template = {"file": "{split}/{group}-{name}.wav", "text_file": "{split}/{group}-{name}.txt"}
    made = source(root=tmp_path, **template)
    made.verify()
    assert {sample["id"].split("/")[0] for sample in made.samples("val")} == {"dev"}
    held = [{sample["group"] for sample in made.samples(split)} for split in ("train", "test")]
    assert len(held[0]) + len(held[1]) == len(held[0] | held[1]) == 10
    (tmp_path / "all").mkdir()
    for suffix in (".wav", ".txt"):
        shutil.move(tmp_path / f"train/s0-0{suffix}", tmp_path / f"all/s0-0{suffix}")
    with pytest.raises(UserError, match=r"all/s0-0\.wav: 'all' is no split\.(.|\n)* data\.bad_files=skip"):
        source(root=tmp_path, **template).verify()


def test_templates_and_names_are_inverse():
    for text in ("{name}.wav", "{a}/{b}-{c}.flac", "{a}/{a}_{b}.ogg", "x{a}.y.{b}", "[{a}]*.wav"):
        template = Template("data.file", text)
        for words in (["ab", "c", "d"], ["é e", "漢", "0"], ["x.y", "-".join("12"), "_"]):
            fields = dict(zip(sorted(template.fields), words, strict=False))
            name = template.fill(fields)
            assert template.fill(template.match(name) or {}) == name
            assert template.match(name, fields) == {}
            assert template.match(f"{name}2") is None or text.endswith("}")
    assert Template("o", "{a}-{a}").match("x-y") is None
    assert Template("o", "{a}").match("x/y") is None
    assert Template("o", "es={text}", "text").match("es=") == {"text": ""}
    line = Template("o", "{name} {text}", "text")
    assert line.match("a.b said so", {"name": "a.b"}) == {"text": "said so"}
    assert line.match("aXb said so", {"name": "a.b"}) is None


# ---------------------------------------------------------------------------------------------- phrases


def test_no_phrase_and_no_recording_stands_in_two_splits(tmp_path):
    rows = [
        {"path": f"{n}.wav", "text": f"{'¡Una' if n % 2 else ' una'}  imagen {n % 12}{'.!'[n % 2]}"} for n in range(48)
    ]
    for number, row in enumerate(rows):
        clip(tmp_path / row["path"], number)
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shares = {"val_fraction": 0.25, "test_fraction": 0.25}
    for seed in range(6):
        made = source(paths=["t.jsonl"], split_seed=seed, **shares)
        assert len(everything(made)) == 48
        held = [{letters(sample["target_text"]) for sample in made.samples(split)} for split in SPLITS]
        assert list(map(len, held)) == [6, 3, 3]
        assert len(set.union(*held)) == 12


def test_a_recording_counts_once_with_its_first_text(stamps):
    for number, text in {3: "¡una imagen 3!", 6: "Otra cosa."}.items():
        folder = stamps / "abc"[number % 3]
        shutil.copy(folder / f"stamp {number}_desc_es.ogg", stamps / f"z{number}_desc_es.ogg")
        (stamps / f"z{number}.txt").write_text(f"es.utf8={text}\n", encoding="utf-8")
    made = source(**ROOT)
    says = (
        r"2 audio files are copies of others, and count once\.\n  Of some the texts differ \(1\); the first one counts"
    )
    with pytest.warns(UserWarning, match=rf"{says}\.\n  .*stamp 6\.txt:3: Una imagen 6\.; .*z6\.txt:1: Otra cosa\."):
        made.verify()
    samples = [sample for split in SPLITS for sample in made.samples(split)]
    assert sorted(sample["target_text"] for sample in samples) == sorted(f"Una imagen {n}." for n in range(30))


def test_copies_in_two_given_splits_are_told_and_kept(stamps):
    shutil.copy(stamps / "a/stamp 0_desc_es.ogg", stamps / "copy.ogg")
    rows = [[f"{'abc'[n % 3]}/stamp {n}_desc_es.ogg", f"Text {n}", ("train", "val", "test")[n % 3]] for n in range(30)]
    lines = [["path", "text", "part"], *rows, ["copy.ogg", "Text 0", "test"]]
    (stamps / "t.csv").write_text("\n".join(map(",".join, lines)), encoding="utf-8")
    made = source(paths=["t.csv"], split_column="part")
    with pytest.warns(UserWarning, match=r"data\.split_column=part: equal files in more than one split \(1\)"):
        made.verify()
    assert [len(made.samples(split)) for split in SPLITS] == [10, 10, 11]


def test_letters_are_what_is_said():
    for text, said in {
        "Un canguro rojo.": "un canguro rojo",
        "¡Qué  susto! — dijo": "qué susto dijo",
        "Don’t 'quote' l'eau, 3½": "don't quote l'eau 3½",
        "हिन्दी, 한국어…": "हिन्दी 한국어",
        "?!": "",
    }.items():
        assert letters(text) == said
        assert letters(unicodedata.normalize("NFD", text)) == said
        assert letters(said) == said
        assert letters(text.upper()) == said


def test_texts_may_be_brought_to_letters(stamps):
    written, said = source(**ROOT), source(**ROOT, normalise="letters")
    texts = [{s["id"]: s["target_text"] for s in everything(made)} for made in (written, said)]
    assert texts[1] == {name: letters(text) for name, text in texts[0].items()}
    assert written.fingerprint() != said.fingerprint()
    path = stamps / "a" / "stamp 0.txt"
    path.write_text("es.utf8=…!\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"normalise=letters: texts that hold none \(1\)\.\n  .*stamp 0\.txt:1: …!\n"):
        source(**ROOT, normalise="letters").verify()


def test_what_is_linked_is_what_a_walk_can_reach():
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        keys = [tuple(row) for row in torch.randint(0, 14, (12, 2), generator=generator).tolist()]
        first = linked(keys)
        for start in range(len(keys)):
            reached, seen = {start}, set(keys[start])
            while more := {i for i, own in enumerate(keys) if seen & set(own)} - reached:
                reached |= more
                seen |= {key for i in more for key in keys[i]}
            assert first[start] == min(reached)


# ---------------------------------------------------------------------------------------------- files


def test_the_fingerprint_is_of_contents_texts_and_splits(stamps):
    first = source(**ROOT).fingerprint()
    made = source(**ROOT)
    everything(made)
    assert made.fingerprint() == source(**ROOT).fingerprint() == first
    assert source(**ROOT, split_seed=1).fingerprint() != first
    path = stamps / "b" / "stamp 1.txt"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("Una imagen", "La imagen"), encoding="utf-8")
    assert source(**ROOT).fingerprint() != first
    path.write_text(before.replace("A picture", "The picture"), encoding="utf-8")
    assert source(**ROOT).fingerprint() == first, "another line"
    clip(path.with_name("stamp 1_desc_es.ogg"), 99)
    assert source(**ROOT).fingerprint() != first


def test_texts_are_known_before_a_clip_is_decoded(stamps):
    made = source(**ROOT)
    made.verify()
    samples = pickle.loads(pickle.dumps(made.samples("train")))
    known = samples.known(0)
    shutil.rmtree(stamps / "a")
    assert "audio" not in known and known["target_text"].startswith("Una imagen")
    with pytest.raises(UserError, match="no such file"):
        [samples[index] for index in range(len(samples))]


def _without(path):
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without, r"a/stamp 0_desc_es\.ogg: there is no a/stamp 0\.txt\."),
        (
            lambda path: path.write_bytes(b"es.utf8=\xff"),
            r"stamp 0_desc_es\.ogg: .*stamp 0\.txt: not UTF-8; byte 8 is 0xff",
        ),
        (lambda path: path.write_text(""), r"stamp 0_desc_es\.ogg: .*stamp 0\.txt: is empty\."),
        (
            lambda path: path.write_text("A\nfr.utf8=B\n"),
            r"stamp 0\.txt has 2 lines, and none like es\.utf8=\{text\}\.",
        ),
        (lambda path: path.write_text("A\nes.utf8= \n"), r"stamp 0\.txt:2: the text is empty\."),
        (
            lambda path: path.write_text("es.utf8=A\nB\nes.utf8=C\n"),
            r"stamp 0\.txt has several lines like es\.utf8=\{text\}: 1 and 3\.",
        ),
    ],
)
def test_a_clip_without_a_text_is_named_and_may_be_left_out(stamps, spoil, message):
    spoil(stamps / "a" / "stamp 0.txt")
    with pytest.raises(UserError, match=rf"files that can't be used \(1\)\.\n  .*{message}.*\n.*bad_files=skip\."):
        source(**ROOT).verify()
    made = source(**ROOT, bad_files="skip")
    with pytest.warns(UserWarning, match=rf"{message}.*\n  They are left out"):
        samples = everything(made)
    assert len(samples) == 29 and "a/stamp 0_desc_es.ogg" not in {sample["id"] for sample in samples}


def test_a_text_without_a_clip_is_told(stamps):
    (stamps / "a" / "stamp 0_desc_es.ogg").unlink()
    (stamps / "a" / "alone.txt").write_text("Not in Spanish\n", encoding="utf-8")
    made = source(**ROOT)
    with pytest.warns(UserWarning, match=r"1 text has no such file, and is not used: a/stamp 0\.txt$"):
        assert len(everything(made)) == 29


def test_a_broken_clip_is_named_with_its_text(stamps):
    (stamps / "a" / "stamp 0_desc_es.ogg").write_bytes(b"not audio")
    says = r"1 of 30 files can't be used\.\n  .*stamp 0\.txt:3: .*stamp 0_desc_es\.ogg: not audio that can be read"
    with pytest.raises(UserError, match=rf"file=\{{name\}}_desc_es\.ogg: {says}"):
        source(**ROOT).verify()
    made = source(**ROOT, bad_files="skip")
    with pytest.warns(UserWarning, match=says):
        assert len(everything(made)) == 29


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"data=audio_text: set one of data\.paths, .*\n  and data\.file, "),
        ({**ROOT, "paths": ["t.csv"]}, r"data=audio_text: set only one of data\.paths, "),
        ({"file": "{name}.wav"}, r"data\.file=\{name\}\.wav: in which folder\? Set data\.root\."),
        (
            {**ROOT, "text_column": "said"},
            r"data\.text_column=said: has no effect with data\.file; it goes with data\.paths",
        ),
        (
            {"paths": ["t.csv"], "text_line": 2},
            r"data\.text_line=2: has no effect with data\.paths; it goes with data\.file",
        ),
        ({**ROOT, "file": "*.ogg"}, r"data\.file=\*\.ogg: has no field, as \{name\} in \{name\}\.ogg"),
        ({**ROOT, "file": "{name.ogg"}, r"data\.file=\{name\.ogg: braces are for fields"),
        (
            {**ROOT, "text_file": "{nam}.txt"},
            r"there is no \{nam\} in data\.file=\{name\}_desc_es\.ogg\. Did you mean name\?",
        ),
        (
            {**ROOT, "text_file": "t/{name}.txt"},
            r"data\.text_file=t/\{name\}\.txt: with a slash it is a path below data\.root",
        ),
        ({**ROOT, "text_line": "es.utf8="}, r"data\.text_line=es\.utf8=: must say with \{text\} where"),
        ({**ROOT, "text_line": 0}, r"data\.text_line=0: lines are counted from 1"),
        ({**ROOT, "root": "nowhere"}, r"data\.root=nowhere: no such folder"),
        (
            {**ROOT, "file": "{name}_desc_xx.ogg"},
            r"data\.file=\{name\}_desc_xx\.ogg: no file of data\.root=\. has such a name\.\n"
            r"  Looked in all its folders and found 60 files, such as a/stamp 0\.txt, ",
        ),
        ({**ROOT, "text_line": 9}, r"stamp 0\.txt has 4 lines, data\.text_line=9\."),
        ({**ROOT, "val_fraction": 1.5}, r"data\.val_fraction=1\.5: must be at least 0 and less than 1"),
        ({"paths": ["t.xlsx"]}, r"t\.xlsx: not one of \.csv, \.tsv, \.jsonl\."),
        (
            {"paths": ["t.csv"], "text_column": "txet"},
            r"data\.text_column=txet: .*no such column\. Did you mean text\?",
        ),
        ({"paths": ["empty.csv"]}, r"empty\.csv:2: text is empty\."),
    ],
)
def test_mistakes_are_named(stamps, options, message):
    if "paths" in options:
        (stamps / "t.csv").write_text("path,text\na.wav,A\n", encoding="utf-8")
        (stamps / "empty.csv").write_text("path,text\na.wav, \n", encoding="utf-8")
        (stamps / "t.xlsx").write_text("path,text\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        source(**options).verify()
