"""Any data set that Hugging Face's `datasets` can load."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from plugformer.data.audio import read_audio
from plugformer.data.drawing import Drawing, alike, check_trained, sorted_labels
from plugformer.data.files import refuse
from plugformer.data.fingerprint import fingerprint
from plugformer.data.splits import SPLITS
from plugformer.errors import UserError, unknown
from plugformer.interfaces import DataSource, DataSpec, Sample, Split, UnreadSamples
from plugformer_text.hub_audio import check_clips, digest, load_dataset, stored, undecoded
from plugformer_text.hub_columns import column_names, select, value
from plugformer_text.text_source import same_source

USUAL_NAMES: Mapping[Split, tuple[str, ...]] = {"val": ("validation", "val", "valid", "dev"), "test": ("test",)}
DRAW = "draw"
_UNSENT = {"_rows", "_splits", "_taken", "_texts"}


class _Row(NamedTuple):
    """What is known of a row without its text or audio.

    Attributes:
        number: its place in the table.
        group: what it can't be parted from.
        label: what its column says.
    """

    number: int
    group: str
    label: Any


class Hub(DataSource):
    """A data set of the Hugging Face hub, or a folder that `datasets` has saved or can load. Needs datasets.

    Rows whose text or target is empty, or that have no audio, are left out. Audio is decoded by soundfile. What stands
    inside of a column has its name after a dot: translation.en of {"translation": {"en": …, "de": …}}.

    Args:
        dataset: its name, as in stanfordnlp/imdb, or the path of a folder.
        config: which of its configurations, where it has several.
        revision: the branch, tag or commit that is loaded, so that it stays what it is.
        text_column: whose text a sample is or, with audio and without a target_column, what is said in it; null for
            audio without text.
        target_column: whose text is to be written for a sample's text or audio, such as its translation; none by
            default.
        audio_column: whose audio a sample is: of type Audio, or what files hold, or their paths; none by default.
        label_column: whose values are the classes; none by default.
        group_column: rows of one value never stand in two drawn splits; by default, rows of one text, or of one
            recording, don't.
        train_split: the name of its split to train on.
        val_split: the name of its split for validation; by default validation, val, valid or dev; `draw` draws a share
            of train, as is done where it has none.
        test_split: the name of its split for the test; by default test; `draw` as above.
        val_fraction: share of train's rows that validation gets, unless it is given.
        test_fraction: share of train's rows that the test gets, unless it is given.
        split_seed: decides which rows.
        streaming: read rows as they come, without a copy of the data set; labels must then be of type ClassLabel.
        take: of a stream, how many such rows are read into memory for each split; training needs it.

    Raises:
        UserError: it can't be loaded, no such split or column, labels that are missing, or audio that can't be used.
    """

    def __init__(
        self,
        *,
        dataset: str,
        config: str | None = None,
        revision: str | None = None,
        text_column: str | None = "text",
        target_column: str | None = None,
        audio_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        streaming: bool = False,
        take: int | None = None,
    ) -> None:
        if take is not None and (take < 1 or not streaming):
            raise UserError(f"data.take={take}: must be at least 1, and goes with data.streaming=true.")
        self.dataset = dataset
        self.config = config
        self.revision = revision
        if text_column is None and audio_column is None:
            raise UserError("data.text_column=null: name a column of text, or one of audio with data.audio_column.")
        columns = {
            "text": text_column,
            "target": target_column,
            "audio": audio_column,
            "label": label_column,
            "group": group_column,
        }
        self.columns = {role: column for role, column in columns.items() if column is not None}
        self.names: dict[Split, str | None] = {"train": train_split, "val": val_split, "test": test_split}
        self.drawing = Drawing(val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        self.streaming = streaming
        self.take = take

    @property
    def spec(self) -> DataSpec:
        keys = frozenset({"id", *map(self._key, self.columns)})
        if "audio" not in self.columns:
            return DataSpec(keys, labels=self._labels)
        rate = getattr(self._tables["train"].features[self.columns["audio"]], "sampling_rate", None)
        return DataSpec(keys, labels=self._labels, rate=rate)

    def _key(self, role: str) -> str:
        """Of a sample, under which a column's values stand."""
        written = role == "target" or (role == "text" and "audio" in self.columns and "target" not in self.columns)
        return "target_text" if written else role

    def __getstate__(self) -> dict[str, Any]:
        """For a loader's workers: without the record of all rows."""
        return {name: value for name, value in vars(self).items() if name not in _UNSENT}

    # ------------------------------------------------------------------------------------------ loading

    @cached_property
    def _tables(self) -> dict[Split, Any]:
        """The given splits."""
        found = self._load()
        if not isinstance(found, Mapping):  # a single table that was saved
            found = {"train": found}
        tables: dict[Split, Any] = {}
        for split, name in self.names.items():
            chosen = name or next((usual for usual in USUAL_NAMES[split] if usual in found), DRAW)
            if chosen == DRAW and split != "train":
                continue
            if chosen not in found:
                raise unknown(
                    f"data.{split}_split={chosen}: {self.dataset} has no such split", chosen, found, "Its splits"
                )
            if any(found[chosen] is table for table in tables.values()):
                raise UserError(f"data.{split}_split={chosen}: stands for another split already.")
            tables[split] = found[chosen]
            self._check_columns(found[chosen])
        if "audio" in self.columns:
            return {split: undecoded(table, self.columns["audio"], _datasets()) for split, table in tables.items()}
        return tables

    def _load(self) -> Any:
        datasets = _datasets()
        folder = Path(self.dataset).expanduser()
        saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
        try:
            if not saved:
                path = str(folder) if folder.is_dir() else self.dataset
                load = partial(load_dataset, datasets) if "audio" in self.columns else datasets.load_dataset
                return load(path, name=self.config, revision=self.revision, streaming=self.streaming)
            loaded = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"data.dataset={self.dataset}: can't be loaded. {type(error).__name__}: {error}\n"
                "  Give a folder, or the name of a data set on the hub, which takes a connection the first time."
            ) from None
        if not self.streaming:
            return loaded
        tables = loaded if isinstance(loaded, Mapping) else {"train": loaded}
        return {name: table.to_iterable_dataset() for name, table in tables.items()}

    def _check_columns(self, table: Any) -> None:
        for role, column in self.columns.items():
            of_text = role not in ("audio", "label")
            known = list(column_names(table.features, _datasets()) if of_text else table.features)
            if column not in known:
                without = "; data.text_column=null does without" if role == "text" and "audio" in self.columns else ""
                raise unknown(
                    f"data.{role}_column={column}: {self.dataset} has no such column{without}",
                    column,
                    known,
                    "Its columns",
                )

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        if "label" not in self.columns:
            return ()
        column = self.columns["label"]
        names = getattr(self._tables["train"].features[column], "names", None)
        if names is not None:
            return tuple(names)
        if self.streaming:
            raise UserError(
                f"data.label_column={column}: is no ClassLabel, so a stream's classes aren't known.\n"
                "  Load the data set with data.streaming=false."
            )
        return sorted_labels({str(row.label) for rows in self._rows.values() for row in rows if row.label is not None})

    # ------------------------------------------------------------------------------------------ splitting

    @cached_property
    def _rows(self) -> dict[Split, list[_Row]]:
        """The rows of the given splits that have a text or audio."""
        return {split: list(self._read_rows(table)) for split, table in self._tables.items()}

    def _read_rows(self, table: Any) -> Iterator[_Row]:
        for number, row in enumerate(select(table, self.columns.values())):
            if self.has_content(row):
                label = row[self.columns["label"]] if "label" in self.columns else None
                yield _Row(number, self._group(row), label)

    def _group(self, row: Mapping[str, Any]) -> str:
        if "group" in self.columns:
            return str(value(row, self.columns["group"]))
        if "audio" in self.columns:
            return digest(row[self.columns["audio"]])
        key = same_source if "target" in self.columns else alike
        return _digest(key(value(row, self.columns["text"])))

    def has_content(self, row: Mapping[str, Any]) -> bool:
        """
        Raises:
            UserError: something else stands where audio should.
        """
        if not all(_has_text(value(row, self.columns[role])) for role in ("text", "target") if role in self.columns):
            return False
        try:
            return "audio" not in self.columns or stored(row[self.columns["audio"]]) is not None
        except UserError as error:
            raise UserError(f"data.audio_column={self.columns['audio']}: {error}") from None

    @cached_property
    def _missing(self) -> list[Split]:
        return [split for split in SPLITS if split not in self._tables]

    @cached_property
    def _splits(self) -> dict[Split, "_Rows"]:
        drawn: dict[Split, list[_Row]] = dict(self._rows)
        if self._missing:
            rows = self._rows["train"]
            stratified = "label" in self.columns and "group" not in self.columns
            indices = self.drawing.draw(
                self._missing,
                groups=[row.group for row in rows],
                labels=[self._label(row.label) for row in rows] if stratified else None,
            )
            drawn |= {split: [rows[i] for i in indices[split]] for split in ("train", *self._missing)}
        if "label" in self.columns:
            where = f"data.label_column={self.columns['label']}"
            found = {split: [self._label(row.label) for row in rows] for split, rows in drawn.items()}
            unlabelled = [
                f"{split}: {labels.count(-1)} of {len(labels)}" for split, labels in found.items() if -1 in labels
            ]
            refuse(
                f"{where}: rows without a label", unlabelled, "Choose another split, or draw one: data.test_split=draw."
            )
            check_trained(self._labels, found, where)
        return {split: _Rows(self, split, rows) for split, rows in drawn.items()}

    def _label(self, value: Any) -> int:
        """Its index; -1 where there is none, as on the hub."""
        if isinstance(value, int) and getattr(self._tables["train"].features[self.columns["label"]], "names", None):
            return value
        return -1 if value is None else self._labels.index(str(value))

    def samples(self, split: Split) -> Sequence[Sample] | Iterable[Sample]:
        if not self.streaming:
            return self._splits[split]
        return self._taken[split] if self.take else _Stream(self, split)

    @cached_property
    def _taken(self) -> dict[Split, list[Sample]]:
        return {split: list(islice(_Stream(self, split), self.take)) for split in SPLITS}

    def sample(self, row: Mapping[str, Any], where: str) -> Sample:
        sample = Sample(id=where)
        self._write(sample, row)
        if "audio" in self.columns:
            found = stored(row[self.columns["audio"]])
            assert found is not None, "rows without audio are left out"
            sample["audio"] = read_audio(found, name=f"{self.dataset}, {where}")
        if "group" in self.columns:
            sample["group"] = self._group(row)
        if "label" in self.columns:
            sample["label"] = self._label(row[self.columns["label"]])
        return sample

    def _write(self, sample: Any, row: Mapping[str, Any]) -> None:
        """A row's texts into a sample."""
        for role in ("text", "target"):
            if role in self.columns:
                sample[self._key(role)] = value(row, self.columns[role])

    @cached_property
    def _texts(self) -> dict[Split, Any]:
        """The given splits without audio."""
        columns = [self.columns[role] for role in ("text", "target") if role in self.columns]
        return {split: select(table, columns) for split, table in self._tables.items()}

    def verify(self) -> None:
        if "audio" in self.columns and not self.streaming:
            for given, table in self._tables.items():
                numbers = [row.number for row in self._rows[given]]
                check_clips(
                    table,
                    self.columns["audio"],
                    numbers,
                    where=f"data.audio_column={self.columns['audio']}",
                    split=given,
                )
        for split in SPLITS:
            if not any(True for _ in islice(self.samples(split), 1)):
                what = "audio" if "audio" in self.columns else "a text"
                raise UserError(f"data.dataset={self.dataset}: {split} has no row with {what}.")

    def fingerprint(self) -> str:
        """Over all samples; of a stream, which may have no end, over where it comes from and how it is split."""
        if self.take or not self.streaming:
            return fingerprint(
                part
                for split in SPLITS
                for s in self.samples(split)
                for part in (split, s["id"], str(s.get("label", "")), *_content(s))
            )
        return fingerprint([*self._source(), repr((self.columns, self.names, self.drawing))])

    def _source(self) -> Iterator[bytes | str]:
        folder = Path(self.dataset).expanduser()
        if not folder.is_dir():
            yield _datasets().load_dataset_builder(self.dataset, self.config, revision=self.revision).hash
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(folder).as_posix()
                yield path.read_bytes()

    def draws(self, row: Mapping[str, Any]) -> Split:
        """Where a row of a stream goes: decided by its group alone, because nothing is known of those to come."""
        mark = int(_digest(f"{self.drawing.seed}:{self._group(row)}"), 16) / 16**16
        shares: dict[Split, float] = {"val": self.drawing.val_fraction, "test": self.drawing.test_fraction}
        for split, share in shares.items():
            if split in self._missing:
                if mark < share:
                    return split
                mark -= share
        return "train"


