"""Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes: Radford et al. 2019, section 2.2)."""

from collections.abc import Sequence
from typing import ClassVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from plugformer_text.learned_tokenizer import LearnedTokenizer


class TextBpe(LearnedTokenizer):
    """Bytes, of which the most frequent neighbours within a word became one token, again and again.

    Every text can be written so, and is decoded back to itself unless it was normalised. A word begins with the space
    before it.
    """

    model: ClassVar[str] = "BPE"

    def _learn(self, texts: Sequence[str], size: int) -> Tokenizer:
        self._make_room(256)
        library = self._begin(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False))
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=self.min_frequency,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        library.train_from_iterator(texts, trainer)
        return library
