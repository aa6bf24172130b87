"""Sources of text: what they read, what they refuse, and that nothing leaks from one split into another."""

import csv
import importlib
import inspect
import json
import pickle
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from tests.helpers import ROOT

from plugformer.data.drawing import as_split, sorted_labels
from plugformer.data.loaders import indexable
from plugformer.data.splits import SPLITS, split_by_group
from plugformer.errors import UserError
from plugformer.registry import build, find
from plugformer_text.paragraphs import paragraphs
from plugformer_text.standard_library import source_files

sys.path.append(str(ROOT / "benchmarks"))
import ngram

SHARES = {"val_fraction": 0.1, "test_fraction": 0.2}


def source(name, **options):
    return build("data", {"name": name, **options})


def texts(made, split):
    return [sample["text"] for sample in made.samples(split)]


def ids(made, split):
    return [sample["id"] for sample in made.samples(split)]


def words(text):
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------- splitting by group


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_divided_and_sizes_come_near_the_shares(seed):
    groups = [number for number in range(200) for _ in range(1 + number % 7)]
    splits = split_by_group(groups, **SHARES, seed=seed)
    assert sorted(index for part in splits.values() for index in part) == list(range(len(groups)))
    held = {split: {groups[index] for index in part} for split, part in splits.items()}
    assert not (held["train"] & held["val"] or held["train"] & held["test"] or held["val"] & held["test"])
    for split, share in (("val", 0.1), ("test", 0.2)):
        assert abs(len(splits[split]) - share * len(groups)) <= 7
    assert splits == split_by_group(groups, **SHARES, seed=seed)
    assert splits != split_by_group(groups, **SHARES, seed=seed + 1)


def test_shares_are_of_whatever_is_counted():
    sizes = [1] * 80 + [10] * 10
    splits = split_by_group(range(90), **SHARES, seed=0, sizes=sizes)
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert sum(sizes[index] for index in splits[split]) == pytest.approx(share * 180, abs=2)


def test_large_groups_are_held_out_too_but_not_those_that_are_larger_than_a_split():
    sizes = [50] * 4 + [1] * 800
    held_out = Counter(
        split
        for seed in range(60)
        for split, part in split_by_group(range(804), **SHARES, seed=seed, sizes=sizes).items()
        for index in part
        if index < 4
    )
    assert held_out["test"] / 240 == pytest.approx(0.2, abs=0.08)
    assert 5 < held_out["val"] < held_out["test"]
    for seed in range(20):
        assert 0 in split_by_group(range(101), **SHARES, seed=seed, sizes=[100] + [1] * 100)["train"]


def test_a_split_with_a_share_gets_a_group_while_there_are_enough():
    for seed in range(20):
        assert all(split_by_group("abc", val_fraction=0.01, test_fraction=0.01, seed=seed).values())
    splits = split_by_group("aabbcc", val_fraction=0.0, test_fraction=0.5, seed=0)
    assert splits["val"] == []
    assert split_by_group("ab", val_fraction=0.0, test_fraction=0.0, seed=0)["train"] == [0, 1]


def test_fewer_groups_than_splits_are_refused():
    with pytest.raises(UserError, match=r"4 samples in 2 groups can't be split into train, val, test.*never divided"):
        split_by_group("aabb", **SHARES, seed=0)
    with pytest.raises(UserError, match=r"data.val_fraction=1.5: must be at least 0 and less than 1"):
        split_by_group("abcd", val_fraction=1.5, test_fraction=0.1, seed=0)


# ---------------------------------------------------------------------------------------------- text files


@pytest.fixture
def corpus(tmp_path):
    for number in range(20):
        path = tmp_path / f"part{number % 2}" / f"{number:02}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"Licence of all.\n\nOnly {number}.\nStill.\n\n\nAnd {number} more.\n", encoding="utf-8")
    return tmp_path


def test_paragraphs_keep_the_line_they_stand_in():
    found = list(paragraphs("\n one\ntwo \n \t\n\nthree\n"))
    assert found == [(2, " one\ntwo "), (6, "three")]
    assert found[0].key == "one two"
    assert list(paragraphs(" \n\n")) == []


