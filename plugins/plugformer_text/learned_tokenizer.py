"""Tokenizers whose vocabulary is learned from the training text, or taken from where it was learned before."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar, Literal

from tokenizers import Tokenizer
from tokenizers.models import Model
from tokenizers.pre_tokenizers import PreTokenizer

from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Sample
from plugformer.progress import advancing
from plugformer.run_dir import RunDir
from plugformer_text.text_tokenizer import TextTokenizer, text_of
from plugformer_text.vocabulary import ROLES, Vocabulary, normaliser


class LearnedTokenizer(TextTokenizer):
    """
    Args:
        vocab_size: tokens in the vocabulary, special ones included, which the training text must be able to fill; by
            default 2048, or those of `file` or `from_run`.
        min_frequency: how often a piece must stand in the training text to become a token; by default 2.
        normalisation: Unicode's normal form that text is brought to first; by default `none`.
        lowercase: whether text is lowercased first; by default it isn't.
        max_length: tokens of the longest sequence, special ones included.
        truncation: the side on which longer documents lose what is too much; `refuse` to be told instead.
        pad_to_multiple: padded sequences have a multiple of this many tokens; divides `max_length`.
        packing: how documents share sequences. `none`: one document in each. `fit`: whole documents together, longer
            ones cut. `fill`: all documents end to end, cut into equal blocks. `stream`: the same without boundaries.
        bos: whether a special token stands at a document's front; BERT calls it cls.
        eos: whether a special token stands at a document's end; BERT calls it sep.
        sentinels: special tokens that no text becomes, to stand for what a task takes out of it, as in T5; to a `file`
            or `from_run` that has none they are added.
        file: a tokenizer.json of the tokenizers library or Hugging Face, to use instead of learning.
        from_run: a run directory whose tokenizer to use instead of learning; for a target_tokenizer that of what is
            written.
        part: of a run that it is, `tokenizer` or `target_tokenizer`, whose options its messages name.

    Raises:
        UserError: numbers that can't be, or options that a trained tokenizer has decided already.
    """

    model: ClassVar[str]  # as the library calls it
    unk: ClassVar[str | None] = None  # where not every character is known: the name of a piece that no text matches

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        min_frequency: int | None = None,
        normalisation: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] | None = None,
        lowercase: bool | None = None,
        max_length: int = 512,
        truncation: Literal["right", "left", "refuse"] = "right",
        pad_to_multiple: int = 1,
        packing: Literal["none", "fit", "fill", "stream"] = "none",
        bos: bool = True,
        eos: bool = True,
        sentinels: int = 0,
        file: Path | None = None,
        from_run: Path | None = None,
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
        of_learning = {
            "vocab_size": vocab_size,
            "min_frequency": min_frequency,
            "normalisation": normalisation,
            "lowercase": lowercase,
        }
        if file is not None and from_run is not None:
            raise UserError(f"{self.part}.file and {self.part}.from_run: set one of them.")
        if file is not None or from_run is not None:
            for name, value in of_learning.items():
                if value is not None:
                    raise UserError(
                        f"{self.part}.{name}={value}: a trained tokenizer has its own.\n"
                        f"  Set {self.part}.{name}=null, or neither {self.part}.file nor {self.part}.from_run."
                    )
        for name, number in (("vocab_size", vocab_size), ("min_frequency", min_frequency)):
            if number is not None and number < 1:
                raise UserError(f"{self.part}.{name}={number}: must be at least 1.")
        self.vocab_size = 2048 if vocab_size is None else vocab_size
        self.min_frequency = 2 if min_frequency is None else min_frequency
        self.normaliser = (normalisation or "none", bool(lowercase))
        self.file = file
        self.from_run = from_run

    def assume(self, data: DataSpec) -> None:
        if self.file is not None or self.from_run is not None:
            self._use_trained()
            return
        pieces, behind = self.vocab_size - self._num_special, self.vocab_size - self.num_sentinels
        specials = {role: pieces + place for place, role in enumerate(ROLES)}
        sentinels = range(behind, self.vocab_size)
        self._assumed = (self.vocab_size, specials if self.unk is None else specials | {"unk": 0}, sentinels)

    @property
    def _num_special(self) -> int:
        """Tokens behind the pieces of text."""
        return len(ROLES) + self.num_sentinels

    def fit(self, samples: Iterable[Sample]) -> None:
        if self.file is not None or self.from_run is not None:
            self._use_trained()
            return
        texts = [text_of(sample) for sample in samples]
        if not any(text.strip() for text in texts):
            raise UserError(f"{self.part}.vocab_size={self.vocab_size}: there is no training text to learn from.")
        with advancing("Learning a vocabulary", total=None):
            library = self._learn(texts, self.vocab_size - self._num_special)
        vocabulary = Vocabulary.learned(library, unk=self.unk, sentinels=self.num_sentinels)
        if vocabulary.size < self.vocab_size:
            raise UserError(
                f"{self.part}.vocab_size={self.vocab_size}: the training text fills only {vocabulary.size}, with "
                f"{self.part}.min_frequency={self.min_frequency}.\n"
                f"  Set {self.part}.vocab_size={vocabulary.size} or less."
            )
        assert vocabulary.size == self.vocab_size, "more was learned than there is room for"
        self.use(vocabulary)

    @abstractmethod
    def _learn(self, texts: Sequence[str], size: int) -> Tokenizer:
        """Of `size` pieces, or all that the texts allow; the same for the same texts."""

    def _make_room(self, pieces: int) -> None:
        """
        Raises:
            UserError: the vocabulary has no room for all the pieces that it can't do without.
        """
        least = pieces + self._num_special
        if least > self.vocab_size:
            more = "" if self.unk is None else f", or a greater {self.part}.min_frequency for fewer characters"
            raise UserError(
                f"{self.part}.vocab_size={self.vocab_size}: single characters and special tokens alone are {least}.\n"
                f"  Set {self.part}.vocab_size={least} or more{more}."
            )

    def _use_trained(self) -> None:
        if self.from_run is not None:
            run, where = RunDir.open(self.from_run), f"{self.part}.from_run={self.from_run}"
            has_two = self.part == "target_tokenizer" and run.target_tokenizer.is_dir()
            path = (run.target_tokenizer if has_two else run.tokenizer) / "tokenizer.json"
        else:
            path, where = Path(str(self.file)), f"{self.part}.file={self.file}"
        vocabulary = Vocabulary.read(path, where=where)
        if self.num_sentinels and len(vocabulary.sentinels) not in (0, self.num_sentinels):
            raise UserError(
                f"{self.part}.sentinels={self.num_sentinels}: {where} has {len(vocabulary.sentinels)} of its own. "
                "Leave it out."
            )
        lacking = self.num_sentinels - len(vocabulary.sentinels)
        self.use(vocabulary.with_sentinels(lacking) if lacking > 0 else vocabulary, where=where)

    def use(self, vocabulary: Vocabulary, *, where: str = "tokenizer") -> None:
        found = type(vocabulary.library.model).__name__
        if found != self.model:
            raise UserError(f"{where}: the model in it is {found}, and this tokenizer needs {self.model}.")
        super().use(vocabulary, where=where)

    # ------------------------------------------------------------------------------------------ for those that learn

    def _begin(self, model: Model, splitting: PreTokenizer) -> Tokenizer:
        """A tokenizer of the library, with the options' normalisation."""
        library = Tokenizer(model)
        form, lowercase = self.normaliser
        steps = normaliser(form, lowercase=lowercase)
        if steps is not None:
            library.normalizer = steps
        library.pre_tokenizer = splitting
        return library


class Words:
    """The words of a text, without those that have a rare character.

    Args:
        texts: all of them.
        library: says what a word is.
        min_frequency: how often a character must stand there to be known.
    """

    def __init__(self, texts: Iterable[str], library: Tokenizer, *, min_frequency: int) -> None:
        normalise = library.normalizer.normalize_str if library.normalizer else str
        split = library.pre_tokenizer.pre_tokenize_str
        counts = Counter(word for text in texts for word, _ in split(normalise(text)))
        characters: Counter[str] = Counter()
        for word, count in counts.items():
            for character in word:
                characters[character] += count
        known = {character for character, count in characters.items() if count >= min_frequency}
        self.characters = sorted(known)
        self.counts = {word: count for word, count in sorted(counts.items()) if known.issuperset(word)}

    def repeated(self, *, at_least: int = 1) -> Iterator[str]:
        """Each as often as it stands in the text, if that is often enough."""
        return chain.from_iterable(repeat(word, count) for word, count in self.counts.items() if count >= at_least)
