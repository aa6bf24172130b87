"""Texts as people read them, of tokens that tasks predict."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from plugformer.decode.choosing import Choice
from plugformer.decode.sampling import sample
from plugformer.decode.session import Session
from plugformer.decode.streaming import Writer
from plugformer.interfaces import Features, Task, Tokenizer, Trunk
from plugformer.model import Model, decodes_in_steps
from plugformer.model import Trunk as WholeTrunk

BEGINNING = 16  # tokens that a text is gone on with from, at most half of it
CONTINUED = 24  # and that follow


def text_of(tokenizer: Tokenizer, ids: Int[Tensor, "length"]) -> str:
    """What the tokenizer decodes them to; their numbers where it can't."""
    try:
        return tokenizer.decode(ids)
    except NotImplementedError:
        return " ".join(map(str, ids.tolist()))


def marked(tokenizer: Tokenizer, ids: Int[Tensor, "length"], chosen: Bool[Tensor, "length"]) -> str:
    """The text of all tokens, those that are chosen in brackets: ⟦…⟧."""
    text, end = "", 0
    for is_chosen, run in groupby(chosen.tolist()):
        start, end = end, end + len(list(run))
        before, both = text_of(tokenizer, ids[:start]), text_of(tokenizer, ids[:end])
        piece = both.removeprefix(before) if both.startswith(before) else text_of(tokenizer, ids[start:end])
        if is_chosen:
            bare = piece.lstrip(" ")
            piece = f"{piece[: len(piece) - len(bare)]}⟦{bare}⟧" if bare else f"⟦{piece}⟧"
        text += piece
    return text


def filled(
    tokenizer: Tokenizer,
    inputs: Features,
    place: Int[Tensor, "batch places"],
    counts: Bool[Tensor, "batch places"],
    predicted: Int[Tensor, "batch places"],
) -> list[dict[str, Any]]:
    """Of each sample its text, once as it is and once with what is predicted at some places, which are in brackets.

    Args:
        tokenizer: of the inputs.
        inputs: of a batch.
        place: that are predicted.
        counts: which of them count.
        predicted: the tokens.
    """
    found = []
    for number, ids in enumerate(inputs["ids"].cpu()):
        kept = counts[number].cpu()
        places = place[number].cpu()[kept]
        guessed = ids.index_copy(0, places, predicted[number].cpu()[kept])
        chosen = torch.zeros_like(ids, dtype=torch.bool)
        chosen[places] = True
        length = len(ids) if "valid" not in inputs else int(inputs["valid"][number].nonzero().max()) + 1
        texts = {"target": ids, "prediction": guessed}
        found.append({name: marked(tokenizer, each[:length], chosen[:length]) for name, each in texts.items()})
    return found


def continued(task: Task, trunk: Trunk, inputs: Features, *, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Of each sample the beginning of its first document, how that goes on, and how the model goes on with it, taking
    the likeliest token each time."""
    documents = list(_documents(inputs))
    begun = [ids[: max(1, min(BEGINNING, len(ids) // 2))] for ids in documents]
    longest = max(map(len, begun))
    room = min(CONTINUED, len(tokenizer.spec.grid) - longest)
    if room < 1:
        return [{}] * len(documents)
    lacking = torch.tensor([longest - len(ids) for ids in begun])
    device = inputs["ids"].device
    padded = torch.stack([F.pad(ids, (longest - len(ids), 0), value=int(ids[0])) for ids in begun]).to(device)
    valid = (torch.arange(longest) >= lacking[:, None]).to(device) if lacking.any() else None
    made = sample(
        session_of(task, trunk, room=room),
        padded,
        valid,
        choice=Choice(),
        room=room,
        eos=tokenizer.spec.specials["eos"] if "eos" in tokenizer.spec.around else None,
    )
    return [
        {
            "beginning": text_of(tokenizer, start),
            "target": behind(tokenizer, start, ids[len(start) : len(start) + room].tolist()),
            "prediction": behind(tokenizer, start, continuation.ids),
        }
        for ids, start, continuation in zip(documents, begun, made, strict=True)
    ]


def _documents(inputs: Features) -> Iterator[Int[Tensor, "length"]]:
    """The real tokens of the first document of each sequence."""
    for number, ids in enumerate(inputs["ids"].cpu()):
        kept = torch.ones_like(ids, dtype=torch.bool)
        if "valid" in inputs:
            kept = inputs["valid"][number].cpu()
        if "segments" in inputs:
            segments = inputs["segments"][number].cpu()
            kept = kept & (segments == segments[kept][0])
        yield ids[kept]


def behind(tokenizer: Tokenizer, start: Int[Tensor, "length"], ids: Sequence[int]) -> str:
    """The text of tokens that follow others."""
    writer = Writer(partial(text_of, tokenizer), start.tolist())
    for token in ids:
        writer.take(token)
    return writer.end()


def session_of(task: Task, trunk: Trunk, *, room: int, source: Features | None = None) -> Session:
    """In which a model goes on with sequences, or writes them for a source, remembering what it can."""
    model = Model(trunk=cast("WholeTrunk", trunk), task=task)
    return Session(model, source=source, room=room, cache="growing" if decodes_in_steps(model) else "none")