def test_repeated_paragraphs_are_kept_once(corpus):
    kept = [text for split in SPLITS for text in texts(source("text_files", paths=[f"{corpus}/**/*.txt"]), split)]
    assert len(kept) == 20
    assert sum("Licence of all." in text for text in kept) == 1
    assert sorted(kept)[-1] == "Only 9.\nStill.\n\nAnd 9 more."
    plain = source("text_files", paths=[f"{corpus}/**/*.txt"], deduplicate=False)
    originals = {path.read_text(encoding="utf-8") for path in corpus.rglob("*.txt")}
    assert {text for split in SPLITS for text in texts(plain, split)} == originals


def test_a_paragraph_is_a_sample_if_asked_and_says_where_it_stands(corpus):
    made = source("text_files", paths=[f"{corpus}/part?/*.txt"], document="paragraph", val_fraction=0.2)
    samples = {sample["id"]: sample for split in SPLITS for sample in made.samples(split)}
    assert len(samples) == 41
    assert samples["part0/04.txt:3"]["text"] == "Only 4.\nStill."
    assert samples["part0/04.txt:7"]["group"] == "part0/04.txt"
    by_paragraph = source("text_files", paths=[f"{corpus}/**/*.txt"], document="paragraph", split_by="paragraph")
    of_file = {split: {name.partition(":")[0] for name in ids(by_paragraph, split)} for split in SPLITS}
    assert of_file["train"] & of_file["val"], "files are divided"


@pytest.mark.parametrize("split_by", ["file", "paragraph"])
def test_what_is_equal_stands_in_one_split_even_if_it_is_kept(tmp_path, split_by):
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"Text {number % 5}.\n", encoding="utf-8")
    options = {"document": "paragraph", "split_by": split_by, "deduplicate": False}
    for seed in range(3):
        made = source("text_files", paths=[f"{tmp_path}/*"], split_seed=seed, **options)
        found = [set(texts(made, split)) for split in SPLITS]
        assert [len(part) for part in found] == [3, 1, 1]
        assert len(set.union(*found)) == 5


def test_given_files_are_their_split(corpus):
    given = {"val_paths": [f"{corpus}/part0/0*.txt"], "test_paths": [f"{corpus}/part1/*.txt"]}
    made = source("text_files", paths=[f"{corpus}/**/*.txt"], **given)
    assert ids(made, "train") == [f"part0/{number}.txt" for number in (10, 12, 14, 16, 18)]
    assert ids(made, "val") == [f"part0/0{number}.txt" for number in (0, 2, 4, 6, 8)]
    assert len(ids(made, "test")) == 10
    assert "Licence" in texts(made, "train")[0]
    assert not [text for text in texts(made, "val") + texts(made, "test") if "Licence" in text]
    drawn = source("text_files", paths=[f"{corpus}/**/*.txt"], test_paths=given["test_paths"], val_fraction=0.3)
    assert ids(drawn, "test") == ids(made, "test")
    assert len(ids(drawn, "val")) == 3
    with pytest.raises(UserError, match=r"in data.val_paths and in data.test_paths \(1\)\.\n  .*part1/01.txt\n"):
        source(
            "text_files", paths=[f"{corpus}/**/*"], val_paths=[f"{corpus}/*/01.txt"], test_paths=given["test_paths"]
        ).verify()
    with pytest.raises(UserError, match=r"data.paths: nothing is left to train on"):
        source("text_files", paths=given["val_paths"], val_paths=given["val_paths"]).verify()


