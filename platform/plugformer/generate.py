"""Texts that a trained model goes on with, or writes for a source."""

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
from plugformer.interfaces import Tokenizer
from plugformer.prompts import Prompt, check_room, check_written
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
        text: that follows the prompt, or is written for it, without a stop string.
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
        prompt: what it goes on with, or is written for.
        drafted: the same, as the draft reads it, where there is one.
        number: the place of that among the prompts.
        sample: the text's place among those of its prompt.
        room: tokens that may follow.
        copy: how many texts of the same prompt stand before it.
    """

    prompt: Prompt
    drafted: Prompt | None
    number: int
    sample: int
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
        prompts: what to go on with, in place of those of the settings. Where the run's task writes one sequence for
            another, what to write a text for: a text, or the path of a file.
        settings: all the rest.
        emit: is given the text piece by piece, of a single text without beam search.

    Raises:
        UserError: not a run directory, a task that generates nothing, or prompts or settings that the model can't go
            with; before anything is generated.
    """
    main = load_generating(path, settings)
    draft = None if settings.draft is None else load_generating(settings.draft, settings)
    return write(main, draft, prompts, settings, emit=emit)


def write(
    main: Generating,
    draft: Generating | None,
    prompts: Sequence[str | Prompt],
    settings: GenerateSettings,
    *,
    emit: Emit | None = None,
) -> Iterator[Generated]:
    """As `generate`, of a run that is loaded.

    Args:
        main: what writes.
        draft: what proposes tokens.
        prompts: as they were given, or as `main` has read them.
        settings, emit: as in `generate`.

    Raises:
        UserError: as `generate`.
    """
    if draft is not None:
        _check_draft(main, draft)
        check_goes_back(_session(main, [], 1, settings), "model")
        check_goes_back(_session(draft, [], 1, settings), "draft")
    vocab_size = main.target.spec.vocab_size or 0
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


def _ask(
    prompts: Sequence[str | Prompt], settings: GenerateSettings, main: Generating, draft: Generating | None
) -> list[Asked]:
    """
    Raises:
        UserError: a prompt that is none, or has no room behind it.
    """
    read = [each if isinstance(each, Prompt) else main.read(each) for each in prompts]
    drafted = [None if draft is None else draft.read(each.given) for each in read]
    models = [main] if draft is None else [main, draft]
    for prompt in sorted(read, key=lambda each: -len(each.ids)):
        for model in models:
            _check_places(prompt, settings.max_new_tokens, model)
    copies: Counter[bytes] = Counter()
    asked = []
    for number, (prompt, same) in enumerate(zip(read, drafted, strict=True)):
        room = settings.max_new_tokens or min(_usual_room(prompt, model) for model in models)
        for one in range(1 if settings.num_beams > 1 else settings.num_samples):
            asked.append(Asked(prompt, same, number, one, room, copies[prompt.content]))
            copies[prompt.content] += 1
    for model in models:
        _warn_if_longer(max((_length(each, model) for each in asked), default=0), model)
    return asked


def _check_places(prompt: Prompt, more: int | None, model: Generating) -> None:
    """
    Raises:
        UserError: positions have fewer places than there are to be tokens.
    """
    position = model.config["position"]["name"]
    if model.has_sources:
        check_written(more or 1, places=model.places, position=position)
    else:
        check_room(prompt.given, length=len(prompt.ids), more=more, places=model.places, position=position)


def _usual_room(prompt: Prompt, model: Generating) -> int:
    """Tokens that may be written where nobody says how many."""
    if model.has_sources:
        return model.longest
    return NUM_TOKENS if model.places is None else min(NUM_TOKENS, model.places - len(prompt.ids))


def _length(asked: Asked, model: Generating) -> int:
    """Tokens that its sequence may get."""
    return asked.room if model.has_sources else len(asked.prompt.ids) + asked.room


def _warn_if_longer(length: int, model: Generating) -> None:
    if model.places is None and length > model.longest:
        warnings.warn(
            f"{model.run.path}: it was trained on sequences of up to {model.longest} tokens; these may get {length} "
            f"long. With position={model.config['position']['name']} that is possible, but may not be good.",
            stacklevel=5,
        )


def _check_draft(main: Generating, draft: Generating) -> None:
    """
    Raises:
        UserError: it writes in another way, or the numbers of tokens mean something else to it.
    """
    if main.has_sources != draft.has_sources:
        does = {True: "writes one sequence for another", False: "goes on with sequences"}
        raise UserError(
            f"draft={draft.run.path}: it {does[draft.has_sources]}, and {main.run.path} {does[main.has_sources]}.\n"
            f"  Train the draft with {main.name('task')}, {main.name('backbone')}."
        )
    _check_same_tokens("tokenizer", main, main.tokenizer, draft, draft.tokenizer)
    if main.has_sources:
        _check_same_tokens("target_tokenizer", main, main.target, draft, draft.target)


