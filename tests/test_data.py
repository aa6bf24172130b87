"""What is drawn when, how it becomes batches, and what classification makes of them."""

import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from torch.nn import functional as F

from plugformer.data.draws import InOrder, Shuffled
from plugformer.data.loaders import indexable, make_loader
from plugformer.data.splits import split_by_label
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Grid, Layout, Tokens
from plugformer_tasks.classification import Classification, MeanOfTokens
from plugformer_vision.digits import Digits
from plugformer_vision.vit_patch import VitPatch

DATA = DataSpec(frozenset({"label"}), labels=("a", "b", "c"))
GRID = Grid(("position",), (5,))


# ---------------------------------------------------------------------------------------------- draws


def drawn(epoch, *, seed=0, history=0):
    sampler = Shuffled(20, seed=seed)
    for earlier in range(history):
        sampler.set_epoch(earlier)
        list(sampler)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_draws_depend_on_seed_and_epoch_alone():
    torch.manual_seed(0)
    expected = drawn(3)
    torch.manual_seed(1)
    assert drawn(3, history=3) == expected
    for other in (drawn(2), drawn(3, seed=1)):
        assert [draw.index for draw in other] != [draw.index for draw in expected]
        assert not {draw.seed for draw in other} & {draw.seed for draw in expected}


def test_each_sample_is_drawn_once_an_epoch_with_a_seed_of_its_own():
    for epoch in range(3):
        draws = drawn(epoch)
        assert sorted(draw.index for draw in draws) == list(range(20)) == [draw.index for draw in InOrder(20)]
        assert len({draw.seed for draw in draws}) == 20


# ---------------------------------------------------------------------------------------------- loaders


def loader(*, num_workers=0, seed=0):
    samples = Digits().samples("val")[:20]
    tokenizer = VitPatch(augmentation={"RandomRotation": {"degrees": 20}})
    tokenizer.fit(samples)
    targets = Classification(dim=4, data=Digits().spec).targets
    return make_loader(samples, tokenizer=tokenizer, targets=targets, batch_size=8, num_workers=num_workers, seed=seed)


def batches(made, epochs=(0, 1)):
    for epoch in epochs:
        made.batch_sampler.sampler.set_epoch(epoch)
        for batch in made:
            yield batch["inputs"]["image"], batch["targets"]["label"], batch["index"]


def test_workers_change_nothing_and_loading_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    made = [loader(num_workers=0), loader(num_workers=2)]
    state = torch.random.get_rng_state()
    alone, with_workers = (list(batches(each)) for each in made)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [len(index) for *_, index in alone] == [8, 8, 4] * 2
    for one, other in zip(alone, with_workers, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_augmentation_is_of_the_epoch_not_of_what_was_loaded_before():
    made = loader()
    both = list(batches(made, (0, 1)))
    again = list(batches(loader(), (1,)))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(both[3:], again, strict=True))
    first, second = (
        torch.cat([image for image, *_ in part])[torch.cat([index for *_, index in part]).argsort()]
        for part in (both[:3], both[3:])
    )
    assert not torch.equal(first, second), "one sample varies from epoch to epoch"


def test_without_a_seed_samples_come_in_order_as_they_are():
    samples = Digits().samples("val")[:20]
    together = [(batch["inputs"]["image"], batch["index"]) for batch in loader(seed=None)]
    assert torch.cat([index for _, index in together]).tolist() == list(range(20))
    assert torch.equal(torch.cat([image for image, _ in together]), torch.stack([s["image"] for s in samples]))


def test_streamed_samples_are_refused():
    with pytest.raises(UserError, match="data=stream: streams its samples; training needs data whose samples have num"):
        indexable(iter([]), "stream")


# ---------------------------------------------------------------------------------------------- splits


def test_splits_partition_and_keep_the_shares_of_every_class():
    labels = [0] * 50 + [1] * 30 + [2] * 20
    splits = split_by_label(labels, val_fraction=0.1, test_fraction=0.2, seed=0)
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == list(range(100))
    counts = {name: torch.tensor(labels)[indices].bincount().tolist() for name, indices in splits.items()}
    assert counts == {"train": [35, 21, 14], "val": [5, 3, 2], "test": [10, 6, 4]}
    assert splits == split_by_label(labels, val_fraction=0.1, test_fraction=0.2, seed=0)
    assert splits != split_by_label(labels, val_fraction=0.1, test_fraction=0.2, seed=1)
    assert split_by_label(labels, val_fraction=0.0, test_fraction=0.0, seed=0)["train"] == list(range(100))


