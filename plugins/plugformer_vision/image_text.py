"""Images and their captions."""

from functools import cached_property
from pathlib import Path

from plugformer.data.with_text import FilesWithText
from plugformer.interfaces import DataSpec
from plugformer_vision.image_files import VERSION, first_shape
from plugformer_vision.images import read_image


class ImageText(FilesWithText):
    """PNG and JPEG files with captions: named in a table, or found by their names beside their texts.

    Images of one caption never stand in two drawn splits, nor do the captions of one image, if it has several. Captions
    count as one if they say the same but for capitals, punctuation and space.
    """

    key = "image"
    kind = "image_text"
    num_texts = "several"
    version = VERSION
    read = staticmethod(read_image)

    @staticmethod
    def inspect(path: Path) -> tuple[int, ...]:
        return tuple(read_image(path).shape)

    @cached_property
    def spec(self) -> DataSpec:
        """The image shape is the first readable file's; the tokenizer finds out whether the others share it."""
        return DataSpec(self.keys, image=first_shape(self))
