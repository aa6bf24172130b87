"""Documents packed into sequences, and batches of samples of like length."""

from itertools import pairwise

import pytest
import torch

from plugformer.data.draws import Bucketed, InOrder, Shuffled
from plugformer.data.loaders import make_loader
from plugformer.errors import UserError
from plugformer.settings import LoaderSettings
from plugformer_text.text_bytes import TextBytes

LENGTHS = [5, 0, 31, 1, 12, 12, 3, 64, 2, 7, 30, 9, 11]
TEXTS = ["".join(chr(97 + (7 * number + place) % 26) for place in range(n)) for number, n in enumerate(LENGTHS)]
DOCUMENTS = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]
LENGTH = 16
PACKED = ("fit", "fill", "stream")


def tokenizer(packing, **options):
    return TextBytes(packing=packing, max_length=LENGTH, **options)


def sequences(packing, documents=DOCUMENTS, **options):
    return [sample["encoded"] for sample in tokenizer(packing, **options).sequences(documents)]


def whole(number):
    """A document's tokens with those around it."""
    return TextBytes(max_length=1000).encode(DOCUMENTS[number])["ids"].tolist()


def parts(encoded):
    """The tokens of each document of a sequence."""
    segments = encoded.get("segments", torch.zeros_like(encoded["ids"]))
    return [encoded["ids"][segments == number].tolist() for number in segments.unique()]


def predicted(features):
    """What a causal model predicts: each token from the one before in its document."""
    pairs = []
    for encoded in features:
        for part in parts(encoded):
            pairs += pairwise(part)
    return sorted(pairs)


@pytest.mark.parametrize("packing", ["fit", "fill"])
def test_each_token_but_the_first_is_predicted_once(packing):
    expected = sorted(pair for number in range(len(TEXTS)) for pair in pairwise(whole(number)))
    assert predicted(sequences(packing)) == expected


def test_a_stream_is_one_document():
    everything = [token for number in range(len(TEXTS)) for token in whole(number)]
    features = sequences("stream")
    assert predicted(features) == sorted(pairwise(everything))
    assert not any("segments" in encoded or "positions" in encoded for encoded in features)


@pytest.mark.parametrize("packing", ["fill", "stream"])
def test_blocks_are_full_and_neighbours_share_a_token(packing):
    features = sequences(packing)
    assert {len(encoded["ids"]) for encoded in features[:-1]} == {LENGTH}
    assert 1 < len(features[-1]["ids"]) <= LENGTH
    for one, other in pairwise(features):
        assert one["ids"][-1] == other["ids"][0]


def test_fitting_cuts_no_document_that_fits():
    features = sequences("fit")
    found = [part for encoded in features for part in parts(encoded)]
    for number, text in enumerate(TEXTS):
        if len(text) + 2 <= LENGTH:
            assert whole(number) in found
    assert all(len(encoded["ids"]) <= LENGTH for encoded in features)


def test_fitting_leaves_little_room():
    """No two sequences could be one, as after any best fit."""
    sizes = sorted(len(encoded["ids"]) for encoded in sequences("fit"))
    assert sizes[0] + sizes[1] > LENGTH


def test_the_longest_are_placed_first():
    """Or else the two short ones would share a sequence, and the long ones stand alone."""
    documents = [{"text": "a" * length} for length in (4, 4, 8, 8)]
    assert [encoded["segments"].bincount().tolist() for encoded in sequences("fit", documents)] == [[6, 10], [6, 10]]


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("around", [True, False])
def test_bytes_of_predicted_tokens_add_up(packing, around):
    """To all bytes, less those of tokens that nobody predicts: a document's first."""
    features = sequences(packing, bos=around, eos=around)
    total = 0
    for encoded in features:
        segments = encoded.get("segments", torch.zeros_like(encoded["ids"]))
        follows = torch.cat([torch.tensor([False]), segments[1:] == segments[:-1]])
        total += int(encoded["bytes"][follows].sum())
    firsts = 0 if around else 1 if packing == "stream" else sum(bool(text) for text in TEXTS)
    assert total == sum(LENGTHS) - firsts


@pytest.mark.parametrize("packing", ["fit", "fill"])
def test_positions_begin_anew_with_each_document(packing):
    shared = [encoded for encoded in sequences(packing) if "segments" in encoded]
    assert shared
    for encoded in shared:
        segments = encoded["segments"]
        assert segments.diff().ge(0).all()
        assert segments.unique().tolist() == list(range(int(segments[-1]) + 1))
        for number in segments.unique():
            positions = encoded["positions"][segments == number]
            assert positions.tolist() == list(range(len(positions)))


@pytest.mark.parametrize("packing", PACKED)
def test_words_stay_apart(packing):
    documents = [{"text": "one two three"}, {"text": "four five"}, {"text": "six"}] * 4
    for encoded in sequences(packing, documents):
        words, ids = encoded["words"].tolist(), encoded["ids"].tolist()
        assert all(word == -1 for word, number in zip(words, ids, strict=True) if number > 255)
        real = [word for word in words if word >= 0]
        assert real == sorted(real)
        for (word, number), (next_word, next_number) in pairwise(zip(words, ids, strict=True)):
            if number < 256 and next_number < 256:
                assert (word != next_word) == (next_number == ord(" "))


def test_documents_without_tokens_vanish_and_nothing_is_refused():
    assert len(sequences("fill", [{"text": ""}, {"text": "ab"}], bos=False, eos=False)) == 1
    with pytest.raises(UserError, match=r"tokenizer.packing=fill: there is no text to pack"):
        sequences("fill", [{"text": ""}], bos=False, eos=False)


