"""Images in folders, one folder a class."""

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import PIL

from plugformer.data.folder import ClassFolders
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer_vision.images import SUFFIXES, image_shape, read_image


class ImageFolder(ClassFolders):
    """PNG and JPEG files under `root/CLASS/`, or, where splits are given, under `root/{train,val,test}/CLASS/`."""

    key = "image"
    suffixes = SUFFIXES
    version: ClassVar[str] = f"1, Pillow {PIL.__version__}"
    read = staticmethod(read_image)

    @staticmethod
    def inspect(path: Path) -> tuple[int, ...]:
        return tuple(read_image(path).shape)

    @cached_property
    def spec(self) -> DataSpec:
        """The image shape is the first readable file's; the tokenizer finds out whether the others share it."""
        first = next((file.path for file in self.files if self._is_good(file.path)), self.files[0].path)
        return DataSpec(self.keys, labels=self.classes, image=image_shape(first))

    def _is_good(self, path: Path) -> bool:
        try:
            self.probe(path)
        except UserError:
            return False
        return True
