"""Tables that point to audio files, and audio columns of `datasets`: what they read, refuse, and keep apart."""

import csv
import json
import pickle
import shutil
from io import BytesIO

import pytest
import soundfile
import torch

from plugformer.data.audio import read_audio
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer.testing.comparing import noise

NAMED = {"label_column": "kind", "group_column": "by", "text_column": "said"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def clip(path, number, *, rate=8000, frames=800):
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, noise(frames, 1, seed=number).mul(0.1).numpy(), rate)


@pytest.fixture
def rows(tmp_path):
    """Of thirty clips of ten speakers in the folder of the table."""
    made = [
        {"path": f"clips/{n}.wav", "kind": "ab"[n % 2], "said": f"Word {n % 3}", "by": f"s{n % 10}"} for n in range(30)
    ]
    for number, row in enumerate(made):
        clip(tmp_path / row["path"], number, frames=800 + 80 * (number == 7))
    return made


def write(path, rows, *, kind="audio_csv"):
    if kind == "audio_csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [str(path)]


def source(paths, kind="audio_csv", **options):
    return build("data", {"name": kind, "paths": paths, **options})


def everything(made):
    made.verify()
    return [sample for split in SPLITS for sample in made.samples(split)]


@pytest.mark.parametrize(("kind", "first"), [("audio_csv", 2), ("audio_jsonl", 1)])
def test_a_sample_is_what_its_row_says(tmp_path, rows, kind, first):
    made = source(write(tmp_path / "t", rows, kind=kind), kind, **NAMED)
    made.verify()
    samples = {sample["id"]: sample for sample in everything(made)}
    assert made.spec.labels == ("a", "b")
    assert made.spec.keys == {"id", "audio", "label", "target_text", "group"}
    assert (made.spec.rate, made.spec.duration) == (8000, 0.11)
    assert len(samples) == 30
    for number, row in enumerate(rows):
        sample = samples[f"t:{first + number}"]
        assert (sample["label"], sample["target_text"], sample["group"]) == (number % 2, row["said"], row["by"])
        assert torch.equal(sample["audio"].waveform, read_audio(tmp_path / row["path"]).waveform)
    held = [{sample["group"] for sample in made.samples(split)} for split in SPLITS]
    assert sum(map(len, held)) == len(set.union(*held)) == 10
    bare = source(write(tmp_path / "u", rows, kind=kind), kind)
    assert bare.spec.keys == {"id", "audio", "group"}


def test_relative_paths_start_at_the_table_or_at_root(tmp_path, rows, monkeypatch):
    (tmp_path / "tables").mkdir()
    monkeypatch.chdir(tmp_path / "tables")
    before = everything(source(write(tmp_path / "t.csv", rows)))
    absolute = [{**row, "path": str(tmp_path / row["path"])} for row in rows]
    for paths, options in [
        (write(tmp_path / "tables" / "t.csv", rows), {"root": tmp_path}),
        (write(tmp_path / "tables" / "t.csv", absolute), {}),
        (write(tmp_path / "tables" / "t.csv", absolute), {"root": tmp_path / "tables"}),
    ]:
        after = everything(source(paths, **options))
        assert [s["id"] for s in after] == [s["id"] for s in before]
        assert all(torch.equal(a["audio"].waveform, b["audio"].waveform) for a, b in zip(after, before, strict=True))
    with pytest.raises(UserError, match=r"data\.root=nowhere: no such folder"):
        source(["t.csv"], root="nowhere").verify()


