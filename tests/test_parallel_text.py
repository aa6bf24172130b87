"""Pairs of texts: that they stay together, what is refused, and that no source stands in two splits."""

import ast
import csv
import json
import pickle
import unicodedata
from functools import cache
from itertools import islice, product

import pytest
import soundfile

from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer.testing.comparing import noise
from plugformer_text import code_docstrings
from plugformer_text.code_docstrings import described, first_sentence
from plugformer_text.standard_library import read_source, source_files

ENGLISH = [f"{'Sentence' if n % 3 else 'sentence'}{' ' * (1 + n // 40)}{n % 40}." for n in range(100)]
KOREAN = [f"{n}번째 문장." for n in range(100)]


def source(name, **options):
    return build("data", {"name": name, **options})


def everything(made):
    return [sample for split in SPLITS for sample in made.samples(split)]


def pairs(made):
    return sorted((sample["text"], sample["target_text"]) for sample in everything(made))


def keys(made):
    """What stands in each split, sources that differ in white space or capitals taken as one."""
    return [{" ".join(sample["text"].lower().split()) for sample in made.samples(split)} for split in SPLITS]


def write(path, lines, *, end="\n", bom=False, last=True):
    text = end.join(lines) + (end if last else "")
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    return str(path)


def aligned(folder, english=ENGLISH, korean=KOREAN, **options):
    files = {"source": [write(folder / "c.en", english)], "target": [write(folder / "c.ko", korean)]}
    return source("parallel_text", **files, **options)