def test_a_long_document_is_named_if_none_may_be_cut():
    with pytest.raises(UserError, match=r"^2: its 33 tokens are more than tokenizer.max_length=16"):
        sequences("fit", truncation="refuse")


def test_packing_none_is_the_samples_themselves():
    assert tokenizer("none").sequences(DOCUMENTS) is DOCUMENTS
    assert [tokenizer(packing).spec.packs for packing in ("none", *PACKED)] == [False, True, True, True]
    assert [tokenizer(packing).spec.segments for packing in ("none", *PACKED)] == [False, True, True, False]


def test_a_batch_tells_documents_apart_where_there_are_several():
    made = tokenizer("fit")
    alone, shared = {"text": "a" * 14}, [encoded for encoded in sequences("fit") if "segments" in encoded]
    batch = made.collate([made.encode(alone), *shared])
    tokens = made.embedding(dim=4)(batch)
    assert tokens.segments[0].eq(0).all()
    assert tokens.layout.coordinates[0, :, 0].tolist() == list(range(LENGTH))
    for row, encoded in enumerate(shared, start=1):
        length = len(encoded["ids"])
        assert torch.equal(tokens.segments[row, :length], encoded["segments"])
        assert torch.equal(tokens.layout.coordinates[row, :length, 0], encoded["positions"])
    assert "segments" not in made.collate([made.encode(alone)])


def test_packed_sequences_are_loaded_by_workers_as_well():
    both = []
    for num_workers in (0, 2):
        loader = make_loader(
            DOCUMENTS, tokenizer=tokenizer("fill"), targets=None, batch_size=4, num_workers=num_workers, seed=1
        )
        both.append([batch["inputs"]["ids"] for batch in loader])
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


# ---------------------------------------------------------------------------------------------- batches of like length

SIZES = torch.randint(1, 100, (103,), generator=torch.Generator().manual_seed(0)).tolist()


def bucketed(epoch, *, seed=0, pool=4, batch_size=5):
    sampler = Bucketed(Shuffled(len(SIZES), seed=seed), lengths=SIZES, batch_size=batch_size, pool=pool)
    sampler.set_epoch(epoch)
    return list(sampler)


def batches(draws, batch_size=5):
    return [[draw.index for draw in draws[start : start + batch_size]] for start in range(0, len(draws), batch_size)]


def test_bucketing_draws_the_same_samples_with_the_same_seeds():
    for epoch in (0, 3):
        plain = Shuffled(len(SIZES), seed=0)
        plain.set_epoch(epoch)
        draws = bucketed(epoch)
        assert sorted(draws, key=lambda draw: draw.index) == sorted(plain, key=lambda draw: draw.index)
        assert draws == bucketed(epoch)
        assert draws != list(plain)
    assert [draw.index for draw in bucketed(0)] != [draw.index for draw in bucketed(1)]
    assert [draw.index for draw in bucketed(0)] != [draw.index for draw in bucketed(0, seed=1)]


def test_batches_are_of_like_length_and_not_in_order_of_it():
    def padding(made):
        return sum(max(SIZES[i] for i in batch) * len(batch) for batch in made) / sum(SIZES)

    plain = batches(list(Shuffled(len(SIZES), seed=0)))
    made = batches(bucketed(0, pool=100))
    assert padding(made) < 1.1
    assert padding(plain) > 1.4
    assert [len(batch) for batch in made] == [5] * 20 + [3]
    longest = [max(SIZES[i] for i in batch) for batch in made[:-1]]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))
    pools = batches(bucketed(0, pool=4), 20)
    order = batches(list(Shuffled(len(SIZES), seed=0)), 20)
    assert [sorted(pool) for pool in pools] == [sorted(pool) for pool in order], "pools are those of the epoch's order"


def test_loaders_bucket_by_the_tokenizers_hint():
    options = {"tokenizer": TextBytes(), "targets": None, "batch_size": 3}
    plain, sorted_ = (make_loader(DOCUMENTS, bucket=bucket, **options) for bucket in (0, 100))
    assert torch.cat([batch["index"] for batch in plain]).tolist() == list(range(len(TEXTS)))
    assert torch.cat([batch["index"] for batch in sorted_]).sort().values.tolist() == list(range(len(TEXTS)))
    sizes = [batch["inputs"]["ids"].numel() for batch in sorted_]
    assert sum(sizes) < sum(batch["inputs"]["ids"].numel() for batch in plain)
    for batch in sorted_:
        for row, index in enumerate(batch["index"].tolist()):
            length = LENGTHS[index] + 2
            assert batch["inputs"]["ids"][row, :length].tolist() == whole(index)


def test_the_trainer_tells_the_sampler_its_epoch():
    """As Lightning does: through the loader's sampler."""
    loader = make_loader(DOCUMENTS, tokenizer=TextBytes(), targets=None, batch_size=3, seed=0, bucket=2)
    orders = []
    for epoch in (0, 1, 0):
        loader.batch_sampler.sampler.set_epoch(epoch)
        orders.append(torch.cat([batch["index"] for batch in loader]).tolist())
    assert orders[0] == orders[2] != orders[1]


def test_a_negative_bucket_is_refused():
    with pytest.raises(UserError, match=r"loader.bucket=-1: must be at least 0"):
        LoaderSettings(bucket=-1)


def test_in_order_buckets_take_no_epoch():
    sampler = Bucketed(InOrder(4), lengths=[3, 1, 2, 0], batch_size=4, pool=1)
    before = list(sampler)
    sampler.set_epoch(5)
    assert list(sampler) == before
    assert [draw.index for draw in before] == [3, 1, 2, 0]
