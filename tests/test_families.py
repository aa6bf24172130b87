"""Models of transformers: what we write it loads, what it saves we read, and what can't be is told."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.peers import MAKE, PARTS_OF_MODEL, TOKENS, VALID, WRITERS, call_ours, call_theirs, make_ours, make_t5, real

import plugformer.weights
import plugformer_huggingface
from plugformer import registry
from plugformer.cli.compose import compose
from plugformer.cli.main import run as command
from plugformer.errors import UserError
from plugformer.interfaces import Grid
from plugformer.registry import Plugin, build
from plugformer.run_dir import write_json
from plugformer.testing.common import randomise
from plugformer.testing.comparing import noise
from plugformer.testing.family import OF_MODEL, assert_equal
from plugformer.weights import huggingface
from plugformer.weights.huggingface import fetch, read_folder
from plugformer.weights.tensors import write_tensors

BERT = (
    *("backbone=encoder", "backbone.embedding_norm=true", "block=post_norm", "norm=layer", "norm.eps=1e-12"),
    *("position=learned", "feed_forward=mlp", "feed_forward.activation=gelu", "task=mlm"),
)
GPT2 = ("backbone=decoder", "block=pre_norm", "norm=layer", "position=learned", "feed_forward=mlp", "task=causal_lm")
LLAMA = ("backbone=decoder", "block=pre_norm", "norm=rms", "position=rope", "feed_forward=glu", "task=causal_lm")
WRITES = ("backbone=encoder_decoder", "backbone.num_decoder_layers=1", "task=seq2seq")
BART = (
    *(*WRITES, "backbone.embedding_norm=true", "block=post_norm", "norm=layer", "position=learned"),
    *("feed_forward=mlp", "task.start=eos"),
)
T5 = (
    *(*WRITES, "backbone.bias=false", "block=pre_norm", "norm=rms", "position=relative", "feed_forward=mlp"),
    *("feed_forward.bias=false", "feed_forward.activation=relu", "task.start=pad"),
)
T5_1_1 = (*T5[:-3], "feed_forward=glu", "task.start=pad", "task.tied=false")
LINEAR = ("position.scaling=linear", "position.factor=2.5", "position.base=500")

FORMS = [
    ("bert", *BERT),
    ("bert", *BERT, "task.tied=false", "norm.eps=1e-5", "task.norm_eps=1e-5"),
    ("roberta", *BERT),
    ("roberta", *BERT, "task.tied=false"),
    ("gpt2", *GPT2),
    ("gpt2", *GPT2, "task.tied=false", "feed_forward.activation=relu", "feed_forward.expansion=1.5"),
    ("gpt2", *GPT2, "feed_forward.activation=gelu_tanh", "backbone.num_kv_heads=4"),
    ("gpt2", *GPT2, "feed_forward.activation=relu2", "norm.eps=1e-3"),
    ("llama", *LLAMA),
    ("llama", *LLAMA, "task.tied=false", "backbone.bias=false", "backbone.num_kv_heads=1"),
    ("llama", *LLAMA, *LINEAR, "feed_forward.bias=true", "backbone.num_kv_heads=2", "feed_forward.activation=gelu"),
    ("llama", *LLAMA, "feed_forward.bias=true", "backbone.bias=false", "feed_forward.activation=gelu_tanh"),
    ("llama", *LLAMA, "feed_forward.activation=sigmoid", "position.base=1000", "norm.eps=1e-3"),
    ("llama", *LLAMA, "feed_forward.activation=relu", "feed_forward.expansion=1.5", "feed_forward.multiple_of=1"),
    ("bart", *BART),
    ("bart", *BART, "task.start=bos", "feed_forward.activation=relu", "backbone.num_decoder_layers=null"),
    ("t5", *T5),
    ("t5", *T5, "task.tied=false", "feed_forward.activation=gelu", "norm.eps=1e-3", "task.start=eos"),
    ("t5", *T5, "feed_forward.activation=gelu_tanh", "position.num_buckets=8", "position.max_distance=9"),
    ("t5", *T5_1_1, "feed_forward.activation=gelu_tanh", "backbone.num_decoder_layers=null"),
    ("t5", *T5_1_1, "feed_forward.activation=gelu", "task.tied=true"),
    ("t5", *T5_1_1, "feed_forward.activation=silu", "feed_forward.expansion=1.375", "feed_forward.multiple_of=1"),
]
AUTO = {
    "bert": transformers.AutoModelForMaskedLM,
    "roberta": transformers.AutoModelForMaskedLM,
    "gpt2": transformers.AutoModelForCausalLM,
    "llama": transformers.AutoModelForCausalLM,
    "bart": transformers.AutoModelForSeq2SeqLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
}


def compose_one(*overrides: str) -> dict[str, Any]:
    sizes = ("backbone.dim=24", "backbone.num_layers=2", "backbone.num_heads=4", "tokenizer=text_bpe")
    return compose(["data=python_docs", *sizes, *overrides])


def write(folder: Path, said: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    write_json(folder / "config.json", said)
    write_tensors(folder / "model.safetensors", weights)
    return folder


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{FORMS.index(form)}")
def written(request, tmp_path_factory):
    """The name of a family, a run's composition that fits, its model with random weights, and a folder of its form."""
    name, *overrides = request.param
    config = compose_one(*overrides)
    ours = randomise(make_ours(config)).eval()
    family = build("family", {"name": name})
    said = family.form(config, TOKENS, ours.state_dict())
    return (
        name,
        config,
        ours,
        write(tmp_path_factory.mktemp("form") / "one", said, family.write(ours.state_dict(), said)),
    )


