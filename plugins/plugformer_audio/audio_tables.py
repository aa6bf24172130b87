"""Tables with a column of paths of audio files: CSV, JSON lines."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from plugformer.data.audio_files import AUDIO
from plugformer.data.drawing import Drawing
from plugformer.data.of_rows import DataOfRows
from plugformer.data.records import Record, check_delimiter, read_csv, read_jsonl
from plugformer.data.table import Table


class AudioTable(DataOfRows):
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

    medium = AUDIO
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
        drawing = Drawing(
            val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed, folds=folds, fold=fold
        )
        table = Table(
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
            drawing=drawing,
        )
        super().__init__(rows=table, root=root, bad_files=bad_files)

    @abstractmethod
    def _read(self, path: Path) -> Iterator[Record]:
        """The records of a table; one that can't be read at all raises UserError."""


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