class _Rows(UnreadSamples):
    """Rows that are read from the disk when they are asked for."""

    def __init__(self, source: Hub, split: Split, rows: list[_Row]) -> None:
        self.source = source
        self.split = split
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a sample at a time, no slices
        given, number = self._place(index)
        return self.source.sample(self.source._tables[given][number], f"{given}:{number}")

    def known(self, index: int) -> Sample:
        given, number = self._place(index)
        known: Sample = {"id": f"{given}:{number}"}
        if self.source.spec.labels:
            known["label"] = self.source._label(self.rows[index].label)
        if "target_text" in self.source.spec.keys:
            self.source._write(known, self.source._texts[given][number])
        return known

    def _place(self, index: int) -> tuple[Split, int]:
        return self.split if self.split in self.source._tables else "train", self.rows[index].number


class _Stream(Iterable[Sample]):
    def __init__(self, source: Hub, split: Split) -> None:
        self.source = source
        self.split = split

    def __iter__(self) -> Iterator[Sample]:
        source = self.source
        given: Split = self.split if self.split in source._tables else "train"
        for number, row in enumerate(source._tables[given]):
            if not source.has_content(row):
                continue
            if given == "train" and source.draws(row) != self.split:
                continue
            sample = source.sample(row, f"{given}:{number}")
            if sample.get("label", 0) < 0:
                raise UserError(f"data.label_column={source.columns['label']}: {sample['id']} has no label.")
            yield sample


def _content(sample: Sample) -> Iterator[bytes | str]:
    written = sample.get("target_text")
    yield sample.get("text", "") if written is None else written
    if written is not None and "text" in sample:
        yield sample["text"]
    if "audio" in sample:
        yield str(sample["audio"].rate)
        yield sample["audio"].waveform.numpy().tobytes()


def _has_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _datasets() -> ModuleType:
    try:
        import datasets  # noqa: PLC0415  # an optional dependency
    except ImportError:
        raise UserError("data=hf needs the package datasets: pip install 'plugformer[hf]'") from None
    return datasets
