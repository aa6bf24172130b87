"""Tasks that predict tokens, against transformers and their definitions."""

import json
import math
import pickle
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import BertConfig
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.models.bert.modeling_bert import BertLMPredictionHead

import plugformer.predict
from plugformer.compatibility import check_compatible
from plugformer.data.loaders import make_loader
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Grid, Tokenizer, TokenSpec
from plugformer.model import Model, Trunk
from plugformer.registry import build
from plugformer.testing.common import randomise
from plugformer.testing.task import MeanOfVisible, TaskSuite, made_up_embedding
from plugformer.train.module import TrainingModule
from plugformer.train.trainer import quieten
from plugformer_tasks.causal_lm import CausalLM
from plugformer_tasks.mlm import MaskedLM
from plugformer_tasks.prefix_lm import PrefixLM

DIM, VOCAB = 8, 16
SPECIALS = {"pad": 0, "mask": 7, "bos": 2, "eos": 3, "unk": 15}  # anywhere in the vocabulary
ORDINARY = sorted(set(range(VOCAB)) - set(SPECIALS.values()))
SPEC = TokenSpec(Grid(("position",), (64,)), vocab_size=VOCAB, specials=SPECIALS, pads=True, packs=True, words=True)
TASKS = {"mlm": MaskedLM, "causal_lm": CausalLM, "prefix_lm": PrefixLM}


class TestClassificationByMean(TaskSuite):
    name = "classification"
    options = {"pool": "mean"}  # noqa: RUF012


class TestMaskedLanguageModelOfWords(TaskSuite):
    name = "mlm"
    options = {"whole_words": True, "share": 0.5, "tied": False}  # noqa: RUF012


class TestUntiedCausalLanguageModel(TaskSuite):
    name = "causal_lm"
    options = {"tied": False, "z_loss": 0.1, "label_smoothing": 0.1, "chunk": 3}  # noqa: RUF012


def make(name, *, tokens=SPEC, seed=0, **options):
    """A task and a trunk of the simplest kind for it."""
    torch.manual_seed(seed)
    task = randomise(build("task", {"name": name, **options}, dim=DIM, tokens=tokens, data=DataSpec(frozenset())))
    backbone = MeanOfVisible(dim=DIM, causal=name != "mlm")
    return task.eval(), Trunk(embedding=made_up_embedding(tokens, dim=DIM), backbone=backbone)