def test_transformers_loads_what_is_written(written, tmp_path):
    """Without a tensor missing or left over, to the same logits; and what it saves is ours again, bit for bit."""
    name, _, ours, folder = written
    theirs, told = AUTO[name].from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    with torch.no_grad():
        (_, expected), (_, found) = call_ours(ours), call_theirs(theirs.eval())
    valid = real(expected)
    assert expected[valid].std(0).median() > 0.1, "the tokens are told apart"
    assert (found - expected)[valid].abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    theirs.save_pretrained(tmp_path)
    again = read_folder(tmp_path).tensors
    assert_equal(rounded(again, name), rounded(ours.state_dict(), name))


def rounded(weights: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    """T5's factors are roots, which no float is exactly; whatever else is read is the same bit for bit."""
    inexact = ("attention.query.weight", "trunk.backbone.decoder.norm.weight") if family == "t5" else ()
    return {
        name: tensor.bfloat16() if name.endswith(inexact or ("none",)) else tensor for name, tensor in weights.items()
    }


def test_what_is_written_is_read_as_the_runs_own_options(written):
    name, config, ours, folder = written
    found = read_folder(folder)
    writes = config["backbone"]["name"] == "encoder_decoder"
    assert found.composition.keys() == set(PARTS_OF_MODEL if writes else OF_MODEL)
    for kind, node in found.composition.items():
        for option, value in node.items():
            if kind == "cross_attention":  # which a run leaves out
                assert (option, value) == ("name", "full")
                continue
            same_heads = option == "num_kv_heads" and config["backbone"]["num_heads"]
            assert value == config[kind][option] or config[kind][option] == same_heads, f"{kind}.{option}"
    assert_equal(rounded(found.tensors, name), rounded(ours.state_dict(), name))


# ---------------------------------------------------------------------------------------------- files of theirs


@pytest.fixture(scope="module", params=MAKE)
def saved(request, tmp_path_factory):
    """The name of a family, a model of theirs with random weights, and a folder that it was saved to."""
    theirs = MAKE[request.param]().eval()
    with torch.no_grad():
        for number, parameter in enumerate(theirs.parameters()):
            parameter.add_(0.3 * noise(*parameter.shape, seed=number))
    folder = tmp_path_factory.mktemp("saved") / request.param
    theirs.save_pretrained(folder)
    return request.param, theirs, folder


def load(folder: Path) -> Any:
    """Our model with the weights of a folder."""
    found = read_folder(folder)
    ours = make_ours(found.composition)
    ours.load_state_dict(found.tensors)
    return ours.eval()


def test_types_are_folded_into_positions(saved):
    """In exact numbers; a file of theirs has a vector for each type of token."""
    name, theirs, folder = saved
    if name in ("bert", "roberta"):
        assert theirs.base_model.embeddings.token_type_embeddings.weight[0].abs().max() > 0.1
    with torch.no_grad():
        (_, expected), (_, found) = call_ours(load(folder)), call_theirs(theirs)
    assert (found - expected)[VALID].abs().max() < 1e-5 * expected.abs().max().clamp(min=1)


def test_a_base_model_alone_is_read(saved, tmp_path):
    """Under names that begin with nothing, and with a pooler; and so is a model with another head."""
    _, theirs, folder = saved
    whole = read_folder(folder).tensors
    theirs.base_model.save_pretrained(tmp_path / "base")
    assert not any(
        key.startswith(type(theirs).base_model_prefix) for key in load_file(tmp_path / "base/model.safetensors")
    )
    trunk = {key: tensor for key, tensor in whole.items() if key.startswith("trunk.")}
    assert_equal(read_folder(tmp_path / "base").tensors, trunk)
    classifier = transformers.AutoModelForSequenceClassification.from_config(theirs.config)
    classifier.base_model.load_state_dict(theirs.base_model.state_dict(), strict=False)
    classifier.save_pretrained(tmp_path / "classifier")
    assert_equal(read_folder(tmp_path / "classifier").tensors, trunk)


def test_shards_are_one_model(saved, tmp_path):
    _, theirs, folder = saved
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_equal(read_folder(tmp_path).tensors, read_folder(folder).tensors)


def test_a_dtype_is_kept(saved, tmp_path):
    name, theirs, _ = saved
    again = MAKE[name]().to(torch.bfloat16)
    again.load_state_dict(theirs.state_dict())
    again.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in read_folder(tmp_path).tensors.values()} == {torch.bfloat16}


