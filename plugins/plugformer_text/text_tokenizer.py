"""What all tokenizers of text have in common: documents to sequences, sequences to batches."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import Features, Grid, Sample, Tokenizer, TokenSpec
from plugformer_text.embedding import TextEmbedding
from plugformer_text.packing import Packed, Packing
from plugformer_text.vocabulary import Document, Vocabulary

MASK = "[MASK]"  # what stands for the mask on a command line, and only there


class TextTokenizer(Tokenizer):
    """
    Args:
        max_length: tokens of the longest sequence, special ones included.
        truncation: the side on which longer documents lose what is too much; `refuse` to be told instead.
        pad_to_multiple: padded sequences have a multiple of this many tokens; divides `max_length`.
        packing: how documents share sequences, see Packed; `none` for one document in each.
        bos, eos: whether a special token stands at a document's front, and at its end.
        sentinels: special tokens that no text becomes, to stand for what is taken out of it.
        part: of a run that it is, `tokenizer` or `target_tokenizer`, whose options its messages name.

    Raises:
        UserError: numbers that can't be.
    """

    modality: ClassVar[str] = "text"
    mask_takes_space: ClassVar[bool] = True  # a space before a word belongs to its token

    def __init__(
        self,
        *,
        max_length: int,
        truncation: Literal["right", "left", "refuse"],
        pad_to_multiple: int,
        packing: Packing,
        bos: bool,
        eos: bool,
        sentinels: int,
        part: str,
    ) -> None:
        self.part = part
        if sentinels < 0:
            raise UserError(f"{self.part}.sentinels={sentinels}: must not be negative.")
        self.around = [role for role, wanted in (("bos", bos), ("eos", eos)) if wanted]
        if max_length < len(self.around) + 1 + (packing != "none"):
            raise UserError(
                f"{self.part}.max_length={max_length}: must be at least {len(self.around) + 1 + (packing != 'none')}, "
                "to have room for text."
            )
        if pad_to_multiple < 1 or max_length % pad_to_multiple:
            raise UserError(
                f"{self.part}.pad_to_multiple={pad_to_multiple}: must be at least 1 and divide "
                f"{self.part}.max_length={max_length}."
            )
        if packing != "none" and truncation == "left":
            raise UserError(
                f"{self.part}.truncation=left: {self.part}.packing={packing} cuts long documents and truncates none.\n"
                f"  Leave it out, or set {self.part}.packing=none."
            )
        self.max_length = max_length
        self.truncation = truncation
        self.pad_to_multiple = pad_to_multiple
        self.packing: Packing = packing
        self.num_sentinels = sentinels
        self._vocabulary: Vocabulary | None = None
        self._assumed: tuple[int, dict[str, int], Sequence[int]] | None = None

    # ------------------------------------------------------------------------------------------ vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        assert self._vocabulary is not None, "not fitted"
        return self._vocabulary

    def use(self, vocabulary: Vocabulary, *, where: str = "tokenizer") -> None:
        """
        Raises:
            UserError: the vocabulary lacks a special token that the options ask for.
        """
        for role in ("pad", *self.around):
            if role not in vocabulary.specials:
                instead = f"set {self.part}.{role}=false, or " if role in self.around else ""
                raise UserError(
                    f"{where}: it has no special token for {role}.\n  Its special tokens: "
                    f"{', '.join(f'{role}={number}' for role, number in vocabulary.specials.items()) or 'none'}. "
                    f'To go on, {instead}name one in the tokenizer_config.json beside it: {{"{role}_token": "..."}}'
                )
        self._vocabulary = vocabulary

    @property
    def lossless(self) -> bool:
        """Whether `decode` gives back exactly what was encoded, whatever it was, if it wasn't truncated."""
        return self.vocabulary.lossless

    @property
    def spec(self) -> TokenSpec:
        assert self._vocabulary or self._assumed, "neither fitted nor assumed"
        known, assumed = self._vocabulary, self._assumed or (0, {}, ())
        size, specials, sentinels = (known.size, known.specials, known.sentinels) if known else assumed
        return TokenSpec(
            Grid(("position",), (self.max_length,)),
            vocab_size=size,
            specials=specials,
            pads=True,
            packs=self.packing != "none",
            segments=self.packing in ("fit", "fill"),
            words=True,
            sentinels=tuple(sentinels),
            around=frozenset(self.around),
        )

    def save(self, folder: Path) -> None:
        self.vocabulary.save(folder)

    def load(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        self.use(Vocabulary.read(path, where=str(path)), where=str(path))

    # ------------------------------------------------------------------------------------------ documents to sequences

    def encode(self, sample: Sample, *, augment: bool = False) -> Features:
        if "encoded" in sample:
            return dict(sample["encoded"])
        return self._features(self.vocabulary.encode(text_of(sample)), sample)

    def sequences(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        if self.packing == "none" or not len(samples) or "encoded" in samples[0]:
            return samples
        return Packed(self._documents(samples), length=self.max_length, packing=self.packing)

    def _documents(self, samples: Iterable[Sample]) -> Iterator[Document]:
        """All samples encoded, some at a time."""
        remaining = iter(samples)
        while some := list(islice(remaining, 1000)):
            encoded = self.vocabulary.encode_all([text_of(sample) for sample in some])
            for sample, document in zip(some, encoded, strict=True):
                if self.packing == "fit" and self.truncation == "refuse":
                    self._truncate(document, sample)
                yield self._surround(document)

    def _features(self, document: Document, sample: Sample) -> Features:
        document = self._surround(self._truncate(document, sample))
        if not len(document.ids):
            raise UserError(
                f"{_name(sample)}: its text has no tokens.\n"
                f"  Leave it out, or set {self.part}.bos=true so that every text has one."
            )
        return _tensors(document)

    def _surround(self, document: Document) -> Document:
        """With the special tokens around it, which belong to no word and stand for no bytes."""
        return Document.join([*self._special("bos"), document, *self._special("eos")])

    def _special(self, role: str) -> Iterator[Document]:
        """The special token of this role, if documents have it around them."""
        if role in self.around:
            yield Document.special(self.vocabulary.specials[role])

    def _truncate(self, document: Document, sample: Sample) -> Document:
        room, length = self.max_length - len(self.around), len(document.ids)
        if length <= room:
            return document
        if self.truncation == "refuse":
            raise UserError(
                f"{_name(sample)}: its {length + len(self.around)} tokens are more than "
                f"{self.part}.max_length={self.max_length}.\n"
                f"  Set a greater {self.part}.max_length, {self.part}.truncation=right, or {self.part}.packing=fill."
            )
        kept = slice(room) if self.truncation == "right" else slice(length - room, None)
        return Document(*(part[kept] for part in document))

    def length_hint(self, sample: Sample) -> int:
        return len(sample["encoded"]["ids"]) if "encoded" in sample else len(sample["text"])

    def read(self, source: str) -> Sample:
        """The text itself, in which `[MASK]` stands for the mask. It makes a sequence of its own, packed or not."""
        sample: Sample = {"id": source, "text": source}
        specials = self.vocabulary.specials
        texts = source.split(MASK) if "mask" in specials else [source]
        if self.mask_takes_space:
            texts = [*(text.removesuffix(" ") for text in texts[:-1]), texts[-1]]
        parts: list[Document] = []
        for text in texts:
            if parts:
                parts.append(Document.special(specials["mask"]))
            parts.append(self.vocabulary.encode(text_of({"id": source, "text": text})))
        document, room = Document.join(parts), self.max_length - len(self.around)
        if len(document.ids) > room and self.truncation != "refuse":
            kept = "first" if self.truncation == "right" else "last"
            warnings.warn(
                f"{source[:40]!r}…: of its {len(document.ids)} tokens only the {kept} {room} "
                f"{'is' if room == 1 else 'are'} read, since {self.part}.max_length={self.max_length}.",
                stacklevel=2,
            )
        return {**sample, "encoded": self._features(document, sample)}

    def prompt(self, source: str) -> Features:
        """The text behind what stands at a document's front, however long it is."""
        text = text_of({"text": source})
        document = Document.join([*self._special("bos"), self.vocabulary.encode(text)])
        if not len(document.ids):
            raise UserError(
                "An empty prompt: there is nothing to go on with.\n"
                f"  A tokenizer with {self.part}.bos=true would begin with its special token."
            )
        return _tensors(document)

    def decode(self, ids: Int[Tensor, "length"]) -> str:
        return self.vocabulary.decode(ids.tolist())

    # ------------------------------------------------------------------------------------------ sequences to batches

    def collate(self, features: Sequence[Features]) -> Features:
        """Padded on the right; `valid` stands there if anything is, `segments` and `positions` if documents share."""
        lengths = torch.tensor([len(each["ids"]) for each in features])
        length = -(-int(lengths.max()) // self.pad_to_multiple) * self.pad_to_multiple
        if any("segments" in each for each in features):
            features = [_with_segments(each) for each in features]
        fills = {"ids": self.spec.specials["pad"], "words": -1}
        batch = {key: _pad([each[key] for each in features], length, fills.get(key, 0)) for key in features[0]}
        if lengths.min() < length:
            batch["valid"] = torch.arange(length) < lengths[:, None]
        return batch

    def example(self) -> Features:
        spec, length = self.spec, self.max_length
        special = {*spec.specials.values(), *spec.sentinels}
        ordinary = next(number for number in range(len(special) + 1) if number not in special)
        every = torch.arange(length)
        features = {"ids": torch.full_like(every, ordinary), "words": every, "bytes": torch.ones_like(every)}
        if spec.segments:
            features["segments"] = (every >= length // 2).long()
            features["positions"] = every - features["segments"] * (length // 2)
        return features

    def embedding(self, *, dim: int) -> TextEmbedding:
        spec = self.spec
        assert spec.vocab_size is not None
        return TextEmbedding(vocab_size=spec.vocab_size, dim=dim, grid=spec.grid)


def text_of(sample: Sample) -> str:
    """
    Raises:
        UserError: the text holds half a character, which has no UTF-8.
    """
    text = sample["text"]
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{_name(sample)}: character {error.start} is U+{ord(text[error.start]):04X}, a lone surrogate: half of a "
            'character, which has no UTF-8.\n  Replace it, as in text.encode(errors="replace").decode().'
        ) from None
    return text


def _tensors(document: Document) -> Features:
    return {key: torch.from_numpy(value.astype(np.int64)) for key, value in document._asdict().items()}


def _name(sample: Sample) -> str:
    return ascii(sample.get("id", "a text"))[1:-1]


def _with_segments(features: Features) -> Features:
    if "segments" in features:
        return features
    positions = torch.arange(len(features["ids"]))
    return features | {"segments": torch.zeros_like(positions), "positions": positions}


def _pad(tensors: Sequence[Tensor], length: int, fill: int) -> Tensor:
    """Tensors `[length]` of several lengths as one `[batch, length]`."""
    batch = torch.full((len(tensors), length), fill)
    for row, tensor in zip(batch, tensors, strict=True):
        row[: len(tensor)] = tensor
    return batch
