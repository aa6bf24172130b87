"""WordPiece (Schuster and Nakajima 2012; as in BERT, Devlin et al. 2019, section 3)."""

import json
from collections.abc import Sequence
from typing import ClassVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from plugformer_text.learned_tokenizer import LearnedTokenizer, Words


class TextWordpiece(LearnedTokenizer):
    """Words and signs, each cut from its front into the longest pieces that the vocabulary has.

    Pieces within a word begin with ##. Spaces are no tokens, so decoding guesses them. A word with a rare character is
    unknown as a whole.
    """

    model: ClassVar[str] = "WordPiece"
    unk: ClassVar[str | None] = "[UNK]"  # brackets are always words of their own

    def _learn(self, texts: Sequence[str], size: int) -> Tokenizer:
        splitting = pre_tokenizers.BertPreTokenizer()
        words = Words(texts, self._begin(models.WordPiece(), splitting), min_frequency=self.min_frequency)
        self._make_room(1 + 2 * len(words.characters))
        # The library numbers pieces as its hash table has them, and breaks ties by number, unless they are given first.
        trainer = trainers.WordPieceTrainer(
            vocab_size=size,
            min_frequency=self.min_frequency,
            special_tokens=[str(self.unk), *(f"##{character}" for character in words.characters)],
            initial_alphabet=words.characters,
            limit_alphabet=len(words.characters),
            show_progress=False,
        )
        learning = Tokenizer(models.WordPiece())
        learning.train_from_iterator(words.repeated(), trainer)
        pieces = json.loads(learning.to_str())["model"]["vocab"]
        library = self._begin(models.WordPiece(pieces, unk_token=str(self.unk)), splitting)
        library.decoder = decoders.WordPiece()
        return library
