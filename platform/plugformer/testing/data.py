"""Laws of data sources."""

import pickle
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch

from plugformer.data.splits import SPLITS
from plugformer.interfaces import Sample, Split, UnreadSamples
from plugformer.testing.common import Suite
from plugformer.testing.comparing import applies_if, assert_same, draws_nothing


class DataSuite(Suite):
    """
    Attributes:
        limit: how many samples of a split are read at most; lower it where reading is slow.
    """

    kind = "data"
    limit: ClassVar[int] = 10_000

    def read(self, source: Any, split: Split) -> Iterator[Sample]:
        return islice(iter(source.samples(split)), self.limit)

    def everything(self, source: Any) -> Iterator[Sample]:
        for split in SPLITS:
            yield from self.read(source, split)

    def test_passes_its_own_inspection(self) -> None:
        assert self.build().verify() is None

    def test_says_what_samples_carry(self) -> None:
        source = self.build()
        source.verify()
        spec = source.spec
        images, rates = set(), set()
        for split in SPLITS:
            assert any(True for _ in self.read(source, split)), f"{split} is empty"
            for sample in self.read(source, split):
                assert spec.keys <= sample.keys()
                if spec.labels:
                    assert 0 <= sample["label"] < len(spec.labels)
                if "image" in sample:
                    assert sample["image"].dtype == torch.uint8
                    assert sample["image"].ndim == 3
                    images.add(tuple(sample["image"].shape))
                if "audio" in sample:
                    waveform, rate = sample["audio"]
                    assert waveform.dtype == torch.float32
                    assert waveform.ndim == 2
                    assert waveform.abs().max() <= 1
                    rates.add(rate)
        # Whether the others share them shows when they are read; it is the tokenizer that refuses those that don't.
        assert spec.image in {None, *images}, f"no image has the shape {spec.image}"
        assert spec.rate in {None, *rates}, f"no waveform has the rate {spec.rate}"

    def test_splits_share_nothing(self) -> None:
        source = self.build()
        ids: set[str] = set()
        groups: dict[str, Split] = {}
        for split in SPLITS:
            for sample in self.read(source, split):
                key, group = sample["id"], sample.get("group")
                assert key not in ids, f"two samples have the id {key}"
                ids.add(key)
                if group is not None:
                    assert groups.setdefault(group, split) == split, f"{group} is in {groups[group]} and in {split}"

    def test_texts_are_texts_and_stand_in_one_split(self) -> None:
        """Where a text is all that a model sees; else many a sample may be spoken or shown of it."""
        source = self.build()
        applies_if("text" in source.spec.keys and not {"image", "audio"} & source.spec.keys, "isn't of texts alone")
        texts: dict[str, Split] = {}
        for split in SPLITS:
            for sample in self.read(source, split):
                assert sample["text"].strip(), f"{sample['id']} has no text"
                known = texts.setdefault(sample["text"], split)
                assert known == split, f"the text of {sample['id']} is in {known} and in {split}"

    def test_is_the_same_for_every_run(self) -> None:
        first, second = self.build(), self.build()
        assert first.spec == second.spec
        torch.rand(5)
        for one, other in zip(self.everything(first), self.everything(second), strict=True):
            assert_same(dict(one), dict(other))
        assert first.fingerprint() == self.build().fingerprint(), "reading changes the fingerprint"

    def test_a_split_is_a_sequence(self) -> None:
        """Where it isn't streamed: any sample by its number, and an end."""
        source = self.build()
        for split in SPLITS:
            samples = source.samples(split)
            if not isinstance(samples, Sequence):
                continue
            read = sum(1 for _ in self.read(source, split))
            assert read == min(len(samples), self.limit), f"{split} says that it has {len(samples)} samples"
            for number, sample in enumerate(self.read(source, split)):
                assert_same(dict(samples[number]), dict(sample))
                if isinstance(samples, UnreadSamples):
                    known = samples.known(number)
                    told = {key: sample.get(key) for key in known}
                    assert known == told, f"{sample['id']} is another once it is read"
                    asked = {"id", "label", "target_text"} & set(source.spec.keys)
                    assert asked <= set(known), f"of {sample['id']} not all is known that must be before it is read"
            try:
                samples[len(samples)]
            except IndexError:
                continue
            raise AssertionError("there are samples past the end")

    def test_every_label_is_trained(self) -> None:
        source = self.build()
        applies_if(bool(source.spec.labels), "has no labels")
        found = [sample["label"] for sample in self.read(source, "train")]
        missing = set(range(len(source.spec.labels))) - set(found)
        applies_if(not missing or len(found) < self.limit, "has more samples than are read")
        assert not missing, f"no sample in train has the labels {missing}"

    def test_draws_nothing_from_the_runs_generators(self) -> None:
        source = self.build()
        with draws_nothing(but="Python"):  # from which beartype draws, where it checks annotations
            for _ in self.everything(source):
                pass

    def test_can_be_read_again(self) -> None:
        """A stream begins anew for every epoch."""
        samples = self.build().samples("train")
        for one, other in zip(islice(samples, 5), islice(samples, 5), strict=True):
            assert_same(dict(one), dict(other))

    def test_goes_to_a_loaders_worker(self) -> None:
        samples = self.build().samples("train")
        sent = pickle.loads(pickle.dumps(samples[:3] if isinstance(samples, list) else samples))
        for one, other in zip(islice(sent, 3), islice(samples, 3), strict=True):
            assert_same(dict(one), dict(other))
