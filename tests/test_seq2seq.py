"""Texts that are written for what was read, and how they are compared."""

import math
import warnings
from typing import ClassVar

import pytest
import sacrebleu
import torch
from tests.helpers import quick_config
from tests.prepared import parallel_text
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.text import CharErrorRate, WordErrorRate

from plugformer.assemble import build_model
from plugformer.data.target import warn_if_cut
from plugformer.decode.session import Session
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer.nn.initialise import initialise
from plugformer.registry import build
from plugformer.testing.common import randomise
from plugformer.testing.samples import make_samples
from plugformer.testing.task import TaskSuite
from plugformer.testing.tokenizer import WILD
from plugformer.train.run import train
from plugformer_tasks.target_texts import TargetTokens, TaughtTexts, references
from plugformer_tasks.text_metrics import TEXT_METRICS, text_metrics
from plugformer_text.text_bytes import TextBytes

RUN = (
    "data=hangul_names",
    "tokenizer=text_bytes",
    "tokenizer.max_length=24",
    "backbone=encoder_decoder",
    "task=seq2seq",
)
TEXTS = ["the quick", "brown fox", "jumps", "over a lazy dog", "of", "jam boxes"]


def tokenizer(**options):
    return TextBytes(**{"max_length": 24, **options})


def model(*overrides):
    """With weights of which none is zero by design."""
    made = tokenizer()
    return made, randomise(
        build_model(quick_config(*RUN, *overrides), tokenizer=made, data=DataSpec(frozenset()))
    ).eval()


def batch(made, task, texts=TEXTS):
    samples = [{"text": text, "target_text": text[::-1]} for text in texts]
    encoded = [made.encode(sample) for sample in samples]
    targets = [task.targets.encode(sample, inputs) for sample, inputs in zip(samples, encoded, strict=True)]
    return {
        "inputs": made.collate(encoded),
        "targets": task.targets.collate(targets),
        "index": torch.arange(len(texts)),
    }


class TestJoint(TaskSuite):
    """With CTC beside the decoder."""

    name = "seq2seq"
    options: ClassVar = {"ctc_weight": 0.3}


# ---------------------------------------------------------------------------------------------- teaching


@pytest.mark.parametrize("tied", ["true", "false"])
def test_the_loss_is_the_cross_entropy_of_what_follows(tied):
    made, whole = model(f"task.tied={tied}", "task.label_smoothing=0.2")
    sample = batch(made, whole.task)
    target, trunk = sample["targets"], whole.trunk
    memory = trunk.backbone.encode(trunk.embed(sample["inputs"]))
    logits = whole.task.logits(trunk, trunk.backbone(trunk.embed_target(target), memory=memory))
    real, following = target["valid"], target["following"]
    assert following[real].tolist() == [t for text in TEXTS for t in (*text[::-1].encode(), made.spec.specials["eos"])]
    output = whole(sample)
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[real], following[real]))
    assert output.weight == real.sum()
    smoothed = F.cross_entropy(logits[real], following[real], label_smoothing=0.2)
    torch.testing.assert_close(whole.train()(sample).loss, smoothed)


@pytest.mark.parametrize("cache", ["growing", "fixed", "none"])
def test_teaching_is_going_on_step_by_step(cache):
    """What a token costs in training is what it costs when texts are written."""
    made, whole = model()
    sample = batch(made, whole.task, ["the quick", "brown fox"])
    ids, following = (sample["targets"][key] for key in ("ids", "following"))
    nats = whole(sample).predictions[..., 0]
    session = Session(whole, room=24, source=sample["inputs"], cache=cache)
    steps = [session.start(ids[:, :1]), *(session.step(ids[:, place : place + 1]) for place in range(1, ids.shape[1]))]
    stepped = -torch.cat(steps, 1).log_softmax(-1).gather(2, following[..., None])[..., 0]
    torch.testing.assert_close(stepped, nats, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("around", "start", "front", "following"),
    [
        ((True, True), "bos", ["bos"], []),
        ((False, True), "bos", ["bos"], []),
        ((False, True), "pad", ["pad"], []),  # as T5
        ((True, True), "eos", ["eos", "bos"], ["bos"]),  # as BART
    ],
)
def test_a_target_begins_with_what_is_said(around, start, front, following):
    made = tokenizer(bos=around[0], eos=around[1])
    specials = made.spec.specials
    found = TaughtTexts(made, start=specials[start]).encode({"target_text": "ab"}, {})
    assert found["ids"].tolist() == [*(specials[role] for role in front), *b"ab"]
    assert found["following"].tolist() == [*(specials[role] for role in following), *b"ab", specials["eos"]]


