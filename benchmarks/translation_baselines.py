"""What pairs of texts give away for nothing: copying the source, and a translation memory.

    python benchmarks/translation_baselines.py gettext packages=[django] language=ko --seeds 10

The translation memory answers with the target of the training source that is nearest by the cosine of TF-IDF vectors
(scikit-learn; n-grams of 1 to 4 characters inside of words, logarithmic counts). Figures are of the test, which is the
data source's own: corpus chrF (chrF2) and BLEU (13a tokens) of sacrebleu, and the share of exact matches. With several
seeds, they are means and standard deviations over as many `split_seed`s. Where a split lets neighbours stand on both
sides, it shows in the memory's figures: `code_docstrings group=function`.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sacrebleu.metrics import BLEU, CHRF
from sklearn.feature_extraction.text import TfidfVectorizer

from plugformer.data.splits import SPLITS
from plugformer.interfaces import DataSource, Sample
from plugformer.registry import build

METRICS = ("chrF", "BLEU", "exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data source with text and target_text, by name")
    parser.add_argument("options", nargs="*", help="its options, as in language=de")
    parser.add_argument("--seeds", type=int, default=1, help="of the split; default only the first")
    parser.add_argument(
        "--by", choices=("char_wb", "char"), default="char_wb", help="n-grams inside of words or across"
    )
    arguments = parser.parse_args()
    options = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in arguments.options)}
    first: int = options.pop("split_seed", 0)

    console = Console()
    figures: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for seed in range(first, first + arguments.seeds):
        source: DataSource = build("data", {"name": arguments.data, **options, "split_seed": seed})
        source.verify()
        train, val, test = (list(source.samples(split)) for split in SPLITS)
        wanted = [sample["target_text"] for sample in test]
        figures["the source, copied"].append(scores([sample["text"] for sample in test], wanted))
        figures["translation memory"].append(scores(remembered(train, test, by=arguments.by), wanted))
        sizes = f"{len(train)} train, {len(val)} val, {len(test)} test pairs"
        console.print(
            f"split_seed={seed}: {sizes}; fingerprint {source.fingerprint()}", highlight=False, soft_wrap=True
        )
    if left_out := getattr(source, "left_out", None):
        console.print(f"left out: {', '.join(f'{count} {why}' for why, count in left_out.items())}", highlight=False)
    table = Table("baseline", *METRICS, title=escape(" ".join([arguments.data, *arguments.options])))
    for name, runs in figures.items():
        table.add_row(
            name, *(shown(values, digits) for values, digits in zip(zip(*runs, strict=True), (1, 1, 3), strict=True))
        )
    console.print(table)


def remembered(train: Sequence[Sample], test: Sequence[Sample], *, by: str) -> list[str]:
    """The target of the nearest training source, for each sample of the test."""
    vectorizer = TfidfVectorizer(analyzer=by, ngram_range=(1, 4), sublinear_tf=True)
    known = vectorizer.fit_transform([sample["text"] for sample in train])
    nearest = (vectorizer.transform([sample["text"] for sample in test]) @ known.T).argmax(axis=1)
    return [train[int(place)]["target_text"] for place in nearest.flat]


def scores(written: Sequence[str], wanted: Sequence[str]) -> tuple[float, ...]:
    """By `METRICS`."""
    chrf, bleu = (metric.corpus_score(written, [wanted]).score for metric in (CHRF(), BLEU()))
    return chrf, bleu, mean(map(str.__eq__, written, wanted))


def shown(values: Sequence[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    main()
