"""Texts that a trained model goes on with."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from plugformer.decode.beam import beam_search
from plugformer.decode.choosing import Choice
from plugformer.decode.continuation import Continuation
from plugformer.decode.sampling import sample
from plugformer.decode.session import Session
from plugformer.decode.speculative import check_goes_back, speculate
from plugformer.decode.streaming import Writer
from plugformer.errors import UserError
from plugformer.generating import Generating, load_generating
from plugformer.prompts import check_room, encode_prompt
from plugformer.settings import GenerateSettings
from plugformer.tokens import same_tokens

NUM_TOKENS = 100  # that follow a prompt, if nothing else is said

Emit = Callable[[str], None]


@dataclass(frozen=True)
class Generated:
    """
    Attributes:
        prompt: as it was given.
        number: its place among the prompts, from 0.
        sample: the text's place among those of its prompt, from 0.
        text: that follows the prompt, without a stop string.
        continuation: its tokens.
        proposed, accepted: tokens of the draft, where there is one.
    """

    prompt: str
    number: int
    sample: int
    text: str
    continuation: Continuation
    proposed: int | None = None
    accepted: int | None = None


@dataclass(frozen=True)
class Asked:
    """A text that is to be made.

    Attributes:
        prompt: its beginning.
        number: the place of that among the prompts.
        sample: the text's place among those of its prompt.
        ids: int `[length]`, the same as tokens.
        room: tokens that may follow.
        copy: how many texts of the same tokens stand before it.
    """

    prompt: str
    number: int
    sample: int
    ids: Tensor
    room: int
    copy: int


def generate(
    path: str | Path, prompts: Sequence[str], settings: GenerateSettings, *, emit: Emit | None = None
) -> Iterator[Generated]:
    """Texts in the order of the prompts, `num_samples` of each; those of beam search the best first.

    What follows a prompt depends on it and the settings alone, not on the prompts beside it. Where one stands there
    again, it gets further samples.

    Args:
        path: a run directory.
        prompts: what to go on with, in place of those of the settings.
        settings: all the rest.
        emit: is given the text piece by piece, of a single text without beam search.

    Raises:
        UserError: not a run directory, a task that generates nothing, or prompts or settings that the model can't go
            with; before anything is generated.
    """
    main = load_generating(path, settings)
    draft = None if settings.draft is None else load_generating(settings.draft, settings)
    if draft is not None:
        _check_same_tokens(main, draft)
        check_goes_back(_session(main, 1, settings), "model")
        check_goes_back(_session(draft, 1, settings), "draft")
    vocab_size = main.tokenizer.spec.vocab_size or 0
    if settings.num_beams > vocab_size:
        raise UserError(
            f"num_beams={settings.num_beams}: more than there are tokens, {vocab_size}.\n"
            f"  Set num_beams={vocab_size} or less."
        )
    asked = _ask(prompts, settings, main, draft)
    assert emit is None or (len(asked) == 1 and settings.num_beams == 1), "texts at once would come mixed"
    if draft is not None:
        return (_speculated(each, main, draft, settings, emit) for each in asked)
    if settings.num_beams > 1:
        size = max(1, settings.batch_size // settings.num_beams)
        return (text for batch in _batches(asked, size) for text in _searched(batch, main, settings))
    return (text for batch in _batches(asked, settings.batch_size) for text in _sampled(batch, main, settings, emit))


# ---------------------------------------------------------------------------------------------- what is asked


def _ask(prompts: Sequence[str], settings: GenerateSettings, main: Generating, draft: Generating | None) -> list[Asked]:
    """
    Raises:
        UserError: a prompt that is none, or has no room behind it.
    """
    name = main.config["tokenizer"]["name"]
    encoded = [(prompt, encode_prompt(prompt, tokenizer=main.tokenizer, name=name)["ids"]) for prompt in prompts]
    models = [main] if draft is None else [main, draft]
    for prompt, ids in sorted(encoded, key=lambda each: -len(each[1])):
        for each in models:
            check_room(
                prompt,
                length=len(ids),
                more=settings.max_new_tokens,
                places=each.places,
                position=each.config["position"]["name"],
            )
    copies: Counter[bytes] = Counter()
    asked = []
    for number, (prompt, ids) in enumerate(encoded):
        left = [each.places - len(ids) for each in models if each.places is not None]
        room = settings.max_new_tokens or min(NUM_TOKENS, *left, NUM_TOKENS)
        key = ids.numpy().tobytes()
        for one in range(1 if settings.num_beams > 1 else settings.num_samples):
            asked.append(Asked(prompt, number, one, ids, room, copies[key]))
            copies[key] += 1
    for each in models:
        _warn_if_longer(max((len(one.ids) + one.room for one in asked), default=0), each)
    return asked


def _warn_if_longer(length: int, model: Generating) -> None:
    trained = len(model.tokenizer.spec.grid)
    if model.places is None and length > trained:
        warnings.warn(
            f"{model.run.path}: it was trained on sequences of up to {trained} tokens; these may get {length} long. "
            f"With position={model.config['position']['name']} that is possible, but may not be good.",
            stacklevel=4,
        )


def _check_same_tokens(main: Generating, draft: Generating) -> None:
    """
    Raises:
        UserError: the numbers of tokens mean something else to the draft.
    """
    if not same_tokens(main.tokenizer, draft.tokenizer):
        sizes = [each.tokenizer.spec.vocab_size for each in (main, draft)]
        of_draft = f"{draft.config['tokenizer']['name']} of {sizes[1]} tokens"
        raise UserError(
            f"draft={draft.run.path}: its tokenizer, {of_draft}, isn't that of {main.run.path}, "
            f"{main.config['tokenizer']['name']} of {sizes[0]} tokens: what they learned differs.\n"
            f"  Train the draft with tokenizer.from_run={main.run.path}."
        )


# ---------------------------------------------------------------------------------------------- making it


def _sampled(
    batch: Sequence[Asked], main: Generating, settings: GenerateSettings, emit: Emit | None
) -> Iterator[Generated]:
    ids, valid = _padded(batch, main)
    writers = [_writer(each, main, settings, emit) for each in batch]
    made = sample(
        _session(main, batch[0].room, settings),
        ids,
        valid,
        choice=_choice(settings),
        room=batch[0].room,
        eos=_eos(main),
        stop=[writer.take for writer in writers],
        generators=[_generator(each, settings) for each in batch] if settings.temperature else None,
    )
    for each, writer, continuation in zip(batch, writers, made, strict=True):
        yield Generated(each.prompt, each.number, each.sample, writer.end(), continuation)


def _searched(batch: Sequence[Asked], main: Generating, settings: GenerateSettings) -> Iterator[Generated]:
    ids, valid = _padded(batch, main)
    made = beam_search(
        _session(main, batch[0].room, settings),
        ids,
        valid,
        num_beams=settings.num_beams,
        num_samples=settings.num_samples,
        length_penalty=settings.length_penalty,
        early_stopping=settings.early_stopping,
        room=batch[0].room,
        eos=_eos(main),
        choice=_choice(settings),
    )
    for each, continuations in zip(batch, made, strict=True):
        for rank, continuation in enumerate(continuations):
            writer = _writer(each, main, settings, None)
            for token in continuation.ids:
                writer.take(token)
            yield Generated(each.prompt, each.number, rank, writer.end(), continuation)


def _speculated(
    each: Asked, main: Generating, draft: Generating, settings: GenerateSettings, emit: Emit | None
) -> Generated:
    writer = _writer(each, main, settings, emit)
    made = speculate(
        _session(main, each.room, settings),
        _session(draft, each.room, settings),
        _padded([each], main)[0],
        choice=_choice(settings),
        draft_tokens=settings.draft_tokens,
        room=each.room,
        eos=_eos(main),
        stop=writer.take,
        generator=_generator(each, settings) if settings.temperature else None,
    )
    text = writer.end()
    return Generated(each.prompt, each.number, each.sample, text, made.continuation, made.proposed, made.accepted)


def _batches(asked: Sequence[Asked], size: int) -> Iterator[Sequence[Asked]]:
    """Those that stand together and have the same room."""
    for _, group in groupby(asked, key=lambda each: each.room):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _padded(batch: Sequence[Asked], main: Generating) -> tuple[Tensor, Tensor | None]:
    """Prompts, int `[batch, length]`, and which of their tokens are real, bool of the same shape; None if all are."""
    length = max(len(each.ids) for each in batch)
    lacking = torch.tensor([length - len(each.ids) for each in batch])
    pad = main.tokenizer.spec.specials.get("pad", 0)
    ids = torch.stack([F.pad(each.ids, (length - len(each.ids), 0), value=pad) for each in batch])
    device = next(main.model.parameters()).device
    valid = torch.arange(length) >= lacking[:, None]
    return ids.to(device), valid.to(device) if lacking.any() else None


def _session(model: Generating, room: int, settings: GenerateSettings) -> Session:
    return Session(model.model, room=room, cache=model.cache, compile=settings.compile)


def _writer(each: Asked, main: Generating, settings: GenerateSettings, emit: Emit | None) -> Writer:
    return Writer(main.tokenizer.decode, each.ids.tolist(), stop=settings.stops, emit=emit)


def _choice(settings: GenerateSettings) -> Choice:
    return Choice(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        no_repeat_ngram=settings.no_repeat_ngram,
    )


def _generator(each: Asked, settings: GenerateSettings) -> torch.Generator:
    """Its seed is made of the run's, of the prompt's tokens, and of how many texts of the same stand before it."""
    drawn = hashlib.blake2b(f"{settings.seed}:{each.copy}:".encode() + each.ids.numpy().tobytes(), digest_size=7)
    return torch.Generator().manual_seed(int.from_bytes(drawn.digest()))


def _eos(main: Generating) -> int | None:
    return main.tokenizer.spec.specials.get("eos")