@pytest.mark.parametrize(
    ("labels", "val", "test", "message"),
    [
        ([0, 1] * 9, 1.5, 0.1, r"data.val_fraction=1.5: must be at least 0 and less than 1"),
        ([0, 1] * 9, 0.1, -0.1, r"data.test_fraction=-0.1: must be at least 0 and less than 1"),
        ([0, 1] * 9, 0.5, 0.5, r"val_fraction=0.5 and data.test_fraction=0.5 leave nothing to train on"),
        ([0, 1, 1], 0.1, 0.5, r"of 3 samples none is left for val; set data.val_fraction"),
    ],
)
def test_splits_that_cannot_be_are_refused(labels, val, test, message):
    with pytest.raises(UserError, match=message):
        split_by_label(labels, val_fraction=val, test_fraction=test, seed=0)


# ---------------------------------------------------------------------------------------------- classification


def tokens(seed=0, **parts):
    embeddings = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(seed))
    return Tokens(embeddings, Layout.of(GRID), **parts)


def test_mean_of_tokens_ignores_padding():
    valid = torch.arange(5) < torch.tensor([1, 2, 3, 4, 5, 5])[:, None]
    padded = tokens(valid=valid)
    pooled = MeanOfTokens()(padded.embeddings, padded)
    for sample, real in enumerate(valid.sum(1).tolist()):
        torch.testing.assert_close(pooled[sample], padded.embeddings[sample, :real].mean(0))
    garbage = padded.embeddings.masked_fill(~valid[..., None], 1e6)
    assert torch.equal(MeanOfTokens()(garbage, padded), pooled)
    torch.testing.assert_close(MeanOfTokens()(padded.embeddings, tokens()), padded.embeddings.mean(1))


LABEL = torch.tensor([0, 0, 1, 2, 2, 2])


def run(task, sequence, label):
    trunk = Trunk(sequence)
    return task(trunk, {"inputs": {}, "targets": {} if label is None else {"label": label}, "index": torch.arange(6)})


class Trunk:
    """Tokens that pass through a backbone unchanged."""

    def __init__(self, sequence):
        self.sequence = sequence

    embedding = target_embedding = target_table = None  # this task needs none

    def embed(self, features):
        return self.sequence

    def embed_target(self, features):
        raise AssertionError("nothing is written")

    def backbone(self, sequence):
        return sequence.embeddings


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_labels_are_smoothed_in_training_only(pool):
    task = Classification(dim=4, data=DATA, pool=pool, label_smoothing=0.3)
    for training, smoothing in ((True, 0.3), (False, 0.0)):
        output = run(task.train(training), tokens(), LABEL)
        target = F.one_hot(LABEL, 3) * (1 - smoothing) + smoothing / 3
        expected = -(target * output.predictions.log_softmax(-1)).sum(-1).mean()
        torch.testing.assert_close(output.loss, expected)
        assert output.weight == 6


def test_metrics_are_those_of_scikit_learn():
    task = Classification(dim=4, data=DATA, pool="mean").eval()
    metrics, truth, guessed = task.metrics(), [], []
    for seed in range(4):
        label = LABEL.roll(seed)
        output = run(task, tokens(seed), label)
        truth += label.tolist()
        guessed += output.predictions.argmax(-1).tolist()
        for metric in metrics.values():
            metric.update(output.predictions, output.targets)
    values = {name: metric.compute() for name, metric in metrics.items()}
    assert values["accuracy"].item() == pytest.approx(accuracy_score(truth, guessed))
    assert values["f1"].item() == pytest.approx(f1_score(truth, guessed, average="macro"))
    counts = confusion_matrix(truth, guessed).tolist()
    assert values["confusion_matrix"].tolist() == counts
    header, *rows = task.tables(values)["confusion_matrix"]
    assert header == ["true \\ predicted", "a", "b", "c"]
    assert rows == [[name, *row] for name, row in zip("abc", counts, strict=True)]


def test_predictions_are_described_by_label_and_probability():
    task = Classification(dim=4, data=DATA, pool="mean").eval()
    output = run(task, tokens(), None)
    assert output.loss is None
    for told, probability in zip(task.describe(output), output.predictions.softmax(-1), strict=True):
        assert told == {"label": "abc"[probability.argmax()], "probability": pytest.approx(probability.max().item())}


def test_one_label_is_no_classification():
    with pytest.raises(UserError, match="task=classification: the data has 1 label, at least 2 are needed"):
        Classification(dim=4, data=DataSpec(frozenset(), labels=("a",)))
