"""Whether the tokens of two tokenizers are the same."""

import filecmp
from pathlib import Path
from tempfile import TemporaryDirectory

from plugformer.interfaces import Tokenizer


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether what two tokenizers have learned is equal: both are written once more, in the same form."""
    if one.spec.vocab_size != other.spec.vocab_size:
        return False
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        folders = Path(first), Path(second)
        for tokenizer, folder in zip((one, other), folders, strict=True):
            tokenizer.save(folder)
        names, others = (
            sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) for folder in folders
        )
        equal, _, _ = filecmp.cmpfiles(first, second, names, shallow=False)
        return names == others and len(equal) == len(names)
