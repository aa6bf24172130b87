"""Speech Commands, spoken words of one second (Warden 2018, arXiv:1804.03209)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from plugformer.data.audio import AudioInfo, audio_info, check_audio, read_audio
from plugformer.data.audio_files import AUDIO
from plugformer.data.drawing import check_trained
from plugformer.data.files import read_text, refuse
from plugformer.data.fingerprint import fingerprint
from plugformer.data.of_files import DataOfFiles, FileSamples
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError, unknown
from plugformer.interfaces import Audio, DataSpec, Sample, Split
from plugformer.nn.initialise import seed_for

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
LISTS: dict[Split, str] = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE, SILENCE, UNKNOWN = "_background_noise_", "_silence_", "_unknown_"
RATE = FRAMES = 16_000  # a second
_NAME = re.compile(r"(\w+)_nohash_\d+\.wav")  # the speaker's hash
_SHARES: dict[Split, tuple[float, float]] = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


class _Clip(NamedTuple):
    """
    Attributes:
        group: its speaker or, of silence, its recording and the part of it that a split may use.
        cut: its first frame and the one after its last, if it is part of a longer recording.
        gain: how loud it is played.
    """

    id: str
    path: Path
    label: str
    group: str
    cut: tuple[int, int] | None = None
    gain: float = 1.0


class SpeechCommands(DataOfFiles):
    """Speech Commands as published: `root/WORD/SPEAKER_nohash_N.wav`, 16 kHz, at most a second, and its list files.

    `validation_list.txt` and `testing_list.txt` say which clips are not for training; no speaker is in two splits.
    Nothing is downloaded: http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz holds version 2 (CC BY 4.0).

    Args:
        root: the folder that holds the words' folders and the lists.
        words: the classes, as in [cat, dog]. `all` are those there are, 35 in version 2; `commands` are the ten of the
            paper's benchmark: yes, no, up, down, left, right, on, off, stop, go.
        unknown: a class `_unknown_` of clips of the other words, in each split as many as it has of a word on average.
        silence: a class `_silence_` of seconds of the recordings in `_background_noise_`, as many in each split as it
            has of a word on average, played at 0 to 1 times their loudness. No part of a recording is in two splits.
        sample_seed: decides which clips are in these two classes.
        bad_files: `fail` names the files that can't be read and ends the run before training; `skip` leaves such
            files out and warns, naming them.

    Raises:
        UserError: no such folder or word, lists that are missing or name clips that aren't there, or files that are not
            as published.
    """

    medium = replace(AUDIO, kind="speech")

    def __init__(
        self,
        *,
        root: Path,
        words: Literal["all", "commands"] | list[str] = "all",
        unknown: bool = False,
        silence: bool = False,
        sample_seed: int = 0,
        bad_files: Literal["fail", "skip"] = "fail",
    ) -> None:
        super().__init__(bad_files=bad_files)
        self.root = root.expanduser()
        self.words = words
        self.unknown = unknown
        self.silence = silence
        self.sample_seed = sample_seed

    @property
    def where(self) -> str:
        return f"data.root={self.root}"

    @property
    def keys(self) -> frozenset[str]:
        return frozenset({"id", "audio", "label", "group"})

    @cached_property
    def labels(self) -> tuple[str, ...]:
        return (*self._chosen, *([UNKNOWN] if self.unknown else []), *([SILENCE] if self.silence else []))

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.keys, labels=self.labels, rate=RATE, duration=FRAMES / RATE)

    def probe(self, path: Path) -> AudioInfo:
        info = check_audio(path)
        if info.rate != RATE or (info.frames > FRAMES and path.parent.name != NOISE):
            raise UserError(
                f"{path}: not as published: {info.duration:g} s at {info.rate} Hz; clips have {RATE} Hz and 1 s at "
                "most."
            )
        return info

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        """Of all words."""
        if not self.root.is_dir():
            raise UserError(f"{self.where}: no such folder.")
        words = sorted(folder.name for folder in self.root.iterdir() if folder.is_dir() and folder.name[0] not in "._")
        if not words:
            raise UserError(f"{self.where}: holds no folders of words, such as yes and no.")
        return tuple(words)

    @cached_property
    def _chosen(self) -> tuple[str, ...]:
        named = {"all": self._folders, "commands": COMMANDS}
        words = named[self.words] if isinstance(self.words, str) else tuple(self.words)
        for word in words:
            if word not in self._folders:
                raise unknown(f"data.words: {self.root} has no folder {word}", word, self._folders, "There are")
        if len(set(words)) < max(2, len(words)):
            raise UserError(f"data.words={list(words)}: expected at least two words, each once.")
        if self.unknown and set(words) == set(self._folders):
            raise UserError("data.unknown=true: all words are classes of their own.\n  Choose some with data.words.")
        return words

    @cached_property
    def _held_out(self) -> dict[str, Split]:
        """The clips that the lists name."""
        split_of: dict[str, Split] = {}
        problems = []
        for split, name in LISTS.items():
            path = self.root / name
            if not path.is_file():
                problems.append(f"{path}: no such file.")
                continue
            for entry in read_text(path).split():
                if split_of.setdefault(entry, split) != split:
                    problems.append(f"{path}: {entry} is in {LISTS[split_of[entry]]}, too.")
        refuse(f"{self.where}: the lists can't be used", problems, "Take both from the published archive.")
        return split_of

    @cached_property
    def _spoken(self) -> dict[Split, list[_Clip]]:
        """All clips of the words that are needed, by their names."""
        words = self._folders if self.unknown else self._chosen
        splits: dict[Split, list[_Clip]] = {split: [] for split in SPLITS}
        problems = []
        for word in sorted(words):
            for path in sorted(self.root.joinpath(word).iterdir()):
                if path.name.startswith("."):
                    continue
                name, named = f"{word}/{path.name}", _NAME.fullmatch(path.name)
                if named is None:
                    problems.append(f"{path}: expected SPEAKER_nohash_NUMBER.wav.")
                    continue
                splits[self._held_out.get(name, "train")].append(_Clip(name, path, word, named[1]))
        refuse(f"{self.where}: files that are not as published", problems, "Move them elsewhere.")
        there = {clip.id for clips in splits.values() for clip in clips}
        missing = [
            f"{name} of {LISTS[split]}"
            for name, split in self._held_out.items()
            if name not in there and name.partition("/")[0] in words
        ]
        refuse(f"{self.where}: listed clips that aren't there", missing, "Extract the archive once more.")
        self._check_speakers(splits)
        return splits

    def _check_speakers(self, splits: dict[Split, list[_Clip]]) -> None:
        stands: dict[str, Split] = {}
        mixed = {
            f"{clip.group}: {stands[clip.group]} and {split}"
            for split, clips in splits.items()
            for clip in clips
            if stands.setdefault(clip.group, split) != split
        }
        refuse(f"{self.where}: speakers in two splits", sorted(mixed), "Take both lists from the published archive.")

    @cached_property
    def _noise(self) -> list[Path]:
        found = sorted(path for path in (self.root / NOISE).glob("*.wav") if not path.name.startswith("."))
        if not found:
            raise UserError(f"data.silence=true: there are no recordings in {self.root / NOISE}.")
        return found

    @cached_property
    def paths(self) -> list[Path]:
        spoken = [clip.path for clips in self._spoken.values() for clip in clips]
        return [*spoken, *(self._noise if self.silence else [])]

    @cached_property
    def _splits(self) -> dict[Split, list[_Clip]]:
        splits = {split: self._split(split) for split in SPLITS}
        for split, clips in splits.items():
            if not clips:
                raise UserError(f"{self.where}: {split} has no clip of {', '.join(self._chosen)}.")
        labels = {split: [self.labels.index(clip.label) for clip in clips] for split, clips in splits.items()}
        check_trained(
            self.labels,
            labels,
            self.where,
            lacks="train has no clip of {} that can be used, so it can't be learned",
            advice="Leave it out of data.words.",
        )
        return splits

    def _split(self, split: Split) -> list[_Clip]:
        good = [clip for clip in self._spoken[split] if clip.path not in self.found.bad]
        spoken = [clip for clip in good if clip.label in self._chosen]
        size = -(-len(spoken) // len(self._chosen))  # of a class, rounded up
        generator = torch.Generator().manual_seed(seed_for(self.sample_seed, "speech_commands", split))
        others = [clip._replace(label=UNKNOWN) for clip in good if clip.label not in self._chosen]
        order = torch.randperm(len(others), generator=generator)[:size].sort().values
        silence = self._silence(split, size, generator) if self.silence else []
        return [*spoken, *(others[index] for index in order.tolist()), *silence]

    def _silence(self, split: Split, size: int, generator: torch.Generator) -> list[_Clip]:
        recordings = [path for path in self._noise if path not in self.found.bad]
        frames = {path: audio_info(path).frames for path in recordings}
        return [
            self._cut(path, split, frames[path], number, generator)
            for number, path in zip(range(size), cycle(recordings))
        ]

    def _cut(self, path: Path, split: Split, frames: int, number: int, generator: torch.Generator) -> _Clip:
        """A second at most, anywhere in the part of a recording that a split may use."""
        first, last = (round(share * frames) for share in _SHARES[split])
        length = min(FRAMES, last - first)
        start = int(torch.randint(first, last - length + 1, (), generator=generator))
        gain = float(torch.rand((), generator=generator))
        name = f"{NOISE}/{path.name}"
        group = f"{name} for {split}"
        return _Clip(f"{name}/{split}/{number}", path, SILENCE, group, (start, start + length), gain)

    def samples(self, split: Split) -> Sequence[Sample]:
        return FileSamples([(clip, self._known(clip)) for clip in self._splits[split]], self.medium.key, _heard)

    def _known(self, clip: _Clip) -> Sample:
        """All but the audio."""
        return Sample(id=clip.id, label=self.labels.index(clip.label), group=clip.group)

    def fingerprint(self) -> str:
        return fingerprint(self._fingerprint_parts())

    def _fingerprint_parts(self) -> Iterator[str]:
        for split, clips in self._splits.items():
            for clip in clips:
                yield f"{split}:{clip.label}:{clip.id}:{clip.cut}:{clip.gain}"
                yield self.digest(clip.path)


def _heard(clip: _Clip) -> Audio:
    audio = read_audio(clip.path)
    if clip.cut is None:
        return audio
    first, end = clip.cut
    return Audio(audio.waveform[:, first:end] * clip.gain, audio.rate)
