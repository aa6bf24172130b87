"""Bytes of UTF-8 as tokens (as in ByT5, Xue et al. 2022)."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from plugformer.interfaces import DataSpec, Sample
from plugformer_text.text_tokenizer import TextTokenizer
from plugformer_text.vocabulary import Vocabulary, normaliser


class TextBytes(TextTokenizer):
    """The 256 bytes, numbered as they are, and special tokens. Nothing is learned.

    Words are those of byte-level BPE, each with the space before it.

    Args:
        normalisation: Unicode's normal form that text is brought to first.
        lowercase: whether text is lowercased first.
        max_length: tokens of the longest sequence, special ones included.
        truncation: the side on which longer documents lose what is too much; `refuse` to be told instead.
        pad_to_multiple: padded sequences have a multiple of this many tokens; divides `max_length`.
        packing: how documents share sequences. `none`: one document in each. `fit`: whole documents together, longer
            ones cut. `fill`: all documents end to end, cut into equal blocks. `stream`: the same without boundaries.
        bos: whether a special token stands at a document's front.
        eos: whether a special token stands at a document's end.
        sentinels: special tokens that no text becomes, to stand for what a task takes out of it, as in T5.
        part: of a run that it is, `tokenizer` or `target_tokenizer`, whose options its messages name.

    Raises:
        UserError: numbers that can't be.
    """

    mask_takes_space: ClassVar[bool] = False

    def __init__(
        self,
        *,
        normalisation: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] = "none",
        lowercase: bool = False,
        max_length: int = 1024,
        truncation: Literal["right", "left", "refuse"] = "right",
        pad_to_multiple: int = 1,
        packing: Literal["none", "fit", "fill", "stream"] = "none",
        bos: bool = True,
        eos: bool = True,
        sentinels: int = 0,
        part: str = "tokenizer",
    ) -> None:
        super().__init__(
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple=pad_to_multiple,
            packing=packing,
            bos=bos,
            eos=eos,
            sentinels=sentinels,
            part=part,
        )
        library = Tokenizer(models.BPE(vocab=_alphabet(), merges=[]))
        steps = normaliser(normalisation, lowercase=lowercase)
        if steps is not None:
            library.normalizer = steps
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        self.use(Vocabulary.learned(library, sentinels=sentinels))

    def assume(self, data: DataSpec) -> None:
        """Nothing depends on the data."""

    def fit(self, samples: Iterable[Sample]) -> None:
        """Nothing is learned."""


def _alphabet() -> dict[str, int]:
    """Bytes by the characters that the library spells them with: Latin-1's printable ones, then those from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
