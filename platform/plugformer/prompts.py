"""What a model goes on with, or writes a text for: its tokens, and whether there is room for more behind them."""

from dataclasses import dataclass
from operator import itemgetter

from torch import Tensor

from plugformer.compatibility import plugins_that
from plugformer.errors import UserError
from plugformer.interfaces import Features, Position, Tokenizer
from plugformer.model import Model

NUM_SHOWN = 40  # characters of a prompt, in a message


@dataclass(frozen=True)
class Prompt:
    """
    Attributes:
        given: what it was on a command line.
        ids: int `[length]`, the tokens that a text begins with.
        source: features of what a text is written for; None where it goes on with what was given.
    """

    given: str
    ids: Tensor
    source: Features | None = None

    @property
    def content(self) -> bytes:
        """All that a model is given of it."""
        features = sorted((self.source or {}).items(), key=itemgetter(0))
        return b"".join(each.contiguous().numpy().tobytes() for each in (self.ids, *map(itemgetter(1), features)))


def encode_prompt(source: str, *, tokenizer: Tokenizer, name: str) -> Features:
    """As `Tokenizer.prompt`.

    Args:
        source: the text.
        tokenizer: fitted or loaded.
        name: of the tokenizer, for a message.

    Raises:
        UserError: the tokenizer has no beginnings, or this is none.
    """
    try:
        return tokenizer.prompt(source)
    except NotImplementedError:
        raise UserError(f"tokenizer={name} can't begin a sequence that a model could go on with.") from None
    except UserError as error:
        raise UserError(f"{shown(source)}: {error}" if source else str(error)) from None


def read_source(source: str, *, tokenizer: Tokenizer) -> Features:
    """Features of what a text is to be written for.

    Args:
        source: a path or, for text, the text itself.
        tokenizer: fitted or loaded.

    Raises:
        UserError: there is nothing, or it can't be read.
    """
    if not source.strip():
        what = "text" if tokenizer.modality == "text" else f"path, of a file of {tokenizer.modality}"
        raise UserError(f"An empty {what}: there is nothing to write for.")
    return tokenizer.encode(tokenizer.read(source))


def count_places(model: Model, tokenizer: Tokenizer) -> int | None:
    """How many tokens a sequence can have; None where positions go on without end."""
    bounded = any(module.bounded for module in model.modules() if isinstance(module, Position))
    return len(tokenizer.spec.grid) if bounded else None


def check_room(source: str, *, length: int, more: int | None, places: int | None, position: str) -> None:
    """
    Args:
        source: a prompt.
        length: its tokens.
        more: that are to follow; None for as many as there is room for, if that is any.
        places: that there are, as `count_places` says.
        position: the name of the model's positions.

    Raises:
        UserError: the prompt is too long, or leaves too little room.
    """
    least = 1 if more is None else more
    if places is None or length + least <= places:
        return
    instead = _endless()
    if length >= places and least:
        raise UserError(
            f"{shown(source)}: a prompt of {length} tokens and one that follows are {length + 1 - places} more than "
            f"position={position} has places ({places}).\n  Shorten the prompt, {instead}"
        )
    if least == 0:
        raise UserError(
            f"{shown(source)}: its {length} tokens are {length - places} more than position={position} has places "
            f"({places}).\n  Shorten it, {instead}"
        )
    raise UserError(
        f"max_new_tokens={more}: together with a prompt of {length} tokens, {shown(source)}, they are "
        f"{length + least - places} more than position={position} has places ({places}).\n"
        f"  Set max_new_tokens={places - length} or null, {instead}"
    )


def check_written(more: int, *, places: int | None, position: str) -> None:
    """
    Args:
        more: tokens that are to be written for a source.
        places: that there are for them; None where there is no end.
        position: the name of the model's positions.

    Raises:
        UserError: there are fewer places.
    """
    if places is not None and more > places:
        raise UserError(
            f"max_new_tokens={more}: more than position={position} has places ({places}).\n"
            f"  Set max_new_tokens={places} or null, {_endless()}"
        )


def _endless() -> str:
    others = ", ".join(f"position={name}" for name in plugins_that("position", lambda cls: not cls.bounded))
    return f"or train a model whose positions have no end: {others}."


def shown(source: str) -> str:
    """The beginning of a text, on one line."""
    cut = source if len(source) <= NUM_SHOWN else f"{source[:NUM_SHOWN]}…"
    return repr(cut)