def test_rows_of_one_recording_stand_in_one_split(tmp_path, rows):
    shutil.copy(tmp_path / "clips/0.wav", tmp_path / "clips/copy.wav")
    same = [{**rows[0], "path": path} for path in ("clips/0.wav", "clips/../clips/0.wav", "clips/copy.wav")]
    for seed in range(8):
        options = {"split_seed": seed, "val_fraction": 0.3, "test_fraction": 0.3}
        made = source(write(tmp_path / "t", [*rows[1:], *same]), label_column="kind", **options)
        made.verify()
        held = [{sample["id"] for sample in made.samples(split)} & {"t:31", "t:32", "t:33"} for split in SPLITS]
        assert sorted(map(len, held)) == [0, 0, 3]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "group_column",
            ("x", "y"),
            r"group_column=part: files in more than one group \(1\)\.\n.*0\.wav: x in .*t:2, y in",
        ),
        ("split_column", ("train", "test"), r"files in more than one split \(1\)\.\n.*train in .*t:2, test in .*t:32"),
    ],
)
def test_one_file_in_two_groups_or_splits_is_refused_and_copies_are_told(tmp_path, rows, column, values, message):
    parts = [{**row, "part": values[number % 2]} for number, row in enumerate(rows)]
    with pytest.raises(UserError, match=message):
        source(write(tmp_path / "t", [*parts, {**parts[0], "part": values[1]}]), **{column: "part"}).verify()
    shutil.copy(tmp_path / "clips/0.wav", tmp_path / "clips/copy.wav")
    copied = {**parts[0], "path": "clips/copy.wav", "part": values[1]}
    with pytest.warns(UserWarning, match=r"equal files in more than one .* \(1\), so a test may .*\n.*t:2 .*t:32 "):
        source(write(tmp_path / "t", [*parts, copied]), **{column: "part"}).verify()


def test_all_missing_files_are_counted_and_the_first_named_by_their_lines(tmp_path, rows):
    gone = [{**row, "path": f"gone/{number}.wav"} for number, row in enumerate(rows)]
    paths = write(tmp_path / "t.csv", [*rows, *gone])
    with pytest.raises(UserError) as refused:
        source(paths).verify()
    told = str(refused.value)
    assert "audio files that aren't there (30).\n" in told
    assert f"{tmp_path}/t.csv:32: {tmp_path}/gone/0.wav\n" in told
    assert "and 10 more\n  Relative paths start at the table's folder; data.root sets another." in told
    made = source(paths, bad_files="skip")
    with pytest.warns(
        UserWarning, match=r"30 of 60 files can't be used\.\n.*t\.csv:32: .*no such file.*(.|\n)*left out"
    ):
        assert len(everything(made)) == 30
    with pytest.warns(UserWarning, match="30 of 30"), pytest.raises(UserError, match=r"no row can be used"):
        everything(source(write(tmp_path / "t.csv", gone), bad_files="skip"))


BAD = {
    "text.wav": (b"not audio", "not audio that can be read"),
    "empty.wav": (b"", "is empty"),
    "none.wav": (None, "holds no samples"),
    "nan.wav": (float("nan"), "NaN or infinite"),
}


def test_bad_files_are_named_by_their_lines_before_training(tmp_path, rows):
    for name, (content, _) in BAD.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            soundfile.write(tmp_path / name, [] if content is None else [content] * 9, 8000, subtype="FLOAT")
    paths = write(tmp_path / "t.csv", [*rows, *({**rows[0], "path": name} for name in BAD)])
    with pytest.raises(UserError, match=r"4 of 34 files can't be used\.") as refused:
        source(paths).verify()
    for line, (name, (_, why)) in enumerate(BAD.items(), 32):
        assert any(
            f"t.csv:{line}: {tmp_path}/{name}: " in told and why in told for told in str(refused.value).split("\n")
        )
    skipping = source(paths, bad_files="skip", **NAMED)
    with pytest.warns(UserWarning, match="4 of 34 files"):
        assert len(everything(skipping)) == 30


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"path": ""}, {}, r"t:32: path is empty\."),
        ({"kind": " "}, {"label_column": "kind"}, r"t:32: kind is empty\."),
        (
            {},
            {"path_column": "file"},
            r"data\.path_column=file: .*t has no such column.*\n  Its columns: by, kind, path",
        ),
        ({}, {"label_column": "kidn"}, r"data\.label_column=kidn: .* Did you mean kind\?"),
        ({}, {"delimiter": ";;"}, r"data\.delimiter=;;: must be one character"),
        ({}, {"folds": 3, "fold": 0}, r"data\.folds=3: folds are made of groups"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, rows, change, options, message):
    paths = write(tmp_path / "t", [*rows, {**rows[0], **change}])
    with pytest.raises(UserError, match=message):
        source(paths, **options).verify()