def table(kind, path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            written = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            written.writeheader()
            written.writerows(rows)
    return [str(path)]


ROWS = [{"source": ENGLISH[n], "target": KOREAN[n], "by": f"b{n % 20}"} for n in range(100)]


# ---------------------------------------------------------------------------------------------- aligned files


@pytest.mark.parametrize("last", [True, False], ids=["ended", "unended"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("bom", [True, False], ids=["bom", "plain"])
def test_line_n_goes_with_line_n(tmp_path, end, bom, last):
    strange = ["a\rb", "c\u2028d\x0b\x85", *ENGLISH]  # what other tools don't end a line at either
    write(tmp_path / "c.en", strange, end=end, bom=bom, last=last)
    write(tmp_path / "c.ko", ["가", "나", *KOREAN])
    made = source("parallel_text", source=[f"{tmp_path}/c.en"], target=[f"{tmp_path}/c.ko"])
    assert made.spec.keys == {"id", "text", "target_text", "group"}
    found = {sample["id"]: (sample["text"], sample["target_text"]) for sample in everything(made)}
    both = zip(strange, ["가", "나", *KOREAN], strict=True)
    assert found == {f"c.en:{line}": pair for line, pair in enumerate(both, 1)}


def test_several_files_go_together_in_their_order(tmp_path):
    for name, other, part in [("b", "1", slice(0, 50)), ("a", "2", slice(50, 100))]:
        write(tmp_path / f"{name}.en", ENGLISH[part])
        write(tmp_path / f"{other}.ko", KOREAN[part])
    made = source(
        "parallel_text",
        source=[f"{tmp_path}/b.en", f"{tmp_path}/a.en"],
        target=[f"{tmp_path}/1.ko", f"{tmp_path}/2.ko"],
    )
    assert pairs(made) == sorted(zip(ENGLISH, KOREAN, strict=True))
    assert {sample["id"].partition(":")[0] for sample in everything(made)} == {"a.en", "b.en"}


def test_equal_sources_never_stand_in_two_splits(tmp_path):
    for seed in range(5):
        made = aligned(tmp_path, split_seed=seed, val_fraction=0.2, test_fraction=0.2)
        held = keys(made)
        assert all(held)
        assert len(set.union(*held)) == sum(map(len, held)) == 40
        groups = [{sample["group"] for sample in made.samples(split)} for split in SPLITS]
        assert [len(part) for part in groups] == [len(part) for part in held]
        assert len(everything(made)) == 100


def test_fingerprints_change_if_and_only_if_samples_do(tmp_path):
    known = aligned(tmp_path).fingerprint()
    assert aligned(tmp_path).fingerprint() == known
    (tmp_path / "elsewhere").mkdir()
    assert aligned(tmp_path / "elsewhere").fingerprint() == known
    seen = {known}
    for english, korean, options in [
        (ENGLISH, KOREAN, {"split_seed": 1}),
        (ENGLISH, ["다른", *KOREAN[1:]], {}),
        (["Another.", *ENGLISH[1:]], KOREAN, {}),
        (ENGLISH, [KOREAN[1], KOREAN[0], *KOREAN[2:]], {}),
        (KOREAN, ENGLISH, {}),
    ]:
        seen.add(aligned(tmp_path, english, korean, **options).fingerprint())
    assert len(seen) == 6


def test_given_files_are_their_split(tmp_path):
    given = {}
    for split, part in {"": ENGLISH[:60], "val_": ["New one."], "test_": ["New two.", " Sentence  3. "]}.items():
        given[f"{split}source"] = [write(tmp_path / f"{split}en", part)]
        given[f"{split}target"] = [write(tmp_path / f"{split}ko", KOREAN[: len(part)])]
    made = source("parallel_text", **given)
    with pytest.warns(
        UserWarning, match=rf"sources of test that are in train as well \(1 of 2\)\.\n  {tmp_path}/test_en:2$"
    ):
        made.verify()
    assert [len(made.samples(split)) for split in SPLITS] == [60, 1, 2]
    assert [sample["text"] for sample in made.samples("test")] == ["New two.", " Sentence  3. "]
    drawn = source("parallel_text", **{name: files for name, files in given.items() if "test" not in name})
    assert len(drawn.samples("val")) == 1
    assert {sample["id"].partition(":")[0] for sample in drawn.samples("test")} == {"en"}, "what isn't given is drawn"


def test_a_column_may_give_the_splits(tmp_path):
    rows = [{**row, "split": "dev" if n == 9 else "test" if n > 80 else "train"} for n, row in enumerate(ROWS)]
    made = source("parallel_text", paths=table("tsv", tmp_path / "t.tsv", rows), split_column="split")
    of_val = pytest.warns(UserWarning, match=r"sources of val .* as well \(1 of 1\)\.\n  .*t\.tsv:11$")
    of_test = pytest.warns(UserWarning, match=r"sources of test .* as well \(19 of 19\)\.\n  .*t\.tsv:83\n")
    with of_val, of_test:
        assert [len(made.samples(split)) for split in SPLITS] == [80, 1, 19]


# ---------------------------------------------------------------------------------------------- bad lines and files


def test_files_of_different_lengths_are_refused(tmp_path):
    message = (
        rf"{tmp_path}/c.en has 100 lines, {tmp_path}/c.ko has 99; the first that is alone is {tmp_path}/c.en:100\."
    )
    with pytest.raises(UserError, match=message):
        aligned(tmp_path, korean=KOREAN[:-1]).verify()
    message = rf"c.en has 98 lines, {tmp_path}/c.ko has 100; the first that is alone is {tmp_path}/c.ko:99\."
    with pytest.raises(UserError, match=message):
        aligned(tmp_path, english=ENGLISH[:-2], bad_lines="skip").verify()


def bad_lines(folder, **options):
    """Lines 2, 4 and 5 can't be used."""
    english = ["one", "  ", "three", "four", "", "six", "seven", "eight"]
    korean = ["하나", "둘", "셋", "", "", "여섯", "일곱", "여덟"]
    return aligned(folder, english, korean, val_fraction=0.2, test_fraction=0.2, **options)


def test_every_empty_line_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        bad_lines(tmp_path).verify()
    en, ko = tmp_path / "c.en", tmp_path / "c.ko"
    assert str(error.value) == (
        f"data.source=['{en}']: lines that can't be used (3).\n"
        f"  {en}:2: is empty.\n  {ko}:4: is empty.\n  {en}:5: is empty. {ko}:5: is empty.\n"
        "  Mend them, or leave such pairs out with data.bad_lines=skip."
    )


def test_bad_lines_are_left_out_with_what_goes_with_them_and_told(tmp_path):
    made = bad_lines(tmp_path, bad_lines="skip")
    with pytest.warns(UserWarning, match=r"lines that can't be used \(3\)\.\n(.|\n)*c\.ko:4: is empty(.|\n)*left out"):
        made.verify()
    assert {sample["id"]: sample["target_text"] for sample in everything(made)} == {
        f"c.en:{line}": text for line, text in {1: "하나", 3: "셋", 6: "여섯", 7: "일곱", 8: "여덟"}.items()
    }


def test_lines_that_are_not_utf8_are_named_by_number(tmp_path):
    made = aligned(tmp_path)
    (tmp_path / "c.ko").write_bytes("\n".join(KOREAN[:98]).encode() + b"\nna\xefve\n" + KOREAN[99].encode())
    with pytest.raises(UserError, match=rf"\(1\)\.\n  {tmp_path}/c.ko:99: not UTF-8; byte 2 is 0xef\."):
        made.verify()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"data=parallel_text: set one of data\.source, .*\n.*data\.paths"),
        ({"source": ["c.en"], "target": ["c.ko"], "paths": ["t.csv"]}, r"set only one of data\.source"),
        ({"source": ["c.en"]}, r"data\.source=\['c.en'\]: and what goes with it\? Set data\.target\."),
        ({"source": ["c.en"], "target": ["c.ko"], "test_target": ["x"]}, r"test_target=.*Set data\.test_source\."),
        (
            {"source": ["c.en"], "target": ["c.ko"], "group_column": "by"},
            r"group_column=by: has no effect with data\.s",
        ),
        ({"paths": ["t.csv"], "val_source": ["c.en"]}, r"data\.val_source=.*: has no effect with data\.paths\.\n"),
        ({"source": ["c.en", "c.ko"], "target": ["c.ko"]}, r"data\.source: 2 files, but 1 of data\.target\.\n"),
        ({"source": ["c.en"] * 2, "target": ["c.ko"] * 2}, r"stand there twice \(1\)\.\n  .*/c\.en\n  Name each once"),
        ({"source": ["c.en"], "target": ["none"]}, r"data\.target: no file matches \(1\)\.\n  none"),
        ({"source": ["c.en"], "target": ["empty"]}, r"files that can't be used \(1\)\.\n  .*/empty: is empty\."),
        ({"paths": ["c.en"]}, r"c\.en: not one of \.csv, \.tsv, \.tab, \.jsonl, \.ndjson; data\.delimiter says how"),
        ({"paths": ["t.jsonl"], "delimiter": ";"}, r"t\.jsonl: data\.delimiter has no effect on JSON lines"),
        ({"paths": ["t.csv"], "delimiter": ";;"}, r"data\.delimiter=;;: must be one character"),
        (
            {"paths": ["t.csv"], "source_column": "sorce"},
            r"source_column=sorce: .*no such column\. Did you mean source\?",
        ),
        ({"paths": ["t.csv"], "target_column": "en"}, r"target_column=en: .*t\.csv has no such column"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "c.en", ENGLISH)
    write(tmp_path / "c.ko", KOREAN)
    write(tmp_path / "empty", [" "])
    for kind in ("csv", "jsonl"):
        table(kind, tmp_path / f"t.{kind}", ROWS)
    with pytest.raises(UserError, match=message):
        source("parallel_text", **options).verify()


# ---------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables_and_files_hold_the_same_pairs(tmp_path, kind):
    made = source("parallel_text", paths=table(kind, tmp_path / f"t.{kind}", ROWS))
    assert pairs(made) == pairs(aligned(tmp_path)) == sorted(zip(ENGLISH, KOREAN, strict=True))
    assert len(set.union(*keys(made))) == sum(map(len, keys(made)))
    grouped = source("parallel_text", paths=[f"{tmp_path}/t.{kind}"], group_column="by", source_column="target")
    held = [{sample["group"] for sample in grouped.samples(split)} for split in SPLITS]
    assert len(set.union(*held)) == sum(map(len, held)) == 20
    assert pairs(grouped) == sorted((text, text) for text in KOREAN)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_rows_are_named_or_left_out(tmp_path, kind):
    rows = [dict(row) for row in ROWS]
    rows[3]["target"], rows[7]["source"] = " ", ""
    options = {"paths": table(kind, tmp_path / f"t.{kind}", rows)}
    first = 2 if kind == "csv" else 1
    with pytest.raises(UserError) as error:
        source("parallel_text", **options).verify()
    assert str(error.value) == (
        f"data=parallel_text: what can't be used (2).\n  {tmp_path}/t.{kind}:{first + 3}: target is empty.\n"
        f"  {tmp_path}/t.{kind}:{first + 7}: source is empty.\n"
        "  Mend it, or leave such lines out with data.bad_lines=skip."
    )
    made = source("parallel_text", **options, bad_lines="skip")
    with pytest.warns(UserWarning, match=r"can't be used \(2\)\.\n(.|\n)*:\d: source is empty|left out"):
        made.verify()
    assert pairs(made) == sorted((r["source"], r["target"]) for n, r in enumerate(rows) if n not in (3, 7))


# ---------------------------------------------------------------------------------------------- Hangul

# The Unicode Standard, section 3.12: short names of the letters, in the order of the syllables.
LEADING = ["G", "GG", "N", "D", "DD", "R", "M", "B", "BB", "S", "SS", "", "J", "JJ", "C", "K", "T", "P", "H"]
VOWELS = ["A", "AE", "YA", "YAE", "EO", "E", "YEO", "YE", "O", "WA", "WAE", "OE", "YO", "U", "WEO", "WE", "WI", "YU"]
VOWELS += ["EU", "YI", "I"]
TRAILING = ["", "G", "GG", "GS", "N", "NJ", "NH", "D", "L", "LG", "LM", "LB", "LS", "LT", "LP", "LH", "M", "B", "BS"]
TRAILING += ["S", "SS", "NG", "J", "C", "K", "T", "P", "H"]


def test_every_syllable_has_the_name_that_its_place_in_the_table_gives_it():
    made = source("hangul_names")
    found = {sample["text"]: sample["target_text"] for sample in everything(made)}
    rule = {chr(0xAC00 + n): "".join(parts) for n, parts in enumerate(product(LEADING, VOWELS, TRAILING))}
    assert found == rule
    assert found["한"] == "HAN"
    assert len(set(found.values())) == len(found) == 11_172
    for sample in islice(made.samples("test"), 20):
        assert unicodedata.lookup(f"HANGUL SYLLABLE {sample['target_text']}") == sample["text"] == sample["group"]
        assert chr(int(sample["id"].removeprefix("U+"), 16)) == sample["text"]


def test_shares_of_syllables_are_those_asked_for():
    made = source("hangul_names", val_fraction=0.2, test_fraction=0.3)
    assert [round(len(made.samples(split)) / 11_172, 3) for split in SPLITS] == [0.5, 0.2, 0.3]
    prints = {source("hangul_names", split_seed=seed).fingerprint() for seed in (0, 0, 1)}
    assert len(prints) == 2
    with pytest.raises(UserError, match="leave nothing to train on"):
        source("hangul_names", val_fraction=0.5, test_fraction=0.5)


# ---------------------------------------------------------------------------------------------- code and docstrings

CODE = '''
class Thing:
    @property
    def size(self):
        """How large it is. In metres.

        Never negative.
        """
        # Measured once.

        return self._size  # é

    def bare(self):
        """Nothing but this."""

    def one(self): """Äh, one line? Yes."""; return 1

    async def wait(self):
        "Waits\\n        for it"
        text = """
no indentation
        """

        def inner():
            """!"""
            return text
        return inner

def silent():
    return None
'''
SIZE = "@property\ndef size(self):\n    # Measured once.\n\n    return self._size  # é"
WAIT = (
    'async def wait(self):\n    text = """\nno indentation\n    """\n\n    def inner():\n        """!"""\n'
    "        return text\n    return inner"
)


def test_functions_lose_their_docstring_and_their_indentation():
    found = {sentence: (line, text) for line, text, sentence in described(CODE)}
    assert found == {
        "How large it is.": (4, SIZE),
        "Äh, one line?": (16, "def one(self): return 1"),
        "Waits for it": (18, WAIT),
    }


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return x.y of it.  More.", "Return x.y of it."),
        ("Two\nlines\n\nand more.", "Two lines"),
        (">>> sum(())\n0", ""),
        ("Adds them >>> sum(())", "Adds them"),
        (" -- \n\nText.", ""),
        ("Wirklich? Ja!", "Wirklich?"),
    ],
)
def test_the_first_sentence_ends_where_it_should(docstring, sentence):
    assert first_sentence(docstring) == sentence