def test_no_target_is_longer_than_its_table():
    made = tokenizer()
    for start in ("bos", "eos", "pad"):
        targets = TaughtTexts(made, start=made.spec.specials[start])
        for found in (targets.encode({"target_text": "a" * 100}, {}), targets.example({})):
            assert len(found["ids"]) == len(found["following"]) <= 24
        assert targets.encode({"target_text": "a" * 100}, {})["following"][-1] == made.spec.specials["eos"]


def test_references_are_the_texts_to_the_last_byte():
    """Even those that the tokenizer cuts, or doesn't know."""
    texts = [*WILD, "", "a" * 100]
    small = build("tokenizer", {"name": "text_symbols", "vocab_size": 14, "max_length": 64})
    small.fit(make_samples(8))
    for targets in (TargetTokens(small), TaughtTexts(tokenizer(), start=257)):
        collated = targets.collate([targets.encode({"target_text": text}, {}) for text in texts])
        assert references(collated["reference"]) == texts


def test_with_ctc_both_losses_are_weighed():
    made, plain = model()
    _, joint = model("task.ctc_weight=0.25")
    joint.load_state_dict(plain.state_dict(), strict=False)
    sample = batch(made, plain.task)
    head, memory = joint.task.ctc, joint.trunk.backbone.encode(joint.trunk.embed(sample["inputs"]))
    aligned = head.loss(head(memory.hidden, memory.mask), sample["targets"]["ids"])
    torch.testing.assert_close(joint(sample).loss, 0.75 * plain(sample).loss + 0.25 * aligned)
    with pytest.raises(UserError, match="CTC finds no room for its text"):
        joint.task.targets.encode({"target_text": "aa"}, made.encode({"text": ""}))


# ---------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_is_as_likely_as_it_is_said_to_be(beams):
    """Its score is what teaching it costs."""
    made, whole = model(f"task.num_beams={beams}")
    inputs = batch(made, whole.task)["inputs"]
    written = whole.task.write(whole.trunk, inputs, num_beams=beams, room=8)
    for number, each in enumerate(written):
        ended = each.ended == "eos"
        ids = torch.tensor([*each.ids, *([whole.task.eos] if ended else [])])
        taught = whole.task.targets.taught(ids)
        one = {key: value[number : number + 1] for key, value in inputs.items()}
        target = {key: value[None] for key, value in taught.items()}
        output = whole({"inputs": one, "targets": target, "index": torch.zeros(1)})
        assert -output.predictions[..., 0].sum().item() == pytest.approx(each.score, rel=1e-4)
        assert len(each.ids) + ended <= 8


def test_texts_are_written_for_the_first_samples_of_validation_and_all_of_a_test():
    made, whole = model("task.val_samples=3", "task.num_beams=2", "task.max_new_tokens=6")
    sample = batch(made, whole.task)
    sample["index"] = torch.tensor([5, 0, 3, 2, 9, 1])
    with torch.inference_mode():
        for split, expected in {"val": [1, 3, 5], "test": range(6), "train": range(6)}.items():
            compared = whole.task.compared(whole.trunk, sample, whole(sample), split=split)
            assert compared["references"] == [TEXTS[number][::-1] for number in expected]
            assert len(compared["written"]) == len(expected)
        sample["index"] = torch.arange(3, 9)
        assert whole.task.compared(whole.trunk, sample, whole(sample), split="val") == {}