def test_a_label_of_the_test_alone_is_refused(tmp_path, rows):
    given = [{**row, "part": "train"} for row in rows]
    given[4] |= {"kind": "c", "part": "test"}
    made = source(write(tmp_path / "t", given), label_column="kind", split_column="part")
    says = r"data\.label_column=kind: train has no row labelled c, so it can't be learned\.\n  Leave such rows out, or "
    with pytest.raises(UserError, match=f"{says}draw others with data.split_seed"):
        made.samples("train")
    given[5]["part"] = "val"
    made = source(write(tmp_path / "t", given), label_column="kind", split_column="part")
    with pytest.raises(UserError, match=f"{says}change part of some"):
        made.samples("train")


def test_rows_that_are_left_out_decide_neither_rate_nor_duration(tmp_path, rows):
    soundfile.write(tmp_path / "nan.wav", [float("nan")] * 9000, 16_000, subtype="FLOAT")
    made = source(write(tmp_path / "t", [*rows, {**rows[0], "path": "nan.wav"}]), bad_files="skip")
    with pytest.warns(UserWarning, match="1 of 31 files"):
        made.verify()
    assert (made.spec.rate, made.spec.duration) == (8000, 0.11)


def test_clips_are_decoded_when_they_are_asked_for(tmp_path, rows):
    made = source(write(tmp_path / "t", rows), **NAMED)
    made.verify()
    samples = pickle.loads(pickle.dumps(made.samples("train")))
    clip(tmp_path / f"clips/{int(samples[0]['id'][2:]) - 2}.wav", 99)
    assert torch.equal(samples[0]["audio"].waveform, made.samples("train")[0]["audio"].waveform)
    assert not torch.equal(samples[0]["audio"].waveform, noise(1, 800, seed=3))


def test_the_fingerprint_is_of_contents_labels_and_splits(tmp_path, rows):
    first = source(write(tmp_path / "t", rows), **NAMED).fingerprint()
    assert source(write(tmp_path / "t", rows), **NAMED).fingerprint() == first
    assert source(write(tmp_path / "t", rows), **NAMED, split_seed=1).fingerprint() != first
    other = [{**row, "kind": "ab"[row["kind"] == "a"]} for row in rows]
    assert source(write(tmp_path / "t", other), **NAMED).fingerprint() != first
    clip(tmp_path / "clips/3.wav", 99)
    assert source(write(tmp_path / "t", rows), **NAMED).fingerprint() != first


def test_folds_leave_one_speaker_out(tmp_path, rows):
    paths = write(tmp_path / "t", rows)
    made = [source(paths, **NAMED, folds=10, fold=fold) for fold in range(10)]
    tested = [{sample["group"] for sample in one.samples("test")} for one in made]
    assert all(len(groups) == 1 for groups in tested)
    assert set.union(*tested) == {row["by"] for row in rows}


# ---------------------------------------------------------------------------------------------- datasets


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    return package


def encoded(number):
    file = BytesIO()
    soundfile.write(file, noise(800, 1, seed=number).mul(0.1).numpy(), 8000, format="FLAC")
    return file.getvalue()


def table(datasets, count=40, **changed):
    rows = {
        "audio": [{"bytes": encoded(n), "path": f"{n}.flac"} for n in range(count)],
        "text": [f"Word {n}." for n in range(count)],
        "kind": [n % 2 for n in range(count)],
        **changed,
    }
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    kind = datasets.ClassLabel(names=["even", "odd"])
    features = datasets.Features(audio=stored, text=datasets.Value("string"), kind=kind)
    made = datasets.Dataset.from_dict(rows, features=features)
    return made.cast_column("audio", datasets.Audio(sampling_rate=16000))  # encoding would take torchcodec


def hub(path, **options):
    return build("data", {"name": "hf", "dataset": str(path), "audio_column": "audio", **options})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("text", [None, "text"])
