"""Which draws make a batch, on one process and on several."""

from itertools import chain

import pytest

from plugformer.data.batches import Batches
from plugformer.data.draws import Bucketed, Draw, InOrder, Shuffled
from plugformer.data.loaders import check_divides
from plugformer.errors import UserError
from plugformer.ranks import Rank

LENGTHS = range(1, 40)
SHAPES = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (2, 3)]  # processes, rounds


def small_batches(length: int, world: int, rounds: int, *, once: bool = False) -> list[list[list[Draw]]]:
    """Of each process, of an epoch."""
    each = [
        Batches(Shuffled(length, seed=0), batch_size=12, rounds=rounds, rank=Rank(number, world), once=once)
        for number in range(world)
    ]
    found = [list(batches) for batches in each]
    assert [len(batches) for batches in each] == [len(batches) for batches in found]
    return found


@pytest.mark.parametrize(("world", "rounds"), SHAPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_process_has_as_many_batches_and_none_is_empty(length: int, world: int, rounds: int) -> None:
    each = small_batches(length, world, rounds)
    assert len({len(batches) for batches in each}) == 1
    assert all(batch for batches in each for batch in batches)


@pytest.mark.parametrize(("world", "rounds"), SHAPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_global_batches_are_those_of_one_process(length: int, world: int, rounds: int) -> None:
    (alone,) = small_batches(length, 1, 1)
    each = small_batches(length, world, rounds)
    for number, batch in enumerate(alone):
        of_step = chain.from_iterable(chain.from_iterable(own[number * rounds : (number + 1) * rounds] for own in each))
        shared = sorted(draw.index for draw in of_step)
        copies = world if len(batch) < world else 1
        assert shared == sorted([draw.index for draw in batch] * copies)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("length", range(5, 40))
def test_samples_that_are_counted_are_taken_once(length: int, world: int) -> None:
    each = small_batches(length, world, 1, once=True)
    assert len({len(batches) for batches in each}) == 1
    assert all(batch for batches in each for batch in batches)
    assert sorted(draw.index for draw in chain.from_iterable(chain.from_iterable(each))) == list(range(length))


@pytest.mark.parametrize("start", range(8))
def test_an_epoch_can_go_on_within(start: int) -> None:
    batches = Batches(Shuffled(40, seed=0), batch_size=12, rounds=2)
    whole = list(batches)
    batches.start = start
    assert len(batches) == len(whole), "the epoch stays as long as it is"
    assert list(batches) == whole[start:]
    assert list(batches) == whole, "only the first is left out of"


def test_sorted_batches_are_the_same_on_several_processes() -> None:
    lengths = [(7 * index) % 40 for index in range(40)]

    def batches(world: int, rounds: int) -> list[set[int]]:
        each = [
            list(
                Batches(
                    Bucketed(InOrder(40), lengths=lengths, batch_size=8, pool=2),
                    batch_size=8,
                    rounds=rounds,
                    rank=Rank(number, world),
                )
            )
            for number in range(world)
        ]
        return [
            {draw.index for own in each for batch in own[start : start + rounds] for draw in batch}
            for start in range(0, len(each[0]), rounds)
        ]

    assert batches(1, 1) == batches(2, 1) == batches(2, 2) == batches(1, 4)


def test_a_batch_that_cannot_be_shared_out_is_refused_with_what_can() -> None:
    check_divides(12, accumulate=3, world=2)
    with pytest.raises(UserError, match=r"accumulate=3 times 2 devices doesn.t divide loader\.batch_size=8") as error:
        check_divides(8, accumulate=3, world=2)
    assert "These accumulate do: 1, 2, 4" in str(error.value)
    assert "loader.batch_size to 6 or 12" in str(error.value)
    with pytest.raises(UserError, match=r"loader\.batch_size to 3 or 6"):
        check_divides(5, accumulate=1, world=3)
