"""What is read from audio files, from many of them, and from folders of them."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from tests.prepared import PREPARED

from plugformer.data import audio, scan
from plugformer.data.audio import AudioInfo, audio_info, check_audio, read_audio
from plugformer.data.scan import Scanner
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.testing.comparing import noise
from plugformer_audio.audio_folder import AudioFolder
from plugformer_audio.speech_commands import SpeechCommands

RATE = 16_000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav8": ("WAV", "PCM_U8"),
    "float": ("WAV", "FLOAT"),
    "w64": ("W64", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def waves(frames=RATE, channels=1, seed=0):
    """Float `[frames, channels]`, loud but below full scale."""
    return noise(frames, channels, seed=seed).mul(0.1).clamp(-0.9, 0.9).numpy()


def written(path, samples=None, rate=RATE, kind="wav"):
    form, subtype = FORMATS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 48_000 if kind == "opus" else rate
    soundfile.write(path, waves() if samples is None else samples, rate, format=form, subtype=subtype)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of what is remembered, which is everything."""
    monkeypatch.setattr(scan, "LONG", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plugformer"


# ---------------------------------------------------------------------------------------------- one file


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_read_as_soundfile_reads_it(tmp_path, monkeypatch, kind, channels):
    monkeypatch.setattr(audio, "BLOCK", 5_000)  # more than one
    path = written(tmp_path / "clip", waves(channels=channels), kind=kind)
    with soundfile.SoundFile(path) as file:
        rate, expected = file.samplerate, file.read(dtype="float32", always_2d=True)
    found = read_audio(path)
    assert (found.waveform.dtype, found.rate) == (torch.float32, rate)
    assert found.waveform.is_contiguous()
    assert torch.equal(found.waveform, torch.from_numpy(expected.T))
    assert torch.equal(read_audio(path.read_bytes()).waveform, found.waveform)
    assert audio_info(path) == check_audio(path.read_bytes()) == AudioInfo(rate, len(expected), channels)


def test_eight_channels_are_eight_channels(tmp_path):
    samples = waves(channels=8)
    found = read_audio(written(tmp_path / "clip.wav", samples, kind="float"))
    assert torch.equal(found.waveform, torch.from_numpy(samples.T))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path, kind):
    path = written(tmp_path / "clip", kind=kind)
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.3, 0.6, *([] if kind == "mp3" else [0.9, 0.99])):  # MP3 headers aren't that exact
        path.write_bytes(whole[: int(share * len(whole))])
        for read in (read_audio, check_audio):
            with pytest.raises(UserError, match=r"clip: (is empty|is cut short|not audio|audio that can't be decoded)"):
                read(path)


def test_a_writer_to_a_pipe_cannot_know_the_size(tmp_path):
    path = written(tmp_path / "clip.wav")
    expected, data = read_audio(path).waveform, bytearray(path.read_bytes())
    for place in (4, data.index(b"data") + 4):
        data[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert torch.equal(read_audio(bytes(data)).waveform, expected)


def bad_files(folder):
    """By what is said of them."""
    holes, poles = waves(), waves()
    holes[-1], poles[0] = np.nan, -np.inf
    (folder / "text.wav").write_text("Not audio, whatever its name.")
    (folder / "empty.wav").touch()
    (folder / "folder.wav").mkdir()
    return {
        r"nowhere\.wav: no such file\.": folder / "nowhere.wav",
        r"folder\.wav: can't be read \(Is a directory\)": folder / "folder.wav",
        r"empty\.wav: is empty\.": folder / "empty.wav",
        r"text\.wav: not audio that can be read; use WAV, FLAC": folder / "text.wav",
        r"none\.wav: holds no samples\.": written(folder / "none.wav", waves(0)),
        r"nan\.wav: holds samples that are NaN or infinite": written(folder / "nan.wav", holes, kind="float"),
        r"inf\.wav: holds samples that are NaN or infinite": written(folder / "inf.wav", poles, kind="float"),
        r"integers\.wav: holds samples up to 32767, but full scale is 1": written(
            folder / "integers.wav", waves() / np.abs(waves()).max() * 32767, kind="float"
        ),
    }


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    for says, path in bad_files(tmp_path).items():
        for read in (read_audio, check_audio):
            with pytest.raises(UserError, match=says):
                read(path)
    with pytest.raises(UserError, match=r"^row 3 of a\.parquet: is empty"):
        read_audio(b"", name="row 3 of a.parquet")


def test_what_is_above_full_scale_is_turned_down_as_a_whole(tmp_path):
    samples = waves() * 3 / np.abs(waves()).max()
    found = read_audio(written(tmp_path / "clip.wav", samples, kind="float")).waveform
    assert found.abs().max() == 1
    assert torch.allclose(found * 3, torch.from_numpy(samples.T))


def test_a_long_clip_is_checked_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 10_000)
    path = written(tmp_path / "clip.wav", waves(1_000_000))
    tracemalloc.start()
    try:
        assert check_audio(path).frames == 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 400_000  # bytes; as float32 it has 4,000,000
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------- many files


