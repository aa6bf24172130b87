"""Greedy decoding and sampling: one token for each sequence at each step."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from plugformer.decode.choosing import Choice
from plugformer.decode.continuation import Continuation, Stop
from plugformer.decode.session import Session


@torch.inference_mode()
def sample(
    session: Session,
    ids: Int[Tensor, "batch length"],
    valid: Bool[Tensor, "batch length"] | None = None,
    *,
    choice: Choice,
    room: int,
    eos: int | None = None,
    stop: Sequence[Stop] | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> list[Continuation]:
    """Go on with each sequence until it ends. What becomes of one doesn't depend on the others.

    Args:
        session: not started.
        ids: the prompts, padded on the left.
        valid: which of their tokens are real; None if all are.
        choice: of each token.
        room: tokens that may follow, at least 1.
        eos: the token that ends a sequence.
        stop: for each sequence, who is told its tokens, all but `eos`.
        generators: one for each sequence, on the CPU; None if greedy.
    """
    batch = ids.shape[0]
    made = [Continuation(ids=[], score=0.0, ended="length") for _ in range(batch)]
    live = list(range(batch))  # the sequences that go on
    rows, place = batch, torch.arange(batch, device=ids.device)  # of the session, and of each of them in it
    logits = session.start(ids, valid)[:, -1]
    for left in reversed(range(room)):
        logits = logits[place].to(torch.promote_types(logits.dtype, torch.float32))
        own = None if generators is None else [generators[number] for number in live]
        drawn = choice.draw(choice.scores(logits, ids, valid), own)  # [live]
        nats = logits.gather(1, drawn[:, None])[:, 0] - logits.logsumexp(1)
        staying = []
        for row, (number, token, gained) in enumerate(zip(live, drawn.tolist(), nats.tolist(), strict=True)):
            if made[number].extend(token, gained, eos=eos, stop=None if stop is None else stop[number]):
                staying.append(row)
        if not staying or not left:
            break
        if len(staying) < len(live):
            live, kept = [live[row] for row in staying], torch.tensor(staying, device=ids.device)
            drawn, ids, valid = drawn[kept], ids[kept], None if valid is None else valid[kept]
            place = place[kept]
            if session.drops(rows - len(live), of=rows):
                session.select(place)
                rows, place = len(live), torch.arange(len(live), device=ids.device)
        ids = torch.cat([ids, drawn[:, None]], 1)
        valid = None if valid is None else F.pad(valid, (0, 1), value=True)
        logits = session.step(drawn.new_zeros(rows).index_copy(0, place, drawn)[:, None])[:, -1]
    return made