def test_what_is_left_of_a_function_is_the_function_without_its_docstring():
    """As the parser sees it; where text in quotes goes over lines, its indentation may be another."""
    name = "textwrap.py"
    trees = {node.lineno: node for node in ast.walk(ast.parse(read_source(name))) if isinstance(node, ast.FunctionDef)}
    found = list(described(read_source(name)))
    assert len(found) > 8
    for line, text, _ in found:
        (written,) = ast.parse(text).body
        trees[line].body = trees[line].body[1:]
        assert ast.dump(written) == ast.dump(trees[line])


@pytest.fixture(scope="module")
def few_files():
    """Some of the library, of which all takes long to read."""
    few = {name: path for name, path in source_files().items() if name[0] in "jl"}
    read = cache(code_docstrings._all_functions.__wrapped__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_docstrings, "source_files", lambda: few)
        patch.setattr(code_docstrings, "_all_functions", read)
        yield few


@pytest.mark.parametrize("group", ["package", "file", "function"])
def test_no_package_or_file_of_functions_is_divided(few_files, group):
    made = source("code_docstrings", group=group)
    held = [{sample["group"] for sample in made.samples(split)} for split in SPLITS]
    assert all(held)
    assert len(set.union(*held)) == sum(map(len, held))
    named = {"package": lambda name: name.partition("/")[0], "file": str, "function": str}[group]
    for sample in everything(made):
        name = sample["id"].rpartition(":")[0]
        assert name in few_files
        assert sample["group"] == (sample["id"] if group == "function" else named(name))
    texts = [" ".join(sample["text"].split()) for sample in everything(made)]
    assert len(set(texts)) == len(texts) > 300


