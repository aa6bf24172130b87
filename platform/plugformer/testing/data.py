"""Laws of data sources."""

import pickle
from collections.abc import Sequence
from itertools import islice
from typing import Any, ClassVar, get_args

import torch

from plugformer.interfaces import Sample, Split
from plugformer.testing.common import Suite
from plugformer.testing.comparing import applies_if, assert_same

SPLITS: tuple[Split, ...] = get_args(Split)


class DataSuite(Suite):
    """
    Attributes:
        limit: how many samples of a split are read.
    """

    kind = "data"
    limit: ClassVar[int] = 200

    def read(self, source: Any, split: Split) -> list[Sample]:
        return list(islice(iter(source.samples(split)), self.limit))

    def everything(self, source: Any) -> list[Sample]:
        return [sample for split in SPLITS for sample in self.read(source, split)]

    def test_passes_its_own_inspection(self) -> None:
        assert self.build().verify() is None

    def test_says_what_samples_carry(self) -> None:
        source = self.build()
        source.verify()
        spec = source.spec
        for split in SPLITS:
            samples = self.read(source, split)
            assert samples, f"{split} is empty"
            for sample in samples:
                assert spec.keys <= sample.keys()
                if spec.labels:
                    assert 0 <= sample["label"] < len(spec.labels)
                if "image" in sample:
                    assert sample["image"].dtype == torch.uint8
                    assert sample["image"].ndim == 3
                    assert spec.image in (None, tuple(sample["image"].shape))
                if "audio" in sample:
                    waveform, rate = sample["audio"]
                    assert waveform.dtype == torch.float32
                    assert waveform.ndim == 2
                    assert waveform.abs().max() <= 1
                    assert spec.rate in (None, rate)

    def test_splits_share_nothing(self) -> None:
        source = self.build()
        groups: dict[str, Split] = {}
        for split in SPLITS:
            for sample in self.read(source, split):
                for shared in (("id", sample["id"]), ("group", sample.get("group"))):
                    if shared[1] is not None:
                        key = f"{shared[0]} {shared[1]}"
                        assert groups.setdefault(key, split) == split, f"{key} is in {groups[key]} and in {split}"
        ids = [sample["id"] for sample in self.everything(source)]
        assert len(ids) == len(set(ids)), "two samples have one id"

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
            for number, sample in enumerate(self.read(source, split)):
                assert_same(dict(samples[number]), dict(sample))
            try:
                samples[len(samples)]
            except IndexError:
                continue
            raise AssertionError("there are samples past the end")

    def test_every_label_is_trained(self) -> None:
        source = self.build()
        applies_if(bool(source.spec.labels), "has no labels")
        found = {sample["label"] for sample in self.read(source, "train")}
        assert found == set(range(len(source.spec.labels)))

    def test_draws_nothing_from_the_runs_generator(self) -> None:
        before = torch.get_rng_state()
        self.everything(self.build())
        assert torch.equal(torch.get_rng_state(), before)

    def test_goes_to_a_loaders_worker(self) -> None:
        samples = self.build().samples("train")
        sent = pickle.loads(pickle.dumps(samples[:3] if isinstance(samples, list) else samples))
        for one, other in zip(islice(sent, 3), islice(samples, 3), strict=True):
            assert_same(dict(one), dict(other))