class Counting:
    """A probe that knows which files it read."""

    def __init__(self):
        self.names = []

    def __call__(self, path):
        self.names.append(path.name)
        if b"bad" in path.read_bytes():
            raise UserError(f"{path}: is bad.")
        return (path.stat().st_size,)

    def read(self, files, version="1"):
        """Names of those that a scan reads."""
        self.names.clear()
        result = Scanner(kind="test", version=version, probe=self).scan(files)
        return sorted(self.names), result


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    for name in "abc":
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.txt").write_text(name)
    return sorted(folder.rglob("*.txt"))


def test_a_file_is_read_again_only_if_something_has_changed(cache, files):
    probe = Counting()
    names, first = probe.read(files)
    assert names == ["a.txt", "b.txt", "c.txt"]
    assert list(first.good) == files
    assert len({found.digest for found in first.good.values()}) == 3
    assert probe.read(files) == ([], first)
    assert probe.read(files[::-1])[1].good == first.good
    assert probe.read(files, version="2")[0] == ["a.txt", "b.txt", "c.txt"]
    assert probe.read(files, version="2")[0] == []

    probe.read(files)
    files[0].write_text("A")
    names, second = probe.read(files)
    assert names == ["a.txt"]
    assert second.good[files[0]].digest != first.good[files[0]].digest
    new = files[0].with_name("new.txt")
    new.write_text("new")
    assert probe.read([*files, new])[0] == ["new.txt"]
    assert probe.read(files[1:])[0] == []
    assert probe.read([*files, new])[0] == [], "what is remembered of files that weren't asked for is lost"


def test_files_that_swap_names_are_told_apart(cache, files):
    """Though of one size and written at one time, as those of an archive are."""
    one, other, _ = files
    for path in files:
        os.utime(path, (1, 1))
    probe = Counting()
    before = probe.read(files)[1].good
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)
    names, after = probe.read(files)
    assert names == ["a.txt", "b.txt"]
    assert after.good[one] == before[other]


def test_bad_files_are_read_each_time_and_named(cache, files):
    files[1].write_text("bad")
    probe = Counting()
    for expected in (["a.txt", "b.txt", "c.txt"], ["b.txt"]):
        names, found = probe.read(files)
        assert names == expected
        assert found.bad == {files[1]: f"{files[1]}: is bad."}
        assert list(found.good) == [files[0], files[2]]


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": "1"}', '{"version": "1", "files": {"a": 3}}', "\x00"])
def test_a_damaged_cache_is_made_anew(cache, files, damage):
    probe = Counting()
    _, first = probe.read(files)
    (path,) = cache.glob("scan-test-*.json")
    path.write_text(damage)
    with pytest.warns(UserWarning, match=r"scan-test-.*\.json: damaged .*; it is made anew"):
        assert probe.read(files) == (["a.txt", "b.txt", "c.txt"], first)
    assert probe.read(files) == ([], first)


def test_a_cache_that_cannot_be_written_is_done_without(cache, files):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("not a folder")
    probe = Counting()
    for _ in range(2):
        with pytest.warns(UserWarning, match="can't be written"):
            assert len(probe.read(files)[1].good) == 3