def test_without_targets_texts_are_written():
    made, whole = model()
    sample = batch(made, whole.task)
    with torch.inference_mode():
        output = whole(sample | {"targets": {}})
        found = whole.task.describe(output)
        expected = whole.task.write(whole.trunk, sample["inputs"], num_beams=1)
    assert [each["text"] for each in found] == [made.decode(torch.tensor(each.ids)) for each in expected]
    assert output.loss is None


# ---------------------------------------------------------------------------------------------- comparing

WRITTEN = ["the cat sat on the mat", "", "안녕 하세요", "a b c d e f", "one  two"]
REFERENCES = ["the cat sat on a mat.", "x y z", "안녕하세요", "a b c d e f", "one two"]


def measured(*parts, names=tuple(TEXT_METRICS)):
    metrics, nothing = MetricCollection(text_metrics(names)), torch.zeros(1)
    for written, expected in parts:
        metrics.update(nothing, None, **({"written": written, "references": expected} if written else {}))
    return metrics.compute()


def test_metrics_are_those_of_the_libraries():
    found = {name: value.item() for name, value in measured((WRITTEN, REFERENCES)).items()}
    assert found == pytest.approx(
        {
            "bleu": sacrebleu.corpus_bleu(WRITTEN, [REFERENCES]).score,
            "chrf": sacrebleu.corpus_chrf(WRITTEN, [REFERENCES]).score,
            "exact_match": 1 / 5,
            "cer": CharErrorRate()(WRITTEN, REFERENCES).item(),
            "wer": WordErrorRate()(WRITTEN, REFERENCES).item(),
        }
    )


def test_batches_are_no_matter():
    """Nor those in which nothing was written, not even the first, when torchmetrics looks what is alike."""
    whole = measured((WRITTEN, REFERENCES))
    parts = measured(([], []), (WRITTEN[:2], REFERENCES[:2]), ([], []), (WRITTEN[2:], REFERENCES[2:]))
    assert parts == whole
    assert len({value.item() for value in whole.values()}) == 5


def test_ranks_are_batches():
    """What torchmetrics gathers is put together, one rank's after the other's."""
    ranks = [text_metrics(["chrf"])["chrf"] for _ in range(2)]
    ranks[0].update(torch.zeros(1), None, WRITTEN[:3], REFERENCES[:3])
    ranks[1].update(torch.zeros(1), None, WRITTEN[3:], REFERENCES[3:])
    one, other = (torch.cat(rank.texts) for rank in ranks)
    gathered = text_metrics(["chrf"])["chrf"]
    gathered.update(torch.zeros(1), None)
    gathered._sync_dist(lambda value, group=None: [one, other])
    assert gathered.compute() == measured((WRITTEN, REFERENCES))["chrf"]
    empty = text_metrics(["chrf"])["chrf"]
    empty.update(torch.zeros(1), None)
    assert [value.dtype for value in empty.texts] == [torch.uint8]


@pytest.mark.parametrize(
    ("written", "expected", "values"),
    [
        ([], [], {}),
        ([""], [""], {"bleu": 0, "chrf": 0, "exact_match": 1}),
        (["", ""], ["a", "b c"], {"bleu": 0, "chrf": 0, "exact_match": 0, "cer": 1, "wer": 1}),
        (["a b"], [" "], {"bleu": 0, "chrf": 0, "exact_match": 0, "cer": 2}),
    ],
)
def test_empty_texts_are_no_accident(written, expected, values):
    found = measured((written, expected))
    assert {name: value.item() for name, value in found.items() if value.numel()} == pytest.approx(values)
    assert found.keys() == TEXT_METRICS.keys()


# ---------------------------------------------------------------------------------------------- what is refused


