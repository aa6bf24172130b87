"""What can't be combined is refused by name, with what would work, before any data is read."""

import re
from dataclasses import replace

import pytest

from plugformer.assemble import preview
from plugformer.cli.compose import compose
from plugformer.errors import UserError
from plugformer.nn.full_attention import Full
from plugformer.registry import build, register

TEXT = ("data=python_docs", "tokenizer=text_bytes", "tokenizer.max_length=16")
GPT = (*TEXT, "backbone=decoder", "task=causal_lm")
REFUSED = {
    (
        "tokenizer=text_bytes",
    ): "tokenizer=text_bytes reads text, and data=digits has only id, image, label, target_text.\n"
    "  These would work: tokenizer=vit_patch",
    (*TEXT, "task=classification"): "task=classification: the data has 0 labels, at least 2 are needed.",
    (*TEXT, "task=mae"): "task=mae needs continuous tokens; those of tokenizer=text_bytes are discrete.",
    ("task=mlm", "tokenizer.patch_size=4", "tokenizer.overlap=2"): "task=mlm predicts tokens; those of "
    "tokenizer=vit_patch with these options share numbers with their neighbours, from which they could be copied.\n"
    "  Choose patches that don't overlap.",
    (*TEXT, "backbone=encoder", "task=causal_lm"): "task=causal_lm with these options needs a causal backbone; "
    "backbone=encoder is bidirectional.\n  These would work: backbone=decoder",
    ("task=mlm", "tokenizer.mixup=0.2"): "task=mlm can't learn from mixed samples, and tokenizer=vit_patch with these "
    "options mixes those of a training batch.\n  Mix none.",
    ("data=docstrings", *TEXT[1:], "tokenizer.packing=fill"): "task=classification needs one sample in each sequence; "
    "tokenizer=text_bytes with these options packs several into one.\n  Set tokenizer.packing=none.",
    (*GPT, "tokenizer.packing=fill", "backbone.num_registers=3"): "backbone.num_registers=3: registers belong to one "
    "document; tokenizer=text_bytes with these options packs several into one sequence.\n"
    "  Set backbone.num_registers=0 or tokenizer.packing=none.",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_can_not_be_combined_is_refused(overrides):
    config = compose(overrides)
    with pytest.raises(UserError) as told:
        preview(config, source=build("data", config["data"]))
    assert re.fullmatch(re.escape(REFUSED[overrides]) + "(, .*)?", str(told.value)), str(told.value)


class Hindsight(Full):
    capabilities = replace(Full.capabilities, causality="gradient")


def test_a_mechanism_that_may_leak_values_is_announced(monkeypatch):
    monkeypatch.setattr("plugformer.registry._registered", {})
    register("attention", "hindsight")(Hindsight)
    config = compose([*GPT, "attention=hindsight"])
    with pytest.warns(UserWarning, match="^attention=hindsight is causal in its gradients alone: future tokens can"):
        preview(config, source=build("data", config["data"]))


class Long(Full):
    capabilities = replace(Full.capabilities, min_length=8)


def test_the_shortest_sequence_is_what_the_task_shows(monkeypatch):
    """An autoencoder's encoder sees but a few of the tokens."""
    monkeypatch.setattr("plugformer.registry._registered", {})
    register("attention", "long")(Long)
    for task in ("mlm", "mae"):
        config = compose([f"task={task}", "tokenizer.patch_size=2", "attention=long"])
        source = build("data", config["data"])
        if task == "mlm":
            preview(config, source=source)
            continue
        with pytest.raises(UserError) as told:
            preview(config, source=source)
        assert str(told.value) == (
            "attention=long needs at least 8 tokens; tokenizer=vit_patch makes 16, of which task=mae shows it 4."
        )