def _check_same_tokens(kind: str, main: Generating, one: Tokenizer, draft: Generating, other: Tokenizer) -> None:
    """
    Raises:
        UserError: what these tokenizers of the two learned differs.
    """
    if one.modality != other.modality or not same_tokens(one, other):
        known, of_draft = _described(kind, main, one), _described(kind, draft, other)
        raise UserError(
            f"draft={draft.run.path}: its {kind}, {of_draft}, isn't that of {main.run.path}, {known}: what they "
            f"learned differs.\n  Train the draft with {kind}.from_run={main.run.path}."
        )


def _described(kind: str, model: Generating, tokenizer: Tokenizer) -> str:
    name = model.config[kind if kind in model.config else "tokenizer"]["name"]  # one may be for both
    size = tokenizer.spec.vocab_size
    return name if size is None else f"{name} of {size} tokens"


# ---------------------------------------------------------------------------------------------- making it


def _sampled(
    batch: Sequence[Asked], main: Generating, settings: GenerateSettings, emit: Emit | None
) -> Iterator[Generated]:
    ids, valid = _padded(batch, main)
    writers = [_writer(each, main, settings, emit) for each in batch]
    made = sample(
        _session(main, [each.prompt for each in batch], batch[0].room, settings),
        ids,
        valid,
        choice=_choice(settings),
        room=batch[0].room,
        eos=_eos(main),
        stop=[writer.take for writer in writers],
        generators=[_generator(each, settings) for each in batch] if settings.temperature else None,
    )
    for each, writer, continuation in zip(batch, writers, made, strict=True):
        yield Generated(each.prompt.given, each.number, each.sample, writer.end(), continuation)


def _searched(batch: Sequence[Asked], main: Generating, settings: GenerateSettings) -> Iterator[Generated]:
    ids, valid = _padded(batch, main)
    made = beam_search(
        _session(main, [each.prompt for each in batch], batch[0].room, settings),
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
            yield Generated(each.prompt.given, each.number, rank, writer.end(), continuation)


def _speculated(
    each: Asked, main: Generating, draft: Generating, settings: GenerateSettings, emit: Emit | None
) -> Generated:
    assert each.drafted is not None, "it was read for both"
    writer = _writer(each, main, settings, emit)
    made = speculate(
        _session(main, [each.prompt], each.room, settings),
        _session(draft, [each.drafted], each.room, settings),
        _padded([each], main)[0],
        choice=_choice(settings),
        draft_tokens=settings.draft_tokens,
        room=each.room,
        eos=_eos(main),
        stop=writer.take,
        generator=_generator(each, settings) if settings.temperature else None,
    )
    text = writer.end()
    return Generated(each.prompt.given, each.number, each.sample, text, made.continuation, made.proposed, made.accepted)


def _batches(asked: Sequence[Asked], size: int) -> Iterator[Sequence[Asked]]:
    """Those that stand together and have the same room."""
    for _, group in groupby(asked, key=lambda each: each.room):
        alike = list(group)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _padded(batch: Sequence[Asked], main: Generating) -> tuple[Tensor, Tensor | None]:
    """Prompts, int `[batch, length]`, and which of their tokens are real, bool of the same shape; None if all are."""
    begun = [each.prompt.ids for each in batch]
    length = max(map(len, begun))
    lacking = torch.tensor([length - len(each) for each in begun])
    pad = main.target.spec.specials.get("pad", 0)
    ids = torch.stack([F.pad(each, (length - len(each), 0), value=pad) for each in begun])
    device = next(main.model.parameters()).device
    valid = torch.arange(length) >= lacking[:, None]
    return ids.to(device), valid.to(device) if lacking.any() else None


def _session(model: Generating, prompts: Sequence[Prompt], room: int, settings: GenerateSettings) -> Session:
    sources = [each.source for each in prompts if each.source is not None]
    source = model.collate(sources) if sources else None
    return Session(model.model, source=source, room=room, cache=model.cache, compile=settings.compile)


def _writer(each: Asked, main: Generating, settings: GenerateSettings, emit: Emit | None) -> Writer:
    return Writer(main.target.decode, each.prompt.ids.tolist(), stop=settings.stops, emit=emit)


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
    """Its seed is made of the run's, of what the prompt is, and of how many texts of the same stand before it."""
    drawn = hashlib.blake2b(f"{settings.seed}:{each.copy}:".encode() + each.prompt.content, digest_size=7)
    return torch.Generator().manual_seed(int.from_bytes(drawn.digest()))


def _eos(main: Generating) -> int | None:
    return main.target.spec.specials.get("eos")
