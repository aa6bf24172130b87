"""What activations are called."""

from typing import Any

from plugformer.errors import unknown

# Our names, and theirs; the first of several is the one that is written.
NAMES = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "relu": ("relu",),
    "relu2": ("relu2",),
    "sigmoid": ("sigmoid",),
    "silu": ("silu", "swish"),
}
_OURS = {theirs: ours for ours, names in NAMES.items() for theirs in names}


def activation_of(theirs: Any, *, where: str) -> str:
    """Our name of one of theirs.

    Raises:
        UserError: there is none.
    """
    if theirs not in _OURS:
        raise unknown(f"config.json: {where}={theirs}: no such activation here", str(theirs), _OURS)
    return _OURS[theirs]


def name_of(ours: str) -> str:
    """Their name of one of ours."""
    return NAMES[ours][0]