def test_names_that_norms_once_had(tmp_path):
    """As in the first BERT's files."""
    MAKE["bert"]().save_pretrained(tmp_path / "today")
    once = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in load_file(tmp_path / "today/model.safetensors").items()
    }
    assert any("gamma" in name for name in once)
    found = read_folder(write(tmp_path / "once", json.loads((tmp_path / "today/config.json").read_text()), once))
    assert_equal(found.tensors, read_folder(tmp_path / "today").tensors)


def test_rotary_options_as_they_once_were():
    family = build("family", {"name": "llama"})
    once = family.composition({**family.example, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}})
    today = {"rope_theta": 5e5, "rope_type": "linear", "factor": 4}
    assert once == family.composition({**family.example, "rope_parameters": today})
    assert {"base": 5e5, "scaling": "linear", "factor": 4.0}.items() <= once["position"].items()


@pytest.fixture(scope="module", params=WRITERS)
def writer(request, tmp_path_factory):
    """As `saved`, of one that writes a sequence for another."""
    theirs = WRITERS[request.param]().eval()
    with torch.no_grad():
        for number, parameter in enumerate(theirs.parameters()):
            parameter.mul_(0.3).add_(0.1 * noise(*parameter.shape, seed=number))
    folder = tmp_path_factory.mktemp("saved") / request.param
    theirs.save_pretrained(folder)
    return theirs, folder


def test_writers_are_read(writer):
    theirs, folder = writer
    with torch.no_grad():
        (_, expected), (_, found) = call_ours(load(folder)), call_theirs(theirs)
    assert (found - expected)[real(found)].abs().max() < 1e-5 * expected.abs().max().clamp(min=1)


