"""The voices of espeak-ng, what they say, and the clips of it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from plugformer.data.cache import Arrays
from plugformer.errors import UserError, unknown
from plugformer.interfaces import Audio, Sample, UnreadSamples
from plugformer.progress import shown
from plugformer_audio.espeak import RATE, EspeakError, speak

# Of espeak-ng 1.52, all variants but adam, benjamin, klatt2 and klatt5, each of which is nearly the same as another.
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
    """Somebody who speaks."""

    voice: str
    accent: str


class Script(NamedTuple):
    """What a speaker says in one go; each of the words is an utterance, and stands there once."""

    speaker: Speaker
    words: tuple[str, ...]


def read_aloud(scripts: Sequence[Script], *, data: str, utterance: str, longest: float | None) -> Arrays:
    """`waveform`, int16, of all words of all scripts one after the other, and where each clip `ends` in it.

    Args:
        scripts: each is spoken in a process of its own.
        data: the plugin that wants them, for messages.
        utterance: what it calls one, as in "digit".
        longest: seconds that no clip may exceed.

    Raises:
        UserError: espeakng-loader isn't there, or a voice doesn't speak as it should.
    """
    espeak = find_espeak(data)
    clips: list[bytes] = []

    def perform(script: Script) -> list[bytes]:
        return _perform(script, espeak, data=data, utterance=utterance, longest=longest)

    with ThreadPoolExecutor() as pool:  # they wait for processes
        try:
            for words in shown(pool.map(perform, scripts), f"Speaking {utterance}s", len(scripts)):
                clips += words
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {
        "waveform": np.frombuffer(b"".join(clips), dtype=np.int16),
        "ends": np.cumsum([len(clip) // 2 for clip in clips]),
    }


def _perform(script: Script, espeak: ModuleType, *, data: str, utterance: str, longest: float | None) -> list[bytes]:
    voice, accent = script.speaker
    name = f"{accent}+{voice.replace('_', ' ')}"
    try:
        clips = speak(name, script.words, library=espeak.get_library_path(), data=espeak.get_data_path())
    except EspeakError as error:
        raise UserError(f"data={data}: espeak-ng failed. {error}.") from None
    for word, clip in zip(script.words, clips, strict=True):
        if not any(clip):
            raise UserError(f"data={data}: {name} is silent at {word!r}.\n  Leave it out, or the voice.")
    duration = max(map(len, clips)) / 2 / RATE
    if longest is not None and duration > longest:
        raise UserError(
            f"data={data}: {name} takes {duration:.3f} s for a {utterance}, more than {longest}.\n"
            f"  Install a version of espeakng-loader near 0.2.4; this is {version('espeakng-loader')}."
        )
    return clips


def find_espeak(data: str) -> ModuleType:
    """
    Raises:
        UserError: it isn't installed.
    """
    try:
        import espeakng_loader  # noqa: PLC0415  # an optional dependency
    except ImportError:
        raise UserError(f"data={data} needs espeakng-loader: pip install 'plugformer[speech]'") from None
    return espeakng_loader


class Clips(UnreadSamples):
    """
    Args:
        known: of each sample, all but its audio.
        numbers: of their clips.
        waveform, ends: by `read_aloud`.
    """

    def __init__(
        self, known: Sequence[Sample], numbers: Sequence[int], *, waveform: np.ndarray, ends: np.ndarray
    ) -> None:
        self._known = known
        self.numbers = numbers
        self.waveform = waveform
        self.ends = ends

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        number = self.numbers[index]
        clip = self.waveform[self.ends[number - 1] if number else 0 : self.ends[number]]
        return {**self._known[index], "audio": Audio(torch.from_numpy(clip.astype(np.float32) / 2**15)[None], RATE)}

    def known(self, index: int) -> Sample:
        return self._known[index]


def chosen(option: str, names: Sequence[str], possible: Sequence[str]) -> tuple[str, ...]:
    """The names, if each is possible and none comes twice.

    Raises:
        UserError: otherwise, or without any.
    """
    if not names:
        raise UserError(f"data.{option}=[]: give at least one of {', '.join(possible)}.")
    for place, name in enumerate(names):
        if name not in possible:
            raise unknown(f"data.{option}: there is no {name!r}", name, possible)
        if name in names[:place]:
            raise UserError(f"data.{option}: {name} is given twice.")
    return tuple(names)
