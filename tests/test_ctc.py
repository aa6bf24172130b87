"""CTC against its definition, torch's own loss, and all alignments there are."""

import re
from itertools import groupby, product

import pytest
import torch
from tests.helpers import quick_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from plugformer.budget import estimate
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec, Grid, Layout, Mask, TokenSpec
from plugformer.model import Trunk
from plugformer.predict import predict
from plugformer.registry import build
from plugformer.testing.common import randomise
from plugformer.testing.comparing import assert_close, noise
from plugformer.testing.made_up import MadeUpWords, MeanOfBoth, MeanOfVisible, made_up_embedding
from plugformer.testing.samples import WORDS
from plugformer.train.run import train
from plugformer_tasks.ctc_decoding import best_path, decode, prefix_beam_search
from plugformer_tasks.ctc_head import CtcHead, Steps, time_steps
from plugformer_tasks.ctc_targets import FittingTargets, num_steps
from plugformer_tasks.target_texts import TargetTokens, TaughtTexts

EOS, PAD, BOS, A, B, C = range(6)  # the blank isn't first
TARGET = TokenSpec(
    Grid(("position",), (8,)),
    vocab_size=6,
    specials={"pad": PAD, "bos": BOS, "eos": EOS},
    pads=True,
    around=frozenset({"bos", "eos"}),
)
LINE = Grid(("position",), (7,))
PLANE = Grid(("frequency", "time"), (3, 7))


def make_head(dim=8, dtype=torch.float64):
    return randomise(CtcHead(dim=dim, target=TARGET)).to(dtype)


def ids_of(*texts):
    """As a tokenizer collates them."""
    rows = [torch.tensor([BOS, *text, EOS]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def on(grid, valid=None):
    return Mask(valid=valid, layout=Layout.of(grid))


def said(path):
    """The labels of an alignment."""
    return tuple(label for label, _ in groupby(path) if label != PAD)


def by_alignments(log_probs):
    """The probability of each text there is, by summing over all alignments."""
    texts = {}
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        probability = log_probs[torch.arange(len(path)), list(path)].sum().exp()
        texts[said(path)] = texts.get(said(path), 0.0) + probability
    return texts


# ---------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("text", [(), (A,), (A, A), (A, B, A), (B, B, C)], ids=str)
def test_loss_is_of_all_alignments(text):
    """And its gradient."""
    head, hidden = make_head(), noise(1, 4, 8).double().requires_grad_()
    steps = head(hidden, on(LINE))
    expected = -by_alignments(head.linear(hidden)[0].log_softmax(-1))[text].log()
    loss = head.loss(steps, ids_of(text))
    assert_close(loss, expected / (len(text) + 1), tolerance=1e-12)
    ours, theirs = (torch.autograd.grad(each, hidden)[0] for each in (loss * (len(text) + 1), expected))
    assert_close(ours, theirs, tolerance=1e-12)


def test_batch_is_torchs_loss_of_each_sample():
    """Padded anywhere, and with its labels alone."""
    head, hidden = make_head(), noise(3, 7, 8).double().requires_grad_()
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 0, 1, 0]], dtype=torch.bool)
    texts = [(A, A, B), (C,), (B, A)]
    loss = head.loss(head(hidden, on(LINE, valid)), ids_of(*texts))
    expected = sum(
        F.ctc_loss(
            head.linear(hidden[number][valid[number]]).log_softmax(-1),
            torch.tensor(text),
            torch.tensor(int(valid[number].sum())),
            torch.tensor(len(text)),
            blank=PAD,
            reduction="sum",
        )
        for number, text in enumerate(texts)
    )
    assert_close(loss, expected / (3 + 1 + 2 + 3), tolerance=1e-12)
    ours, theirs = (torch.autograd.grad(each, hidden)[0] for each in (loss * 9, expected))
    assert_close(ours, theirs, tolerance=1e-12)
    assert not ours[~valid].any()