def test_the_fingerprint_is_of_contents_and_options_not_of_the_place(corpus, tmp_path_factory):
    first = source("text_files", paths=[f"{corpus}/**/*.txt"]).fingerprint()
    assert source("text_files", paths=[f"{corpus}/**/*.txt"], split_seed=1).fingerprint() != first
    other = tmp_path_factory.mktemp("elsewhere")
    for path in corpus.rglob("*.txt"):
        (other / path.parent.name).mkdir(exist_ok=True)
        (other / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert source("text_files", paths=[f"{other}/**/*.txt"]).fingerprint() == first
    (other / "part0" / "04.txt").write_text("Another.", encoding="utf-8")
    assert source("text_files", paths=[f"{other}/**/*.txt"]).fingerprint() != first


def test_all_bad_files_are_named_before_training(tmp_path):
    (tmp_path / "good.txt").write_bytes("\ufeffGut,\r\nja.".encode())
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9!")
    with pytest.raises(UserError) as caught:
        source("text_files", paths=[f"{tmp_path}/*.txt"]).verify()
    message = str(caught.value)
    assert "data=text_files: files that can't be used (3).\n" in message
    assert f"{tmp_path}/empty.txt: is empty." in message
    assert f"{tmp_path}/blank.txt: is empty." in message
    assert f"{tmp_path}/latin.txt: not UTF-8; byte 3 is 0xe9" in message
    made = source("text_files", paths=[f"{tmp_path}/good.txt"], val_fraction=0.0, test_fraction=0.0)
    assert texts(made, "train") == ["Gut,\nja."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": ["{}/*.md", "{}/x"]}, r"data.paths: no file matches \(2\).\n  .*/\*.md\n  .*/x\n  Looked from /"),
        ({"paths": ["{}/part0"]}, r"/part0: is a folder; did you mean .*/part0/\*\*/\*.txt\?"),
        ({"paths": ["{}/*/*"], "val_paths": ["{}/no"]}, r"data.val_paths: no file matches \(1\)"),
        ({"paths": []}, r"data.paths=\[\]: name at least one file"),
        ({"paths": ["{}/*/*"], "split_by": "paragraph"}, r"split_by=paragraph divides files: set data.document=par"),
        ({"paths": ["{}/*/*"], "val_fraction": 1.0}, r"data.val_fraction=1.0: must be at least 0 and less than 1"),
        ({"paths": ["{}/*/00.txt"]}, r"1 sample in 1 group can't be split into train, val, test"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused(corpus, options, message):
    filled = {
        name: [pattern.format(corpus) for pattern in value] if isinstance(value, list) else value
        for name, value in options.items()
    }
    with pytest.raises(UserError, match=message):
        source("text_files", **filled).verify()


def test_files_with_nothing_of_their_own_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("Same.", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"data.val_paths: each of its paragraphs stands in another file.\n.*deduplicate=f"
    ):
        source("text_files", paths=[f"{tmp_path}/a"], val_paths=[f"{tmp_path}/b"], test_fraction=0.0).verify()


# ---------------------------------------------------------------------------------------------- Python's own


def test_no_paragraph_of_the_documentation_stands_twice():
    made = source("python_docs")
    seen = [paragraph.key for split in SPLITS for text in texts(made, split) for paragraph in paragraphs(text)]
    assert len(seen) == len(set(seen))
    assert set(seen) == {paragraph.key for text in topics.values() for paragraph in paragraphs(text)}, "none is lost"
    sizes = [sum(map(len, texts(made, split))) for split in SPLITS]
    assert [size / sum(sizes) for size in sizes] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_both_documents_of_the_documentation_share_a_split():
    whole, parts = source("python_docs"), source("python_docs", document="paragraph")
    for split in SPLITS:
        assert {s["group"] for s in whole.samples(split)} == {s["group"] for s in parts.samples(split)}
        assert "\n\n".join(texts(whole, split)) == "\n\n".join(texts(parts, split))
    assert whole.fingerprint() != parts.fingerprint()


def test_slices_of_the_library_hold_one_another():
    slices = [source("python_source", max_bytes=size) for size in (200_000, 1_000_000, None)]
    for split in SPLITS:
        small, large, whole = (ids(made, split) for made in slices)
        assert set(small) < set(large) < set(whole)
    sizes = [sum(len(text.encode()) for text in texts(slices[1], split)) for split in SPLITS]
    assert sum(sizes) == pytest.approx(1_000_000, rel=0.15)
    assert ids(source("python_source"), "test") == ids(slices[2], "test")
    assert ids(source("python_source", split_seed=1), "test") != ids(slices[2], "test")
    with pytest.raises(UserError, match=r"data.max_bytes=0: must be at least 1"):
        source("python_source", max_bytes=0)


def test_the_library_is_without_tests_tables_and_what_was_installed():
    names = list(source_files())
    assert {"argparse.py", "json/decoder.py", "asyncio/events.py"} <= set(names)
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"test", "tests", "site-packages", "encodings", "topics.py"}
    assert not [name for name in names if name.startswith(("_sysconfigdata", "config-"))]


def test_packages_of_the_library_are_not_divided_if_asked():
    made = source("python_source", group="package")
    held = [{name.partition("/")[0] for name in ids(made, split)} for split in SPLITS]
    assert len(set.union(*held)) == sum(map(len, held))
    files = source("python_source")
    held = [{name.partition("/")[0] for name in ids(files, split)} for split in SPLITS]
    assert len(set.union(*held)) < sum(map(len, held))


def test_the_librarys_fingerprint_is_of_its_contents(monkeypatch, tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.py").write_text(f"a = {number}\n", encoding="utf-8")
    files = {path.name: path for path in sorted(tmp_path.iterdir())}
    monkeypatch.setattr("plugformer_text.python_source.source_files", lambda: files)
    monkeypatch.setattr("plugformer_text.standard_library.source_files", lambda: files)
    before = source("python_source").fingerprint()
    assert source("python_source").fingerprint() == before
    files["4.py"].write_text("b = 4\n", encoding="utf-8")
    assert source("python_source").fingerprint() != before


@pytest.fixture(scope="module")
def docstrings():
    return source("docstrings")


def test_docstrings_are_those_that_python_sees(docstrings):
    labels = docstrings.spec.labels
    assert {"asyncio", "email"} <= set(labels)
    assert list(labels) == sorted(labels)
    everything = [sample for split in SPLITS for sample in docstrings.samples(split)]
    assert len({words(sample["text"]) for sample in everything}) == len(everything)
    for sample in everything:
        assert sample["group"].split("/")[0] == labels[sample["label"]]
    by_id = {sample["id"]: sample["text"] for sample in everything}
    name = "json.decoder" if "json" in labels else "asyncio.events"
    module = importlib.import_module(name)
    written = {
        inspect.cleandoc(each.__doc__) for each in vars(module).values() if inspect.isclass(each) and each.__doc__
    }
    first_lines = Path(module.__file__).read_text(encoding="utf-8").splitlines()
    found = {key: text for key, text in by_id.items() if key.startswith(name.replace(".", "/")) and text in written}
    assert len(found) > 3
    for key, text in found.items():
        assert text.splitlines()[0] in first_lines[int(key.rpartition(":")[2]) - 1]


def test_every_package_is_in_every_split_and_no_file_in_two(docstrings):
    files = Counter()
    for split in SPLITS:
        samples = docstrings.samples(split)
        assert {sample["label"] for sample in samples} == set(range(len(docstrings.spec.labels)))
        files.update({sample["group"] for sample in samples})
    assert set(files.values()) == {1}
    counts = Counter(s["label"] for split in SPLITS for s in docstrings.samples(split))
    assert min(counts.values()) >= 50


def test_rare_packages_are_left_out():
    made = source("docstrings", min_per_class=300)
    assert 2 <= len(made.spec.labels) < 8
    with pytest.raises(
        UserError, match=r"data.min_per_class=9999: leaves 0 packages.*\n  The most docstrings: [a-z]+ \d+"
    ):
        source("docstrings", min_per_class=9999).verify()


# ---------------------------------------------------------------------------------------------- tables

ROWS = [{"text": f'Review {n}, "said"\nhe.', "stars": n % 3, "author": f"a{n % 12}"} for n in range(60)]
TABLES = {"csv": "csv", "jsonl": "jsonl", "parquet": "parquet"}


def write(kind, path, rows):
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return {"paths": [str(path)]}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_are_read_alike(tmp_path, kind):
    made = source(kind, **write(kind, tmp_path / "t", ROWS), label_column="stars", group_column="author", **SHARES)
    samples = [sample for split in SPLITS for sample in made.samples(split)]
    assert made.spec.labels == ("0", "1", "2")
    assert made.spec.keys == {"id", "text", "label", "group"}
    assert sorted(sample["text"] for sample in samples) == sorted(row["text"] for row in ROWS)
    for sample in samples:
        number = int(sample["text"].split(",")[0].split()[1])
        line = {"csv": 2 + 2 * number, "jsonl": 1 + number, "parquet": 1 + number}[kind]
        assert sample["id"] == f"t:{line}"
        assert (sample["label"], sample["group"]) == (number % 3, f"a{number % 12}")
    held = [{sample["group"] for sample in made.samples(split)} for split in SPLITS]
    assert [len(part) for part in held] == [9, 1, 2]
    assert len(set.union(*held)) == 12


def test_rows_of_one_text_stand_in_one_split_and_labels_keep_their_shares(tmp_path):
    rows = [{"text": f"Text  {n % 50}" if n % 2 else f"Text {n % 50}", "label": "ab"[n % 50 < 20]} for n in range(200)]
    made = source("jsonl", **write("jsonl", tmp_path / "t", rows), label_column="label", **SHARES)
    held = [{words(text) for text in texts(made, split)} for split in SPLITS]
    assert len(set.union(*held)) == sum(map(len, held)) == 50
    for split, count in (("val", 5), ("test", 10)):
        labels = Counter(sample["label"] for sample in made.samples(split))
        assert labels == {0: count * 4 * 0.6, 1: count * 4 * 0.4}


def test_a_column_may_give_the_splits(tmp_path):
    rows = [{**row, "part": ["train", "Validation", "test"][number % 3]} for number, row in enumerate(ROWS)]
    made = source("csv", **write("csv", tmp_path / "t", rows), split_column="part")
    assert [len(ids(made, split)) for split in SPLITS] == [20, 20, 20]
    for row in rows:
        row["part"] = row["part"].replace("Validation", "train")
    drawn = source("csv", **write("csv", tmp_path / "t", rows), split_column="part", val_fraction=0.25)
    assert ids(drawn, "test") == ids(made, "test")
    assert [len(ids(drawn, split)) for split in SPLITS] == [30, 10, 20]
    for row in rows:
        row["part"] = "test"
    with pytest.raises(UserError, match=r"data.split_column=part: says `train` of no row"):
        source("csv", **write("csv", tmp_path / "t", rows), split_column="part").verify()
    rows[1]["part"] = "tset"
    with pytest.raises(UserError, match=r"/t:4: 'tset' is no split. Did you mean test\?"):
        source("csv", **write("csv", tmp_path / "t", rows), split_column="part").verify()


@pytest.mark.parametrize("kind", TABLES)
def test_a_missing_column_is_named_with_the_nearest(tmp_path, kind):
    made = source(kind, **write(kind, tmp_path / "t", ROWS), text_column="txet")
    with pytest.raises(
        UserError, match=r"data.text_column=txet: .*/t has no such column. Did you mean text\?\n  Its col"
    ):
        made.verify()
    made = source(kind, **write(kind, tmp_path / "t", ROWS), label_column="star")
    with pytest.raises(UserError, match=r"data.label_column=star: .* Did you mean stars\?"):
        _ = made.spec


BAD_CSV = """text,label
fine,a
"two
lines",b,c
,a
x,
"open"""
BAD_JSONL = """{"text": "fine", "label": "a"}
{"text"

[1]
{"text": 5, "label": "a"}
{"label": "a"}
{"text": "x", "label": 0.5}"""
BAD = {
    "csv": (
        BAD_CSV,
        [
            "3: has 3 columns, the first line has 2.",
            "5: text is empty.",
            "6: label is empty.",
            "7: not CSV (unexpected end of data).",
        ],
    ),
    "jsonl": (
        BAD_JSONL,
        [
            "2: not JSON (",
            "4: not a JSON object.",
            "5: text is a int, not text.",
            "6: text is empty.",
            "7: label is a float, not text.",
        ],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_every_bad_row_is_named_by_its_line(tmp_path, kind):
    content, expected = BAD[kind]
    (tmp_path / "t").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        source(kind, paths=[f"{tmp_path}/t"], label_column="label").verify()
    message = str(caught.value)
    assert f"data={kind}: what can't be used ({len(expected)})." in message
    for problem in expected:
        assert f"{tmp_path}/t:{problem}" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\ncaf\xe9", r"t: not UTF-8; byte 8 is 0xe9"),
        (b"text\n", r"no rows"),
        (b"text,text\na,b", r"names a column twice: text, text"),
        (b" ", r"t: is empty"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, content, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError, match=message):
        source("csv", paths=[f"{tmp_path}/t"]).verify()


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "few").write_bytes(b"text,label\na,x")
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match=r"few: not a Parquet file that can be read"):
        source("parquet", paths=[f"{tmp_path}/few"]).verify()
    with pytest.raises(UserError, match=r"data.delimiter=::: must be one character, or \\t for a tab"):
        source("csv", paths=["x"], delimiter="::")


def test_tabs_and_long_documents(tmp_path):
    long = "word " * 100_000
    (tmp_path / "t.tsv").write_text("id\ttext\n" + "".join(f"{n}\t{n} {long}\n" for n in range(3)), encoding="utf-8")
    limit = csv.field_size_limit()
    made = source("csv", paths=[f"{tmp_path}/*.tsv"], delimiter="\\t")
    assert {len(text) for split in SPLITS for text in texts(made, split)} == {len(long) + 2}
    assert csv.field_size_limit() == limit


def test_a_class_that_is_never_trained_is_refused(tmp_path):
    rows = [
        {"text": f"{n}", "label": "ab"[n == 0], "part": ["train", "val", "test"][n % 3 if n else 2]} for n in range(9)
    ]
    made = source("jsonl", **write("jsonl", tmp_path / "t", rows), label_column="label", split_column="part")
    with pytest.raises(
        UserError, match=r"data.label_column=label: train has no row labelled b, so it can't be learned"
    ):
        made.verify()


def test_labels_are_sorted_as_numbers_if_they_are():
    assert sorted_labels({"10", "9", "-1"}) == ("-1", "9", "10")
    assert sorted_labels({"10", "9", "x"}) == ("10", "9", "x")
    assert [as_split(word) for word in ("train", " DEV", "validation", "test")] == ["train", "val", "val", "test"]


@pytest.mark.parametrize(("name", "package", "extra"), [("parquet", "pyarrow", "parquet"), ("hf", "datasets", "hf")])
def test_a_missing_optional_package_is_named_with_its_remedy(tmp_path, monkeypatch, name, package, extra):
    (tmp_path / "t").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    options = {"paths": [f"{tmp_path}/t"]} if name == "parquet" else {"dataset": "x"}
    with pytest.raises(UserError, match=rf"data={name} needs .*{package}: pip install 'plugformer\[{extra}\]'"):
        source(name, **options).verify()


def test_optional_packages_are_not_imported_until_they_are_used():
    before = {name for name in ("datasets", "pyarrow") if name in sys.modules}
    for name in ("parquet", "hf", "csv"):
        find("data", name).load()
    assert {name for name in ("datasets", "pyarrow") if name in sys.modules} == before


# ---------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    return package


def table(datasets, count, *, start=0):
    rows = {
        "text": ["" if n % 20 == 19 else f"text{' ' * (1 + n // 50)}{n % 50}" for n in range(start, start + count)],
        "kind": [n % 2 for n in range(count)],
        "author": [n % 10 for n in range(count)],
    }
    features = datasets.Features(
        text=datasets.Value("string"), kind=datasets.ClassLabel(names=["even", "odd"]), author=datasets.Value("int64")
    )
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_saved_dataset_keeps_its_splits(datasets, tmp_path, streaming):
    splits = {"train": table(datasets, 60), "validation": table(datasets, 10, start=60), "test": table(datasets, 6)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    made = source("hf", dataset=str(tmp_path / "saved"), label_column="kind", streaming=streaming)
    made.verify()
    assert made.spec.labels == ("even", "odd")
    assert [len(list(made.samples(split))) for split in SPLITS] == [57, 10, 6], "rows without text are left out"
    assert list(made.samples("val"))[1] == {"id": "val:1", "text": "text  11", "label": 1}
    assert list(made.samples("train")) == list(made.samples("train"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("group", [None, "author"])
def test_splits_of_a_dataset_are_drawn_by_group(datasets, tmp_path, streaming, group):
    table(datasets, 400).save_to_disk(str(tmp_path / "saved"))
    options = {"dataset": str(tmp_path / "saved"), "streaming": streaming, "group_column": group}
    made = source("hf", **options, val_fraction=0.2, test_fraction=0.2)
    held = {split: list(made.samples(split)) for split in SPLITS}
    assert sum(map(len, held.values())) == 380
    if group:
        assert all(s["group"] == str(int(s["text"].split()[1]) % 10) for part in held.values() for s in part)
    keys = [{sample["group"] if group else words(sample["text"]) for sample in held[split]} for split in SPLITS]
    assert all(keys)
    assert len(set.union(*keys)) == sum(map(len, keys))
    assert len({sample["id"] for part in held.values() for sample in part}) == 380
    again = source("hf", **options, val_fraction=0.2, test_fraction=0.2)
    assert list(again.samples("val")) == held["val"]
    assert again.fingerprint() == made.fingerprint()
    assert source("hf", **options, split_seed=1).fingerprint() != made.fingerprint()
    sent = pickle.loads(pickle.dumps(made.samples("test")))
    assert list(sent) == held["test"]


def test_the_first_rows_of_a_stream_can_be_trained_on(datasets, tmp_path):
    table(datasets, 400).save_to_disk(str(tmp_path / "saved"))
    options = {"dataset": str(tmp_path / "saved"), "streaming": True}
    stream, taken = source("hf", **options), source("hf", **options, take=20)
    for split in SPLITS:
        assert indexable(taken.samples(split), "hf") == list(islice(stream.samples(split), 20))
    assert taken.fingerprint() != source("hf", **options, take=21).fingerprint()
    with pytest.raises(UserError, match=r"data=hf: streams its samples; .*\n  `plugformer plugins data hf` lists"):
        indexable(stream.samples("train"), "hf")
    with pytest.raises(UserError, match=r"data\.take=5: .* goes with data\.streaming=true"):
        source("hf", dataset=str(tmp_path / "saved"), take=5)


def test_a_folder_of_data_files_is_a_dataset(datasets, tmp_path):
    (tmp_path / "data").mkdir()
    write("jsonl", tmp_path / "data" / "train.jsonl", [{"text": f"t{n}", "stars": n % 11} for n in range(110)])
    write("jsonl", tmp_path / "data" / "test.jsonl", [{"text": f"u{n}", "stars": n % 11} for n in range(11)])
    made = source("hf", dataset=str(tmp_path / "data"), label_column="stars")
    assert made.spec.labels == tuple(map(str, range(11)))
    assert [len(made.samples(split)) for split in SPLITS] == [99, 11, 11]
    drawn = source("hf", dataset=str(tmp_path / "data"), test_split="draw")
    assert [len(drawn.samples(split)) for split in SPLITS] == [88, 11, 11]
    assert all(name.startswith("train:") for name in ids(drawn, "test"))
    streamed = source("hf", dataset=str(tmp_path / "data"), streaming=True)
    assert next(islice(streamed.samples("test"), 3, None)) == {"id": "test:3", "text": "u3"}
    with pytest.raises(UserError, match=r"label_column=stars: is no ClassLabel, so a stream's classes aren't known.\n"):
        source("hf", dataset=str(tmp_path / "data"), label_column="stars", streaming=True).verify()


def test_datasets_that_cannot_be_used_are_refused(datasets, tmp_path):
    splits = {"train": table(datasets, 60), "test": table(datasets, 6)}
    splits["unlabelled"] = splits["test"].map(lambda row: {"kind": -1})
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    for options, message in [
        ({"text_column": "txt"}, r"data.text_column=txt: .*saved has no such column. Did you mean text\?"),
        ({"train_split": "trian"}, r"data.train_split=trian: .*saved has no such split. Did you mean train\?"),
        ({"val_split": "test"}, r"data.test_split=test: stands for another split already"),
        ({"test_split": "unlabelled", "label_column": "kind"}, r"rows without a label \(1\).\n  test: 6 of 6\n.*=draw"),
    ]:
        with pytest.raises(UserError, match=message):
            source("hf", dataset=str(tmp_path / "saved"), **options).verify()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(
        UserError, match=r"data.dataset=.*nothing: can't be loaded. \w+: (.|\n)*Give a folder, or the name"
    ):
        source("hf", dataset=str(tmp_path / "nothing")).verify()


# ---------------------------------------------------------------------------------------------- the n-gram baseline


def plain_log2(train, held_out, order):
    """Witten-Bell as its formula says, a character at a time."""
    counts = Counter()
    for text in train:
        for end in range(len(text)):
            padded = ["^"] * (order - 1) + list(text[: end + 1])
            counts.update(tuple(padded[-length:]) for length in range(1, order + 1))
    followers = {}
    for gram, count in counts.items():
        followers.setdefault(gram[:-1], Counter())[gram[-1]] = count

    def probability(context, character):
        shorter = 1 / 0x110000 if not context else None
        lower = shorter or probability(context[1:], character)
        seen = followers.get(context)
        return (seen[character] + len(seen) * lower) / (seen.total() + len(seen)) if seen else lower

    found = []
    for text in held_out:
        padded = ["^"] * (order - 1) + list(text)
        for end in range(len(text)):
            context = tuple(padded[end : end + order - 1])
            found.append(np.log2(probability(context, text[end])))
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_the_ngram_model_is_witten_bells(order):
    train = ["abracadabra", "a", "barbara añb"]
    held_out = ["abba cad", "xañ", "a"]
    sides = [ngram.characters([{"text": text} for text in part], order) for part in (train, held_out)]
    np.testing.assert_allclose(ngram.log2_probabilities(*sides, order=order), plain_log2(train, held_out, order))