def test_of_equal_functions_only_the_first_is_kept(monkeypatch):
    files = {
        f"{name}.py": f'def f():\n    """From {name}."""\n    return{space}1\ndef {name}():\n    """Other."""\n    pass'
        for name, space in {"a": " ", "b": "  ", "c": " "}.items()
    }
    monkeypatch.setattr(code_docstrings, "_all_functions", code_docstrings._all_functions.__wrapped__)
    monkeypatch.setattr(code_docstrings, "source_files", lambda: files)
    monkeypatch.setattr(code_docstrings, "read_source", files.get)
    made = source("code_docstrings", val_fraction=0.0)
    assert [sample["target_text"] for sample in everything(made)].count("Other.") == 3
    assert [(sample["id"], sample["target_text"]) for sample in everything(made) if "f()" in sample["text"]] == [
        ("a.py:1", "From a.")
    ]


def test_long_functions_are_left_out_if_asked(few_files):
    made = source("code_docstrings", max_source=200, max_target=60)
    assert max(len(sample["text"]) for sample in everything(made)) <= 200
    assert max(len(sample["target_text"]) for sample in everything(made)) <= 60
    with pytest.raises(UserError, match=r"data\.max_source=5, data\.max_target=None: no function is that short"):
        source("code_docstrings", max_source=5).verify()
    with pytest.raises(UserError, match=r"data\.max_target=0: must be at least 1"):
        source("code_docstrings", max_target=0)