def test_what_took_no_time_is_not_remembered(cache, files, monkeypatch):
    monkeypatch.setattr(scan, "LONG", 60.0)
    probe = Counting()
    probe.read(files)
    assert len(probe.read(files)[0]) == 3
    assert not cache.exists()


def test_an_interrupted_scan_goes_on_where_it_was(cache, files):
    probe = Counting()

    def interrupted(path):
        if path == files[-1]:
            raise KeyboardInterrupt
        return probe(path)

    with pytest.raises(KeyboardInterrupt):
        Scanner(kind="test", version="1", probe=interrupted).scan(files)
    assert probe.read(files)[0] == ["c.txt"]


@pytest.mark.parametrize(("many", "terminal", "shown"), [(3, True, True), (4, True, False), (3, False, False)])
def test_progress_is_shown_on_a_terminal_where_there_is_much_to_read(
    cache, files, monkeypatch, capsys, many, terminal, shown
):
    monkeypatch.setattr(scan, "MANY", many)
    monkeypatch.setattr("plugformer.progress.Console.is_terminal", terminal)
    Counting().read(files)
    out, err = capsys.readouterr()
    assert not out
    assert ("Reading test files" in err) == shown
    Counting().read(files)
    assert not capsys.readouterr().err, "nothing is left to read"


# ---------------------------------------------------------------------------------------------- folders


def fill(root, count=6, classes=("clap", "snap"), **options):
    for label, name in enumerate(classes):
        for number in range(count):
            written(root / name / f"{number}.wav", waves(800, seed=100 * label + number), **options)
    return root


def folder(root, **options):
    return AudioFolder(root=root, **{"val_fraction": 0.2, "test_fraction": 0.2, **options})


def test_a_folder_of_clips(tmp_path):
    source = folder(fill(tmp_path))
    assert source.spec.rate == RATE
    assert source.spec.duration == 0.05
    assert source.spec.labels == ("clap", "snap")
    samples = [sample for split in SPLITS for sample in source.samples(split)]
    assert len({sample["id"] for sample in samples}) == 12
    for sample in samples:
        assert sample.keys() == source.spec.keys == {"id", "audio", "label"}
        assert sample["id"].startswith(source.spec.labels[sample["label"]])
        expected = soundfile.read(tmp_path / sample["id"], dtype="float32")[0]
        assert np.array_equal(sample["audio"].waveform[0], expected)


def test_the_spec_is_of_all_headers(tmp_path):
    written(fill(tmp_path) / "clap" / "long.flac", waves(1_200), kind="flac")
    assert folder(tmp_path).spec.duration == 0.075
    written(tmp_path / "clap" / "other.wav", waves(800), rate=8_000)
    spec = folder(tmp_path).spec
    assert (spec.rate, spec.duration) == (None, 0.1)
    (tmp_path / "clap" / "other.wav").write_text("not audio")
    assert folder(tmp_path).spec.rate == RATE


def test_a_folder_that_was_verified_is_not_read_again(cache, tmp_path, monkeypatch):
    fill(tmp_path / "clips")
    first = folder(tmp_path / "clips")
    spec = first.spec
    unverified = first.fingerprint()
    first.verify()
    assert first.fingerprint() == unverified

    def refuse(*args, **options):
        raise AssertionError("a file is opened")

    monkeypatch.setattr(soundfile, "SoundFile", refuse)
    monkeypatch.setattr(scan, "digest", refuse)
    second = folder(tmp_path / "clips")
    assert second.spec == spec
    second.verify()
    assert second.fingerprint() == unverified


def test_every_bad_clip_is_named_or_left_out(tmp_path):
    bad = bad_files(fill(tmp_path) / "clap")
    (tmp_path / "snap" / "notes.txt").write_text("not audio either")
    said = [says for says, path in bad.items() if path.is_file()] + [r"notes\.txt: not one of \.wav, \.flac"]
    with pytest.raises(UserError, match=r"data\.root=.*: 7 of 19 files can't be used") as told:
        folder(tmp_path).verify()
    for says in said:
        assert told.match(says)
    source = folder(tmp_path, bad_files="skip")
    with pytest.warns(UserWarning, match=r"7 of 19 files can't be used[\s\S]*They are left out"):
        source.verify()
    assert sum(len(source.samples(split)) for split in SPLITS) == 12


