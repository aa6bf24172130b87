"""Classification against torch and scikit-learn."""

import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch.nn import functional as F

from plugformer.errors import UserError, counted
from plugformer.interfaces import DataSpec, Grid, Layout, Output, Tokens
from plugformer_tasks.classification import Classification

LABELS = ("ant", "bee", "cat", "dog")
DATA = DataSpec(frozenset({"label"}), labels=LABELS)
LINE = Grid(("position",), (7,))


class Echo:
    """A trunk whose hidden states are its inputs."""

    def __init__(self):
        self.seen = None

    embedding = target_embedding = target_table = None  # this task needs none

    def embed(self, features):
        return Tokens(features["x"], Layout.of(LINE), valid=features.get("valid"))

    def embed_target(self, features):
        raise AssertionError("nothing is written")

    def backbone(self, tokens):
        self.seen = tokens
        return tokens.embeddings


def classification(**options):
    torch.manual_seed(0)
    return Classification(dim=6, data=DATA, **options).eval()


def batch(*, valid=None, count=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 7, 6, generator=generator)
    label = torch.randint(4, (count,), generator=generator)
    inputs = {"x": x} if valid is None else {"x": x, "valid": valid}
    return {"inputs": inputs, "targets": {"label": label}, "index": torch.arange(count)}


def test_cls_reads_a_token_of_its_own_at_the_front():
    task, trunk = classification(pool="cls"), Echo()
    output = task(trunk, batch())
    expected = task.head(task.pooling.vector).expand(5, -1)
    torch.testing.assert_close(output.predictions, expected)
    assert trunk.seen.embeddings.shape == (5, 8, 6)
    assert trunk.seen.layout.grid_index[0].tolist() == [-1] + [0] * 7


def test_mean_is_over_real_tokens_alone():
    task = classification(pool="mean")
    lengths = torch.tensor([7, 1, 3, 5, 2])
    valid = torch.arange(7) < lengths[:, None]
    padded = batch(valid=valid)
    expected = torch.stack([task.head(x[:n].mean(0)) for x, n in zip(padded["inputs"]["x"], lengths, strict=True)])
    torch.testing.assert_close(task(Echo(), padded).predictions, expected)
    padded["inputs"]["x"][~valid] = 1e6
    torch.testing.assert_close(task(Echo(), padded).predictions, expected)
    unpadded = batch()
    torch.testing.assert_close(task(Echo(), unpadded).predictions, task.head(unpadded["inputs"]["x"].mean(1)))


def test_the_first_token_of_a_causal_backbone_is_no_summary():
    cls, mean = classification(pool="cls").needs, classification(pool="mean").needs
    assert cls.directions == {"bidirectional"}
    assert mean.directions == {"bidirectional", "causal", "prefix"}


def test_loss_is_torchs_and_smoothed_in_training_only():
    task, sample = classification(pool="mean", label_smoothing=0.2), batch()
    label = sample["targets"]["label"]
    evaluated = task(Echo(), sample)
    assert torch.equal(evaluated.loss, F.cross_entropy(evaluated.predictions, label))
    assert torch.equal(evaluated.targets, label)
    trained = task.train()(Echo(), sample)
    assert torch.equal(trained.loss, F.cross_entropy(trained.predictions, label, label_smoothing=0.2))
    assert not torch.equal(trained.loss, evaluated.loss)


def test_dropout_is_in_training_only():
    task, sample = classification(pool="mean", dropout=0.5), batch()
    assert torch.equal(task(Echo(), sample).predictions, task(Echo(), sample).predictions)
    task.train()
    assert not torch.equal(task(Echo(), sample).predictions, task(Echo(), sample).predictions)


def test_metrics_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(60, 4, generator=generator)
    label = torch.cat([torch.randint(3, (59,), generator=generator), torch.tensor([3])])  # classes of very unequal size
    metrics = classification().metrics()
    for part in (slice(0, 40), slice(40, 60)):
        for metric in metrics.values():
            metric.update(logits[part], label[part])
    values, predicted = {name: metric.compute() for name, metric in metrics.items()}, logits.argmax(-1)
    assert values["accuracy"].item() == pytest.approx(sklearn_metrics.accuracy_score(label, predicted), abs=1e-6)
    assert values["f1"].item() == pytest.approx(sklearn_metrics.f1_score(label, predicted, average="macro"), abs=1e-6)
    assert values["confusion_matrix"].tolist() == sklearn_metrics.confusion_matrix(label, predicted).tolist()


def test_the_confusion_matrix_has_a_row_a_true_label():
    counts = torch.tensor([[5, 1, 0, 0], [0, 4, 0, 0], [0, 0, 3, 2], [0, 0, 0, 1]])
    table = classification().tables({"confusion_matrix": counts})["confusion_matrix"]
    assert table[0][1:] == list(LABELS)
    assert {row[0]: row[1:] for row in table[1:]} == dict(zip(LABELS, counts.tolist(), strict=True))


def test_describes_by_the_likeliest_label_and_its_probability():
    logits = torch.tensor([[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    found = classification().describe(Output(None, logits, None, 2))
    assert [each["label"] for each in found] == ["bee", "dog"]
    assert [each["probability"] for each in found] == pytest.approx(
        [logits[0].softmax(0)[1].item(), logits[1].softmax(0)[3].item()]
    )


def test_predicts_without_labels():
    task, sample = classification(), batch()
    output = task(Echo(), sample | {"targets": {}})
    assert (output.loss, output.targets) == (None, None)
    assert torch.equal(output.predictions, task(Echo(), sample).predictions)


@pytest.mark.parametrize("labels", [(), ("one",)])
def test_fewer_than_two_labels_are_refused(labels):
    with pytest.raises(
        UserError, match=f"task=classification: the data has {counted(len(labels), 'label')}, at least 2"
    ):
        Classification(dim=6, data=DataSpec(frozenset(), labels=labels))
