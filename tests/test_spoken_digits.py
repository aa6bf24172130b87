"""Spoken digits: always the same bits, every voice another one, and none on two sides of a split."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.transforms import MelSpectrogram

from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.registry import build, find
from plugformer_audio import spoken_digits, voices
from plugformer_audio.espeak import EspeakError, speak
from plugformer_audio.spoken_digits import ACCENTS, DIGITS, DURATION, SpokenDigits
from plugformer_audio.voices import VOICES

loader = pytest.importorskip("espeakng_loader")
PATHS = {"library": loader.get_library_path(), "data": loader.get_data_path()}
FEW = ["f1", "m3", "Alicia", "Mr_serious"]  # Alicia breathes, which is noise


def digits(folder: Path, **options) -> SpokenDigits:
    return SpokenDigits(**{"voices": FEW, "accents": ["en-us", "en-029"], "cache": folder, **options})


def clips(source: SpokenDigits) -> dict[str, torch.Tensor]:
    """By the id of the sample."""
    return {sample["id"]: sample["audio"].waveform for split in SPLITS for sample in source.samples(split)}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def everyone(tmp_path_factory):
    return SpokenDigits(accents=["en-us"], cache=tmp_path_factory.mktemp("everyone"))


# ---------------------------------------------------------------------------------------------- voices


@pytest.mark.parametrize("voice", ["en-us+Alicia", "en+whisper", "en-029+klatt"])
def test_a_voice_says_the_same_bits_whatever_the_order(monkeypatch, voice):
    said = speak(voice, DIGITS, **PATHS)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("HOME", "/nowhere")
    assert speak(voice, DIGITS, **PATHS) == said
    assert speak(voice, DIGITS[::-1], **PATHS) == said[::-1]


def test_a_clip_does_not_depend_on_who_else_speaks(tmp_path, few):
    alone = clips(digits(tmp_path, voices=["zac", "Alicia", "f5"], accents=["en-029"]))
    others = clips(few)
    shared = alone.keys() & others.keys()
    assert shared == {f"spoken_digits/en-029/Alicia/{digit}" for digit in DIGITS}
    assert all(torch.equal(alone[name], others[name]) for name in shared)


def test_there_are_a_hundred_voices_and_no_two_are_alike(everyone):
    """Nearly the same voice are klatt6 and adam, at 0.08; these are further apart than klatt3 and klatt4, at 0.6."""
    assert len(VOICES) == len(set(VOICES)) == 100
    mel = MelSpectrogram(22_050, n_fft=512, hop_length=220, n_mels=40)
    loudness: dict[str, list[torch.Tensor]] = {voice: [] for voice in VOICES}
    for split in SPLITS:
        for sample in everyone.samples(split):
            energies = mel(sample["audio"].waveform).clamp(min=1e-5).log()
            loudness[sample["group"]].append(torch.nn.functional.interpolate(energies, size=40).flatten())
    assert all(len(own) == 10 for own in loudness.values())
    voices = torch.stack([torch.stack(own) for own in loudness.values()], 1)  # [digits, voices, features]
    distance = torch.cdist(voices, voices).mean(0) / voices.shape[-1] ** 0.5 + 9 * torch.eye(100)
    assert distance.min() > 0.3


def test_no_clip_comes_twice_and_none_is_silent_clipped_or_longer_than_the_data_says(everyone):
    sizes = {len(everyone.samples(split)) for split in SPLITS}
    assert sizes == {700, 100, 200}
    waveforms = clips(everyone).values()
    assert len({waveform.numpy().tobytes() for waveform in waveforms}) == len(waveforms) == 1000
    assert 0.7 * DURATION * 22_050 < max(waveform.shape[1] for waveform in waveforms) <= DURATION * 22_050
    for waveform in waveforms:
        assert waveform.shape[1] > 0.15 * 22_050
        assert waveform.square().mean().sqrt() > 0.01
        assert (waveform.abs() > 0.999).float().mean() < 0.01


# ---------------------------------------------------------------------------------------------- samples and splits


def test_no_voice_is_on_two_sides_of_a_split(everyone):
    voices = {split: {sample["group"] for sample in everyone.samples(split)} for split in SPLITS}
    assert {split: len(names) for split, names in voices.items()} == {"train": 70, "val": 10, "test": 20}
    assert set.union(*voices.values()) == set(VOICES)
    for split in SPLITS:
        assert Counter(s["label"] for s in everyone.samples(split)) == dict.fromkeys(range(10), len(voices[split]))


def test_a_sample_is_a_word_of_a_voice(few):
    said = dict(zip(DIGITS, speak("en-029+Mr serious", DIGITS, **PATHS), strict=True))
    assert few.spec.labels == DIGITS
    for split in SPLITS:
        for sample in few.samples(split):
            assert sample.keys() == few.spec.keys
            _, accent, voice, digit = sample["id"].split("/")
            assert sample["target_text"] == digit == DIGITS[sample["label"]]
            assert sample["group"] == voice
            waveform, rate = sample["audio"]
            assert waveform.dtype == torch.float32
            assert rate == few.spec.rate == 22_050
            if (accent, voice) == ("en-029", "Mr_serious"):
                ours = np.frombuffer(said.pop(digit), np.int16).astype(np.float32)
                assert torch.equal(waveform[0] * 2**15, torch.from_numpy(ours))
    assert not said


def test_the_fingerprint_tells_what_is_seen(few):
    others = ({"split_seed": 3}, {"accents": ["en-029"]}, {"accents": ["en-029", "en-us"]}, {"voices": FEW[:3]})
    assert len({few.fingerprint(), *(digits(few.cache, **other).fingerprint() for other in others)}) == 5


def test_other_accents_are_kept_apart(few):
    swapped, said = clips(digits(few.cache, accents=["en-029", "en-us"])), clips(few)
    assert swapped.keys() == said.keys()
    assert all(torch.equal(swapped[name], said[name]) for name in said)


def test_what_was_spoken_is_kept(tmp_path, monkeypatch, capfd, few):
    first = digits(tmp_path).fingerprint()
    assert first == few.fingerprint(), "in another cache, too"
    monkeypatch.setattr(voices, "speak", None)
    assert digits(tmp_path).fingerprint() == first
    assert digits(tmp_path, split_seed=1).samples("test")
    monkeypatch.setattr(spoken_digits, "version", lambda package: "another")
    with pytest.raises(TypeError, match="not callable"):
        digits(tmp_path).samples("test")
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accents": ["en-uk"]}, r"data.accents: there is no 'en-uk'. Did you mean en-us\?\n  Possible: en, en-029"),
        ({"voices": ["F1", "m1"]}, r"data.voices: there is no 'F1'. Did you mean f1\?"),
        ({"voices": ["f1", "m1", "f1"]}, "data.voices: f1 is given twice."),
        ({"accents": []}, r"data.accents=\[\]: give at least one of en, en-029"),
        ({"val_fraction": 1.0}, "data.val_fraction=1.0: must be at least 0 and less than 1."),
    ],
)
def test_mistakes_are_named_before_anybody_speaks(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        digits(tmp_path, **options)


def test_too_few_voices_for_the_splits_are_refused(tmp_path):
    with pytest.raises(UserError, match="in 2 groups can't be split into train, val, test"):
        digits(tmp_path, voices=["f1", "f2"], accents=["en"]).samples("train")


@pytest.mark.parametrize(
    ("voice", "paths", "message"),
    [
        ("xx+f1", {}, r"^xx\+f1: there is no such voice$"),
        ("en+nobody", {}, r"^en\+nobody: there is no variant nobody in .*espeak-ng-data$"),
        ("en", {"data": "/nowhere"}, "^en: espeak_Initialize returned .* its data was looked for in /nowhere$"),
        ("en", {"library": "/nowhere.so"}, "^en: OSError: /nowhere.so: "),
    ],
)
def test_a_voice_that_does_not_speak_says_why(capfd, voice, paths, message):
    with pytest.raises(EspeakError, match=message):
        speak(voice, ["one"], **{**PATHS, **paths})
    assert capfd.readouterr() == ("", "")


def test_a_failure_ends_the_rendering_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_digits, "DURATION", 0.1)
    with pytest.raises(UserError, match=r"en-us\+f1 takes 0\.\d+ s for a digit, more than 0\.1\.\n  Install"):
        digits(tmp_path).samples("train")
    assert not list(tmp_path.iterdir())


def test_without_the_package_it_is_named_and_nothing_else_needs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    source = build("data", {"name": "spoken_digits", "cache": tmp_path})
    assert source.spec.duration == DURATION
    with pytest.raises(
        UserError, match=r"^data=spoken_digits needs espeakng-loader: pip install 'plugformer\[speech\]'$"
    ):
        source.samples("train")


def test_the_options_are_what_the_documentation_says():
    documentation = find("data", "spoken_digits").load().__doc__
    assert all(f" {accent}" in documentation for accent in ACCENTS)
