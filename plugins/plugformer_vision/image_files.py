"""What data of image files have in common."""

import PIL

from plugformer.data.of_files import DataOfFiles
from plugformer.errors import UserError
from plugformer_vision.images import image_shape

VERSION = f"1, Pillow {PIL.__version__}"  # of what reads them


def first_shape(data: DataOfFiles) -> tuple[int, int, int]:
    """`(channels, height, width)` of the first file that can be read; others may have another.

    Raises:
        UserError: why the first can't be, if none can.
    """
    for path in data.paths:
        try:
            data.scanner.probe(path)
        except UserError:
            continue
        return image_shape(path)
    return image_shape(data.paths[0])
