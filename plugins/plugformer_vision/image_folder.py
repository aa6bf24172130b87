"""Images in folders, one folder a class."""

from functools import cached_property
from pathlib import Path

from plugformer.data.folder import ClassFolders
from plugformer.interfaces import DataSpec
from plugformer_vision.image_files import VERSION, first_shape
from plugformer_vision.images import SUFFIXES, read_image


class ImageFolder(ClassFolders):
    """PNG and JPEG files under `root/CLASS/`, or, where splits are given, under `root/{train,val,test}/CLASS/`."""

    key = "image"
    suffixes = SUFFIXES
    version = VERSION
    read = staticmethod(read_image)

    @staticmethod
    def inspect(path: Path) -> tuple[int, ...]:
        return tuple(read_image(path).shape)

    @cached_property
    def spec(self) -> DataSpec:
        """The image shape is the first readable file's; the tokenizer finds out whether the others share it."""
        return DataSpec(self.keys, labels=self.classes, image=first_shape(self))
