"""Which Latin letters does a Korean syllable have in its Unicode name?"""

import unicodedata
from collections.abc import Mapping
from functools import cached_property

from plugformer.data.splits import check_fractions, place, split_by_group
from plugformer.interfaces import Sample, Split
from plugformer_text.text_source import PairSource

FIRST, LAST = 0xAC00, 0xD7A3
PREFIX = "HANGUL SYLLABLE "


class HangulNames(PairSource):
    """Every Hangul syllable, 가 to 힣, and its romanisation as its Unicode name spells it: 한 → HAN (11,172 pairs).

    The name follows from the syllable's place in the table (The Unicode Standard, section 3.12), and no two are equal:
    a model that has found the rule is right about all of the test. A tokenizer must write syllables that it has never
    seen, as bytes do.

    Args:
        val_fraction: share of the syllables that validation gets.
        test_fraction: share of the syllables that the test gets.
        split_seed: decides which; apart from the run's seed, so that runs of several seeds share their test.
    """

    def __init__(self, *, val_fraction: float = 0.1, test_fraction: float = 0.1, split_seed: int = 0) -> None:
        check_fractions(val_fraction, test_fraction)
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed

    @cached_property
    def _splits(self) -> Mapping[Split, list[Sample]]:
        samples = [_sample(chr(point)) for point in range(FIRST, LAST + 1)]
        drawn = split_by_group(
            [sample["group"] for sample in samples],
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
        )
        return place(samples, drawn)


def _sample(syllable: str) -> Sample:
    name = unicodedata.name(syllable).removeprefix(PREFIX)
    return Sample(id=f"U+{ord(syllable):04X}", text=syllable, target_text=name, group=syllable)
