"""Unigram language model (Kudo 2018), with spaces as in SentencePiece (Kudo and Richardson 2018)."""

import json
from collections.abc import Sequence
from typing import ClassVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from plugformer.errors import UserError
from plugformer_text.learned_tokenizer import LearnedTokenizer, Words
from plugformer_text.vocabulary import out_of_reach


class TextUnigram(LearnedTokenizer):
    """Pieces with probabilities; a word is cut into those whose product is greatest.

    A word begins with ▁ for the space before it. Rare characters are unknown.
    """

    model: ClassVar[str] = "Unigram"
    unk: ClassVar[str | None] = out_of_reach("<unk>")

    def _learn(self, texts: Sequence[str], size: int) -> Tokenizer:
        splitting = pre_tokenizers.Metaspace()
        words = Words(texts, self._begin(models.Unigram(), splitting), min_frequency=self.min_frequency)
        self._make_room(2 + len(words.characters))  # without a piece besides, the library knows no limit
        trainer = trainers.UnigramTrainer(
            vocab_size=size,
            special_tokens=[str(self.unk)],
            unk_token=self.unk,
            initial_alphabet=words.characters,
            show_progress=False,
        )
        repeated = list(words.repeated(at_least=self.min_frequency))
        if not repeated:
            raise UserError(
                f"{self.part}.min_frequency={self.min_frequency}: no word of the training text stands there so often.\n"
                f"  Set {self.part}.min_frequency=1."
            )
        learning = Tokenizer(models.Unigram())
        learning.train_from_iterator(repeated, trainer)
        scores = dict(json.loads(learning.to_str())["model"]["vocab"])
        del scores[str(self.unk)]
        pieces = [(str(self.unk), 0.0), *_canonical(scores)]
        library = self._begin(models.Unigram(pieces, unk_id=0, byte_fallback=False), splitting)
        library.decoder = decoders.Metaspace()
        return library


def _canonical(scores: dict[str, float]) -> list[tuple[str, float]]:
    """Pieces in an order, and with log probabilities, that are the same whenever they are learned.

    The library sums in the order of its hash table, another one each time, which shows in the eleventh digit; and it
    gives characters that would have been lost the least score there is and, in that order, 0.0001 more each.
    """
    least = min(scores.values())
    rescued = least + 1e-4 * sum(len(piece) == 1 for piece in scores)
    for piece, score in scores.items():
        scores[piece] = round(least if len(piece) == 1 and score < rescued else score, 3)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
