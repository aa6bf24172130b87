"""From log-probabilities of labels and blanks at each step to labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from plugformer_tasks.ctc_head import Steps


def decode(steps: Steps, *, blank: int, num_beams: int) -> list[list[int]]:
    """The labels of each sample.

    Args:
        steps: of a batch.
        blank: its place in the vocabulary.
        num_beams: prefixes that are followed; 1 for the labels of the best path.
    """
    real = [each[:length] for each, length in zip(steps.log_probs.cpu(), steps.lengths.tolist(), strict=True)]
    if num_beams == 1:
        return [best_path(each, blank=blank) for each in real]
    return [prefix_beam_search(each, blank=blank, num_beams=num_beams)[0] for each in real]


def best_path(log_probs: Float[Tensor, "steps vocab"], *, blank: int) -> list[int]:
    """The labels of the likeliest alignment: one for each run, none for blanks (Graves et al. 2006, section 3.2)."""
    return [label for label in log_probs.argmax(-1).unique_consecutive().tolist() if label != blank]


def prefix_beam_search(
    log_probs: Float[Tensor, "steps vocab"], *, blank: int, num_beams: int
) -> tuple[list[int], float]:
    """The labels whose alignments are likeliest together (Graves 2012, section 7.5.3; Hannun et al. 2014, algorithm 1,
    without a language model).

    All prefixes that go on from those that are kept are compared at each step, none is left out beforehand. With room
    for all prefixes there are it is exact.

    Args:
        log_probs: of the labels and the blank.
        blank: its place in the vocabulary.
        num_beams: prefixes that are kept.

    Returns:
        The labels, and the log-probability of those of their alignments that were followed.
    """
    prefixes: list[tuple[int, ...]] = [()]
    # Log-probability of the alignments of each prefix so far that end with a blank, and with its last label.
    paused, spoken = log_probs.new_zeros(1, dtype=torch.float64), torch.full((1,), -torch.inf, dtype=torch.float64)
    for step in log_probs.double():
        either = paused.logaddexp(spoken)
        last = torch.tensor([prefix[-1] if prefix else blank for prefix in prefixes])
        longer = either[:, None] + step  # [prefixes, vocab]
        longer[torch.arange(len(prefixes)), last] = paused + step[last]  # without a blank it would be the same label
        longer[:, blank] = -torch.inf
        paused, spoken = either + step[blank], spoken + step[last]
        number = {prefix: place for place, prefix in enumerate(prefixes)}
        for prefix, place in number.items():
            if prefix and (parent := number.get(prefix[:-1])) is not None:  # a longer one that is kept already
                spoken[place] = spoken[place].logaddexp(longer[parent, prefix[-1]])
                longer[parent, prefix[-1]] = -torch.inf
        paused = torch.cat([paused, torch.full((longer.numel(),), -torch.inf, dtype=torch.float64)])
        spoken = torch.cat([spoken, longer.flatten()])
        scores = paused.logaddexp(spoken)
        kept = scores.topk(min(num_beams, int((scores > -torch.inf).sum()))).indices
        paused, spoken = paused[kept], spoken[kept]
        prefixes = [_prefix(prefixes, place, vocab=len(step)) for place in kept.tolist()]
    best = paused.logaddexp(spoken)
    return list(prefixes[0]), best[0].item()  # the first is the best


def _prefix(prefixes: list[tuple[int, ...]], place: int, *, vocab: int) -> tuple[int, ...]:
    """That at this place: the prefixes as they are, then each with every label behind it."""
    if place < len(prefixes):
        return prefixes[place]
    parent, label = divmod(place - len(prefixes), vocab)
    return (*prefixes[parent], label)
