"""Images and their captions."""

from plugformer.data.with_text import FilesWithText
from plugformer_vision.image_files import IMAGE


class ImageText(FilesWithText):
    """PNG and JPEG files with captions: named in a table, or found by their names beside their texts.

    Images of one caption never stand in two drawn splits, nor do the captions of one image, if it has several. Captions
    count as one if they say the same but for capitals, punctuation and space.
    """

    medium = IMAGE
    kind = "image_text"
    num_texts = "several"
