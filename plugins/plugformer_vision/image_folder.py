"""Images in folders, one folder a class."""

from plugformer.data.folder import ClassFolders
from plugformer_vision.image_files import IMAGE


class ImageFolder(ClassFolders):
    """PNG and JPEG files under `root/CLASS/`, or, where splits are given, under `root/{train,val,test}/CLASS/`."""

    medium = IMAGE
