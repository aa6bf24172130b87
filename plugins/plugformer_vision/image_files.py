"""What data of image files have in common."""

from pathlib import Path

import PIL

from plugformer.data.of_files import DataOfFiles, Medium
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer_vision.images import SUFFIXES, image_shape, read_image


def _inspect(path: Path) -> tuple[int, ...]:
    return tuple(read_image(path).shape)


def _spec(data: DataOfFiles) -> DataSpec:
    """The shape is that of the first file that can be read; the tokenizer finds out whether the others share it.

    Raises:
        UserError: why the first can't be read, if none can.
    """
    return DataSpec(data.keys, labels=data.labels, image=image_shape(_first_good(data)))


def _first_good(data: DataOfFiles) -> Path:
    """Or just the first, without any."""
    for path in data.paths:
        try:
            data.probe(path)
        except UserError:
            continue
        return path
    return data.paths[0]


IMAGE = Medium(
    key="image",
    kind="image",
    suffixes=SUFFIXES,
    version=f"1, Pillow {PIL.__version__}",
    inspect=_inspect,
    read=read_image,
    spec=_spec,
)
