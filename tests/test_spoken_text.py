"""Sentences read aloud: each clip says its text, and neither a sentence nor a voice stands on two sides of a split."""

import sys
from collections import Counter
from itertools import combinations
from zlib import crc32

import numpy as np
import pytest
import torch

from plugformer.data.phrases import letters
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer.testing.comparing import noise
from plugformer_audio import spoken_text, voices
from plugformer_audio.espeak import RATE, speak
from plugformer_audio.sentences import ONES, sentences

loader = pytest.importorskip("espeakng_loader")
PATHS = {"library": loader.get_library_path(), "data": loader.get_data_path()}
FEW = ["f1", "f3", "m1", "m3", "klatt", "Mr_serious", "zac", "Alicia"]
SHARES = {"val_fraction": 0.25, "test_fraction": 0.25}


def spoken(folder, **options):
    return build("data", {"name": "spoken_text", "voices": FEW, "size": 24, "cache": folder, **SHARES, **options})


def everything(source):
    return [sample for split in SPLITS for sample in source.samples(split)]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return spoken(tmp_path_factory.mktemp("few"))


@pytest.fixture
def quick(monkeypatch):
    """Nobody speaks: a clip is made of its voice and words."""

    def say(voice, words, *, library, data):
        return [
            noise(1, 300 + len(word), seed=crc32(f"{voice}/{word}".encode())).half().numpy().tobytes() for word in words
        ]

    monkeypatch.setattr(voices, "speak", say)


# ---------------------------------------------------------------------------------------------- sentences


def number(words: str) -> int:
    """The inverse of `in_words`, the other way about: a running sum, by what each word does to it."""
    tens = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
    value = {word: count for count, word in enumerate(ONES)} | {word: 10 * (2 + n) for n, word in enumerate(tens)}
    total = last = 0
    for word in words.split():
        if word in ("hundred", "thousand"):
            total, last = total + last * {"hundred": 100, "thousand": 1000}[word], 0
        elif word != "and":
            last += value[word]
    return total + last


def test_every_number_can_be_read_back():
    said = sentences("numbers")
    assert [number(said[str(n)]) for n in range(10_000)] == list(range(10_000))
    assert len(set(said.values())) == 10_000
    assert said["2007"] == "two thousand and seven"
    assert said["7120"] == "seven thousand one hundred and twenty"


def test_phrases_of_the_documentation_are_words_and_no_two_say_the_same():
    phrases = sentences("docs")
    assert len(phrases) > 1000
    assert len(set(map(letters, phrases.values()))) == len(phrases)
    for phrase in phrases.values():
        assert letters(phrase) == phrase.lower()
        assert len(phrase.split()) >= 3 and len(phrase) <= 50