def draw_ids(*lengths, seed=0):
    """Ordinary tokens, padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor(ORDINARY)[torch.randint(len(ORDINARY), (len(lengths), max(lengths)), generator=generator)]
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"ids": ids.where(valid, SPECIALS["pad"]), "valid": valid}


def batch(inputs, targets=None):
    return {"inputs": inputs, "targets": targets or {}, "index": torch.arange(len(inputs["ids"]))}


def drawn(targets, inputs, seed):
    torch.manual_seed(seed)
    return targets.encode({}, inputs)


# ---------------------------------------------------------------------------------------------- which tokens are hidden


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize(("length", "share"), [(40, 0.15), (7, 0.15), (2, 0.15), (40, 0.5), (9, 1.0)])
def test_so_many_tokens_are_chosen_and_none_is_special(length, share, whole_words):
    targets = make("mlm", share=share, whole_words=whole_words)[0].targets
    ids = draw_ids(length)["ids"][0]
    ids[0], ids[-1] = SPECIALS["bos"], SPECIALS["mask"]
    words = torch.arange(length).masked_fill(ids == SPECIALS["bos"], -1)
    for seed in range(20):
        made = drawn(targets, {"ids": ids, "words": words}, seed)
        chosen = made["place"][made["counts"] == 1]
        assert len(made["place"]) == max(1, round(share * length))
        assert len(chosen) == (0 if length == 2 else max(1, round(share * (length - 2))))
        assert len(set(chosen.tolist())) == len(chosen)
        assert not set(ids[chosen].tolist()) & set(SPECIALS.values())
        assert torch.equal(made["original"], ids[made["place"]])


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.0, 1.0), (0.25, 0.5), (1.0, 0.0), (0.0, 0.0)])
def test_chosen_tokens_are_replaced_in_these_shares(shares):
    targets = make("mlm", share=1.0, mask_share=shares[0], random_share=shares[1])[0].targets
    ids = torch.tensor(ORDINARY).repeat(1500)
    made = drawn(targets, {"ids": ids}, 0)
    replacement, original = made["replacement"], made["original"]
    masked = (replacement == SPECIALS["mask"]).float().mean()
    kept = (replacement == original).float().mean()
    assert masked.item() == pytest.approx(shares[0], abs=0.01)
    assert kept.item() == pytest.approx(1 - sum(shares) + shares[1] / len(ORDINARY), abs=0.01)
    others = replacement[replacement != SPECIALS["mask"]]
    assert set(others.tolist()) <= set(ORDINARY)
    if shares[1] == 1:
        counts = others.bincount(minlength=VOCAB)[ORDINARY] / len(others)
        torch.testing.assert_close(counts, torch.full_like(counts, 1 / len(ORDINARY)), atol=0.01, rtol=0)


@pytest.mark.parametrize("whole_words", [False, True])
def test_every_token_is_as_likely_to_be_chosen(whole_words):
    targets, length = make("mlm", share=0.25, whole_words=whole_words)[0].targets, 12
    inputs = {"ids": draw_ids(length)["ids"][0], "words": torch.arange(length) // 3}
    counts = torch.zeros(length)
    for seed in range(600):
        counts[drawn(targets, inputs, seed)["place"]] += 1
    torch.testing.assert_close(counts / 600, torch.full((length,), 0.25), atol=0.07, rtol=0)


def test_whole_words_are_chosen_as_a_whole():
    targets = make("mlm", share=0.3, whole_words=True)[0].targets
    word = torch.tensor([-1, 0, 0, 1, 1, 1, 2, -1, -1, 0, 0, 0, 0, 1, 1, 0, 0, -1])  # two of the documents begin with 0
    segments = torch.tensor([0] * 9 + [1] * 6 + [2] * 3)
    ids = draw_ids(18)["ids"][0].masked_fill(word < 0, SPECIALS["eos"])
    ids[7] = ids[8] = ORDINARY[0]  # belong to no word: each is one by itself
    spans = [{1, 2}, {3, 4, 5}, {6}, {7}, {8}, {9, 10, 11, 12}, {13, 14}, {15, 16}]
    seen, alone = set(), set()
    for seed in range(100):
        made = drawn(targets, {"ids": ids, "words": word, "segments": segments}, seed)
        places = set(made["place"][made["counts"] == 1].tolist())
        inside = [span for span in spans if span <= places]
        assert set().union(*inside) == places
        assert 1 <= len(places) <= round(0.3 * 16)
        seen |= places
        alone.add(len(places & {7, 8}))
    assert seen == set().union(*spans)
    assert 1 in alone


def test_a_word_longer_than_all_that_is_chosen_is_chosen_if_there_is_no_other():
    targets = make("mlm", whole_words=True)[0].targets
    made = drawn(targets, {"ids": draw_ids(6)["ids"][0], "words": torch.zeros(6, dtype=torch.long)}, 0)
    assert made["place"].tolist() == list(range(6))
    other = targets.encode({}, {"ids": draw_ids(3)["ids"][0], "words": torch.arange(3)})
    together = targets.collate([made, other])
    assert {value.shape for value in together.values()} == {(2, 6)}
    assert together["counts"].sum(1).tolist() == [6, 1]


def test_nothing_is_chosen_where_nothing_can_be():
    task, trunk = make("mlm")
    ids = torch.tensor([SPECIALS["bos"], SPECIALS["eos"]])
    output = task(trunk, batch({"ids": ids[None]}, task.targets.collate([drawn(task.targets, {"ids": ids}, 0)])))
    assert (output.loss.item(), output.weight.item()) == (0, 0)
    assert task.describe(output) == [{"loss": None, "perplexity": None, "accuracy": None}]


# ---------------------------------------------------------------------------------------------- masked


def test_the_model_sees_replacements_and_is_asked_for_originals():
    task, trunk = make("mlm", share=0.4)
    inputs = draw_ids(9, 5)
    each = [drawn(task.targets, {"ids": inputs["ids"][i, :n]}, i) for i, n in enumerate((9, 5))]
    output = task(trunk, batch(inputs, task.targets.collate(each)))
    nats, right = [], []
    for i, (n, made) in enumerate(zip((9, 5), each, strict=True)):
        ids = inputs["ids"][i : i + 1, :n].clone()
        ids[0, made["place"]] = made["replacement"]
        hidden = task.transform(trunk.backbone(trunk.embed({"ids": ids}))[0])
        logits = (hidden @ trunk.embedding.table.T + task.output.bias)[made["place"]]
        nats.append(F.cross_entropy(logits, made["original"], reduction="none"))
        right.append(logits.argmax(-1) == made["original"])
    torch.testing.assert_close(output.loss, torch.cat(nats).mean())
    assert output.weight == len(torch.cat(nats))
    values = measured(task, [output])
    assert values["accuracy"] == pytest.approx(torch.cat(right).float().mean().item())
    assert values["perplexity"] == pytest.approx(output.loss.exp().item(), rel=1e-5)
    assert values.keys() == {"accuracy", "perplexity"}


def test_head_is_berts():
    task, trunk = make("mlm", share=1.0, mask_share=0.0, random_share=0.0)
    config = BertConfig(vocab_size=VOCAB, hidden_size=DIM, num_attention_heads=1)
    theirs = BertLMPredictionHead(config)
    theirs.transform.dense.load_state_dict(task.transform.dense.state_dict())
    theirs.transform.LayerNorm.load_state_dict(task.transform.norm.state_dict())
    with torch.no_grad():
        theirs.decoder.weight.copy_(trunk.embedding.table)
        theirs.decoder.bias.copy_(task.output.bias)
    inputs = draw_ids(9)
    output = task(trunk, batch(inputs, task.targets.collate([drawn(task.targets, {"ids": inputs["ids"][0]}, 0)])))
    hidden = trunk.backbone(trunk.embed(inputs))
    expected = F.cross_entropy(theirs(hidden)[0], inputs["ids"][0])
    torch.testing.assert_close(output.loss, expected)
    pairs = {
        task.transform.dense.weight: theirs.transform.dense.weight,
        task.transform.norm.weight: theirs.transform.LayerNorm.weight,
        task.output.bias: theirs.decoder.bias,
    }
    ours = torch.autograd.grad(output.loss, pairs.keys())
    for mine, other in zip(ours, torch.autograd.grad(expected, pairs.values()), strict=True):
        torch.testing.assert_close(mine, other)


def test_fills_in_every_mask_token_of_an_input():
    task, trunk = make("mlm")
    inputs = draw_ids(6, 4)
    inputs["ids"][0, 2] = inputs["ids"][0, 5] = SPECIALS["mask"]
    inputs["ids"][1, 5] = SPECIALS["mask"]  # is padding
    output = task(trunk, batch(inputs))
    first, second = task.describe(output)
    assert second == {"fills": []}
    assert [fill["position"] for fill in first["fills"]] == [2, 5]
    hidden = task.transform(trunk.backbone(trunk.embed(inputs)))
    probability = (hidden @ trunk.embedding.table.T + task.output.bias).softmax(-1)
    for fill in first["fills"]:
        values, ids = probability[0, fill["position"]].topk(5)
        assert [each["token"] for each in fill["tokens"]] == ids.tolist()
        assert [each["probability"] for each in fill["tokens"]] == pytest.approx(values.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "task.share=0.0: must be more than 0 and at most 1"),
        ({"share": 1.5}, "task.share=1.5"),
        (
            {"mask_share": 0.8, "random_share": 0.3},
            "task.mask_share=0.8, task.random_share=0.3: .* sum must be at most 1",
        ),
        ({"mask_share": -0.1}, "task.mask_share=-0.1"),
        ({"chunk": 0}, "task.chunk=0: must be at least 1"),
        ({"label_smoothing": 1.0}, "task.label_smoothing=1.0: must be at least 0 and less than 1"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make("mlm", **options)


def test_a_tokenizer_without_what_is_needed_is_refused():
    lacking = TokenSpec(SPEC.grid, vocab_size=VOCAB, specials={"pad": 0, "bos": 1})
    with pytest.raises(UserError, match="task=mlm: the tokenizer has no mask token; its special tokens are pad, bos"):
        make("mlm", tokens=lacking)
    lacking = TokenSpec(SPEC.grid, vocab_size=VOCAB, specials=SPECIALS)
    with pytest.raises(
        UserError, match=r"task.whole_words=true: .*Set task.whole_words=false".replace(".*", "(?s:.*)")
    ):
        make("mlm", tokens=lacking, whole_words=True)


@pytest.mark.parametrize(
    ("task", "direction", "message"),
    [
        ("mlm", "causal", "task=mlm with these options needs a bidirectional backbone; backbone=mine is causal"),
        (
            "causal_lm",
            "bidirectional",
            "task=causal_lm with these options needs a causal backbone; backbone=mine is bid",
        ),
        ("prefix_lm", "causal", "task=prefix_lm with these options needs a prefix backbone; backbone=mine is causal"),
        ("answers", None, "task=answers needs discrete tokens; those of tokenizer=mine are continuous"),
        ("mae", "bidirectional", "task=mae needs continuous tokens; those of tokenizer=mine are discrete"),
    ],
)
def test_what_does_not_go_with_a_task_is_refused_by_name(task, direction, message):
    spec = SPEC if direction else TokenSpec(SPEC.grid, token_dim=4)
    config = {kind: {"name": "mine"} for kind in ("tokenizer", "backbone", "data")} | {"task": {"name": task}}
    model = SimpleNamespace(task=make(task, tokens=spec)[0])
    model.trunk = SimpleNamespace(backbone=SimpleNamespace(direction=direction))
    tokenizer = SimpleNamespace(modality="text", spec=spec)
    source = DataSpec(frozenset({"text", "answers"}))
    with pytest.raises(UserError, match=message):
        check_compatible(config, source=source, tokenizer=tokenizer, model=model)


# ---------------------------------------------------------------------------------------------- causal


def measured(task, outputs):
    metrics = task.metrics()
    for output in outputs:
        for metric in metrics.values():
            metric.update(output.predictions, output.targets)
    return {name: metric.compute().tolist() for name, metric in metrics.items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [2, 1024])
def test_loss_is_that_of_transformers(tied, chunk):
    task, trunk = make("causal_lm", tied=tied, chunk=chunk)
    inputs = draw_ids(9, 4, 1)
    output = task(trunk, batch(inputs))
    matrix = trunk.embedding.table if tied else task.output.linear.weight
    logits = trunk.backbone(trunk.embed(inputs)) @ matrix.T
    expected = ForCausalLMLoss(logits, inputs["ids"].where(inputs["valid"], -100), VOCAB)
    torch.testing.assert_close(output.loss, expected)
    weights = [*trunk.parameters(), *task.parameters()]
    for mine, other in zip(
        torch.autograd.grad(output.loss, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    assert output.weight == 8 + 3
    assert task.describe(output)[2]["loss"] is None


def test_nothing_is_predicted_across_documents():
    """A sequence of several is as good as all of them alone."""
    task, trunk = make("causal_lm")
    ids, lengths = draw_ids(12)["ids"], (5, 1, 4, 2)
    segments = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    packed = task(trunk, batch({"ids": ids, "segments": segments}))
    alone = [task(trunk, batch({"ids": part})) for part in ids.split(lengths, 1)]
    assert packed.weight == sum(each.weight for each in alone) == 12 - 4
    torch.testing.assert_close(packed.loss, sum(each.loss * each.weight for each in alone) / packed.weight)


def test_metrics_are_exact_over_batches_of_any_size():
    task, trunk = make("causal_lm")
    inputs = [draw_ids(*lengths, seed=n) for n, lengths in enumerate([(9, 2), (3,), (1,), (12, 12, 5)])]
    for each in inputs:
        each["bytes"] = torch.randint(0, 5, each["ids"].shape)
    outputs = [task(trunk, batch(each)) for each in inputs]
    nats, right, size = [], [], 0
    for each in inputs:
        logits = trunk.backbone(trunk.embed(each)) @ trunk.embedding.table.T
        for i, n in enumerate(each["valid"].sum(1)):
            target = each["ids"][i, 1:n]
            nats.append(F.cross_entropy(logits[i, : n - 1], target, reduction="none"))
            right.append(logits[i, : n - 1].argmax(-1) == target)
            size += each["bytes"][i, 1:n].sum().item()
    values, nats = measured(task, outputs), torch.cat(nats)
    assert values["perplexity"] == pytest.approx(nats.mean().exp().item(), rel=1e-5)
    assert values["accuracy"] == pytest.approx(torch.cat(right).float().mean().item())
    assert values["bits_per_byte"] == pytest.approx(nats.sum().item() / math.log(2) / size, rel=1e-5)
    described = [row for output in outputs for row in task.describe(output)]
    assert described[0]["bits_per_byte"] == pytest.approx(
        described[0]["loss"] * 8 / math.log(2) / inputs[0]["bytes"][0, 1:9].sum().item(), rel=1e-5
    )
    assert described[0]["perplexity"] == pytest.approx(math.exp(described[0]["loss"]), rel=1e-5)


def test_there_are_no_bits_per_byte_without_bytes():
    task, trunk = make("causal_lm")
    output = task(trunk, batch(draw_ids(9, 4)))
    assert measured(task, [output])["bits_per_byte"] == []
    assert "bits_per_byte" not in task.describe(output)[0]


@pytest.mark.parametrize("name", TASKS)
def test_what_is_added_to_the_loss_is_added_in_training_only(name):
    added = {"label_smoothing": 0.3} if name == "mlm" else {"z_loss": 0.5, "label_smoothing": 0.3}
    inputs, losses = draw_ids(9), {}
    for options in ({}, added):
        task, trunk = make(name, **options)
        given = batch(inputs, task.targets.collate([drawn(task.targets, {"ids": inputs["ids"][0]}, 0)]))
        losses[bool(options)] = task(trunk, given).loss, task.train()(trunk, given).loss
    assert torch.equal(losses[True][0], losses[False][0])
    assert torch.equal(losses[False][1], losses[False][0])
    assert not torch.isclose(losses[True][1], losses[False][1])


def test_names_what_is_likely_to_come_next():
    task, trunk = make("causal_lm")
    inputs = draw_ids(9, 4)
    described = task.describe(task(trunk, batch(inputs)))
    probability = (trunk.backbone(trunk.embed(inputs)) @ trunk.embedding.table.T).softmax(-1)
    for found, row, last in zip(described, probability, (8, 3), strict=True):
        values, ids = row[last].topk(5)
        assert [each["token"] for each in found["next"]] == ids.tolist()
        assert [each["probability"] for each in found["next"]] == pytest.approx(values.tolist(), rel=1e-5)


def test_an_embedding_without_a_table_is_refused_by_what_is_tied(monkeypatch):
    task, trunk = make("causal_lm")
    monkeypatch.setattr(type(trunk.embedding), "table", None)
    with pytest.raises(UserError, match=r"task.tied=true: .* no table(?s:.*)Set task.tied=false"):
        task(trunk, batch(draw_ids(5)))


# ---------------------------------------------------------------------------------------------- prefix


def test_prefixes_are_uniform_between_the_shares():
    for (low, high), expected in {(0.0, 1.0): range(1, 20), (0.25, 0.5): range(5, 11), (0.5, 0.5): [10]}.items():
        targets = make("prefix_lm", min_share=low, max_share=high)[0].targets
        inputs = {"ids": torch.zeros(20, dtype=torch.long)}
        found = torch.stack([drawn(targets, inputs, seed)["prefix"] for seed in range(1500)]).bincount(minlength=21)
        assert found.nonzero()[:, 0].tolist() == list(expected)
        share = found[found > 0] / 1500
        torch.testing.assert_close(share, torch.full_like(share, 1 / len(expected)), atol=0.05, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_something_is_left_to_predict_of_a_short_sequence(length):
    task, trunk = make("prefix_lm", min_share=1.0)
    inputs = draw_ids(length)
    for targets in (task.targets.collate([drawn(task.targets, {"ids": inputs["ids"][0]}, 0)]), None):
        output = task(trunk, batch(inputs, targets))
        assert output.weight == min(1, length - 1)
        assert output.loss.isfinite()


def test_only_the_rest_is_predicted_and_it_sees_all_of_the_prefix():
    task, trunk = make("prefix_lm")
    inputs, prefix = draw_ids(9, 6), torch.tensor([4, 2])

    def nats(ids):
        return task(trunk, batch(inputs | {"ids": ids}, {"prefix": prefix})).predictions[..., 0]

    seen = []
    trunk.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0].prefix))
    output = task(trunk, batch(inputs, {"prefix": prefix}))
    assert torch.equal(seen[0], prefix)
    assert output.targets[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert output.targets[1, :, 0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert output.weight == 5 + 4
    before = nats(inputs["ids"])
    for place in range(9):
        changed = inputs["ids"].clone()
        changed[0, place] = ORDINARY[(ORDINARY.index(int(changed[0, place])) + 1) % len(ORDINARY)]
        same = before[0] == nats(changed)[0]
        first = 3 if place < 4 else place - 1  # where the loss can know of it: as a target at first
        assert same[:first].all()
        assert not same[first:8].any()


def test_in_prediction_the_prefix_is_the_middle():
    task, trunk = make("prefix_lm", min_share=0.2, max_share=0.6)
    inputs = draw_ids(10, 5)
    told, drawn_so = task(trunk, batch(inputs)), task(trunk, batch(inputs, {"prefix": torch.tensor([4, 2])}))
    assert torch.equal(told.predictions, drawn_so.predictions)


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1)], ids=str)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(UserError, match=f"task.min_share={shares[0]}, task.max_share={shares[1]}: both must lie betw"):
        make("prefix_lm", min_share=shares[0], max_share=shares[1])


@pytest.mark.parametrize("name", ["causal_lm", "prefix_lm"])
def test_a_negative_z_loss_is_refused(name):
    with pytest.raises(UserError, match=r"task.z_loss=-1.0: must not be negative"):
        make(name, z_loss=-1.0)


# ---------------------------------------------------------------------------------------------- any of them


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_works_in_other_types(name, dtype):
    task, trunk = make(name)
    inputs = draw_ids(9, 4)
    targets = task.targets.collate(
        [drawn(task.targets, {"ids": inputs["ids"][i, :n]}, i) for i, n in enumerate((9, 4))]
    )
    expected = task(trunk, batch(inputs, targets)).loss
    output = task.to(dtype).train()(trunk.to(dtype), batch(inputs, targets))
    tolerance = 1e-6 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(output.loss.float(), expected, atol=tolerance, rtol=tolerance)
    output.loss.backward()
    assert all(parameter.grad.dtype == dtype for parameter in [*task.parameters(), *trunk.parameters()])


@pytest.mark.parametrize("name", TASKS)
def test_shapes_depend_on_no_numbers(name):
    """So that it can be measured without any, and compiled."""
    task, trunk = make(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        example = {"ids": torch.zeros(20, dtype=torch.long), "bytes": torch.ones(20, dtype=torch.long)}
        inputs = {key: value.expand(3, -1) for key, value in example.items()}
        targets = {
            key: value.expand(3, *value.shape[1:])
            for key, value in task.targets.collate([task.targets.example(example)]).items()
        }
        task.train()(trunk, batch(inputs, targets)).loss.backward()
        task.eval()(trunk, batch(inputs))


class Words(Tokenizer):
    """Numbers between spaces; `?` is the mask."""

    modality = "text"
    spec = SPEC

    def assume(self, data):
        pass

    def fit(self, samples):
        pass

    def encode(self, sample, *, augment=False):
        if "encoded" in sample:
            return sample["encoded"]
        return {"ids": torch.tensor([SPECIALS["mask"] if w == "?" else int(w) for w in sample["text"].split()])}

    def sequences(self, samples):
        if samples and "input" in samples[0]:
            raise AssertionError("inputs are packed")
        return samples

    def collate(self, features):
        lengths = torch.tensor([len(each["ids"]) for each in features])
        ids = torch.nn.utils.rnn.pad_sequence([each["ids"] for each in features], batch_first=True)
        return {"ids": ids, "valid": torch.arange(ids.shape[1]) < lengths[:, None]}

    def example(self):
        raise NotImplementedError

    embedding = save = load = example

    def read(self, source):
        return {"text": source, "input": True}

    def prompt(self, source):
        return self.encode({"text": source})

    def decode(self, ids):
        assert ids.shape == (1,)
        return f"<{ids.item()}>"


TEXTS = [" ".join(map(str, draw_ids(3 + 5 * n % 17, seed=n)["ids"][0].tolist())) for n in range(10)]


def load(task, *, seed=None, batch_size=3, workers=0, epoch=0):
    samples = [{"text": text} for text in TEXTS]
    loader = make_loader(
        samples, tokenizer=Words(), targets=task.targets, batch_size=batch_size, seed=seed, num_workers=workers
    )
    if seed is not None:
        loader.batch_sampler.sampler.set_epoch(epoch)
    return loader


def by_sample(task, **options):
    """What is drawn for each sample of a loader."""
    found = {}
    for each in load(task, batch_size=1, **options):
        found[int(each["index"])] = {key: value[0].tolist() for key, value in each["targets"].items()}
    return found


@pytest.mark.parametrize("name", ["mlm", "prefix_lm"])
def test_what_is_drawn_is_the_seeds_and_the_epochs(name):
    task = make(name)[0]
    first = by_sample(task, seed=1)
    assert by_sample(task, seed=1) == by_sample(pickle.loads(pickle.dumps(task)), seed=1, workers=1) == first
    for other in ({"seed": 2}, {"seed": 1, "epoch": 1}):
        again = by_sample(task, **other)
        assert sum(again[number] != first[number] for number in first) > 5
    assert by_sample(task) == by_sample(task)  # validation


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_of_a_split_does_not_depend_on_its_batches(name):
    task, trunk = make(name)
    module = TrainingModule(model=Model(trunk=trunk, task=task), optimizer=None, schedule=None, record={})
    values = []
    quieten()
    for batch_size in (1, 3, 10):
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        batches: DataLoader = load(task, batch_size=batch_size)
        values.append(module.evaluate(trainer, batches, split="val", checkpoint=None))
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-5)
    expected = {"val/loss", "val/accuracy", "val/perplexity"}
    assert values[0].keys() == expected
    assert values[0]["val/perplexity"] == pytest.approx(math.exp(values[0]["val/loss"]), rel=1e-5)


def pretend_a_run(model, monkeypatch):
    composition = {"tokenizer": {"name": "words"}, "position": {"name": "none"}, "task": {"name": "mlm"}}
    composition["backbone"] = {"name": "encoder"}
    monkeypatch.setattr(plugformer.predict, "load_config", lambda path: composition)
    monkeypatch.setattr(plugformer.predict, "load_run", lambda path, config, checkpoint: (Words(), model))


@pytest.mark.parametrize("name", TASKS)
def test_predictions_are_told_in_words(name, monkeypatch):
    """One for each input, though the run packs its samples."""
    task, trunk = make(name)
    pretend_a_run(Model(trunk=trunk, task=task).eval(), monkeypatch)
    inputs = ["4 5 ? 6 4", "8", "9 ? 10 ? 4 4 5 6", "4 5 8 10"]
    found = list(plugformer.predict.predict("run", inputs, batch_size=3))
    assert [each["input"] for each in found] == inputs
    assert json.loads(json.dumps(found)) == found
    if name == "mlm":
        assert [[fill["position"] for fill in each["fills"]] for each in found] == [[2], [], [1, 3], []]
    told = [each["fills"][0]["tokens"] if name == "mlm" else each["next"] for each in (found[0], found[2])]
    for tokens in told:
        assert len(tokens) == 5
        assert all(each["token"] in {f"<{n}>" for n in range(VOCAB)} for each in tokens)
        assert sum(each["probability"] for each in tokens) < 1


def test_tokens_that_can_not_be_decoded_are_told_as_numbers(monkeypatch):
    task, trunk = make("causal_lm")
    monkeypatch.setattr(Words, "decode", Tokenizer.decode)
    pretend_a_run(Model(trunk=trunk, task=task), monkeypatch)
    (found,) = plugformer.predict.predict("run", ["4 5 6"])
    assert all(type(each["token"]) is int for each in found["next"])