def test_half_precision_is_summed_in_full():
    head, hidden = make_head(dtype=torch.bfloat16), noise(2, 7, 8).bfloat16()
    steps = head(hidden, on(LINE))
    assert steps.log_probs.dtype == torch.float32
    assert_close(steps.log_probs.exp().sum(-1), torch.ones(2, 7))


def test_asking_for_determinism_changes_no_number():
    head, hidden = make_head(), noise(2, 7, 8).double()
    losses = []
    for wanted in (False, True):
        torch.use_deterministic_algorithms(wanted)
        try:
            head.zero_grad()
            loss = head.loss(head(hidden, on(LINE)), ids_of((A, B), (C,)))
            loss.backward()
        finally:
            torch.use_deterministic_algorithms(False)
        losses.append((loss.detach(), head.linear.weight.grad.clone()))
    assert all(map(torch.equal, *losses))


def test_loss_is_measured_without_numbers():
    """Of the largest batch there can be, as before training; the shapes are those of real ones."""
    budget = estimate(quick_config("data=hangul_names", "tokenizer=text_bytes", "tokenizer.max_length=8", "task=ctc"))
    assert budget.flops > 0
    with FakeTensorMode() as mode:
        head = CtcHead(dim=4, target=TARGET)
        mask = Mask(layout=Layout.of(LINE))
        loss = head.loss(head(mode.from_tensor(noise(2, 7, 4)), mask), mode.from_tensor(ids_of((A, B), (C,))))
        loss.backward()
    assert loss.shape == ()
    assert head.linear.weight.grad.shape == (6, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_learns_the_same_deterministically():
    hidden, gradients = noise(4, 7, 8), []
    for device in ("cpu", "cuda", "cuda"):
        head = make_head(dtype=torch.float32).to(device)
        mask = Mask(valid=torch.ones(4, 7, dtype=torch.bool, device=device), layout=Layout.of(LINE, device))
        torch.use_deterministic_algorithms(True)
        try:
            head.loss(head(hidden.to(device), mask), ids_of((A, B), (C,), (A, A), ()).to(device)).backward()
        finally:
            torch.use_deterministic_algorithms(False)
        gradients.append(head.linear.weight.grad.cpu())
    assert torch.equal(gradients[1], gradients[2])
    assert_close(gradients[1], gradients[0])


# ---------------------------------------------------------------------------------------------- steps


def test_steps_of_a_line_are_its_real_tokens():
    hidden, valid = noise(2, 7, 4), torch.tensor([[0, 1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
    steps, real = time_steps(hidden, on(LINE, valid))
    assert torch.equal(real.sum(1), torch.tensor([3, 7]))
    assert torch.equal(steps[0, :3], hidden[0, [1, 2, 5]])
    assert torch.equal(steps[1], hidden[1])


def test_steps_of_a_plane_are_means_over_real_places():
    hidden, valid = noise(1, 3, 7, 4), torch.ones(1, 3, 7, dtype=torch.bool)
    valid[:, :, 2] = valid[:, :, 6] = False  # nothing there
    valid[:, 1:, 4] = False  # one of three is real
    hidden[~valid] = 1e6
    steps, real = time_steps(hidden.flatten(1, 2), on(PLANE, valid.flatten(1)))
    assert torch.equal(real, torch.arange(7)[None] < 5)
    for step, time in enumerate((0, 1, 3, 5)):
        assert_close(steps[0, step if time < 4 else 4], hidden[0, :, time].mean(0))
    assert_close(steps[0, 3], hidden[0, 0, 4])
    whole, everywhere = time_steps(noise(1, 21, 4), on(PLANE))
    assert everywhere.all()
    assert_close(whole, noise(1, 3, 7, 4).mean(1))


@pytest.mark.parametrize("grid", [LINE, PLANE], ids=["line", "plane"])
def test_targets_count_the_steps_that_the_head_makes(grid):
    head = make_head(dtype=torch.float32)
    for seed in range(5):
        valid = noise(1, len(grid), seed=seed) > 0.8
        lengths = head(noise(1, len(grid), 8), on(grid, valid)).lengths
        assert num_steps({"valid": valid[0]}, grid) == lengths.item()
    assert num_steps({"values": noise(len(grid), 2)}, grid) == 7
    assert num_steps({"ids": torch.arange(3)}, LINE) == 3


# ---------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("seed", range(8))
def test_wide_enough_a_beam_finds_the_likeliest_text(seed):
    log_probs = (2 * noise(5, 4, seed=seed).double()).log_softmax(-1)
    texts = by_alignments(log_probs)
    best = max(texts, key=texts.get)
    labels, score = prefix_beam_search(log_probs, blank=PAD, num_beams=500)
    assert tuple(labels) == best
    assert score == pytest.approx(texts[best].log().item(), abs=1e-12)


def test_narrow_beams_are_no_likelier_than_wide_ones():
    """And never say more than there is: what they follow is a part of a text's alignments."""
    log_probs = (2 * noise(6, 4).double()).log_softmax(-1)
    texts, scores = by_alignments(log_probs), []
    for num_beams in (1, 2, 4, 500):
        labels, score = prefix_beam_search(log_probs, blank=PAD, num_beams=num_beams)
        assert score <= texts[tuple(labels)].log() + 1e-12
        scores.append(texts[tuple(labels)].log().item())
    assert scores[-1] == max(scores)


def test_best_path_is_the_likeliest_alignment():
    log_probs = (2 * noise(5, 4).double()).log_softmax(-1)
    paths = list(product(range(4), repeat=5))
    likely = max(paths, key=lambda path: log_probs[torch.arange(5), list(path)].sum().item())
    assert tuple(best_path(log_probs, blank=PAD)) == said(likely)


def log_probs_of(*rows):
    """Of the blank, A and B; others can't be."""
    probabilities = torch.zeros(len(rows), 6)
    probabilities[:, [PAD, A, B]] = torch.tensor(rows)
    return probabilities.log()


UNSURE = log_probs_of((0.6, 0.4, 0.0), (0.6, 0.4, 0.0))  # of all alignments the likeliest is silent, most say A


def test_beam_search_sums_what_the_best_path_does_not():
    steps = Steps(UNSURE[None], torch.tensor([2]))
    assert decode(steps, blank=PAD, num_beams=1) == [[]]
    assert decode(steps, blank=PAD, num_beams=2) == [[A]]
    assert prefix_beam_search(UNSURE, blank=PAD, num_beams=4)[1] == pytest.approx(torch.tensor(0.64).log().item())


def test_repeated_labels_need_a_blank():
    pressed = log_probs_of((0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0))
    apart = log_probs_of((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    for num_beams in (1, 3):
        steps = Steps(torch.stack([pressed, apart]), torch.tensor([3, 3]))
        assert decode(steps, blank=PAD, num_beams=num_beams) == [[A], [A, A]]
    assert decode(Steps(apart[None], torch.tensor([2])), blank=PAD, num_beams=3) == [[A]]  # only real steps count


# ---------------------------------------------------------------------------------------------- texts without room


def fitting(*, misfits="fail", grid=LINE):
    words = MadeUpWords(TARGET)
    return FittingTargets(TargetTokens(words), tokens=TokenSpec(grid, token_dim=1), target=TARGET, misfits=misfits)


def sample_saying(*labels):
    return {"id": "clips/7", "target_text": " ".join(WORDS[label - A] for label in labels)}


def heard(count):
    return {"values": torch.zeros(7, 1), "valid": torch.arange(7) < count}


def test_exactly_enough_steps_are_enough():
    features = fitting().encode(sample_saying(A, A, B), heard(4))
    assert features["ids"].tolist() == [BOS, A, A, B, EOS]
    head = CtcHead(dim=2, target=TARGET)
    steps = head(noise(1, 7, 2), on(LINE, heard(4)["valid"][None]))
    assert head.items(steps, features["ids"][None]).tolist() == [4]
    assert head.loss(steps, features["ids"][None]).isfinite()


def test_a_text_without_room_is_refused_by_name():
    with pytest.raises(UserError) as error:
        fitting().encode(sample_saying(A, A, B), heard(3))
    assert str(error.value) == (
        "clips/7: CTC finds no room for its text: 3 labels and 1 between equal ones need 4 time steps, and its tokens "
        "make 3.\n"
        "  Make more steps, as by narrower patches or a smaller hop, or fewer labels, as by a target_tokenizer of "
        "longer pieces.\n"
        "  Where clips hold less than their texts say, set task.misfits=skip to learn nothing of them."
    )
    with pytest.raises(UserError, match=re.escape("text: 2 labels need 2 time steps, and its tokens make 1.")):
        fitting().encode(sample_saying(A, B), heard(1))


def test_a_text_without_room_teaches_nothing():
    """It is warned of; the others teach as if it weren't there, and the loss is finite even of such alone."""
    with pytest.warns(UserWarning, match=re.escape("clips/7: CTC finds no room for its text: 3 labels and 1 between")):
        fitting(misfits="skip").encode(sample_saying(A, A, B), heard(3))
    head, hidden = make_head(), noise(2, 7, 8).double()
    valid = torch.arange(7) < torch.tensor([[7], [3]])
    ids = ids_of((A, A, B), (A, A, B))
    together = head(hidden.requires_grad_(), on(LINE, valid))
    assert head.items(together, ids).tolist() == [4, 0]
    loss = head.loss(together, ids)
    assert_close(loss, head.loss(head(hidden[:1], on(LINE, valid[:1])), ids[:1]), tolerance=1e-12)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert gradient[0].any()
    assert not gradient[1].any()
    alone = head.loss(head(hidden[1:], on(LINE, valid[1:])), ids[1:])
    assert alone == 0
    assert not torch.autograd.grad(alone, hidden)[0].any()


# ---------------------------------------------------------------------------------------------- the task


def make_task(target=None, **options):
    spec = TokenSpec(LINE, vocab_size=7, specials={"pad": 0}, pads=True)
    words = MadeUpWords(TARGET if target is None else target)
    node = {"name": "ctc", **options}
    return build("task", node, dim=8, tokens=spec, data=DataSpec(frozenset()), target_tokenizer=words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "task.num_beams=0: must be at least 1."),
        ({"dropout": 1.0}, "task.dropout=1.0: must be at least 0 and less than 1."),
        (
            {"target": TokenSpec(LINE, vocab_size=7, specials={"bos": 1, "eos": 2})},
            "CTC takes the special token for pad as its blank, and the target's tokenizer has none.\n"
            "  Its special tokens: bos, eos.",
        ),
        (
            {"target": TokenSpec(LINE, vocab_size=7, specials={"pad": 0}, packs=True)},
            "task=ctc: each text is written for a sample of its own; its tokenizer packs several into one sequence.\n"
            "  Set target_tokenizer.packing=none.",
        ),
    ],
    ids=["beams", "dropout", "no blank", "packed"],
)
def test_refuses(options, message):
    with pytest.raises(UserError) as error:
        make_task(**options)
    assert str(error.value) == message


class Unsure(nn.Module):
    """Says the same of every batch."""

    def forward(self, hidden, mask):
        return Steps(UNSURE.expand(len(hidden), -1, -1), torch.full((len(hidden),), 2))


def test_tests_and_predictions_follow_beams_and_validation_the_best_path():
    task = make_task(num_beams=4)
    task.head.forward = Unsure().forward
    trunk = Trunk(embedding=made_up_embedding(TARGET, dim=8), backbone=MeanOfVisible(dim=8, causal=False))
    reference = torch.tensor([list(b"over"), list(b"ove\xff")], dtype=torch.uint8)
    batch = {"inputs": {"ids": torch.zeros(2, 2, dtype=torch.long)}, "targets": {"reference": reference}}
    written = {
        split: task.compared(trunk, batch, task(trunk, batch), split=split)["written"] for split in ("val", "test")
    }
    assert written == {"val": ["", ""], "test": [task._texts([[A]])[0]] * 2}
    assert task.compared(trunk, batch, task(trunk, batch), split="val")["references"] == ["over", "ove"]
    (found, _) = task.describe(task(trunk, {**batch, "targets": {}}))
    assert found["text"] == written["test"][0]
    assert found["score"] == pytest.approx(torch.tensor(0.64).log().item())


# ---------------------------------------------------------------------------------------------- beside a decoder


def test_joins_a_decoder():
    """What `Backbone.encode` returns is all it needs, targets may be a decoder's, and the items are the same."""
    tokens = TokenSpec(PLANE, token_dim=5, pads=True)
    words = MadeUpWords(TARGET)
    backbone = randomise(MeanOfBoth(dim=8))
    trunk = Trunk(
        embedding=made_up_embedding(tokens, dim=8),
        backbone=backbone,
        target_embedding=made_up_embedding(TARGET, dim=8),
    )
    head = make_head(dtype=torch.float32)
    targets = FittingTargets(TaughtTexts(words, start=BOS), tokens=tokens, target=TARGET)
    texts = [sample_saying(A, C), sample_saying(B, B, A)]
    features = [targets.encode(each, {"values": torch.zeros(21, 5)}) for each in texts]
    ids = targets.collate(features)["ids"]
    inputs = {"values": noise(2, 21, 5), "valid": torch.ones(2, 21, dtype=torch.bool)}
    memory = trunk.backbone.encode(trunk.embed(inputs))
    steps = head(memory.hidden, memory.mask)
    assert steps.log_probs.shape == (2, 7, 6)
    plain = TargetTokens(words)
    alone = plain.collate([plain.encode(each, {}) for each in texts])["ids"]
    assert_close(head.loss(steps, ids), head.loss(steps, alone))
    seq2seq = build(
        "task",
        {"name": "seq2seq", "tied": False},
        dim=8,
        tokens=tokens,
        data=DataSpec(frozenset()),
        target_tokenizer=words,
    )
    weight = seq2seq(trunk, {"inputs": inputs, "targets": targets.collate(features)}).weight
    assert weight == head.items(steps, ids).sum()


# ---------------------------------------------------------------------------------------------- a run


def test_learns_to_write(tmp_path):
    """A text in capitals, from bytes; then it writes as it was taught."""
    lines = [f"{first}{second}" for first in "abcd" for second in "efgh"]
    source, target = tmp_path / "source.txt", tmp_path / "target.txt"
    source.write_text("\n".join(f"{a}{a}{b}{b}" for a, b in lines) + "\n", encoding="utf-8")
    target.write_text("\n".join(f"{a}{b}".upper() for a, b in lines) + "\n", encoding="utf-8")
    config = quick_config(
        *("data=parallel_text", f"data.source=[{source}]", f"data.target=[{target}]"),
        *("tokenizer=text_bytes", "tokenizer.max_length=8", "task=ctc", "task.num_beams=3", "task.monitor=loss"),
        *("backbone.dim=32", "optimizer.lr=0.01", "trainer.max_epochs=50", "trainer.overfit_batches=1"),
        *("trainer.limit_batches=null", "trainer.val_every=50", f"run_dir={tmp_path / 'run'}"),
    )
    summary, _ = train(config)
    assert summary["test/cer"] == 0
    assert summary["test/exact_match"] == 1
    (found,) = predict(tmp_path / "run", ["aaff"])
    assert (found["text"], found["score"] > -1) == ("AF", True)
