"""Sentences, read aloud by synthetic voices."""

from collections import defaultdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import torch

from plugformer.data.cache import Arrays, cached
from plugformer.data.drawing import Drawing
from plugformer.data.fingerprint import fingerprint
from plugformer.data.phrases import letters
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError, counted, unknown
from plugformer.interfaces import DataSource, DataSpec, Sample, Split
from plugformer.nn.initialise import seed_for
from plugformer_audio.espeak import RATE
from plugformer_audio.sentences import sentences as sentences_of
from plugformer_audio.voices import VOICES, Clips, Script, Speaker, chosen, find_espeak, read_aloud

VERSION = 1  # of how clips are made: another number, other samples
DURATIONS = {"numbers": 4.2, "docs": 5.0}  # seconds; no clip of these is longer, and of numbers the longest has 4.143
GO = 50  # sentences that a voice reads in one go


class Reading(NamedTuple):
    """A sentence, by its name, in the words of a voice."""

    voice: str
    sentence: str


class SpokenText(DataSource):
    """Sentences read aloud by voices of espeak-ng, to be written down; needs espeakng-loader.

    Splits are drawn by sentence and by voice: what is tested was never read in training, and nobody who reads it was
    heard there. Mono at 22,050 hertz. What was spoken is kept in `cache`, 100 MB for about 40 minutes.

    Args:
        sentences: `numbers`, 0 to 9,999 in English words; `docs`, 1,200 phrases of Python's documentation in English;
            or a text file, which holds a sentence in each line. Lines that say the same count once.
        language: in which they are read, by espeak-ng's names, as in en-us, en-gb-scotland, es or ko.
        size: how many sentences, at most; null for all.
        readings: how many voices read each sentence.
        normalise: `letters` makes small letters and digits of texts, without punctuation; `none` leaves them as they
            are written.
        voices: who reads, by the names of espeak-ng's variants, as in f3, with _ for a space; by default all 100.
        val_fraction: share of the sentences, and of the voices, that validation gets.
        test_fraction: share of the sentences, and of the voices, that the test gets.
        split_seed: decides which sentences and voices, and who reads what; apart from the run's seed, so that runs of
            several seeds share their test.
        cache: the folder for what was spoken; by default plugformer in the user's cache folder.

    Raises:
        UserError: no such file, a language or a voice that there isn't, or fewer voices than readings or splits.
    """

    def __init__(
        self,
        *,
        sentences: Literal["numbers", "docs"] | Path = "numbers",
        language: str = "en-us",
        size: int | None = 2000,
        readings: int = 1,
        normalise: Literal["none", "letters"] = "none",
        voices: list[str] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        for name, number in {"size": size, "readings": readings}.items():
            if number is not None and number < 1:
                raise UserError(f"data.{name}={number}: must be at least 1.")
        self.source = str(sentences)
        if self.source in DURATIONS and language.split("-", maxsplit=1)[0] != "en":
            raise UserError(
                f"data.language={language}: data.sentences={self.source} are in English.\n"
                "  Name a file of sentences in that language, data.sentences=FILE."
            )
        self.language = language
        self.size = size
        self.readings = readings
        self.normalise = normalise
        self.voices = chosen("voices", VOICES if voices is None else voices, VOICES)
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        self.cache = cache

    @property
    def spec(self) -> DataSpec:
        keys = frozenset({"id", "audio", "target_text", "group"})
        return DataSpec(keys, rate=RATE, duration=DURATIONS.get(self.source))

    @cached_property
    def _sentences(self) -> dict[str, str]:
        """Those that are read, in an order of the seed's."""
        known = sentences_of(self.source)
        return {name: known[name] for name in self._shuffled(list(known), "sentences")[: self.size]}

    def _shuffled(self, names: list[str], what: str) -> list[str]:
        generator = torch.Generator().manual_seed(seed_for(self.drawing.seed, what))
        return [names[index] for index in torch.randperm(len(names), generator=generator).tolist()]

    @cached_property
    def _readings(self) -> dict[Split, list[Reading]]:
        return {split: self._cast(self._parts(split, list(self._sentences)), split) for split in SPLITS}

    def _parts(self, split: Split, names: list[str]) -> list[str]:
        return self.drawing.divide(names, group=str)[split]

    def _cast(self, names: list[str], split: Split) -> list[Reading]:
        """Who reads what: everybody about as much."""
        voices = self._shuffled(self._parts(split, list(self.voices)), f"voices of {split}")
        if names and self.readings > len(voices):
            raise UserError(
                f"data.readings={self.readings}: {split} has {len(voices)} of {counted(len(self.voices), 'voice')}.\n"
                "  Set more data.voices, or a greater share for it."
            )
        turns = [(turn, name) for turn, name in enumerate(name for name in names for _ in range(self.readings))]
        return [Reading(voices[turn % len(voices)], name) for turn, name in turns]

    # ------------------------------------------------------------------------------------------ clips

    @cached_property
    def _scripts(self) -> list[Script]:
        """What each voice reads, in parts of `GO` sentences."""
        parts: dict[str, list[str]] = defaultdict(list)
        for readings in self._readings.values():
            for reading in readings:
                parts[reading.voice].append(self._sentences[reading.sentence])
        return [
            Script(Speaker(voice, self.language), tuple(words[start : start + GO]))
            for voice, words in parts.items()
            for start in range(0, len(words), GO)
        ]

    @cached_property
    def _clips(self) -> Arrays:
        _check_language(self.language, find_espeak("spoken_text"))
        made_of = {"version": VERSION, "espeakng-loader": version("espeakng-loader"), "scripts": self._scripts}
        return cached(self._make, name="spoken_text", made_of=made_of, folder=self.cache)

    def _make(self) -> Arrays:
        longest = DURATIONS.get(self.source)
        return read_aloud(self._scripts, data="spoken_text", utterance="sentence", longest=longest)

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        """The number of each clip, by its voice and words."""
        spoken = [(script.speaker.voice, words) for script in self._scripts for words in script.words]
        return {clip: number for number, clip in enumerate(spoken)}

    def samples(self, split: Split) -> Clips:
        readings = self._readings[split]
        numbers = [self._places[reading.voice, self._sentences[reading.sentence]] for reading in readings]
        return Clips([self._known(reading) for reading in readings], numbers, **self._clips)

    def _known(self, reading: Reading) -> Sample:
        text = self._sentences[reading.sentence]
        return {
            "id": f"spoken_text/{self.language}/{reading.voice}/{reading.sentence}",
            "target_text": letters(text) if self.normalise == "letters" else text,
            "group": reading.voice,
        }

    def fingerprint(self) -> str:
        arrays = [part for name in sorted(self._clips) for part in (name, self._clips[name].tobytes())]
        known = [repr(sample) for split in SPLITS for sample in map(self._known, self._readings[split])]
        return fingerprint([*arrays, *known, repr([len(self._readings[split]) for split in SPLITS])])


def _check_language(language: str, espeak: ModuleType) -> None:
    """
    Raises:
        UserError: espeak-ng doesn't speak it; it would take another for it.
    """
    spoken: set[str] = set()
    for path in Path(espeak.get_data_path(), "lang").rglob("*"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            spoken.update(line.split()[1] for line in lines if line.startswith("language "))
    if language not in spoken:
        raise unknown(f"data.language={language}: espeak-ng doesn't speak it", language, spoken)
