"""Span corruption, and the sentinels that stand for spans."""

import itertools
import json
import pickle
from collections import Counter

import pytest
import torch
from tests.helpers import quick_config
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from plugformer.assemble import build_model
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer.registry import build
from plugformer.testing.samples import make_samples
from plugformer_tasks.denoise import Denoise, Spans
from plugformer_tasks.mlm import Hidden
from plugformer_tasks.span_noise import Corrupted, SpanNoise
from plugformer_text.text_bytes import TextBytes

SENTINELS = torch.arange(1000, 1100)
SIZES = {"text_bpe": 290, "text_wordpiece": 90, "text_unigram": 42, "text_symbols": 24}


def restored(source, target):
    """What both were made of."""
    spans, last = {}, None
    for token in target:
        if token >= 1000:
            last = token
            spans[last] = []
        else:
            spans[last].append(token)
    return [each for token in source for each in (spans[token] if token >= 1000 else [token])]


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.5, 1.0), (0.01, 8.0), (0.99, 20.0)])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 60])
def test_undone_it_is_the_sequence(length, density, mean_span):
    noise, ids = SpanNoise(density=density, mean_span=mean_span, room=60), torch.randint(100, (length,))
    for _ in range(20):
        hidden = noise.draw(length)
        source, target = Corrupted.of(ids, hidden, SENTINELS)
        assert restored(source.tolist(), target.tolist()) == ids.tolist()
        assert len(target) + 1 <= 60
        marks = [[token for token in each.tolist() if token >= 1000] for each in (source, target)]
        assert marks[1] == list(range(1000, 1001 + len(marks[0])))
        assert marks[0] == marks[1][:-1]
        assert target[-1] == marks[1][-1]
        assert (int(hidden.sum()), len(marks[0])) == noise.count(length)


def test_every_division_is_as_likely():
    """Of 8 tokens 3 are hidden, in 2 spans: 4 ways to divide those that are kept, 2 for the others."""
    noise = SpanNoise(density=0.4, mean_span=1.5, room=20)
    assert noise.count(8) == (3, 2)
    ways = {
        "".join(part)
        for kept, hidden in itertools.product(range(1, 5), range(1, 3))
        for part in [["." * kept, "x" * hidden, "." * (5 - kept), "x" * (3 - hidden)]]
    }
    drawn = Counter("".join(".x"[int(each)] for each in noise.draw(8)) for _ in range(1600))
    assert drawn.keys() == ways
    assert all(abs(count - 200) < 60 for count in drawn.values()), drawn


def test_share_and_span_are_those_of_the_options():
    noise = SpanNoise(density=0.15, mean_span=3.0, room=512)
    masks = [noise.draw(512) for _ in range(50)]
    assert {int(mask.sum()) for mask in masks} == {77}  # round(512 · 0.15)
    begins = [int(mask[0]) + int((mask[1:] & ~mask[:-1]).sum()) for mask in masks]
    assert set(begins) == {26}  # round(77 / 3)
    assert not any(mask[0] for mask in masks)
    assert all(mask[-1] for mask in masks)
    lengths = [sum(1 for _ in run) for mask in masks for hidden, run in itertools.groupby(mask.tolist()) if hidden]
    assert len(set(lengths)) > 5
    assert sum(lengths) / len(lengths) == pytest.approx(77 / 26)


def tokenizer(**options):
    return TextBytes(**{"max_length": 32, "sentinels": 5, **options})


def denoise(made, **options):
    return build("task", {"name": "denoise", **options}, dim=8, tokens=made.spec, data=None, tokenizer=made)


