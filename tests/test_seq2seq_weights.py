"""Runs that write one sequence for another begin from each other's weights, with both their vocabularies."""

import pytest
import torch

from plugformer.assemble import build_model, preview
from plugformer.cli.compose import compose
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer.testing.common import randomise
from plugformer.testing.family import assert_equal
from plugformer.weights.beginning import Beginning
from plugformer.weights.find import find_weights
from plugformer.weights.own_form import write_own_form
from plugformer.weights.summary import modules_of

BPE = "target_tokenizer=text_bpe"
TWO = (BPE, "target_tokenizer.vocab_size=262", "target_tokenizer.min_frequency=1", "target_tokenizer.max_length=16")


def composed(*overrides):
    return compose(
        [
            *("data=hangul_names", "tokenizer=text_bytes", "tokenizer.max_length=16", "task=seq2seq"),
            *("backbone=encoder_decoder", "backbone.dim=16", "backbone.num_heads=2", "backbone.num_layers=1"),
            *("position=learned", *overrides),
        ]
    )


def fitted(config, text="gag gag gagg"):
    """Both tokenizers, and the sketch of a model."""
    tokenizer, sketch = preview(config, source=build("data", config["data"]))
    samples = [{"id": "one", "text": text}]
    tokenizer.fit(samples)
    if sketch.task.target_tokenizer not in (None, tokenizer):
        sketch.task.target_tokenizer.fit(samples)
    return tokenizer, sketch.task.target_tokenizer, sketch


def begin(config, **fitting):
    """A beginning and the run's two tokenizers."""
    tokenizer, target, sketch = fitted(config, **fitting)
    found = Beginning.of(config, source=build("data", config["data"]), tokenizer=tokenizer, model=sketch)
    return found, tokenizer, target


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A model with two vocabularies and one with a single one, in our own form."""
    folders = {}
    for name, overrides in {"two": TWO, "one": ()}.items():
        config = composed(*overrides)
        tokenizer, target, _ = fitted(config)
        own = None if target is tokenizer else target
        model = build_model(config, tokenizer=tokenizer, data=build("data", config["data"]).spec, target_tokenizer=own)
        folders[name] = tmp_path_factory.mktemp(name)
        write_own_form(folders[name], config=config, tokenizer=tokenizer, model=randomise(model), labels=())
    return folders


def test_both_vocabularies_are_exported(exports):
    """That of what is written only where it is another."""
    assert (exports["two"] / "target_tokenizer" / "tokenizer.json").is_file()
    assert not (exports["one"] / "target_tokenizer").exists()
    assert find_weights(str(exports["two"])).target_tokenizer == exports["two"] / "target_tokenizer"


@pytest.mark.parametrize("name", ["one", "two"])
def test_weights_of_the_same_model_are_all_taken(exports, name):
    overrides = TWO if name == "two" else ()
    beginning, tokenizer, target = begin(composed(*overrides, f"init_from={exports[name]}"))
    beginning.check_tokenizer(tokenizer, target)
    config = beginning.config
    own = target if name == "two" else None
    model = build_model(config, tokenizer=tokenizer, data=beginning.source.spec, target_tokenizer=own)
    found = beginning.fill(model)
    assert not found.new
    assert not found.left
    assert_equal(dict(model.state_dict()), dict(find_weights(str(exports[name])).tensors))


def test_another_vocabulary_of_what_is_written_is_refused(exports):
    beginning, tokenizer, target = begin(composed(*TWO, f"init_from={exports['two']}"), text="bob bob bobb")
    with pytest.raises(UserError) as error:
        beginning.check_tokenizer(tokenizer, target)
    told = str(error.value)
    assert "a row of the target_embedding is of a token, and this run's target_tokenizer has other tokens" in told
    path = exports["two"] / "target_tokenizer" / "tokenizer.json"
    assert f"target_tokenizer.file={path}" in told
    again = composed(
        BPE, "target_tokenizer.max_length=16", f"target_tokenizer.file={path}", f"init_from={exports['two']}"
    )
    beginning, tokenizer, target = begin(again, text="bob bob bobb")
    beginning.check_tokenizer(tokenizer, target)


def test_one_vocabulary_is_not_two(exports):
    """Either way, and the message says what to do."""
    with pytest.raises(UserError, match=r"target_embedding.lookup.weight +none +\[262, 16\]") as error:
        begin(composed(*TWO, f"init_from={exports['one']}"))
    assert "Overrides that would make them fit:\n  target_tokenizer=null" in str(error.value)
    with pytest.raises(UserError, match=r"target_embedding.lookup.weight +\[262, 16\] +none") as error:
        begin(composed(f"init_from={exports['two']}"))
    path = exports["two"] / "target_tokenizer" / "tokenizer.json"
    assert "Overrides that would make them fit:\n  target_tokenizer=text_bpe" in str(error.value)
    assert f"target_tokenizer.file={path}" in str(error.value)


def test_a_lost_vocabulary_of_what_is_written_is_missed(exports, tmp_path):
    weights = find_weights(str(exports["two"]))
    lost = tmp_path / "lost"
    lost.mkdir()
    for path in exports["two"].rglob("*"):
        if path.is_file() and "target_tokenizer" not in path.parts:
            (lost / path.relative_to(exports["two"])).parent.mkdir(exist_ok=True)
            (lost / path.relative_to(exports["two"])).write_bytes(path.read_bytes())
    assert weights.tensors.keys() == find_weights(str(lost)).tensors.keys()
    with pytest.raises(UserError, match=r"the target_tokenizer that these weights were trained with isn't there"):
        begin(composed(*TWO, f"init_from={lost}"))


def test_weights_of_an_encoder_alone_are_told_apart(exports):
    with pytest.raises(UserError, match="these weights are not of this run's model") as error:
        begin(compose(["data=hangul_names", "tokenizer=text_bytes", "task=mlm", f"init_from={exports['one']}"]))
    assert "backbone=encoder_decoder" in str(error.value)


@pytest.mark.parametrize("same", [True, False])
def test_a_mechanism_of_the_cross_attention_begins_anew_where_it_is_another(exports, same):
    """What a mechanism draws is its own; that of self-attention has nothing to do with it."""
    ours = "cross_attention=performer"
    config = composed(ours, f"init_from={exports['one']}") if not same else composed(f"init_from={exports['one']}")
    with pytest.warns(UserWarning, match=ours) if not same else torch.no_grad():
        beginning, tokenizer, _ = begin(config)
    model = build_model(config, tokenizer=tokenizer, data=beginning.source.spec)
    found = beginning.fill(model)
    assert found.fits
    assert bool(found.new) == (not same)
    assert all(".cross_attention.mechanism." in name for name in found.new)


def test_modules_of_either_side_are_named():
    names = [
        f"trunk.backbone.{side}.blocks.{number}.attention.query.weight"
        for side in ("encoder", "decoder")
        for number in range(3)
    ]
    names += ["trunk.target_embedding.lookup.weight", "trunk.backbone.decoder.norm.weight"]
    assert modules_of(names) == (
        "backbone.encoder.blocks.0-2, backbone.decoder.blocks.0-2, target_embedding, backbone.decoder.norm"
    )
