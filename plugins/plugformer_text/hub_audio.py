"""Audio columns of `datasets`, read without its decoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from plugformer.data.audio import check_audio
from plugformer.data.files import refuse
from plugformer.data.fingerprint import fingerprint
from plugformer.data.scan import MANY
from plugformer.errors import UserError
from plugformer.progress import shown


def undecoded(table: Any, column: str, datasets: ModuleType) -> Any:
    """The table with a column's audio as it is stored: what a file holds, or where it is."""
    feature: Any = table.features[column]
    if not isinstance(feature, datasets.Audio) or not feature.decode:
        return table
    return table.cast_column(column, datasets.Audio(sampling_rate=feature.sampling_rate, decode=False))


def load_dataset(datasets: ModuleType, path: str, *, streaming: bool, **options: Any) -> Any:
    """As `datasets.load_dataset`, which wants its decoders even to write down the paths of a folder of audio files."""
    builder = datasets.load_dataset_builder(path, **options)
    is_folder = bool(getattr(builder, "BASE_FEATURE", None) is datasets.Audio)
    if not is_folder:
        return datasets.load_dataset(path, streaming=streaming, **options)

    class Paths(datasets.Audio):  # type: ignore[name-defined]
        def encode_example(self, value: Any) -> dict[str, Any]:
            return {"bytes": None, "path": str(value)}

    known = next(iter(datasets.load_dataset(path, streaming=True, **options).values())).features
    changed = {
        name: Paths(decode=False) if isinstance(feature, datasets.Audio) else feature for name, feature in known.items()
    }
    tables = datasets.load_dataset(path, features=datasets.Features(changed), **options)
    return {name: table.to_iterable_dataset() for name, table in tables.items()} if streaming else tables


def stored(value: Any) -> bytes | Path | None:
    """What a file holds, or where it is, of a row's undecoded audio; None if it has none.

    Raises:
        UserError: it is no audio.
    """
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        value = value.get("bytes") or value.get("path")
    if value is None or value in ("", b""):
        return None
    if not isinstance(value, bytes | str):
        raise UserError(f"expected audio: what a file holds, or its path; found a {type(value).__name__}.")
    return Path(value) if isinstance(value, str) else value


def digest(value: Any) -> str:
    """Equal for rows of one recording."""
    found = stored(value)
    try:
        return fingerprint([found.read_bytes() if isinstance(found, Path) else found or b""])
    except OSError:  # named by check_clips
        return str(found)


def check_clips(table: Any, column: str, numbers: Sequence[int], *, where: str, split: str) -> None:
    """Decodes the audio of these rows.

    Raises:
        UserError: names those that can't be used.
    """
    clips = table.select_columns([column])
    problems = []
    for number in shown(numbers, f"Reading audio of {split}", len(numbers), hidden=len(numbers) < MANY):
        name = f"{split}:{number}"
        try:
            found = stored(clips[number][column])
            assert found is not None, "rows without audio are left out"
            check_audio(found, name=f"{name}: {found}" if isinstance(found, Path) else name)
        except UserError as error:
            problems.append(str(error))
    refuse(f"{where}: audio of {split} that can't be used", problems, "Leave such rows out of the data set.")