# ---------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    return package


def translations(datasets, start=0, stop=100):
    rows = [{"en": one, "ko": other} for one, other in zip(ENGLISH, KOREAN, strict=True)]
    rows[5] = {"en": "Not translated.", "ko": ""}
    features = datasets.Features(
        translation=datasets.Translation(languages=["en", "ko"]), note={"by": datasets.Value("string")}
    )
    part = rows[start:stop]
    notes = [{"by": f"b{n % 7}"} for n in range(len(part))]
    return datasets.Dataset.from_dict({"translation": part, "note": notes}, features=features)


PAIR = {"text_column": "translation.en", "target_column": "translation.ko"}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_translation_column_holds_both_sides(datasets, tmp_path, streaming):
    translations(datasets).save_to_disk(str(tmp_path / "saved"))
    options = {"dataset": str(tmp_path / "saved"), "streaming": streaming, "val_fraction": 0.2, "test_fraction": 0.2}
    made = source("hf", **options, **PAIR)
    made.verify()
    assert made.spec.keys == {"id", "text", "target_text"}
    expected = [(one, other) for n, (one, other) in enumerate(zip(ENGLISH, KOREAN, strict=True)) if n != 5]
    assert pairs(made) == sorted(expected), "what isn't translated is left out"
    assert len(set.union(*keys(made))) == sum(map(len, keys(made)))
    back = source("hf", **options, text_column="translation.ko", target_column="translation.en")
    assert pairs(back) == sorted((other, one) for one, other in expected)
    if not streaming:
        assert back.fingerprint() != made.fingerprint()
        samples = pickle.loads(pickle.dumps(made.samples("val")))
        for number, sample in enumerate(samples):
            assert samples.known(number) == sample
    grouped = source("hf", **options, **PAIR, group_column="note.by")
    held = [{sample["group"] for sample in grouped.samples(split)} for split in SPLITS]
    assert len(set.union(*held)) == sum(map(len, held)) == 7


