"""Tables with a column of paths of audio files: CSV, JSON lines."""

import os
import warnings
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from plugformer.data.audio import VERSION, check_audio, read_audio
from plugformer.data.audio_files import rate_and_duration
from plugformer.data.drawing import Drawing
from plugformer.data.files import listed, refuse
from plugformer.data.fingerprint import fingerprint
from plugformer.data.of_files import DataOfFiles, FileSamples
from plugformer.data.records import Record, check_delimiter, read_csv, read_jsonl
from plugformer.data.scan import Scanner
from plugformer.data.table import Row, Table
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Sample, Split


class AudioTable(DataOfFiles):
    """
    Args:
        paths: files or patterns of files that hold the table, as in [clips.csv, more/*.csv].
        path_column: where the audio file of a row is; a relative path starts at the table's folder.
        root: the folder at which relative paths start instead.
        label_column: whose values are the classes, in their order; none by default.
        text_column: what is said in a clip, to be written down; none by default.
        group_column: rows of one value, such as a speaker or an instrument, never stand in two drawn splits; by
            default, rows of one recording don't.
        split_column: says `train`, `val` or `test` of each row; a split that it names nowhere is drawn from train.
        val_fraction: share of the rows that validation gets, unless it is given.
        test_fraction: share of the rows that the test gets, unless it is given.
        split_seed: decides which rows.
        folds: parts of like size that all groups are dealt into, for cross-validation; needs group_column. The test is
            one of them, and validation a share of the others, group by group.
        fold: which of them is the test, from 0; every group is tested once over all.
        bad_files: `fail` names the files that are missing or can't be read and ends the run before training; `skip`
            leaves such rows out and warns, naming them.

    Raises:
        UserError: no file matches, no such column, rows that can't be used, named by file and line, or one audio file
            in two groups or in two given splits.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        *,
        paths: list[str],
        path_column: str = "path",
        root: Path | None = None,
        label_column: str | None = None,
        text_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
        bad_files: Literal["fail", "skip"] = "fail",
    ) -> None:
        super().__init__(scanner=Scanner(kind="audio", version=VERSION, probe=check_audio), bad_files=bad_files)
        self.root = None if root is None else root.expanduser()
        self.table = Table(
            kind=self.kind,
            paths=paths,
            read=self._read,
            columns={
                "path": path_column,
                "label": label_column,
                "text": text_column,
                "group": group_column,
                "split": split_column,
            },
            types={"path": str, "label": str | int, "text": str},
            drawing=Drawing(
                val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed, folds=folds, fold=fold
            ),
        )

    @abstractmethod
    def _read(self, path: Path) -> Iterator[Record]:
        """The records of a table; one that can't be read at all raises UserError."""

    @property
    def where(self) -> str:
        return f"data.paths={self.table.paths}"

    @cached_property
    def spec(self) -> DataSpec:
        rate, duration = rate_and_duration(self)
        names = {"path": "audio", "text": "target_text"}
        keys = {names.get(role, role) for role in {"id", "group", *self.table.columns} - {"split"}}
        return DataSpec(frozenset(keys), labels=self.table.labels, rate=rate, duration=duration)

    # ------------------------------------------------------------------------------------------ files

    @cached_property
    def _rows(self) -> dict[Path, list[Row]]:
        """Of each audio file."""
        if self.root is not None and not self.root.is_dir():
            raise UserError(f"data.root={self.root}: no such folder.")
        rows = defaultdict(list)
        for row in self.table.rows:
            rows[self._path(row)].append(row)
        return dict(rows)

    def _path(self, row: Row) -> Path:
        start = row.file.parent if self.root is None else self.root
        return Path(os.path.normpath(start / Path(row.values["path"]).expanduser()))

    @property
    def paths(self) -> Sequence[Path]:
        return list(self._rows)

    def verify(self) -> None:
        for role in ("group", "split"):
            if role in self.table.columns:
                self._check_files(role)
        if self.bad_files == "fail":
            missing = [f"{row}: {path}" for path, rows in self._rows.items() if not path.exists() for row in rows]
            start = "the table's folder; data.root sets another" if self.root is None else f"data.root={self.root}"
            refuse(f"{self.where}: audio files that aren't there", missing, f"Relative paths start at {start}.")
        super().verify()
        for role in ("group", "split"):
            if role in self.table.columns:
                self._warn_of_copies(role)

    def tell(self, path: Path, why: str) -> str:
        return f"{self._rows[path][0]}: {why}"

    def _check_files(self, role: str) -> None:
        """That a column says one thing of a file, in whatever rows it stands."""
        divided = [
            f"{path}: {', '.join(f'{row.values[role]} in {row}' for row in rows)}"
            for path, rows in self._rows.items()
            if len({row.values[role] for row in rows}) > 1
        ]
        refuse(f"data.{role}_column={self.table.columns[role]}: files in more than one {role}", divided, "Mend it.")

    def _warn_of_copies(self, role: str) -> None:
        """That files of equal content stand apart, so that what is tested may have been trained on."""
        copies = defaultdict(list)
        for path, found in self.found.good.items():
            copies[found.digest].append(self._rows[path][0])
        divided = [
            ", ".join(f"{row} ({row.values[role]})" for row in rows)
            for rows in copies.values()
            if len({row.values[role] for row in rows}) > 1
        ]
        if divided:
            warnings.warn(
                f"data.{role}_column={self.table.columns[role]}: equal files in more than one {role} ({len(divided)}), "
                f"so a test may hold what was trained on.\n{listed(divided)}",
                stacklevel=2,
            )

    # ------------------------------------------------------------------------------------------ samples

    @cached_property
    def _splits(self) -> dict[Split, list[Row]]:
        good = [row for row in self.table.rows if self._path(row) not in self.found.bad]
        return self.table.split(good, alike=lambda row: self.digest(self._path(row)))

    def samples(self, split: Split) -> Sequence[Sample]:
        return FileSamples([(self._path(row), self._known(row)) for row in self._splits[split]], "audio", read_audio)

    def _known(self, row: Row) -> Sample:
        """All but the audio."""
        sample = Sample(id=row.id, group=row.group)
        if "label" in row.values:
            sample["label"] = self.table.label(row)
        if "text" in row.values:
            sample["target_text"] = row.values["text"]
        return sample

    def fingerprint(self) -> str:
        return fingerprint(self._fingerprint_parts())

    def _fingerprint_parts(self) -> Iterator[str]:
        for split, rows in self._splits.items():
            for row in rows:
                yield from (split, row.id, row.values.get("label", ""), row.values.get("text", ""))
                yield self.digest(self._path(row))


