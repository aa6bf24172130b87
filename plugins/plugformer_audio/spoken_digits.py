"""The ten digits in English, spoken by 100 synthetic voices."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from plugformer.data.cache import Arrays, cached
from plugformer.data.fingerprint import fingerprint
from plugformer.data.splits import check_fractions, split_by_group
from plugformer.errors import UserError, unknown
from plugformer.interfaces import Audio, DataSource, DataSpec, Sample, Split
from plugformer_audio.espeak import RATE, EspeakError, speak

VERSION = 1  # of how clips are made: another number, other samples
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DURATION = 0.8  # seconds; no clip is longer, and the longest has 0.781

# Of espeak-ng 1.52, all English accents in Latin letters but en-us-nyc, which says half of the digits as en-us, and all
# variants but adam, benjamin, klatt2 and klatt5, each of which is nearly the same as another one.
ACCENTS = ("en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us")
VOICES = tuple(
    """
    Alex Alicia Andrea Andy Annie AnxiousAndy Demonic Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael
    Mike Mr_serious Nguyen Reed RicishayMax RicishayMax2 RicishayMax3 Storm Tweaky UniRobot anika anikaRobot announcer
    antonio aunty belinda boris caleb croak david ed edward edward2 f1 f2 f3 f4 f5 fast grandma grandpa gustave ian iven
    iven2 iven3 iven4 john kaukovalta klatt klatt3 klatt4 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel
    mike2 norbert pablo paul pedro quincy rob robert robosoft robosoft2 robosoft3 robosoft4 robosoft5 robosoft6
    robosoft7 robosoft8 sandro shelby steph steph2 steph3 travis victor whisper whisperf zac
    """.split()  # noqa: SIM905  # 200 quotes less
)


class Speaker(NamedTuple):
    """Somebody who says all digits."""

    voice: str
    accent: str


class SpokenDigits(DataSource):
    """The words zero to nine, spoken by 100 voices of espeak-ng in several English accents; needs espeakng-loader.

    Splits are drawn by voice: what is tested was never heard in training, in no accent. Mono at 22,050 hertz, and no
    clip is longer than 0.8 seconds. What was spoken is kept in `cache`.

    Args:
        accents: in which each voice says each digit, by espeak-ng's names: en (Great Britain), en-029 (Caribbean),
            en-gb-scotland, en-gb-x-gbclan (Lancaster), en-gb-x-gbcwmd (West Midlands), en-gb-x-rp (Received
            Pronunciation), en-us.
        voices: who speaks, by the names of espeak-ng's variants, as in f3, with _ for a space; by default all 100.
        val_fraction: share of the voices that validation gets.
        test_fraction: share of the voices that the test gets.
        split_seed: decides which voices; apart from the run's seed, so that runs of several seeds share their test.
        cache: the folder for what was spoken; by default plugformer in the user's cache folder.

    Raises:
        UserError: an accent or a voice that there isn't, or that is given twice.
    """

    def __init__(
        self,
        *,
        accents: list[str] = ["en-us", "en", "en-gb-scotland", "en-029"],  # noqa: B006  # nobody changes it
        voices: list[str] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        self.accents = _chosen("accents", accents, ACCENTS)
        self.voices = _chosen("voices", VOICES if voices is None else voices, VOICES)
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.cache = cache

    @property
    def spec(self) -> DataSpec:
        keys = frozenset({"id", "audio", "label", "target_text", "group"})
        return DataSpec(keys, labels=DIGITS, rate=RATE, duration=DURATION)

    @cached_property
    def _speakers(self) -> list[Speaker]:
        return [Speaker(voice, accent) for voice in self.voices for accent in self.accents]

    @cached_property
    def _splits(self) -> dict[Split, list[int]]:
        """Numbers of clips."""
        return split_by_group(
            [speaker.voice for speaker in self._speakers for _ in DIGITS],
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
        )

    @cached_property
    def _clips(self) -> Arrays:
        _espeak()
        made_of = {
            "version": VERSION,
            "espeakng-loader": version("espeakng-loader"),
            "digits": DIGITS,
            "accents": self.accents,
            "voices": self.voices,
        }
        return cached(self._make, name="spoken_digits", made_of=made_of, folder=self.cache)

    def _make(self) -> Arrays:
        """`waveform`, int16, of all digits of all speakers one after the other, and where each clip `ends` in it."""
        clips: list[bytes] = []
        console = Console(stderr=True)
        with ThreadPoolExecutor() as pool:  # they wait for processes
            try:
                spoken = pool.map(_speak, self._speakers)
                for words in track(
                    spoken,
                    "speaking digits",
                    len(self._speakers),
                    console=console,
                    transient=True,
                    disable=not console.is_terminal,
                ):
                    clips += words
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return {
            "waveform": np.frombuffer(b"".join(clips), dtype=np.int16),
            "ends": np.cumsum([len(clip) // 2 for clip in clips]),
        }

    def samples(self, split: Split) -> Sequence[Sample]:
        return _Clips(self._splits[split], self._speakers, **self._clips)

    def fingerprint(self) -> str:
        arrays = [part for name in sorted(self._clips) for part in (name, self._clips[name].tobytes())]
        return fingerprint([*arrays, repr(self._speakers), repr(self._splits)])


class _Clips(Sequence[Sample]):
    """Those of a split."""

    def __init__(
        self, numbers: Sequence[int], speakers: Sequence[Speaker], *, waveform: np.ndarray, ends: np.ndarray
    ) -> None:
        self.numbers = numbers
        self.speakers = speakers
        self.waveform = waveform
        self.ends = ends

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        number = self.numbers[index]
        speaker, digit = divmod(number, len(DIGITS))
        voice, accent = self.speakers[speaker]
        clip = self.waveform[self.ends[number - 1] if number else 0 : self.ends[number]]
        return {
            "id": f"spoken_digits/{accent}/{voice}/{DIGITS[digit]}",
            "audio": Audio(torch.from_numpy(clip.astype(np.float32) / 2**15)[None], RATE),
            "label": digit,
            "target_text": DIGITS[digit],
            "group": voice,
        }


def _speak(speaker: Speaker) -> list[bytes]:
    """All digits.

    Raises:
        UserError: the voice doesn't speak as it should.
    """
    espeak = _espeak()
    name = f"{speaker.accent}+{speaker.voice.replace('_', ' ')}"
    try:
        clips = speak(name, DIGITS, library=espeak.get_library_path(), data=espeak.get_data_path())
    except EspeakError as error:
        raise UserError(f"data=spoken_digits: espeak-ng failed. {error}.") from None
    longest = max(map(len, clips)) / 2 / RATE
    if longest > DURATION or not all(map(any, clips)):
        raise UserError(
            f"data=spoken_digits: {name} is silent, or takes {longest:.3f} s for a digit, more than {DURATION}.\n"
            f"  Install a version of espeakng-loader near 0.2.4; this is {version('espeakng-loader')}."
        )
    return clips


def _espeak() -> ModuleType:
    try:
        import espeakng_loader  # noqa: PLC0415  # an optional dependency
    except ImportError:
        raise UserError("data=spoken_digits needs espeakng-loader: pip install 'plugformer[speech]'") from None
    return espeakng_loader


def _chosen(option: str, names: Sequence[str], possible: Sequence[str]) -> tuple[str, ...]:
    """
    Raises:
        UserError: no name, a name that isn't possible, or a name that comes twice.
    """
    if not names:
        raise UserError(f"data.{option}=[]: give at least one of {', '.join(possible)}.")
    for place, name in enumerate(names):
        if name not in possible:
            raise unknown(f"data.{option}: there is no {name!r}", name, possible)
        if name in names[:place]:
            raise UserError(f"data.{option}: {name} is given twice.")
    return tuple(names)
