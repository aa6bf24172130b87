"""Whatever stands between white space as a token."""

import warnings
from collections.abc import Sequence
from typing import ClassVar

from tokenizers import Tokenizer, models, pre_tokenizers

from plugformer_text.learned_tokenizer import LearnedTokenizer, Words
from plugformer_text.vocabulary import out_of_reach


class TextSymbols(LearnedTokenizer):
    """Symbols with white space between them, such as those of formulas, notes or moves; the most frequent are known.

    White space itself is no token, so decoding writes a space. All other symbols are unknown, one as the other.
    """

    model: ClassVar[str] = "WordLevel"
    unk: ClassVar[str | None] = out_of_reach("<unk>")  # no symbol has a space in it

    def _learn(self, texts: Sequence[str], size: int) -> Tokenizer:
        self._warn_if_cut(texts)
        splitting = pre_tokenizers.WhitespaceSplit()
        counts = Words(texts, self._begin(models.WordLevel(), splitting), min_frequency=self.min_frequency).counts
        known = [symbol for symbol, count in counts.items() if count >= self.min_frequency]
        known.sort(key=lambda symbol: -counts[symbol])  # those of one frequency stay in the alphabet's order
        vocabulary = {symbol: number for number, symbol in enumerate([str(self.unk), *known][:size])}
        return self._begin(models.WordLevel(vocabulary, unk_token=str(self.unk)), splitting)

    def _warn_if_cut(self, texts: Sequence[str]) -> None:
        """A formula without its end is another formula."""
        if self.packing != "none" or self.truncation == "refuse":
            return
        lengths = [len(text.split()) + len(self.around) for text in texts]
        if share := sum(length > self.max_length for length in lengths) / len(texts):
            warnings.warn(
                f"{self.part}.max_length={self.max_length}: {share:.1%} of the training texts are longer, and are cut; "
                f"the longest has {max(lengths)} tokens.",
                stacklevel=3,
            )