class AudioCsv(AudioTable):
    """Audio files named in rows of CSV files, whose first line names the columns.

    WAV, FLAC, OGG (Vorbis or Opus), MP3, AIFF and what else soundfile reads; decoded in the loader's workers.

    Args:
        paths: files or patterns of files that hold the table, as in [clips.csv, more/*.csv].
        delimiter: what stands between columns; "\\t" for tabs.
        path_column: where the audio file of a row is; a relative path starts at the table's folder.
        root: the folder at which relative paths start instead.
        label_column: whose values are the classes, in their order; none by default.
        text_column: what is said in a clip, to be written down; none by default.
        group_column: rows of one value, such as a speaker or an instrument, never stand in two drawn splits; by
            default, rows of one recording don't.
        split_column: says `train`, `val` or `test` of each row; a split that it names nowhere is drawn from train.
        val_fraction: share of the rows that validation gets, unless it is given.
        test_fraction: share of the rows that the test gets, unless it is given.
        split_seed: decides which rows.
        folds: parts of like size that all groups are dealt into, for cross-validation; needs group_column. The test is
            one of them, and validation a share of the others, group by group.
        fold: which of them is the test, from 0; every group is tested once over all.
        bad_files: `fail` names the files that are missing or can't be read and ends the run before training; `skip`
            leaves such rows out and warns, naming them.

    Raises:
        UserError: no file matches, no such column, rows that can't be used, named by file and line, or one audio file
            in two groups or in two given splits.
    """

    kind = "audio_csv"

    def __init__(
        self,
        *,
        paths: list[str],
        delimiter: str = ",",
        path_column: str = "path",
        root: Path | None = None,
        label_column: str | None = None,
        text_column: str | None = None,
        group_column: str | None = None,
        split_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
        bad_files: Literal["fail", "skip"] = "fail",
    ) -> None:
        super().__init__(
            paths=paths,
            path_column=path_column,
            root=root,
            label_column=label_column,
            text_column=text_column,
            group_column=group_column,
            split_column=split_column,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            folds=folds,
            fold=fold,
            bad_files=bad_files,
        )
        self.delimiter = check_delimiter(delimiter)

    def _read(self, path: Path) -> Iterator[Record]:
        return read_csv(path, delimiter=self.delimiter)


class AudioJsonl(AudioTable):
    """Audio files named in files that hold a JSON object in each line.

    WAV, FLAC, OGG (Vorbis or Opus), MP3, AIFF and what else soundfile reads; decoded in the loader's workers.
    """

    kind = "audio_jsonl"

    def _read(self, path: Path) -> Iterator[Record]:
        return read_jsonl(path)