def test_of_very_many_bad_clips_some_are_named(tmp_path):
    for path in fill(tmp_path, count=15).rglob("*.wav"):
        path.write_text("not audio")
    with pytest.raises(UserError, match=r"30 of 30 files can't be used") as told:
        folder(tmp_path).verify()
    assert str(told.value).count("not audio that can be read") == 20
    assert told.match("and 10 more")


def test_a_class_seen_in_the_test_alone_is_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", classes=("clap", "snap", "whistle"))
    says = r"the folder train has no file of whistle that can be used, so it can't be learned\."
    with pytest.raises(UserError, match=says):
        folder(tmp_path).samples("train")


def test_a_class_without_files_is_refused(tmp_path):
    (fill(tmp_path) / "whistle").mkdir()
    with pytest.raises(UserError, match=r"no files in the class folders whistle"):
        _ = folder(tmp_path).spec


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    fill(tmp_path)
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("snap"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"snap: can't be read \(Permission denied\)"):
        _ = folder(tmp_path).spec


def test_groups_stand_in_one_split_and_in_the_samples(tmp_path):
    for number in range(40):
        written(tmp_path / ("clap", "snap")[number % 2] / f"kit{number // 4}_{number}.wav", waves(80, seed=number))
    source = folder(tmp_path, group="kit[0-9]+")
    groups = {split: {sample["group"] for sample in source.samples(split)} for split in SPLITS}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 10
    assert source.spec.keys == {"id", "audio", "label", "group"}


def test_given_folders_that_divide_a_group_are_refused(tmp_path):
    for split in ("train", "test"):
        for name in ("clap", "snap"):
            written(tmp_path / split / name / f"{'kit1' if name == 'snap' else split}_.wav", waves(80))
    with pytest.raises(UserError, match=r"data\.group=.*: the folders train and test both hold files of kit1\."):
        folder(tmp_path, group="[^/]*(?=_)").samples("train")


# ---------------------------------------------------------------------------------------------- speech commands


def published(root, **options):
    root.mkdir(exist_ok=True)
    return SpeechCommands(**{**PREPARED["data", "speech_commands"](root), **options})


def test_lists_decide_the_splits(tmp_path):
    source = published(tmp_path / "speech", words="all", unknown=False, silence=False)
    assert source.spec.labels == ("no", "yes", "zero")
    for split, name in {"val": "validation_list.txt", "test": "testing_list.txt"}.items():
        assert [sample["id"] for sample in source.samples(split)] == (tmp_path / "speech" / name).read_text().split()
    groups = {split: {sample["group"] for sample in source.samples(split)} for split in SPLITS}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 6
    assert len(source.samples("train")) == 12


def test_other_words_and_silence_are_as_many_as_a_word(tmp_path):
    source = published(tmp_path / "speech")
    assert source.spec.labels == ("no", "yes", "_unknown_", "_silence_")
    for split, count in {"train": 4, "val": 1, "test": 1}.items():
        samples = list(source.samples(split))
        assert np.bincount([sample["label"] for sample in samples]).tolist() == [count] * 4
        assert all(sample["id"].startswith("zero/") == (sample["label"] == 2) for sample in samples)


def test_silence_is_a_second_of_a_recording_of_which_splits_use_different_parts(tmp_path):
    source = published(tmp_path / "speech")
    ramp = np.arange(40 * RATE) / (40 * RATE)  # a sample's value says where it is from
    for path in (tmp_path / "speech" / "_background_noise_").iterdir():
        soundfile.write(path, ramp, RATE, subtype="FLOAT")
    used, gains = {}, set()
    for split in SPLITS:
        for sample in source.samples(split):
            if sample["label"] == 3:
                wave = sample["audio"].waveform[0].double()
                assert wave.shape == (RATE,)
                gain = float(wave[-1] - wave[0]) / (ramp[RATE - 1] - ramp[0])
                gains.add(round(gain, 3))
                places = wave[[0, -1]] / gain
                low, high = used.get(split, (1.0, 0.0))
                used[split] = (min(low, float(places[0])), max(high, float(places[1])))
    assert 0 <= used["train"][0] < used["train"][1] <= 0.801
    assert 0.799 <= used["val"][0] < used["val"][1] <= 0.901
    assert 0.899 <= used["test"][0] < used["test"][1] <= 1.001
    assert len(gains) == 6
    assert 0 <= min(gains) <= max(gains) <= 1


