"""What simple models reach on a labelled text source: the largest class, and a bag of words.

    python benchmarks/text_baselines.py docstrings

The bag of words is TF-IDF of words and pairs of words (logarithmic counts) into a logistic regression of scikit-learn,
whose regularisation is chosen on val. Figures are of the test.
"""

import argparse

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from plugformer.data.splits import SPLITS
from plugformer.interfaces import DataSource, Split
from plugformer.registry import build

REGULARISATIONS = (1, 3, 10, 30, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data source with text and labels, by name")
    parser.add_argument("options", nargs="*", help="its options, as in min_per_class=100")
    arguments = parser.parse_args()
    options = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in arguments.options)}
    source = build("data", {"name": arguments.data, **options})
    train, val, test = parts = [read(source, split) for split in SPLITS]
    most_frequent = np.bincount(train[1]).argmax()
    guesses = {"largest class of train": np.full(len(test[1]), most_frequent)}
    for name, ngrams in {"words": (1, 1), "words and pairs of words": (1, 2)}.items():
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=ngrams)
        features = vectorizer.fit_transform(train[0])
        fitted = [LogisticRegression(C=c, max_iter=2000).fit(features, train[1]) for c in REGULARISATIONS]
        best = max(fitted, key=lambda model: model.score(vectorizer.transform(val[0]), val[1]))
        guesses[f"TF-IDF of {name}, C={best.C}"] = best.predict(vectorizer.transform(test[0]))
    sizes = " · ".join(f"{split} {len(part[1])}" for split, part in zip(SPLITS, parts, strict=True))
    table = Table("baseline", "accuracy", "macro F1", title=f"{' '.join([arguments.data, *arguments.options])}")
    for name, guessed in guesses.items():
        f1 = f1_score(test[1], guessed, average="macro", zero_division=0)
        table.add_row(name, f"{accuracy_score(test[1], guessed):.3f}", f"{f1:.3f}")
    console = Console()
    console.print(table)
    console.print(f"{len(source.spec.labels)} classes: {', '.join(source.spec.labels)}\n{sizes}")
    console.print(f"fingerprint {source.fingerprint()}")


def read(source: DataSource, split: Split) -> tuple[list[str], np.ndarray]:
    samples = list(source.samples(split))
    return [sample["text"] for sample in samples], np.array([sample["label"] for sample in samples])


if __name__ == "__main__":
    main()