def test_a_saved_audio_column_is_read_without_its_decoders(datasets, tmp_path, streaming, text):
    table(datasets).save_to_disk(str(tmp_path / "saved"))
    made = hub(tmp_path / "saved", text_column=text, label_column="kind", streaming=streaming)
    made.verify()
    assert made.spec.keys == {"id", "audio", "label", *(["target_text"] if text else [])}
    assert (made.spec.rate, made.spec.labels) == (16000, ("even", "odd"))
    samples = [sample for split in SPLITS for sample in made.samples(split)]
    assert sorted(sample["id"] for sample in samples) == sorted(f"train:{n}" for n in range(40))
    for sample in samples:
        number = int(sample["id"].partition(":")[2])
        assert torch.equal(sample["audio"].waveform, read_audio(encoded(number)).waveform)
        assert sample["audio"].rate == 8000, "as it is stored"
        assert sample["label"] == number % 2
        assert sample.get("target_text") == (f"Word {number}." if text else None)
    sent = pickle.loads(pickle.dumps(made.samples("test")))
    assert [sample["id"] for sample in sent] == [sample["id"] for sample in made.samples("test")]


def test_an_audiofolder_is_a_dataset(datasets, tmp_path):
    for number in range(24):
        clip(tmp_path / "data" / ("snap" if number % 3 else "clap") / f"{number}.wav", number)
    made = hub(tmp_path / "data", text_column=None, label_column="label")
    made.verify()
    assert made.spec.labels == ("clap", "snap")
    samples = [sample for split in SPLITS for sample in made.samples(split)]
    assert sum(sample["label"] == 0 for sample in samples) == 8
    own = {read_audio(path).waveform.numpy().tobytes() for path in (tmp_path / "data").rglob("*.wav")}
    assert {sample["audio"].waveform.numpy().tobytes() for sample in samples} == own
    assert made.fingerprint() != hub(tmp_path / "data", text_column=None).fingerprint()
    streamed = hub(tmp_path / "data", text_column=None, label_column="label", streaming=True)
    assert {s["audio"].waveform.numpy().tobytes() for split in SPLITS for s in streamed.samples(split)} == own


def test_an_audiofolder_may_say_what_is_said(datasets, tmp_path):
    said = [{"file_name": f"{number}.wav", "transcription": f"Word {number}."} for number in range(24)]
    for number, row in enumerate(said):
        clip(tmp_path / "data" / row["file_name"], number)
    write(tmp_path / "data" / "metadata.jsonl", said, kind="audio_jsonl")
    made = hub(tmp_path / "data", text_column="transcription")
    found = {s["target_text"]: s["audio"].waveform for s in everything(made)}
    assert len(found) == 24
    for row in said:
        assert torch.equal(found[row["transcription"]], read_audio(tmp_path / "data" / row["file_name"]).waveform)


def test_rows_of_one_recording_of_a_dataset_stand_in_one_split(datasets, tmp_path):
    repeated = [{"bytes": encoded(n % 10), "path": f"{n}.flac"} for n in range(40)]
    table(datasets, audio=repeated).save_to_disk(str(tmp_path / "saved"))
    made = hub(tmp_path / "saved", text_column=None, val_fraction=0.2, test_fraction=0.2)
    held = [{int(sample["id"][6:]) % 10 for sample in made.samples(split)} for split in SPLITS]
    assert all(held)
    assert sum(map(len, held)) == 10


def test_audio_of_a_dataset_that_cannot_be_used_is_named(datasets, tmp_path):
    audio = [{"bytes": encoded(n), "path": None} for n in range(40)]
    audio[3], audio[5], audio[7] = {"bytes": b"text", "path": None}, {"bytes": b"fLaC", "path": "cut.flac"}, None
    table(datasets, audio=audio).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(
        UserError, match=r"audio of train that can't be used \(2\)\.\n  train:3: not audio.*\n  train:5"
    ):
        hub(tmp_path / "saved", text_column=None).verify()
    table(datasets).save_to_disk(str(tmp_path / "good"))
    for options, message in [
        (
            {"audio_column": None, "text_column": None},
            r"data\.text_column=null: name a column of text, or one of audio",
        ),
        ({"text_column": "txt"}, r"no such column; data\.text_column=null does without\. Did you mean text\?"),
        ({"audio_column": "kind", "text_column": None}, r"data\.audio_column=kind: expected audio.*found a int"),
        ({"audio_column": "text", "text_column": None}, r"audio of train that can't be used \(40\)\.\n.*no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            hub(tmp_path / "good", **options).verify()