@pytest.mark.parametrize("around", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("text", ["a", "ab", "the quick brown fox jumps", "the quick brown fox jumps over"])
def test_what_begins_and_ends_a_text_stays(around, text):
    bos, eos = around
    made = tokenizer(bos=bos, eos=eos)
    specials = made.spec.specials
    inputs = made.encode({"text": text})
    found = denoise(made).targets.encode({}, inputs)
    source, target = found["source"].tolist(), found["following"].tolist()
    assert target[-1] == specials["eos"]
    assert found["ids"].tolist() == [specials["pad"], *target[:-1]]
    assert (source[0] == specials["bos"]) == bos
    assert (source[-1] == specials["eos"]) == eos
    first = made.spec.sentinels[0]
    undone = restored(
        [t - first + 1000 if t >= first else t for t in source],
        [t - first + 1000 if t >= first else t for t in target[:-1]],
    )
    assert undone == inputs["ids"].tolist()


def test_a_text_without_tokens_is_no_matter():
    made = tokenizer()
    found = denoise(made).targets.encode({}, made.encode({"text": ""}))
    assert found["following"].tolist() == [made.spec.sentinels[0], made.spec.specials["eos"]]


def test_spans_are_drawn_from_torchs_generator_anew():
    made = tokenizer()
    targets, inputs = denoise(made, mean_span=2.0).targets, made.encode({"text": "the quick brown fox jumps over"})
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(targets.encode({}, inputs)["source"].tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_encoder_reads_what_is_left_and_nothing_else():
    made = tokenizer()
    tokens = ("tokenizer=text_bytes", "tokenizer.max_length=32", "tokenizer.sentinels=5")
    config = quick_config("data=python_docs", *tokens, "backbone=encoder_decoder", "task=denoise")
    model = build_model(config, tokenizer=made, data=DataSpec(frozenset())).eval()
    encoded = [made.encode({"text": text}) for text in ("the quick brown fox jumps", "a lazy dog")]
    targets = model.task.targets.collate([model.task.targets.encode({}, each) for each in encoded])
    batch = {"inputs": made.collate(encoded), "targets": targets, "index": torch.arange(2)}
    loss = model(batch).loss
    others = made.collate([made.encode({"text": text}) for text in ("something else", "it is")])
    assert torch.equal(model(batch | {"inputs": others}).loss, loss)
    changed = targets | {"source": targets["source"].where(targets["source"] != ord("o"), ord("u"))}
    assert not torch.equal(model(batch | {"targets": changed}).loss, loss)


def test_masks_of_a_text_are_sentinels_in_prediction():
    made = tokenizer()
    task = denoise(made)
    features = made.collate([made.encode(made.read(text)) for text in ("a [MASK] b [MASK]", "no mask", "[MASK]")])
    shown = [made.decode(row) for row in task.source(features)["ids"]]
    assert shown == ["a <extra_id_0> b <extra_id_1>", "no mask", "<extra_id_0>"]
    with pytest.raises(UserError, match="6 masks in one text: this model fills at most 5"):
        task.source(made.collate([made.encode(made.read("[MASK]" * 6))]))


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({"sentinels": 0}, {}, "3 sentinels are needed, .* 32 tokens .* has 0.\n  Set tokenizer.sentinels=3"),
        ({"sentinels": 2}, {}, "the tokenizer has 2"),
        ({"packing": "fill"}, {}, "Set tokenizer.packing=stream or tokenizer.packing=none"),
        ({}, {"noise_density": 0.0}, "task.noise_density=0.0: must be greater than 0"),
        ({}, {"mean_span": 0.5}, "task.mean_span=0.5: must be at least 1"),
        ({"max_length": 3}, {}, "sequences of 3 tokens have no room"),
    ],
)
def test_what_can_not_be_is_refused(made, options, message):
    with pytest.raises(UserError, match=message):
        denoise(tokenizer(**made), **options)


def test_packed_texts_are_corrupted_too():
    made = tokenizer(packing="stream")
    targets = denoise(made).targets
    for sequence in made.sequences(make_samples(8)):
        assert isinstance(targets, Spans)
        assert targets.encode({}, made.encode(sequence))["source"].numel() <= 32


# ---------------------------------------------------------------------------------------------- sentinels


def unfitted(name, **options):
    return build("tokenizer", {"name": name, **({"vocab_size": SIZES[name]} if name in SIZES else {}), **options})


def fitted(name, **options):
    made = unfitted(name, **options)
    made.fit(make_samples(8))
    return made


