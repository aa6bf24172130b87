"""What sources of text share."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from plugformer.data.drawing import alike
from plugformer.data.fingerprint import fingerprint
from plugformer.data.splits import SPLITS
from plugformer.interfaces import DataSource, DataSpec, Sample, Split


class TextSource(DataSource):
    """Samples that are held in memory."""

    @property
    def spec(self) -> DataSpec:
        return DataSpec(frozenset({"id", "text", "group"}))

    @cached_property
    @abstractmethod
    def _splits(self) -> Mapping[Split, Sequence[Sample]]: ...

    def samples(self, split: Split) -> Sequence[Sample]:
        return self._splits[split]

    def verify(self) -> None:
        for split in SPLITS:
            self.samples(split)

    def fingerprint(self) -> str:
        return fingerprint(
            part
            for split in SPLITS
            for sample in self.samples(split)
            for part in (split, sample["id"], str(sample.get("label", "")), sample["text"], *_target(sample))
        )


class PairSource(TextSource):
    """Texts of which each has a target text, held in memory."""

    @property
    def spec(self) -> DataSpec:
        return DataSpec(frozenset({"id", "text", "target_text", "group"}))


def same_source(text: str) -> str:
    """Equal for sources that differ in white space or capitals alone, which therefore stand in the same split."""
    return alike(text).casefold()


def _target(sample: Sample) -> Iterator[str]:
    if "target_text" in sample:
        yield sample["target_text"]
