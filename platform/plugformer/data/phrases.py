"""What was said, apart from how it is written."""

import unicodedata


def letters(text: str) -> str:
    """Small letters and digits, with one space between words; an apostrophe stays inside of a word.

    Letters are composed with their marks (Unicode NFC). Texts that are read out alike come out alike.
    """
    small = unicodedata.normalize("NFC", text.lower()).replace("’", "'")
    kept = "".join(sign if sign == "'" or unicodedata.category(sign)[0] in "LMN" else " " for sign in small)
    return " ".join(filter(None, (word.strip("'") for word in kept.split())))
