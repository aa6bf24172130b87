"""What programs say, and how it is translated: catalogs of gettext."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from plugformer.data.drawing import Drawing, alike
from plugformer.data.files import listed
from plugformer.data.splits import linked
from plugformer.errors import UserError, counted, unknown
from plugformer.interfaces import Sample, Split
from plugformer_text.catalogs import Message, find_catalogs, read_catalog, same_language
from plugformer_text.installed import package_folder
from plugformer_text.placeholders import mask, placeholders
from plugformer_text.text_source import PairSource, same_source

EXAMPLE = "django"  # whose catalogs are there by default
_SAY_IT = "Say it in their headers, as in Language: ko, or put them into ko/LC_MESSAGES, or name them ko.po."


class _Pair(NamedTuple):
    """
    Attributes:
        id: the catalog, and where in it.
        message: the number of what both forms of it belong to.
        source, target: what it says in both languages.
    """

    id: str
    message: int
    source: str
    target: str


class Gettext(PairSource):
    """The messages of all .po and .mo catalogs of installed packages, or below a folder, with their translations.

    Of a message that stands in several catalogs, or with several contexts, only the first translation is kept, in the
    order of the packages and of the files' names. Messages that are fuzzy, obsolete or not translated are left out.
    One that depends on a number is two: of one thing, and of as many as take the form that most numbers take in the
    language. Both are in one split, as are messages that are equal but for capitals.

    Args:
        packages: installed packages whose catalogs are read, as in [django, wagtail]; by default django, where there
            is no root. None is imported.
        root: a folder whose catalogs are read, or one catalog.
        language: the language of the translations, as gettext writes it: ko, pt_BR, sr@latin.
        plurals: `both` forms of messages that depend on a number, the one of one thing (`singular`), or none (`skip`).
        placeholders: `keep` those such as %(name)s, {name} and %s as they are; `mask` them, each as its number: {1},
            {2}, …; or `skip` messages that have any.
        min_words: messages of fewer words are left out.
        bad_files: `fail` names catalogs that are broken and ends the run before training; `skip` leaves them out and
            warns, naming them.
        val_fraction: share of the messages that validation gets.
        test_fraction: share of the messages that the test gets.
        split_seed: decides which; apart from the run's seed, so that runs of several seeds share their test.

    Raises:
        UserError: no such package or folder, no catalog in this language, or catalogs that can't be read, named by
            file and line.

    Attributes:
        left_out: how many messages, by why.
    """

    def __init__(
        self,
        *,
        packages: list[str] | None = None,
        root: Path | None = None,
        language: str = "ko",
        plurals: Literal["both", "singular", "skip"] = "both",
        placeholders: Literal["keep", "mask", "skip"] = "keep",
        min_words: int = 1,
        bad_files: Literal["fail", "skip"] = "fail",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        if min_words < 1:
            raise UserError(f"data.min_words={min_words}: must be at least 1.")
        self.packages = [EXAMPLE] if packages is None and root is None else packages or []
        self.root = None if root is None else root.expanduser()
        self.language = language
        self.plurals = plurals
        self.placeholders = placeholders
        self.min_words = min_words
        self.bad_files = bad_files
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        self.left_out: Counter[str] = Counter()
        if not self.packages and root is None:
            raise UserError("data.packages=[]: name at least one package, or a folder as data.root.")

    # ------------------------------------------------------------------------------------------ catalogs

    def _catalogs(self) -> dict[str, Path]:
        """Those in the language, by their names, which are the same on every machine."""
        roots = {name: package_folder(name) for name in self.packages}
        if self.root is not None:
            if not self.root.exists():
                raise UserError(f"data.root={self.root}: no such folder.")
            roots[""] = self.root
        named = {}
        for name, root in roots.items():
            for path in self._in_language(name, root):
                inside = path.relative_to(root if root.is_dir() else root.parent).as_posix()
                named["/".join(filter(None, (name.replace(".", "/"), inside)))] = path
        return named

    def _in_language(self, name: str, root: Path) -> list[Path]:
        found = find_catalogs(root)
        where = f"package {name}" if name else f"{root}"
        if not found:
            raise UserError(f"data=gettext: {where} has no catalogs, files that end in .po or .mo.")
        codes = sorted(filter(None, found))
        if not codes:
            raise UserError(
                f"data.language={self.language}: nothing says which language the catalogs of {where} are in."
                f"\n  {_SAY_IT}"
            )
        if unsaid := found.get("", []):
            warnings.warn(
                f"data=gettext: nothing says which language these catalogs of {where} are in ({len(unsaid)}).\n"
                f"{listed(list(map(str, unsaid)))}\n  They are left out. {_SAY_IT}",
                stacklevel=2,
            )
        wanted = same_language(self.language)
        chosen = [path for code, paths in found.items() if same_language(code) == wanted for path in paths]
        if not chosen:
            kin = [code for code in codes if _base(code) == _base(wanted)]
            what = f"data.language={self.language}: {where} has no such language"
            raise unknown(f"{what}, but {', '.join(kin)}" if kin else what, self.language, codes, "It has")
        return chosen

    @cached_property
    def _messages(self) -> list[tuple[str, Message]]:
        """Of all catalogs, with their names."""
        messages, problems = [], []
        catalogs = self._catalogs()
        for name, path in catalogs.items():
            try:
                messages += [(name, message) for message in read_catalog(path)]
            except UserError as error:
                problems.append(str(error))
        if problems:
            told = f"data=gettext: {len(problems)} of {counted(len(catalogs), 'catalog')} can't be read."
            told = f"{told}\n{listed(problems)}\n "
            if self.bad_files == "fail":
                raise UserError(f"{told} Mend them, or leave them out with data.bad_files=skip.")
            warnings.warn(f"{told} They are left out.", stacklevel=2)
        return messages

    # ------------------------------------------------------------------------------------------ samples

    @cached_property
    def _splits(self) -> Mapping[Split, list[Sample]]:
        self.left_out = Counter(message.left_out for _, message in self._messages if message.left_out)
        pairs = list(self._pairs())
        first = linked([(same_source(pair.source), pair.message) for pair in pairs])
        kept: dict[str, Sample] = {}
        for pair, number in zip(pairs, first, strict=True):
            sample = Sample(id=pair.id, text=pair.source, target_text=pair.target, group=alike(pairs[number].source))
            if kept.setdefault(alike(pair.source), sample) is not sample:
                self.left_out["repeated"] += 1
        if not kept:
            raise UserError(
                f"data=gettext: no message is left in {self.language}. Left out: "
                f"{', '.join(f'{count} {why}' for why, count in self.left_out.items()) or 'none'}."
            )
        return self.drawing.divide(list(kept.values()), group=lambda sample: sample["group"])

    def _pairs(self) -> Iterator[_Pair]:
        for number, (name, message) in enumerate(self._messages):
            for form, (source, target) in zip(("", ":plural"), self._forms(message), strict=False):
                if self.placeholders == "skip" and any(placeholders(source)):
                    self.left_out["with placeholders"] += 1
                elif len(source.split()) < self.min_words:
                    self.left_out["short"] += 1
                else:
                    texts = mask(source, target) if self.placeholders == "mask" else (source, target)
                    yield _Pair(f"{name}:{message.place}{form}", number, *texts)

    def _forms(self, message: Message) -> tuple[tuple[str, str], ...]:
        if len(message.pairs) < 2 or self.plurals == "both":
            return message.pairs
        self.left_out["plural"] += len(message.pairs) - (self.plurals == "singular")
        return message.pairs[:1] if self.plurals == "singular" else ()


def _base(code: str) -> str:
    """The language without its country: pt of pt_BR."""
    return same_language(code).partition("_")[0]
