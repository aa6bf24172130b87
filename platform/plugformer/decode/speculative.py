"""Speculative decoding: a small model proposes tokens, and the model judges them all in one step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from plugformer.decode.choosing import Choice, sample_from
from plugformer.decode.continuation import Continuation, Stop
from plugformer.decode.session import Session
from plugformer.errors import UserError
from plugformer.model import remembering


@dataclass
class Speculated:
    """
    Attributes:
        continuation: as the model alone makes it.
        proposed: tokens that the draft proposed.
        accepted: those of them that the model accepted.
    """

    continuation: Continuation
    proposed: int = 0
    accepted: int = 0


@torch.inference_mode()
def speculate(
    session: Session,
    draft: Session,
    ids: Int[Tensor, "1 length"],
    *,
    choice: Choice,
    draft_tokens: int,
    room: int,
    eos: int | None = None,
    stop: Stop | None = None,
    generator: torch.Generator | None = None,
) -> Speculated:
    """Go on with a sequence until it ends (Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2).

    Whatever the draft proposes, tokens are drawn from the distribution that the model alone gives them; the better the
    draft, the fewer steps the model takes. Greedy, they are the same tokens, unless two are so close that rounding
    tells: a step of several tokens doesn't always round as steps of one do.

    Args:
        session: of the model; not started.
        draft: of a smaller model over the same vocabulary; not started.
        ids: the prompt.
        choice: of each token; applies to both models.
        draft_tokens: proposed at once.
        room: tokens that may follow, at least 1; both sessions have it.
        eos: the token that ends a sequence.
        stop: is told the tokens, all but `eos`.
        generator: on the CPU; None if greedy.

    Raises:
        UserError: a mechanism that can't take tokens back.
    """
    check_goes_back(session, "model")
    check_goes_back(draft, "draft")
    made = Speculated(Continuation(ids=[], score=0.0, ended="length"))
    model, helper = Reader(session), Reader(draft)
    logits, _ = model.start(ids), helper.start(ids)
    q: list[Float[Tensor, "vocab"]] = []  # of the tokens at the end of `ids` that are but proposed
    while True:
        known = ids.shape[1] - len(q)
        p = (distribution(row, ids[:, : known + place], choice) for place, row in enumerate(logits))
        tokens = judge(ids[0, known:].tolist(), p, q, generator)
        made.proposed += len(q)
        made.accepted += len(tokens) - 1
        nats = logits[: len(tokens)].log_softmax(-1).gather(1, ids.new_tensor(tokens)[:, None])
        for token, gained in zip(tokens, nats[:, 0].tolist(), strict=True):
            if not made.continuation.extend(token, gained, eos=eos, stop=stop):
                return made
        left = room - len(made.continuation.ids)
        if not left:
            return made
        ids = torch.cat([ids[:, : known + len(tokens) - 1], ids.new_tensor(tokens[-1:])[None]], 1)
        for each in (model, helper):
            each.back(ids.shape[1] - 1)
        ids, q = propose(helper, ids, min(draft_tokens, left - 1), choice=choice, eos=eos, generator=generator)
        logits = model.go_on(ids)


def propose(
    draft: "Reader",
    ids: Int[Tensor, "1 length"],
    count: int,
    *,
    choice: Choice,
    eos: int | None,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "1 longer"], list[Float[Tensor, "vocab"]]]:
    """The sequence with at most `count` tokens more, none after `eos`, and what each of them was drawn from."""
    q = []
    for _ in range(count):
        q.append(distribution(draft.go_on(ids)[-1], ids, choice))
        token = draw(q[-1], generator)
        ids = torch.cat([ids, ids.new_tensor([[token]])], 1)
        if token == eos:
            break
    return ids, q


def judge(
    proposed: Sequence[int],
    p: Iterator[Float[Tensor, "vocab"]],
    q: Sequence[Float[Tensor, "vocab"]],
    generator: torch.Generator | None,
) -> list[int]:
    """As many of the proposed tokens as are accepted, and one more: all as if drawn from `p`.

    Args:
        proposed: tokens, each drawn from its `q`.
        p: what the model would draw each of them from, and the one that follows them all.
        q: what the draft drew them from.
        generator: None if greedy.
    """
    accepted: list[int] = []
    for token, ours, theirs in zip(proposed, p, q, strict=False):
        ratio = (ours[token] / theirs[token]).item()
        if ratio < 1 and (ratio == 0 or torch.rand((), dtype=torch.float64, generator=generator).item() >= ratio):
            rest = (ours - theirs).clamp(min=0)
            return [*accepted, draw(rest if rest.any() else ours, generator)]  # nothing but rounding told them apart
        accepted.append(token)
    return [*accepted, draw(next(p), generator)]


def distribution(
    logits: Float[Tensor, "vocab"], ids: Int[Tensor, "1 length"], choice: Choice
) -> Float[Tensor, "vocab"]:
    """What the token after `ids` is drawn from; greedy, it is certain."""
    scores = choice.scores(logits[None], ids, None)[0]
    if choice.greedy:
        return F.one_hot(scores.argmax(), len(scores)).to(scores)
    return scores.softmax(-1)


def draw(probability: Float[Tensor, "vocab"], generator: torch.Generator | None) -> int:
    """A token; the likeliest if greedy."""
    if generator is None:
        return int(probability.argmax())
    return int(sample_from(probability[None], generator))


class Reader:
    """A session that knows how much of a sequence it has read."""

    def __init__(self, session: Session) -> None:
        self.session, self.read = session, 0

    def start(self, ids: Int[Tensor, "1 length"]) -> Float[Tensor, "1 vocab"]:
        """Read a prompt; the logits of what follows it."""
        self.read = ids.shape[1]
        return _precise(self.session.start(ids)[0])

    def go_on(self, ids: Int[Tensor, "1 length"]) -> Float[Tensor, "new vocab"]:
        """Read what is new of a sequence; the logits of what follows each token of it."""
        new, self.read = ids[:, self.read :], ids.shape[1]
        return _precise(self.session.step(new)[0])

    def back(self, length: int) -> None:
        """Forget what it has read beyond this length."""
        if self.read > length:
            self.session.drop(self.read - length)
            self.read = length


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_goes_back(session: Session, whose: str) -> None:
    """
    Raises:
        UserError: it can't forget the last tokens. `whose` it is begins the message.
    """
    if session.cache == "none":
        return
    if not session.model.trunk.backbone.goes_back:
        raise UserError(
            f"draft: the {whose}'s decoder is recurrent, and can't take back tokens that were proposed and not "
            "accepted.\n  Generate without a draft, set cache=none, or take a run whose decoder is a transformer."
        )
    stuck = {type(each).__name__ for each in remembering(session.model) if each.capabilities.decoding == "state"}
    if stuck:
        raise UserError(
            f"draft: the {whose}'s attention ({', '.join(sorted(stuck))}) decodes from a state, and can't take back "
            "tokens that were proposed and not accepted.\n"
            "  Generate without a draft, set cache=none, or take a run whose attention decodes from keys and values, "
            "such as attention=full."
        )
