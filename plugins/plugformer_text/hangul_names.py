"""Which Latin letters does a Korean syllable have in its Unicode name?"""

import unicodedata
from collections.abc import Mapping
from functools import cached_property

from plugformer.data.drawing import Drawing
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
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)

    @cached_property
    def _splits(self) -> Mapping[Split, list[Sample]]:
        samples = [_sample(chr(point)) for point in range(FIRST, LAST + 1)]
        return self.drawing.divide(samples, group=lambda sample: sample["group"])


def _sample(syllable: str) -> Sample:
    name = unicodedata.name(syllable).removeprefix(PREFIX)
    return Sample(id=f"U+{ord(syllable):04X}", text=syllable, target_text=name, group=syllable)