def rename(folder: Path, to: Path, change: Any) -> Path:
    """The same files with other tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    return write(to, json.loads((folder / "config.json").read_text()), tensors)


def test_their_table_has_one_of_several_names(writer, tmp_path):
    """Whichever of them a file holds; two that differ are two tables."""
    theirs, folder = writer
    prefix = "model." if theirs.config.model_type == "bart" else ""
    shared, decoder = f"{prefix}shared.weight", f"{prefix}decoder.embed_tokens.weight"

    def move(tensors: dict[str, torch.Tensor]) -> None:
        tensors[decoder] = tensors.pop(shared)

    def differ(tensors: dict[str, torch.Tensor]) -> None:
        tensors[decoder] = tensors[shared] + 1

    moved = rename(folder, tmp_path / "moved", move)
    assert_equal(read_folder(moved).tensors, read_folder(folder).tensors)
    with pytest.raises(UserError, match=f"{decoder} and {shared} differ: .* they are one table"):
        read_folder(rename(folder, tmp_path / "two", differ))


def test_t5_is_tied_as_its_files_say(tmp_path):
    """transformers 5 says of all that they are tied; what is of version 1.1 and truly tied is so without a factor."""
    theirs = make_t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    assert theirs.lm_head.weight is theirs.shared.weight
    theirs.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        (_, expected), (_, found) = call_ours(load(tmp_path)), call_theirs(theirs.eval())
    assert (found - expected)[real(found)].abs().max() < 1e-4 * expected.abs().max().clamp(min=1)


def test_bart_alone_and_its_bias(tmp_path):
    theirs = WRITERS["bart"]()
    theirs.save_pretrained(tmp_path / "whole")
    theirs.base_model.save_pretrained(tmp_path / "base")
    assert_equal(read_folder(tmp_path / "base").tensors, read_folder(tmp_path / "whole").tensors)
    theirs.final_logits_bias[0, 3] = 0.5
    theirs.save_pretrained(tmp_path / "biased")
    with pytest.raises(UserError, match="final_logits_bias: is not zero, and our logits have no bias"):
        read_folder(tmp_path / "biased")


# ---------------------------------------------------------------------------------------------- what can't be


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2}},
            "rope_type=yarn: ours can be default or linear",
        ),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type=dynamic"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_type=linear: the factor is missing"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ("llama", {"head_dim": 5}, "head_dim=5: ours is always hidden_size / num_attention_heads, here 2"),
        ("llama", {"hidden_act": "sillu"}, "hidden_act=sillu: no such activation here. Did you mean silu?"),
        ("llama", {"hidden_size": "wide"}, "hidden_size=wide: expected a number"),
        ("llama", {"intermediate_size": None}, "intermediate_size=null: expected a number"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads=0: must be more than 0"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=true: ours has false"),
        ("gpt2", {"add_cross_attention": True, "scale_attn_weights": False}, "scale_attn_weights=false: ours has true"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type=relative_key: ours has absolute",
        ),
        ("bert", {"is_decoder": True}, "is_decoder=true: ours has false"),
        ("roberta", {"hidden_act": "relu"}, "hidden_act=relu: ours has gelu"),
        ("bart", {"scale_embedding": True}, "scale_embedding=true: ours has false"),
        ("bart", {"tie_word_embeddings": False}, "tie_word_embeddings=false: ours has true"),
        ("bart", {"decoder_ffn_dim": 16}, "decoder_ffn_dim=16: ours has as many as in its encoder, 12"),
        ("bart", {"decoder_layers": None}, "decoder_layers=null: expected a number"),
        ("bart", {"decoder_start_token_id": 7}, "decoder_start_token_id=7: ours begins to write with the token for"),
        ("t5", {"d_kv": 8}, "d_kv=8: ours is always d_model / num_heads, here 4"),
        ("t5", {"feed_forward_proj": "gated-gulu"}, "feed_forward_proj=gulu: no such activation here"),
    ],
)
def test_configs_that_ours_cant_be(name, said, told):
    family = build("family", {"name": name})
    with pytest.raises(UserError) as error:
        family.composition({**family.example, **said})
    assert "config.json: " in str(error.value)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("bert", (*BERT, "position=rope"), ["position=rope: BERT has position=learned"]),
        (
            "bert",
            (*BERT, "norm.eps=1e-5"),
            ["norm.eps=1e-05, task.norm_eps=1e-12: BERT has one number for all of them"],
        ),
        ("gpt2", (*GPT2, "backbone.bias=false"), ["backbone.bias=false: GPT-2 has backbone.bias=true"]),
        ("gpt2", (*GPT2, "backbone.num_kv_heads=2"), ["backbone.num_kv_heads=2: GPT-2 has backbone.num_kv_heads=null"]),
        (
            "llama",
            (*LLAMA, "position.scaling=ntk", "position.factor=2", "attention=performer", "backbone.num_registers=1"),
            [
                "position.scaling=ntk: Llama has position.scaling=none or linear",
                "attention=performer: Llama has attention=full",
                "backbone.num_registers=1: Llama has backbone.num_registers=0",
            ],
        ),
        (
            "bart",
            (*BART, "task.tied=false", "cross_attention=performer", "target_tokenizer=text_bytes"),
            [
                "cross_attention=performer: BART has cross_attention=full",
                "task.tied=false: BART has task.tied=true",
                "target_tokenizer=text_bytes: BART has one vocabulary for what it reads and what it writes",
            ],
        ),
        (
            "t5",
            (*T5, "backbone.decoder=gru", "backbone.bias=true"),
            [
                "backbone.decoder=gru: T5 has backbone.decoder=transformer",
                "backbone.bias=true: T5 has backbone.bias=false",
            ],
        ),
        (
            "t5",
            (*LLAMA, "position=relative"),
            ["backbone=decoder: T5 has backbone=encoder_decoder", "task=causal_lm: T5 has task=seq2seq"],
        ),
    ],
)
def test_compositions_that_are_none_of_theirs(name, overrides, told):
    """All the reasons, and no others."""
    with pytest.raises(UserError) as error:
        build("family", {"name": name}).form(compose_one(*overrides), TOKENS, {})
    first, *lines = str(error.value).splitlines()
    assert first.startswith("Not a ")
    assert sorted(line.strip() for line in lines) == sorted(told)


def test_tokens_that_are_none_of_theirs():
    tokens = replace(TOKENS, grid=Grid(("row", "column"), (3, 3)), specials={"mask": 2})
    with pytest.raises(UserError, match=r"tokenizer=text_bpe: RoBERTa has discrete tokens in a line\n.*for padding"):
        build("family", {"name": "roberta"}).form(compose_one(*BERT), tokens, {})


@pytest.fixture
def gpt2(tmp_path):
    """A folder of theirs in two files."""
    MAKE["gpt2"]().save_pretrained(tmp_path, max_shard_size="40KB")
    return tmp_path


def break_config(folder: Path, **said: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **said})


def shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def only_pickles(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def point_outside(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../elsewhere.safetensors"
    write_json(folder / "model.safetensors.index.json", index)


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(shard(folder))
    del tensors[min(tensors)]
    save_file(tensors, shard(folder))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: break_config(folder, model_type="lama"), "model_type=lama: no family .* Did you mean llama?"),
        (
            lambda folder: break_config(folder, model_type=None),
            "model_type=None: no family .*\n  Known: bart, bert, gpt2",
        ),
        (lambda folder: break_config(folder, model_type="llama"), "config.json: no Llama that a model of ours can be"),
        (lambda folder: break_config(folder, n_layer=5), "GPT-2 that config.json describes: 24 of .* are missing"),
        (lambda folder: break_config(folder, n_layer=2.5), "backbone.num_layers=2.5: expected an integer"),
        (lambda folder: (folder / "config.json").unlink(), "tensors, but no config.json that says what they are of"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: expected a mapping"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: damaged"),
        (lambda folder: shard(folder).unlink(), "shards are missing: model-00001-of"),
        (lambda folder: os.truncate(shard(folder), 1000), "model-00001-of.*: truncated or foreign"),
        (lambda folder: os.truncate(shard(folder), 0), "model-00001-of.*: truncated or foreign"),
        (
            lambda folder: shard(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "a pointer of Git LFS, whose file `git lfs pull` fetches",
        ),
        (drop_a_tensor, "lacks transformer.*, which model.safetensors.index.json says is in it"),
        (point_outside, "../elsewhere.safetensors is outside of the folder"),
        (only_pickles, "its weights are pickles .pytorch_model.bin., .* can run any code"),
        (lambda folder: [path.unlink() for path in folder.glob("model*")], "there is no model.safetensors in it"),
    ],
)
def test_folders_that_cant_be_read(gpt2, spoil, told):
    spoil(gpt2)
    with pytest.raises(UserError, match=told) as error:
        read_folder(gpt2)
    assert str(gpt2) in str(error.value)


@pytest.mark.filterwarnings("default")
def test_a_broken_family_harms_no_other(gpt2, monkeypatch):
    broken = Plugin("family", "aaa", "no_such_module:Broken", "somebody", "1.0")
    monkeypatch.setitem(registry._registered, ("family", "aaa"), broken)
    with pytest.warns(UserWarning, match="no_such_module:Broken of somebody 1.0 can't be imported"):
        assert read_folder(gpt2).composition["task"]["name"] == "causal_lm"


def test_laws_can_be_tried_from_the_command_line(capsys):
    assert command(["conformance", "family=gpt2"]) == 0
    assert "what is written is read bit for bit" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"family=gtp2: no such plugin. Did you mean gpt2?"):
        command(["conformance", "family=gtp2"])
    with pytest.raises(UserError, match=r"family.depth: no such option of family=gpt2"):
        command(["conformance", "family=gpt2", "family.depth=2"])


# ---------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The library's own folder of downloads, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_what_was_downloaded_is_found(offline):
    downloads = offline / "models--somebody--tiny"
    (downloads / "refs").mkdir(parents=True)
    (downloads / "refs/main").write_text("0" * 40)
    MAKE["llama"]().save_pretrained(downloads / "snapshots" / ("0" * 40))
    assert read_folder(fetch("somebody/tiny")).composition["position"]["name"] == "rope"


def test_without_a_network_a_folder_is_the_way(offline):
    with pytest.raises(UserError, match=r"somebody/tiny: the hub can't be reached.*\n.*give a local folder"):
        fetch("somebody/tiny")


def test_names_that_none_can_have():
    with pytest.raises(UserError, match="a//b: no such model on the hub"):
        fetch("a//b")


def test_nothing_that_could_run_is_fetched(monkeypatch, tmp_path):
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface, "snapshot_download", download)
    assert fetch("gpt2") == tmp_path
    assert asked == {"name": "gpt2", "allow_patterns": ["*.safetensors", "*.json"]}


def test_families_need_no_transformers():
    """Neither to read nor to write."""
    for package in (plugformer.weights, plugformer_huggingface):
        for path in Path(package.__path__[0]).rglob("*.py"):
            assert not re.search(r"^\s*(import|from) transformers", path.read_text(), re.MULTILINE), path