@pytest.mark.parametrize("name", ["text_bytes", *SIZES])
def test_no_text_becomes_a_sentinel(name, tmp_path):
    made, assumed, loaded = fitted(name, sentinels=10), unfitted(name, sentinels=10), unfitted(name, sentinels=10)
    assumed.assume(DataSpec(frozenset()))
    spec = made.spec
    assert assumed.spec == spec
    assert spec.sentinels == tuple(range(spec.vocab_size - 10, spec.vocab_size))
    assert not set(spec.sentinels) & set(spec.specials.values())
    names = [made.decode(torch.tensor([number])) for number in spec.sentinels]
    assert names == [f"<extra_id_{number}>" for number in range(10)]
    for text in ["".join(names), "a <extra_id_0> b", "<extra_id_0 >"]:
        assert not set(spec.sentinels) & set(made.encode({"text": text})["ids"].tolist())
    made.save(tmp_path)
    loaded.load(tmp_path)
    assert loaded.spec == pickle.loads(pickle.dumps(made)).spec == spec
    example = made.example()["ids"]
    assert not set(example.tolist()) & {*spec.sentinels, *spec.specials.values()}


def t5(folder, *, count=3):
    """A file as T5's are: sentinels among the pieces, the first with the highest number."""
    words = ["▁the", "▁fox", "▁", *"abcdefghijklmnopqrstuvwxyz<>_0123456789"]
    names = [f"<extra_id_{number}>" for number in reversed(range(count))]
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((word, -3.0) for word in words),
        *((n, 0.0) for n in names),
    ]
    library = Tokenizer(models.Unigram(pieces, unk_id=2))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens([AddedToken(name, special=True) for name in ["<pad>", "</s>", "<unk>", *names]])
    library.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json", len(pieces)


def test_those_of_a_t5_tokenizer_are_recognised(tmp_path):
    file, size = t5(tmp_path)
    made = fitted("text_unigram", vocab_size=None, file=file, bos=False)
    assert made.spec.sentinels == (size - 1, size - 2, size - 3)
    assert "bos" not in made.spec.specials
    ids = made.encode({"text": "the fox <extra_id_1>"})["ids"]
    assert not set(made.spec.sentinels) & set(ids.tolist())
    assert made.decode(ids) == "the fox <extra_id_1>"
    assert made.decode(torch.tensor([size - 1, *ids[:2], size - 2])) == "<extra_id_0> the fox<extra_id_1>"
    made.save(tmp_path)
    again = fitted("text_unigram", vocab_size=None, file=tmp_path / "tokenizer.json", bos=False)
    assert again.spec == made.spec
    task = denoise(fitted("text_unigram", vocab_size=None, file=file, bos=False, max_length=16))
    assert isinstance(task, Denoise)
    with pytest.raises(UserError, match=r"tokenizer.sentinels=8: .* has 3 of its own"):
        fitted("text_unigram", vocab_size=None, file=file, bos=False, sentinels=8)


def test_a_trained_tokenizer_without_any_gets_some(tmp_path):
    fitted("text_bpe").save(tmp_path)
    made = fitted("text_bpe", vocab_size=None, file=tmp_path / "tokenizer.json", sentinels=4)
    assert made.spec.vocab_size == 294
    assert made.spec.sentinels == (290, 291, 292, 293)
    made.save(tmp_path)
    assert len(json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]) == 8


def test_masked_language_models_never_draw_one():
    made = tokenizer(sentinels=200)
    hidden = Hidden(tokens=made.spec, share=1.0, mask_share=0.0, random_share=1.0, whole_words=False)
    inputs = made.encode({"text": "the quick brown fox jumps over"})
    drawn = torch.cat([value for _ in range(50) for value in hidden.encode({}, inputs).values()])
    assert not torch.isin(drawn, torch.tensor(made.spec.sentinels)).any()


def test_fewer_than_none_are_refused():
    with pytest.raises(UserError, match=r"tokenizer.sentinels=-1: must not be negative"):
        tokenizer(sentinels=-1)
