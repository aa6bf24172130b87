"""Where weights come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """Weights from elsewhere, under our names.

    Attributes:
        origin: what they are, for messages: a path, and what was found there.
        tensors: by their names in `Model.state_dict`.
        composition: by kind, the plugin's `name` and those options that matter, of the model that they are of.
        tokenizer: a folder with the tokenizer they were trained with; None if there is none.
        target_tokenizer: likewise, of texts that they write, where it is another.
        labels: the classes that their task's head tells apart; None where nobody says.
        fingerprint: of the files that hold them.
    """

    origin: str
    tensors: Mapping[str, Tensor]
    composition: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tokenizer: Path | None = None
    target_tokenizer: Path | None = None
    labels: tuple[str, ...] | None = None
    fingerprint: str = ""
