"""Text to numbers and back, by the `tokenizers` library, with special tokens that no text can become."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tokenizers import AddedToken, Tokenizer, normalizers

from plugformer.errors import UserError

Normalisation = Literal["none", "nfc", "nfd", "nfkc", "nfkd"]

ROLES = ("pad", "bos", "eos", "mask")

# What special tokens are called in files that don't say it themselves; of several in one file, the first.
_KNOWN = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<bos>", "<s>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("<eos>", "</s>", "[SEP]", "<|end_of_text|>", "<|endoftext|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
}
_ALSO = {"bos": "cls", "eos": "sep"}  # BERT's words for what stands at the front and at the end
_SENTINEL = re.compile(r"<+extra_id_(\d+) ?>+")  # T5's names, perhaps made unlike any text


class Document(NamedTuple):
    """A text as tokens; int32 arrays `[length]` of ids, numbers of words (-1: none) and bytes of UTF-8."""

    ids: np.ndarray
    words: np.ndarray
    bytes: np.ndarray

    @classmethod
    def special(cls, number: int) -> "Document":
        """One special token, which belongs to no word and stands for no bytes."""
        return cls(*(np.array([each], dtype=np.int32) for each in (number, -1, 0)))

    @classmethod
    def join(cls, parts: "Iterable[Document]") -> "Document":
        """One after the other, with no number of a word in two of them."""
        parts = list(parts)
        counts = [part.words.max(initial=-1) + 1 for part in parts]
        before = np.cumsum([0, *counts[:-1]])
        words = [np.where(part.words < 0, -1, part.words + base) for part, base in zip(parts, before, strict=True)]
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate(words).astype(np.int32),
            np.concatenate([part.bytes for part in parts]),
        )


class Vocabulary:
    """
    Args:
        library: the tokenizer of the `tokenizers` library.
        specials: ids of special tokens by role. Text never becomes one of them, but for `unk`: their names are looked
            for in no text, and no piece of text has the number of one.
        sentinels: ids of as many more of them, in their order, to stand for what is taken out of a text.

    Attributes:
        lossless: whether decoding gives back exactly what was encoded, whatever it was.
    """

    def __init__(self, library: Tokenizer, specials: Mapping[str, int], sentinels: Sequence[int] = ()) -> None:
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True  # as the text they look like; saved nowhere by the library
        self.library = library
        self.specials = dict(specials)
        self.sentinels = tuple(sentinels)
        self.size = library.get_vocab_size()
        settings = json.loads(library.to_str())
        self.lossless = (
            settings["normalizer"] is None
            and _is_byte_level(settings["pre_tokenizer"])
            and (settings["decoder"] or {}).get("type") == "ByteLevel"
        )
        self._widths = self._count_bytes(settings["added_tokens"]) if self.lossless else None
        names = [str(library.id_to_token(number)) for number in self.sentinels]
        self._shown = {name: in_reach(name) for name in names if " " in name}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.library.to_str(), self.specials, self.sentinels)

    @classmethod
    def learned(cls, library: Tokenizer, *, unk: str | None = None, sentinels: int = 0) -> "Vocabulary":
        """With new special tokens behind the pieces of text, under names that no piece has; `sentinels` at the end."""
        specials = dict(zip(ROLES, _add_special(library, ROLES), strict=True))
        if unk is not None:
            specials["unk"] = library.get_vocab()[unk]
        return cls(library, specials, _add_sentinels(library, sentinels))

    def with_sentinels(self, count: int) -> "Vocabulary":
        """The same with as many behind all that it has, which are none."""
        assert not self.sentinels, "it has sentinels"
        return Vocabulary(self.library, self.specials, _add_sentinels(self.library, count))

    # ------------------------------------------------------------------------------------------ text

    def encode(self, text: str) -> Document:
        """Without special tokens around it. The bytes add up to the text's length in UTF-8."""
        return self._document(text, self.library.encode(text, add_special_tokens=False))

    def encode_all(self, texts: Sequence[str]) -> list[Document]:
        """The same for many, by as many threads as there are cores; not for a loader's worker."""
        encoded = self.library.encode_batch(texts, add_special_tokens=False)
        return [self._document(text, each) for text, each in zip(texts, encoded, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens; special tokens but those around and behind a text stand in it by name."""
        around = {self.specials[role] for role in ("pad", "bos", "eos") if role in self.specials}
        text = self.library.decode([each for each in ids if each not in around], skip_special_tokens=False)
        for name, shown in self._shown.items():
            text = text.replace(name, shown)
        return text

    def _document(self, text: str, encoding: Any) -> Document:
        ids = np.array(encoding.ids, dtype=np.int32)
        words = np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int32)
        if self._widths is not None:
            return Document(ids, words, self._widths[ids])
        ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 1]  # in characters of the text
        before = _bytes_before(text)
        ends = np.maximum.accumulate(before[ends])
        ends[-1:] = before[-1]
        return Document(ids, words, np.diff(ends, prepend=0).astype(np.int32))

    def _count_bytes(self, added: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Of every token of a byte-level vocabulary, whose pieces are spelt with one character a byte."""
        widths = np.zeros(self.size, dtype=np.int32)
        for piece, number in self.library.get_vocab(with_added_tokens=False).items():
            widths[number] = len(piece)
        for token in added:
            widths[token["id"]] = len(token["content"].encode())
        return widths

    # ------------------------------------------------------------------------------------------ files

    def save(self, folder: Path) -> None:
        """As Hugging Face's libraries write and read them."""
        self.library.save(str(folder / "tokenizer.json"))
        names = {f"{role}_token": self.library.id_to_token(number) for role, number in self.specials.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path, *, where: str) -> "Vocabulary":
        """
        Args:
            path: a tokenizer.json. Roles of special tokens are those of a tokenizer_config.json beside it; without one
                they are guessed from their names. A file without a token for padding pads by `eos`, as is usual with
                GPT-2's.
            where: begins a message.

        Raises:
            UserError: there is no such file, or it holds something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            renamed = _out_of_reach(content)
            library = Tokenizer.from_str(json.dumps(content | {"post_processor": None}))
        except OSError as error:
            raise UserError(f"{where}: can't be read ({error.strerror}).") from None
        except Exception as error:  # the library raises nothing more exact
            raise UserError(f"{where}: no tokenizer.json of the tokenizers library ({error}).") from None
        config = path.with_name("tokenizer_config.json")
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        specials: dict[str, int] = {}
        for role in ROLES:
            names = [_name(said.get(f"{word}_token")) for word in (role, _ALSO.get(role, role))]
            for name in [*names, *_KNOWN[role]]:
                number = library.token_to_id(renamed.get(name, name)) if name else None
                if number is not None:
                    specials.setdefault(role, number)
        if "eos" in specials:
            specials.setdefault("pad", specials["eos"])
        model = content["model"]
        unk = library.token_to_id(model["unk_token"]) if model.get("unk_token") else model.get("unk_id")
        return cls(library, specials if unk is None else specials | {"unk": unk}, _sentinels(library))


def normaliser(normalisation: Normalisation, *, lowercase: bool) -> normalizers.Normalizer | None:
    """What is done to text before anything else; nothing by default."""
    steps: list[normalizers.Normalizer] = []
    if normalisation != "none":
        steps.append(getattr(normalizers, normalisation.upper())())
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps) if steps else None


def out_of_reach(name: str) -> str:
    """A name for a piece of a unigram vocabulary that no text matches, since its spaces are replaced before."""
    return name if " " in name else f"{name[:-1]} {name[-1:]}"


def in_reach(name: str) -> str:
    """As it was before it was put out of reach."""
    return name.replace(" ", "")


def _out_of_reach(content: dict[str, Any]) -> dict[str, str]:
    """Rename the special tokens among the pieces of a unigram model, which would match text of their name.

    Returns:
        New names by old ones.
    """
    if content["model"].get("type") != "Unigram":
        return {}
    names = {token["content"] for token in content["added_tokens"] if token["special"]}
    pieces = content["model"]["vocab"]
    renamed = {piece: out_of_reach(piece) for piece, _ in pieces if piece in names}
    content["model"]["vocab"] = [[renamed.get(piece, piece), score] for piece, score in pieces]
    for token in content["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
    return renamed


def _add_special(library: Tokenizer, words: Iterable[str]) -> list[int]:
    """New special tokens called after these words, under names that no piece has; their ids."""
    names = []
    for word in words:
        name = f"<{word}>"
        while library.token_to_id(name) is not None:
            name = f"<{name}>"
        names.append(name)
    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    vocabulary = library.get_vocab()
    return [vocabulary[name] for name in names]


def _add_sentinels(library: Tokenizer, count: int) -> list[int]:
    return _add_special(library, [f"extra_id_{number}" for number in range(count)])


def _sentinels(library: Tokenizer) -> list[int]:
    """Special tokens that are called as T5's are, in the order of their numbers."""
    added = library.get_added_tokens_decoder().items()
    named = [(_SENTINEL.fullmatch(token.content), number) for number, token in added if token.special]
    return [number for _, number in sorted((int(name[1]), number) for name, number in named if name)]


def _restore(library: str, specials: Mapping[str, int], sentinels: Sequence[int]) -> Vocabulary:
    return Vocabulary(Tokenizer.from_str(library), specials, sentinels)


def _name(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _is_byte_level(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Whether text becomes bytes, with nothing added and nothing left out."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    splits = [step for step in steps if step.get("type") == "Split" and step["behavior"] != "Removed"]
    only = len(byte_level) == 1 and len(splits) == len(steps) - 1
    return only and not byte_level[0]["add_prefix_space"]


def _bytes_before(text: str) -> np.ndarray:
    """int64 `[len(text) + 1]`: how many bytes of UTF-8 stand before each character, and in all."""
    if text.isascii():
        return np.arange(len(text) + 1)
    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (characters > 0x7F) + (characters > 0x7FF) + (characters > 0xFFFF).astype(np.int64)
    return np.concatenate([[0], widths.cumsum()])