def test_a_file_gives_a_sentence_a_line(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("Un canguro  rojo.\n\n¡un canguro rojo!\r\nUna casa.\n", encoding="utf-8")
    assert sentences(str(path)) == {"1": "Un canguro rojo.", "4": "Una casa."}


# ---------------------------------------------------------------------------------------------- clips


@pytest.mark.parametrize("readings", [1, 2])
@pytest.mark.usefixtures("quick")
def test_neither_sentence_nor_voice_stands_in_two_splits(tmp_path, readings):
    source = spoken(tmp_path, readings=readings)
    texts, readers = [], []
    for split, size in zip(SPLITS, (12, 6, 6), strict=True):
        known = [source.samples(split).known(index) for index in range(len(source.samples(split)))]
        times = Counter(sample["target_text"] for sample in known)
        assert len(times) == size and set(times.values()) == {readings}
        pairs = {(sample["target_text"], sample["group"]) for sample in known}
        assert len(pairs) == len(known), "a voice reads a sentence once"
        turns = Counter(sample["group"] for sample in known)
        assert max(turns.values()) - min(turns.values()) <= 1, "everybody reads about as much"
        texts.append(set(times))
        readers.append(set(turns))
    for parts in (texts, readers):
        assert all(not one & other for one, other in combinations(parts, 2))
    assert set.union(*readers) == set(FEW)


def test_a_clip_says_its_text(few):
    """What espeak-ng says of a voice's sentences, clip by clip."""
    by_voice: dict[str, dict[str, torch.Tensor]] = {}
    for sample in everything(few):
        assert sample.keys() == few.spec.keys
        assert sample["audio"].rate == few.spec.rate == RATE
        assert sample["audio"].waveform.shape[1] <= few.spec.duration * RATE
        name = sample["id"].split("/")
        assert name[:3] == ["spoken_text", "en-us", sample["group"]]
        assert number(sample["target_text"]) == int(name[3])
        by_voice.setdefault(sample["group"], {})[sample["target_text"]] = sample["audio"].waveform[0]
    for voice, clips in by_voice.items():
        said = speak(f"en-us+{voice.replace('_', ' ')}", list(clips), **PATHS)
        for clip, own in zip(said, clips.values(), strict=True):
            assert torch.equal(own * 2**15, torch.from_numpy(np.frombuffer(clip, np.int16).astype(np.float32)))


@pytest.mark.usefixtures("quick")
def test_what_a_voice_reads_in_several_goes_stands_in_its_place(tmp_path, monkeypatch):
    together = {sample["id"]: sample["audio"].waveform for sample in everything(spoken(tmp_path / "one"))}
    monkeypatch.setattr(spoken_text, "GO", 1)
    apart = {sample["id"]: sample["audio"].waveform for sample in everything(spoken(tmp_path / "many"))}
    assert apart.keys() == together.keys()
    assert all(torch.equal(apart[name], together[name]) for name in together)


@pytest.mark.usefixtures("quick")
def test_what_was_spoken_is_kept_and_the_fingerprint_tells_it_apart(tmp_path, monkeypatch):
    first = spoken(tmp_path).fingerprint()
    assert first == spoken(tmp_path / "another").fingerprint()
    others = [{"split_seed": 1}, {"readings": 2}, {"size": 23}, {"voices": FEW[:-1]}, {"language": "en-gb-scotland"}]
    assert len({first, *(spoken(tmp_path, **other).fingerprint() for other in others)}) == 6
    assert len(list(tmp_path.glob("*.npz"))) == 6, "each was spoken anew"
    monkeypatch.setattr(voices, "speak", None)
    assert spoken(tmp_path).fingerprint() == first
    assert spoken(tmp_path, normalise="letters").fingerprint() == first, "numbers are letters already"
    monkeypatch.setattr(spoken_text, "version", lambda package: "another")
    with pytest.raises(TypeError, match="not callable"):
        spoken(tmp_path).samples("test")


@pytest.mark.usefixtures("quick")
def test_a_language_reads_its_own_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"Hay {n} canguros.\n" for n in range(8)), encoding="utf-8")
    source = spoken(tmp_path, sentences=str(path), language="es", normalise="letters", size=None)
    assert source.spec.duration is None
    assert {sample["target_text"] for sample in everything(source)} == {f"hay {n} canguros" for n in range(8)}


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sentences": "number"},
            r"data\.sentences=number: no such file\. Did you mean numbers\?\n  Possible: numbers, docs,",
        ),
        ({"sentences": "dots.txt"}, r"dots\.txt: lines without a letter or a digit \(1\)\.\n  dots\.txt:2: …\n"),
        ({"language": "es"}, r"data\.language=es: data\.sentences=numbers are in English\.\n  Name a file"),
        ({"sentences": "dots.txt", "language": "enn-us"}, "lines without"),
        ({"language": "en-uk"}, r"data\.language=en-uk: espeak-ng doesn't speak it\. Did you mean en-us\?"),
        ({"voices": ["F1"]}, r"data\.voices: there is no 'F1'\. Did you mean f1\?"),
        ({"size": 0}, r"data\.size=0: must be at least 1\."),
        ({"readings": 3}, r"data\.readings=3: val has 2 of 8 voices\.\n  Set more data\.voices"),
        ({"voices": ["f1", "f3"]}, r"in 2 groups can't be split into train, val, test"),
        ({"size": 2}, r"in 2 groups can't be split into train, val, test"),
        ({"val_fraction": 1.0}, r"data\.val_fraction=1\.0: must be at least 0 and less than 1"),
    ],
)
def test_mistakes_are_named_before_anybody_speaks(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(voices, "speak", None)
    (tmp_path / "dots.txt").write_text("A\n…\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        spoken(tmp_path, **options).samples("train")
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.usefixtures("quick")
def test_a_clip_longer_than_the_data_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(spoken_text.DURATIONS, "numbers", 0.01)
    with pytest.raises(
        UserError, match=r"data=spoken_text: en-us\+\S+ takes 0\.\d+ s for a sentence, more than 0\.01\."
    ):
        spoken(tmp_path).samples("train")


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    source = spoken(tmp_path)
    assert source.spec.rate == RATE
    with pytest.raises(
        UserError, match=r"^data=spoken_text needs espeakng-loader: pip install 'plugformer\[speech\]'$"
    ):
        source.samples("train")
