"""Beam search."""

from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from plugformer.decode.choosing import Choice
from plugformer.decode.continuation import Continuation
from plugformer.decode.session import Session

EarlyStopping = Literal["never"] | bool


@torch.inference_mode()
def beam_search(
    session: Session,
    ids: Int[Tensor, "batch length"],
    valid: Bool[Tensor, "batch length"] | None = None,
    *,
    num_beams: int,
    num_samples: int,
    length_penalty: float,
    early_stopping: EarlyStopping,
    room: int,
    eos: int | None,
    choice: Choice,
) -> list[list[Continuation]]:
    """The likeliest continuations, looked for along several at once (Graves 2012; Sutskever et al. 2014, section 3.2).

    Each step goes on from every beam with every token, and keeps the best `num_beams` of each prompt. Those that ended
    are ranked by the sum of their tokens' scores over `length ** length_penalty`, where `eos` counts as a token: the
    length penalty of Wu et al. (2016, section 7) without its constants. Both as in transformers.

    Args:
        session: not started.
        ids: the prompts, padded on the left.
        valid: which tokens are real; None if all are.
        num_beams: followed at once for each prompt.
        num_samples: continuations of each prompt, at most `num_beams`.
        length_penalty: the greater it is, the more long ones are preferred; 0 compares sums as they are.
        early_stopping: when a prompt with `num_beams` ended continuations is done. True: at once; False: when no beam,
            ranked at its present length, is above the last of them; `never`: nor at the length most in its favour.
        room: tokens that may follow the prompts; what has not ended by then ends there.
        eos: the token that ends a sequence; None if there is none.
        choice: greedy; what it penalises and excludes tells in the log-probabilities that are summed.

    Returns:
        For each prompt the best first; fewer than `num_samples` where there are no more.
    """
    assert choice.greedy, "beams are compared, not drawn"
    assert num_samples <= num_beams, "more than are followed"
    batch, prompt = ids.shape
    live = list(range(batch))  # the prompts that are followed
    rows = torch.arange(batch, device=ids.device).repeat_interleave(num_beams)
    logits = session.start(ids, valid)[rows]
    session.repeat(num_beams)
    ids, valid = ids[rows], None if valid is None else valid[rows]
    score, nats = torch.zeros(2, batch, num_beams, device=ids.device)
    score[:, 1:] = -torch.inf  # the beams of a prompt are all the same as yet: one counts
    ended = [Ended(num_beams, length_penalty, early_stopping, room) for _ in range(batch)]
    for length in range(1, room + 1):
        precision = torch.promote_types(logits.dtype, torch.float32)
        new = logits[:, -1].log_softmax(-1, dtype=precision)  # [live * beams, vocab]
        # Twice as many as are kept, since half of them may be ends, and of these only the better half counts.
        gained, token = choice.scores(new, ids, valid).topk(min(2 * num_beams, new.shape[1]))
        score, place = (score[..., None] + gained.unflatten(0, score.shape)).flatten(1).topk(2 * num_beams)
        beam, token = place // token.shape[1], token.view(len(live), -1).gather(1, place)
        rows = num_beams * torch.arange(len(live), device=ids.device)[:, None] + beam
        nats = nats.gather(1, beam) + new[rows, token]
        is_eos = token == (-1 if eos is None else eos)
        over = ((is_eos | (length == room)) & (score > -torch.inf))[:, :num_beams].nonzero(as_tuple=True)
        texts = torch.cat([ids[rows[over], prompt:], token[over][:, None]], 1).tolist()
        for number, made, its_score, its_nats in zip(
            over[0].tolist(), texts, score[over].tolist(), nats[over].tolist(), strict=True
        ):
            found = Continuation(made, its_nats, "length")
            if made[-1] == eos:
                found = Continuation(made[:-1], its_nats, "eos")
            ended[live[number]].add(found, its_score, length)
        score, kept = score.masked_fill(is_eos, -torch.inf).topk(num_beams)
        for number, best in zip(live, score[:, 0].tolist(), strict=True):
            ended[number].close(best, length)
        going = [place for place, number in enumerate(live) if ended[number].open]
        if length == room or not going:
            break
        nats, rows, token = (each.gather(1, kept) for each in (nats, rows, token))
        left = None
        if session.drops(len(live) - len(going), of=len(live)):
            left, live = torch.tensor(going, device=ids.device), [live[place] for place in going]
            score, nats, rows, token = (each[left] for each in (score, nats, rows, token))
        rows, token = rows.view(-1), token.view(-1, 1)
        session.regroup(rows, left)
        ids = torch.cat([ids[rows], token], 1)
        valid = None if valid is None else torch.cat([valid[rows], torch.ones_like(token, dtype=torch.bool)], 1)
        logits = session.step(token)
    return [each.best(num_samples) for each in ended]


class Ended:
    """The best continuations of one prompt that ended."""

    def __init__(self, size: int, length_penalty: float, early_stopping: EarlyStopping, room: int) -> None:
        self.size, self.length_penalty, self.early_stopping, self.room = size, length_penalty, early_stopping, room
        self.open = True
        self.ranked: list[tuple[float, Continuation]] = []  # best first

    def add(self, found: Continuation, score: float, length: int) -> None:
        """One more, unless the prompt is done; the last goes where there are too many."""
        if self.open:
            self.ranked.append((self._rank(score, length), found))
            self.ranked.sort(key=lambda pair: -pair[0])
            del self.ranked[self.size :]

    def close(self, score: float, length: int) -> None:
        """The prompt is done if its best running beam, which has this score, has nothing to hope for."""
        if score == -torch.inf:  # none runs
            self.open = False
        elif len(self.ranked) == self.size:
            favour = self.early_stopping == "never" and self.length_penalty > 0
            hope = self._rank(score, self.room if favour else length)
            self.open = self.open and self.early_stopping is not True and hope > self.ranked[-1][0]

    def best(self, count: int) -> list[Continuation]:
        return [found for _, found in self.ranked[:count]]

    def _rank(self, score: float, length: int) -> float:
        return score / length**self.length_penalty
