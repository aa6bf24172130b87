"""Which draws make a batch: the same global batches whatever number of processes and small batches share them."""

from collections.abc import Iterator
from itertools import chain, islice

from torch.utils.data import Sampler

from plugformer.data.draws import Bucketed, Draw, InOrder, Shuffled
from plugformer.ranks import Rank


class Batches(Sampler[list[Draw]]):
    """This process's part of each global batch, in small batches.

    A global batch is what one optimiser step learns from. It is cut into rounds, in each of which every process takes
    one small batch; the samples of a round are dealt to the processes in turn. Where the last round has fewer samples
    than there are processes, they join the round before; if there is none, every process takes them all, which leaves
    their mean as it is.

    Args:
        draws: of an epoch, in their order.
        batch_size: of a global batch; the last one of an epoch holds what is left.
        rounds: of a global batch; divides its size.
        rank: this process's, among those that share the data.
        once: whether no sample may be taken by two processes, because samples are counted: the last global batch then
            joins the one before, where it has fewer samples than there are processes.

    Attributes:
        start: small batches that the next epoch leaves out at its beginning, once.
    """

    def __init__(
        self,
        draws: InOrder | Shuffled | Bucketed,
        *,
        batch_size: int,
        rounds: int = 1,
        rank: Rank = Rank(),  # noqa: B008
        once: bool = False,
    ) -> None:
        assert batch_size % rounds == 0
        self.sampler = draws  # by this name Lightning looks for what wants to know the epoch
        self.batch_size, self.rounds, self.rank, self.once = batch_size, rounds, rank, once
        self.start = 0

    def __len__(self) -> int:
        return sum(len(self._rounds(size)) for size in self._sizes())

    def __iter__(self) -> Iterator[list[Draw]]:
        start, self.start = self.start, 0
        yield from islice(self._small_batches(), start, None)

    def _small_batches(self) -> Iterator[list[Draw]]:
        draws = iter(self.sampler)
        for size in chain.from_iterable(map(self._rounds, self._sizes())):
            own = list(islice(draws, size))
            yield own[self.rank.number :: self.rank.world] if size >= self.rank.world else own

    def _sizes(self) -> list[int]:
        """Of the epoch's global batches."""
        full, rest = divmod(len(self.sampler), self.batch_size)
        sizes = [self.batch_size] * full + [rest] * bool(rest)
        if self.once and rest < self.rank.world and len(sizes) > 1 and rest:
            sizes[-2:] = [sum(sizes[-2:])]
        return sizes

    def _rounds(self, size: int) -> list[int]:
        """Samples of each, over all processes."""
        small = self.batch_size // self.rounds
        if self.once:
            return [size]
        full, rest = divmod(size, small)
        rounds = [small] * full + [rest] * bool(rest)
        if 0 < rest < self.rank.world and full:
            rounds[-2:] = [small + rest]
        return rounds
