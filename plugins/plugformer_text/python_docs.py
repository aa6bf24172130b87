"""The Python language reference that every Python carries: 79 topics, 370 KB of English and a little code."""

from collections.abc import Iterator
from functools import cached_property
from pydoc_data.topics import topics
from typing import Literal

from plugformer.data.splits import SPLITS, place, split_by_group
from plugformer.interfaces import Sample, Split
from plugformer_text.paragraphs import Fresh, Paragraph, join
from plugformer_text.text_source import TextSource

SEED = 8  # of 0 to 9 the one whose val and test hold the most topics, at least 13 each: topics differ in size and kind


class PythonDocs(TextSource):
    """The topics of `help()` (pydoc_data.topics, PSF licence), split by topic, always in the same way: 80 % of the
    characters, 10 % and 10 %.

    Topics quote each other: a fifth of the paragraphs repeats another one. Of equal paragraphs only the first is kept,
    in the order of the topics' names, before the topics are split; else half of the test would stand in train.

    Args:
        document: a sample is a `topic`, the paragraphs left of it; or one `paragraph`. The split is the same.
    """

    def __init__(self, *, document: Literal["topic", "paragraph"] = "topic") -> None:
        self.document = document

    @cached_property
    def _splits(self) -> dict[Split, list[Sample]]:
        fresh = Fresh()
        parts = {topic: fresh.of(topics[topic]) for topic in sorted(topics)}
        samples = [sample for topic, own in parts.items() for sample in self._documents(topic, own)]
        split_of = _split(parts)
        return {split: [s for s in samples if split_of[s["group"]] == split] for split in SPLITS}

    def _documents(self, topic: str, parts: list[Paragraph]) -> Iterator[Sample]:
        documents = [parts] if self.document == "topic" else [[part] for part in parts]
        for document in filter(None, documents):
            yield Sample(id=f"{topic}:{document[0].line}", text=join(document), group=topic)


def _split(parts: dict[str, list[Paragraph]]) -> dict[str, Split]:
    """Of each topic."""
    sizes = {topic: len(join(own)) for topic, own in parts.items() if own}
    drawn = split_by_group(list(sizes), val_fraction=0.1, test_fraction=0.1, seed=SEED, sizes=list(sizes.values()))
    splits = place(list(sizes), drawn)
    return {topic: split for split, held in splits.items() for topic in held}