def build_task(made, **options):
    return build("task", {"name": "seq2seq", **options}, dim=8, tokens=made.spec, data=None, target_tokenizer=made)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({"eos": False}, {}, "puts no special token behind texts.\n  Set target_tokenizer.eos=true, or tokenizer.eos"),
        ({"packing": "fill"}, {}, "Set target_tokenizer.packing=none"),
        ({}, {"num_beams": 261}, "task.num_beams=261: .* at most the 260 tokens"),
        ({}, {"num_beams": 0}, "task.num_beams=0: must be at least 1"),
        ({}, {"max_new_tokens": 25}, "task.max_new_tokens=25: must be at least 1, and at most 24"),
        ({}, {"val_samples": -1}, "task.val_samples=-1: must not be negative"),
        ({}, {"monitor": "chrf", "val_samples": 0}, "nothing is written in validation"),
        ({}, {"monitor": "chrf", "metrics": ["bleu"]}, "it isn't among task.metrics"),
        ({}, {"ctc_weight": 1.0}, "task.ctc_weight=1.0: must be at least 0 and less than 1"),
        ({}, {"misfits": "skip"}, "task.misfits=skip: is of CTC"),
    ],
)
def test_what_can_not_be_is_refused(made, options, message):
    with pytest.raises(UserError, match=message):
        build_task(tokenizer(**made), **options)


def test_a_start_that_the_vocabulary_lacks_is_refused(tmp_path):
    """As with T5's, which has no bos."""
    tokenizer().save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<bos>", "no such token"))
    content = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(content.replace("<bos>", "<other>"))
    made = build("tokenizer", {"name": "text_bpe", "file": tmp_path / "tokenizer.json", "bos": False})
    made.fit([])
    with pytest.raises(UserError, match=r"task.start=bos: .* has no such special token"):
        build_task(made)
    assert build_task(made, start="pad").start == made.spec.specials["pad"]


@pytest.mark.parametrize(("name", "mode"), [("loss", "min"), ("chrf", "max"), ("cer", "min"), ("exact_match", "max")])
def test_any_metric_can_choose_the_checkpoint(name, mode):
    monitor = build_task(tokenizer(), monitor=name).monitor
    assert (monitor.metric, monitor.mode) == (f"val/{name}", mode)


def test_targets_that_are_cut_are_told_of_once():
    samples = [{"text": "x", "target_text": "a" * length} for length in (22, 23, 40, 1)]
    with pytest.warns(
        UserWarning, match="^2 of 4 training samples have a target text of more than 24 tokens, which is cut"
    ) as told:
        warn_if_cut(tokenizer(), samples)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_cut(tokenizer(), samples[::3])
    with pytest.raises(UserError, match=r"its 25 tokens are more than tokenizer.max_length=24"):
        warn_if_cut(tokenizer(truncation="refuse"), samples)


# ---------------------------------------------------------------------------------------------- a whole run


def test_a_run_names_what_it_measured(tmp_path):
    few = ["task.val_samples=4", "task.max_new_tokens=4", "task.num_beams=2"]
    data = [f"data.{key}={value}" for key, value in parallel_text(tmp_path).items()]
    of_data = ["data=parallel_text", *data, *RUN[1:], f"run_dir={tmp_path / 'run'}"]
    summary, monitor = train(quick_config(*of_data, *few, "task.monitor=cer"))
    assert monitor.metric == "val/cer"
    names = {
        f"{split}/{name}" for split in ("val", "test") for name in ("loss", "accuracy", "perplexity", *TEXT_METRICS)
    }
    assert names <= summary.keys()
    assert all(math.isfinite(summary[name]) for name in names)


def test_it_learns_what_can_be_learned():
    """Letters in the order they stand in, after few steps."""
    made = tokenizer()
    whole = build_model(quick_config(*RUN, "backbone.dim=32"), tokenizer=made, data=DataSpec(frozenset()))
    initialise(whole, seed=0)
    sample = batch(made, whole.task, ["fox", "jam", "of"])
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        whole(sample).loss.backward()
        optimizer.step()
    compared = whole.eval().task.compared(whole.trunk, sample, whole(sample), split="test")
    assert compared["written"] == compared["references"]