def test_any_text_may_be_the_target(datasets, tmp_path):
    rows = {"q": [f"question {n}" for n in range(20)], "a": [f"answer {n}" for n in range(20)], "by": [*range(20)]}
    options = {"dataset": str(tmp_path / "saved"), "text_column": "q", "target_column": "a"}
    datasets.Dataset.from_dict(rows).save_to_disk(options["dataset"])
    known = source("hf", **options, group_column="by").fingerprint()
    assert pairs(source("hf", **options)) == sorted(zip(rows["q"], rows["a"], strict=True))
    alone = source("hf", **{**options, "target_column": None}, group_column="by")
    assert alone.spec.keys == {"id", "text", "group"}
    assert alone.fingerprint() != known
    seen = {known}
    for column in ("q", "a"):
        other = {**rows, column: [*rows[column][:-1], "another"]}
        options["dataset"] = str(tmp_path / column)
        datasets.Dataset.from_dict(other).save_to_disk(options["dataset"])
        seen.add(source("hf", **options, group_column="by").fingerprint())
    assert len(seen) == 3


def test_audio_may_be_written_down_or_translated(datasets, tmp_path):
    rows = {"audio": [], "said": [f"said {n}" for n in range(8)], "meant": [f"meant {n}" for n in range(8)]}
    for number in range(8):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, noise(400, seed=number).mul(0.1).numpy(), 8000)
        rows["audio"].append(str(path))
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    options = {"dataset": str(tmp_path / "saved"), "audio_column": "audio", "val_fraction": 0.2, "test_fraction": 0.2}
    for texts, carried in [
        ({"text_column": "said"}, {"target_text": "said"}),
        ({"text_column": None, "target_column": "said"}, {"target_text": "said"}),
        ({"text_column": "said", "target_column": "meant"}, {"text": "said", "target_text": "meant"}),
    ]:
        made = source("hf", **options, **texts)
        made.verify()
        assert made.spec.keys == {"id", "audio", *carried}
        for split in SPLITS:
            samples = made.samples(split)
            for number, sample in enumerate(samples):
                row = sample["id"].partition(":")[2]
                told = {key: f"{word} {row}" for key, word in carried.items()}
                assert {key: sample[key] for key in carried} == told
                assert samples.known(number) == {"id": sample["id"], **told}


def test_missing_sides_of_a_translation_are_named(datasets, tmp_path):
    translations(datasets).save_to_disk(str(tmp_path / "saved"))
    for options, message in [
        (
            {**PAIR, "target_column": "translation.kor"},
            r"target_column=translation\.kor: .*Did you mean translation\.ko\?",
        ),
        (
            {**PAIR, "text_column": "translation"},
            r"text_column=translation: .*\n  Its columns: note\.by, translation\.en, ",
        ),
        ({**PAIR, "label_column": "note.by"}, r"label_column=note\.by: .*\n  Its columns: note, translation"),
    ]:
        with pytest.raises(UserError, match=message):
            source("hf", dataset=str(tmp_path / "saved"), **options).verify()
