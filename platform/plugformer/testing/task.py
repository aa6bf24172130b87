"""Laws of tasks."""

import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Features, Grid, Sample, Split, Targets, TokenSpec
from plugformer.model import Trunk
from plugformer.testing.common import Inputs, ModuleSuite, rows
from plugformer.testing.comparing import applies_if, assert_close, assert_same, noise
from plugformer.testing.made_up import MadeUpWords, MeanOfBoth, MeanOfVisible, made_up_embedding
from plugformer.testing.samples import SPEC, make_samples

LINE = Grid(("position",), (7,))
SQUARE = Grid(("row", "column"), (3, 4))
SPECIALS = {"pad": 0, "mask": 1, "bos": 2, "eos": 3, "unk": 4}
SENTINELS = (13, 14, 15, 16)
COUNTS = (3, 2, 1, 3, 1, 2)  # words of target texts


def on_each_kind_of_token(suite: "type[TaskSuite]") -> "type[TaskSuite]":
    """Try every law of this suite, and of those it is made from, with each kind that `kinds` says."""
    for name in [name for name in dir(suite) if name.startswith("test_")]:
        setattr(suite, name, _on_each(getattr(suite, name)))
    return suite


def _on_each(law: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(law)
    def tried(self: "TaskSuite") -> None:
        if isinstance(type(self).tokens, TokenSpec):  # a subclass has chosen
            law(self)
            return
        for tokens in self.kinds():
            self.tokens = tokens
            try:
                law(self)
            except Exception as error:
                error.add_note(f"The tokens were {tokens.token_kind}.")
                raise

    return tried


@on_each_kind_of_token
class TaskSuite(ModuleSuite):
    """The task on a backbone of the simplest kind, with made-up tokens of which some are padding.

    Attributes:
        data: what is known of the samples.
        continuous, discrete: what is known of the tokens, of either kind.
        target: what is known of those that are to be written.
        tokens: those of them that are used; unless a subclass says which, each in turn that the task works with.
        dim: of the hidden states.
    """

    kind = "task"
    data: ClassVar[DataSpec] = SPEC
    continuous: ClassVar[TokenSpec] = TokenSpec(SQUARE, token_dim=5, pads=True)
    discrete: ClassVar[TokenSpec] = TokenSpec(
        LINE,
        vocab_size=17,
        specials=SPECIALS,
        pads=True,
        words=True,
        sentinels=SENTINELS,
        around=frozenset({"bos"}),
    )
    target: ClassVar[TokenSpec] = TokenSpec(
        Grid(("position",), (6,)),
        vocab_size=18,
        specials=SPECIALS,
        pads=True,
        words=True,
        around=frozenset({"bos", "eos"}),
    )
    dim: ClassVar[int] = 8

    @cached_property
    def tokens(self) -> TokenSpec:
        return self.kinds()[0]

    def kinds(self) -> list[TokenSpec]:
        """The tokens that the task works with, given its options.

        Raises:
            UserError: neither kind goes with them.
        """
        found, refusals = [], []
        for tokens in (self.continuous, self.discrete):
            try:
                task = self.of(tokens)
            except UserError as error:  # such as an option that is of the other kind
                refusals.append(error)
                continue
            if tokens.token_kind in task.needs.token_kinds:
                found.append(tokens)
        if not found and refusals:
            raise refusals[0]
        assert found, "the task needs neither continuous nor discrete tokens"
        return found

    def samples(self) -> list[Sample]:
        """With target texts that are no longer than their inputs."""
        words = [sample["target_text"].split()[:count] for sample, count in zip(make_samples(6), COUNTS, strict=True)]
        return [{**sample, "target_text": " ".join(own)} for sample, own in zip(make_samples(6), words, strict=True)]

    def new(self) -> Any:
        return self.of(self.tokens)

    def of(self, tokens: TokenSpec) -> Any:
        """The task for such tokens."""
        discrete = tokens.token_kind == "discrete"
        return self.build(
            dim=self.dim,
            tokens=tokens,
            data=self.data,
            tokenizer=MadeUpWords(tokens if discrete else self.discrete),
            target_tokenizer=MadeUpWords(self.target),
        )

    def features(self, batch: int) -> Features:
        """Collated features, as the tokenizer of such tokens would make them."""
        length = len(self.tokens.grid)
        if self.tokens.vocab_size is None:
            column = self.tokens.grid.coordinates()[:, -1]  # padding ends every row
            valid = column < torch.tensor([4, 2, 3, 4, 1, 2])[:batch, None]
            return {"values": noise(batch, length, self.tokens.token_dim or 1), "valid": valid}
        valid = torch.arange(length) < torch.tensor([length, 4, 6, 5, 3, 7])[:batch, None]
        first = len(SPECIALS)
        drawn = noise(batch, length).mul(100).long()
        ids = first + drawn % (self.tokens.vocab_size - first - len(self.tokens.sentinels))
        ids[:, 0] = SPECIALS["bos"]
        words = (torch.arange(length) // 2).expand(batch, -1).masked_fill(ids < first, -1)
        size = (1 + drawn % 3).masked_fill(ids < first, 0)
        return {"ids": ids.where(valid, SPECIALS["pad"]), "words": words, "bytes": size, "valid": valid}

    def trunk(self, task: Any) -> Trunk:
        direction = "bidirectional" if "bidirectional" in task.needs.directions else min(task.needs.directions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            embedding = made_up_embedding(self.tokens, dim=self.dim)
            if direction != "encoder_decoder":
                backbone = MeanOfVisible(dim=self.dim, causal=direction != "bidirectional")
                return Trunk(embedding=embedding, backbone=backbone)
            written = task.target_tokenizer.spec
            own = None if written == self.tokens else made_up_embedding(written, dim=self.dim)
            return Trunk(embedding=embedding, backbone=MeanOfBoth(dim=self.dim), target_embedding=own)

    def inputs(self, batch: int) -> Inputs:
        return self.batch(range(batch))

    def batch(self, numbers: Sequence[int]) -> Inputs:
        """These samples, padded to the longest of them; continuous tokens always fill their grid."""
        targets, which = self.new().targets, list(numbers)
        encoded = targets.collate([self.encode(targets, number) for number in which])
        features = rows(self.features(6), which)
        if self.tokens.token_kind == "discrete":
            length = int(features["valid"].sum(1).max())
            features = {key: value[:, :length] for key, value in features.items()}
        return {"inputs": features, "targets": encoded, "index": torch.tensor(which)}

    def encode(self, targets: Targets, number: int) -> Features:
        """The targets of one sample; the same at each call, even if something is drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            return targets.encode(self.samples()[number], self.unpadded(number))

    def unpadded(self, number: int) -> Features:
        """The features of one sample, as they are before they are collated."""
        features = rows(self.features(6), number)
        if self.tokens.token_kind == "continuous":
            return features
        return {key: value[features["valid"]] for key, value in features.items() if key != "valid"}

    def call(self, module: nn.Module, inputs: Inputs) -> Tensor:
        return self.output(module, inputs).predictions

    def output(self, task: Any, batch: Any) -> Any:
        return task(self.trunk(task), batch)

    def compared(self, task: Any, batch: Any, *, split: Split) -> Any:
        return task.compared(self.trunk(task), batch, self.output(task, batch), split=split)

    # ------------------------------------------------------------------------------------------ targets and loss

    def test_targets_go_to_a_loaders_worker(self) -> None:
        targets, batch = self.new().targets, self.inputs(6)["targets"]
        sent = pickle.loads(pickle.dumps(targets))
        assert_same(sent.collate([self.encode(sent, number) for number in range(6)]), batch)
        assert all(value.device.type == "cpu" for value in batch.values())

    def test_example_is_like_its_targets(self) -> None:
        """What a model is measured with before any data is read."""
        targets = self.new().targets
        example, encoded = targets.example(self.unpadded(0)), self.encode(targets, 0)
        kinds = [{key: (value.dtype, value.ndim) for key, value in each.items()} for each in (example, encoded)]
        assert kinds[0] == kinds[1]
        assert targets.collate([example]).keys() == self.batch([0])["targets"].keys()

    def test_gradients_are_finite_and_reach_every_weight(self) -> None:
        """From the loss: what is predicted is for metrics, and may carry none."""
        task = self.make()
        self.output(task, self.inputs(2)).loss.backward()
        for name, parameter in task.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"

    def test_loss_teaches_the_whole_model(self) -> None:
        task = self.make().train()
        trunk = self.trunk(task)
        loss = task(trunk, self.inputs(6)).loss
        assert loss.ndim == 0
        assert loss.isfinite()
        loss.backward()
        for name, parameter in [*task.named_parameters(), *trunk.named_parameters()]:
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any(), f"the gradient of {name} is zero"

    def test_loss_is_a_mean_over_its_weight(self) -> None:
        """So that the mean over a split doesn't depend on how it is cut into batches."""
        task, batch = self.make(), self.inputs(6)
        whole = self.output(task, batch)
        parts = [self.output(task, rows(batch, part)) for part in (slice(0, 4), slice(4, 6))]
        assert whole.weight == sum(part.weight for part in parts)
        mean = sum(part.loss.item() * part.weight for part in parts) / whole.weight
        assert math.isclose(mean, whole.loss.item(), rel_tol=1e-5)

    def test_padding_changes_nothing(self) -> None:
        """Neither what stands there nor how much of it there is."""
        task, batch = self.make(), self.inputs(6)
        expected, valid = self.output(task, batch), batch["inputs"]["valid"]
        features = {key: value.clone() for key, value in batch["inputs"].items()}
        for key in features.keys() - {"valid"}:
            features[key][~valid] = features[key].flip(1)[~valid]  # tokens of the front
        output = self.output(task, batch | {"inputs": features})
        assert_close(output.loss, expected.loss)
        assert task.describe(output) == task.describe(expected)
        alone = [self.output(task, self.batch([number])) for number in range(6)]
        mean = sum(each.loss * each.weight for each in alone if each.weight) / sum(each.weight for each in alone)
        assert_close(mean, expected.loss, what="samples without padding")

    def test_predicts_without_targets(self) -> None:
        """There is no loss then, unless the inputs are targets too. What there is to see are tokens."""
        task, batch = self.make(), self.inputs(6)
        output = self.output(task, batch | {"targets": {}})
        assert (output.loss is None) == (output.targets is None)
        assert output.loss is None or not task.needs.keys
        for caption, picture in output.pictures.items():
            assert picture.shape == (6, len(self.tokens.grid), self.tokens.token_dim), caption
        found = task.describe(output)
        assert len(found) == 6
        assert json.loads(json.dumps(found, allow_nan=False)) == found

    # ------------------------------------------------------------------------------------------ metrics and words

    def test_metrics_take_what_it_predicts(self) -> None:
        """Over several batches; each is a number, or rows for a table."""
        task, batch = self.make(), self.inputs(6)
        metrics = MetricCollection(dict(task.metrics()))
        assert "loss" not in metrics, "the loss is logged under this name"
        for number in (slice(0, 4), slice(4, 6)):
            part = rows(batch, number)
            output = self.output(task, part)
            compared = self.compared(task, part, split="val")
            metrics.update(output.predictions.detach(), output.targets, **compared)
        values = metrics.compute()
        assert all(value.isfinite().all() for value in values.values())
        tables = task.tables(values)
        for rows_of_one in tables.values():
            assert len({len(row) for row in rows_of_one}) == 1, "rows of several widths"
        assert {name for name, value in values.items() if value.numel() != 1} <= tables.keys(), (
            "a metric is shown nowhere"
        )

    def test_compares_each_sample_alone(self) -> None:
        """Whatever else is in its batch; such as what is written for it."""
        task, batch = self.make(), self.inputs(6)
        splits: tuple[Split, ...] = ("val", "test")
        for split in splits:
            together = self.compared(task, batch, split=split)
            alone = [self.compared(task, rows(batch, slice(number, number + 1)), split=split) for number in range(6)]
            for key, value in together.items():
                assert value == [each for one in alone for each in one[key]], key

    def test_metrics_are_new_each_time(self) -> None:
        task = self.new()
        first, second = task.metrics(), task.metrics()
        assert all(first[name] is not second[name] for name in first)

    def test_monitor_is_a_metric_and_knows_its_better_side(self) -> None:
        task = self.new()
        split, _, name = task.monitor.metric.partition("/")
        metrics = task.metrics()
        assert split in ("train", "val")
        assert name in [*metrics, "loss"]
        higher = False if name == "loss" else metrics[name].higher_is_better
        assert higher is None or task.monitor.mode == ("max" if higher else "min")

    def test_describes_in_plain_words(self) -> None:
        task = self.make()
        found = task.describe(self.output(task, self.inputs(6)))
        assert len(found) == 6
        assert json.loads(json.dumps(found, allow_nan=False)) == found

    # ------------------------------------------------------------------------------------------ what there is to see

    def test_tells_the_loss_of_each_sample(self) -> None:
        """That which it has alone; or of none."""
        task = self.make()
        losses = task.losses(self.output(task, self.inputs(6)))
        applies_if(losses is not None, "doesn't tell a sample's loss from another's")
        for number, loss in enumerate(losses):
            assert_close(loss, self.output(task, self.batch([number])).loss, what=f"sample {number}")

    def test_shows_plain_values_or_pictures(self) -> None:
        """Of each sample; pictures are tokens."""
        task, batch = self.make(), self.inputs(6)
        tokenizer = MadeUpWords(self.tokens if self.tokens.token_kind == "discrete" else self.discrete)
        with torch.no_grad():
            found = task.show(self.trunk(task), batch, self.output(task, batch), tokenizer=tokenizer)
        assert len(found) == 6
        for name, value in [item for shown in found for item in shown.items()]:
            if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values()):
                shapes = {each.shape for each in value.values()}
                assert shapes == {(len(self.tokens.grid), self.tokens.token_dim)}, name
            else:
                assert json.loads(json.dumps(value, allow_nan=False)) == value, name
