"""Mean and deviation of every bin over the frames of many clips."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from plugformer_audio.front_end import FrontEnd

BATCH = 32  # clips at a time
LEAST_STD = 1e-3  # a bin that never changes has none


class Moments:
    """Sums over all frames of a stream of clips, in float64.

    Attributes:
        count: frames.
        longest: samples of the longest clip.
    """

    def __init__(self, bins: int) -> None:
        self.count, self.longest = 0, 0
        self.total = torch.zeros(bins, dtype=torch.float64)
        self.squares = torch.zeros(bins, dtype=torch.float64)

    @torch.no_grad()
    def add(self, clips: Sequence[Tensor], front_end: FrontEnd) -> None:
        """
        Args:
            clips: each `[frames]`, of any length. Silence follows each, so that those beside it change nothing.
            front_end: of waveforms at their rate.
        """
        its = front_end.options
        room = max(map(len, clips)) + its.n_fft
        picture = front_end(torch.stack([F.pad(clip, (0, room - len(clip))) for clip in clips]))
        heard = torch.tensor([its.frames(len(clip)) for clip in clips])
        cells = picture.double().masked_fill((torch.arange(picture.shape[2]) >= heard[:, None])[:, None], 0.0)
        self.count += int(heard.sum())
        self.longest = max(self.longest, *map(len, clips))
        self.total += cells.sum((0, 2))
        self.squares += cells.square().sum((0, 2))

    def mean(self) -> Tensor:
        return self.total / self.count

    def std(self) -> Tensor:
        return (self.squares / self.count - self.mean().square()).clamp(min=0).sqrt().clamp(min=LEAST_STD)


def batched(clips: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    clips = iter(clips)
    while batch := list(islice(clips, size)):
        yield batch
