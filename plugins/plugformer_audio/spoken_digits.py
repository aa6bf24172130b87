"""The ten digits in English, spoken by 100 synthetic voices."""

from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from plugformer.data.cache import Arrays, cached
from plugformer.data.fingerprint import fingerprint
from plugformer.data.splits import check_fractions, split_by_group
from plugformer.interfaces import DataSource, DataSpec, Sample, Split
from plugformer_audio.espeak import RATE
from plugformer_audio.sentences import ONES
from plugformer_audio.voices import VOICES, Clips, Script, Speaker, chosen, find_espeak, read_aloud

VERSION = 1  # of how clips are made: another number, other samples
DIGITS = ONES[:10]
DURATION = 0.8  # seconds; no clip is longer, and the longest has 0.781

# Of espeak-ng 1.52, all English accents in Latin letters but en-us-nyc, which says half of the digits as en-us.
ACCENTS = ("en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us")


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
        self.accents = chosen("accents", accents, ACCENTS)
        self.voices = chosen("voices", VOICES if voices is None else voices, VOICES)
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
        find_espeak("spoken_digits")
        made_of = {
            "version": VERSION,
            "espeakng-loader": version("espeakng-loader"),
            "digits": DIGITS,
            "accents": self.accents,
            "voices": self.voices,
        }
        return cached(self._make, name="spoken_digits", made_of=made_of, folder=self.cache)

    def _make(self) -> Arrays:
        scripts = [Script(speaker, DIGITS) for speaker in self._speakers]
        return read_aloud(scripts, data="spoken_digits", utterance="digit", longest=DURATION)

    def samples(self, split: Split) -> Clips:
        return Clips([self._known(number) for number in self._splits[split]], self._splits[split], **self._clips)

    def _known(self, number: int) -> Sample:
        speaker, digit = divmod(number, len(DIGITS))
        voice, accent = self._speakers[speaker]
        word = DIGITS[digit]
        return {
            "id": f"spoken_digits/{accent}/{voice}/{word}",
            "label": digit,
            "target_text": word,
            "group": voice,
        }

    def fingerprint(self) -> str:
        arrays = [part for name in sorted(self._clips) for part in (name, self._clips[name].tobytes())]
        return fingerprint([*arrays, repr(self._speakers), repr(self._splits)])