def test_what_is_drawn_depends_on_its_seed(tmp_path):
    def drawn(seed):
        source = SpeechCommands(**{**options, "sample_seed": seed})
        return source.fingerprint(), [sample["audio"].waveform.sum() for sample in source.samples("train")]

    (tmp_path / "speech").mkdir()
    options = PREPARED["data", "speech_commands"](tmp_path / "speech")
    assert drawn(0) == drawn(0)
    assert drawn(0)[0] != drawn(1)[0]
    assert drawn(0)[1] != drawn(1)[1]


def remove_list(root):
    (root / "testing_list.txt").unlink()


def remove_clips(root):
    for path in (root / "yes").glob("0000000[01]*"):
        path.unlink()


def list_twice(root):
    (root / "testing_list.txt").write_text((root / "validation_list.txt").read_text())


def divide_speaker(root):
    written(root / "yes" / "00000000_nohash_1.wav", waves(800))


def rename(root):
    written(root / "yes" / "hello.wav", waves(800))


def remove_noise(root):
    for path in (root / "_background_noise_").iterdir():
        path.unlink()


def lengthen(root):
    written(root / "yes" / "00000005_nohash_7.wav", waves(RATE + 1))


def resample(root):
    written(root / "yes" / "00000005_nohash_7.wav", waves(800), rate=8_000)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove_list, r"the lists can't be used \(1\)\.\n  .*testing_list\.txt: no such file\.\n  Take both"),
        (
            remove_clips,
            r"listed clips that aren't there \(2\)\.\n  yes/00000000_nohash_0\.wav of validation_list\.txt\n",
        ),
        (list_twice, r"testing_list\.txt: no/00000000_nohash_0\.wav is in validation_list\.txt, too"),
        (divide_speaker, r"speakers in two splits \(1\)\.\n  00000000: train and val"),
        (rename, r"not as published \(1\)\.\n  .*yes/hello\.wav: expected SPEAKER_nohash_NUMBER\.wav"),
        (remove_noise, r"data\.silence=true: there are no recordings in .*_background_noise_"),
        (lengthen, r"_7\.wav: not as published: 1\.00006 s at 16000 Hz; clips have 16000 Hz and 1 s at most"),
        (resample, r"_7\.wav: not as published: 0\.1 s at 8000 Hz"),
    ],
)
def test_what_is_not_as_published_is_named(tmp_path, spoil, says):
    source = published(tmp_path / "speech")
    spoil(tmp_path / "speech")
    with pytest.raises(UserError, match=says):
        source.verify()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"words": ["no", "yess"]},
            r"has no folder yess\. Did you mean yes\?\n  There are: no, yes, zero",
        ),
        ({"words": "commands"}, r"data\.words: .* has no folder up\."),
        ({"words": ["no"]}, r"data\.words=\['no'\]: expected at least two words, each once"),
        ({"words": ["no", "no"]}, r"expected at least two words, each once"),
        ({"words": "all"}, r"data\.unknown=true: all words are classes of their own"),
    ],
)
def test_words_that_cannot_be_classes_are_refused(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        _ = published(tmp_path / "speech", **options).spec


def test_bad_clips_are_left_out_if_told(tmp_path):
    source = published(tmp_path / "speech", bad_files="skip")
    (tmp_path / "speech" / "yes" / "00000004_nohash_0.wav").write_text("not audio")
    with pytest.warns(UserWarning, match="1 of 20 files can't be used"):
        source.verify()
    ids = [sample["id"] for sample in source.samples("train")]
    assert "yes/00000004_nohash_0.wav" not in ids
    assert sum(name.startswith("yes/") for name in ids) == 3
