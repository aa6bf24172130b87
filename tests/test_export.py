"""A run's model as files: whole or not there, read back by us, and by transformers where it has such a model."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.test_families import BERT, GPT2, LLAMA, compose_one

from plugformer import __version__
from plugformer.assemble import build_model, load_run
from plugformer.cli.main import run as command
from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer.registry import build
from plugformer.run_dir import RunDir, write_json
from plugformer.testing.common import randomise
from plugformer.testing.family import assert_equal
from plugformer.weights import export as exporting
from plugformer.weights.huggingface import read_folder

NAMES = "<bos> and <eos>, [MASK]"
TEXTS = ["The quick brown fox jumps over the lazy dog.", "Größe:\n\tdef f(x): return 1", NAMES, "a"]
WILD = [*TEXTS, "", "  two  spaces ", "日本語 🙂"]


def make_run(path: Path, *overrides: str) -> Path:
    """A run directory as training leaves it, with random weights."""
    config = compose_one("tokenizer.max_length=24", *overrides)
    run = RunDir.create(path)
    tokenizer = build("tokenizer", config["tokenizer"])
    tokenizer.fit([{"text": text} for text in TEXTS * 3])
    model = build_model(config, tokenizer=tokenizer, data=DataSpec(frozenset(), labels=("ant", "bee")))
    randomise(model)
    run.write_config(config)
    write_json(run.data, {"labels": ["ant", "bee"]})
    tokenizer.save(run.tokenizer)
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, run.checkpoints / "best.ckpt")
    return path


BPE = ("tokenizer=text_bpe", "tokenizer.vocab_size=300")
RUNS = {
    "llama": (*LLAMA, *BPE),
    "gpt2": (*GPT2, *BPE, "tokenizer.bos=false"),
    "bert": (*BERT, "tokenizer=text_wordpiece", "tokenizer.vocab_size=90", "tokenizer.lowercase=true"),
    "bert_of_bytes": (*BERT, *BPE),
    "llama_of_pieces": (*LLAMA, "tokenizer=text_unigram", "tokenizer.vocab_size=55"),
    "llama_of_bytes": (*LLAMA, "tokenizer=text_bytes", "tokenizer.eos=false"),
    "none": ("task=classification", "position=rope", *BPE),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(folder / name, *overrides) for name, overrides in RUNS.items()}


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert"])
def exported(request, runs, tmp_path_factory):
    """The name of a family, a run of such a model, and the folder it was exported to."""
    folder = tmp_path_factory.mktemp("exported") / request.param
    assert command(["export", str(runs[request.param]), f"to={folder}"]) == 0
    return request.param, runs[request.param], folder


def inside(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------- our own form


def test_what_was_exported_is_read_back(exported):
    _, path, folder = exported
    tokenizer, model = load_run(path)
    found = read_folder(folder)
    assert_equal(found.tensors, model.state_dict())
    assert found.labels == ("ant", "bee")
    assert found.composition == {key: value for key, value in RunDir(path).read_config().items() if key != "run_dir"}
    again = build("tokenizer", found.composition["tokenizer"])
    again.load(found.tokenizer)
    assert again.spec == tokenizer.spec
    rebuilt = build_model(found.composition, tokenizer=again, data=DataSpec(frozenset(), labels=found.labels))
    rebuilt.load_state_dict(found.tensors)


def test_config_says_what_the_model_is_of(exported):
    _, path, folder = exported
    said = json.loads((folder / "config.json").read_text())
    assert (said["model_type"], said["plugformer_version"], said["labels"]) == (
        "plugformer",
        __version__,
        ["ant", "bee"],
    )
    spec = load_run(path)[0].spec
    assert (said["tokens"]["vocab_size"], said["tokens"]["specials"]) == (spec.vocab_size, spec.specials)
    assert said["tokens"]["grid"] == {"axes": ["position"], "shape": [24]}


def test_files_are_those_and_no_others(exported):
    name, _, folder = exported
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    model = {"config.json", "model.safetensors"}
    generation = {"generation_config.json"} if name != "bert" else set()
    expected = model | {f"tokenizer/{file}" for file in tokenizer}
    assert inside(folder) == expected | {f"huggingface/{file}" for file in model | tokenizer | generation}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*.*")} == {
        (folder / "config.json").stat().st_mode & 0o777
    }


# ---------------------------------------------------------------------------------------------- theirs


def test_transformers_has_the_same_logits(exported):
    name, path, folder = exported
    auto: Any = transformers.AutoModelForMaskedLM if name == "bert" else transformers.AutoModelForCausalLM
    theirs, told = auto.from_pretrained(folder / "huggingface", output_loading_info=True)
    assert not any(told.values()), told
    tokenizer, model = load_run(path)
    ids = torch.randint(0, tokenizer.spec.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = model.trunk.backbone(model.trunk.embed({"ids": ids}))
        hidden = model.task.transform(hidden) if name == "bert" else hidden
        expected = model.task.output.logits(model.trunk, hidden)
        found = theirs.eval()(ids, token_type_ids=torch.zeros_like(ids)) if name == "bert" else theirs.eval()(ids)
    assert (found.logits - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    assert theirs.dtype == torch.float32


def their_tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder / "huggingface")


@pytest.mark.parametrize("exported", ["llama", "gpt2", "llama_of_pieces", "llama_of_bytes"], indirect=True)
def test_a_prompt_has_the_same_ids(exported):
    """No text is a special token, and nothing marks an end."""
    name, path, folder = exported
    ours, theirs = load_run(path)[0], their_tokenizer(folder)
    for text in WILD:
        if text or name != "gpt2":  # without a token at the front, ours has no empty prompt
            assert theirs(text)["input_ids"] == ours.prompt(text)["ids"].tolist(), text


@pytest.mark.parametrize("exported", ["bert", "bert_of_bytes"], indirect=True)
def test_a_text_has_the_same_ids(exported):
    """But special tokens are found in it, so that it can hold the mask."""
    _, path, folder = exported
    ours, theirs = load_run(path)[0], their_tokenizer(folder)
    for text in set(WILD) - {NAMES}:
        assert theirs(text, truncation=True)["input_ids"] == ours.encode({"text": text})["ids"].tolist(), text
    expected = ours.encode(ours.read("the [MASK] fox"))["ids"].tolist()
    assert theirs(f"the {theirs.mask_token} fox")["input_ids"] == expected


def test_both_tokenizers_agree_on_special_tokens(exported):
    _, path, folder = exported
    spec, theirs = load_run(path)[0].spec, their_tokenizer(folder)
    for role in ("pad", "bos", "eos", "mask"):
        assert getattr(theirs, f"{role}_token_id") == spec.specials[role]
    assert theirs.model_max_length == len(spec.grid)


@pytest.mark.parametrize("exported", ["llama", "gpt2"], indirect=True)
def test_transformers_generates_as_we_do(exported):
    """The likeliest token, one at a time; and it stops where the file says a text ends."""
    _, path, folder = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "huggingface")
    tokenizer, model = load_run(path)
    ids = tokenizer.prompt("The quick")["ids"][None]
    found = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert theirs.generation_config.eos_token_id == tokenizer.spec.specials["eos"]
    for _ in range(found.shape[1] - ids.shape[1]):
        with torch.no_grad():
            hidden = model.trunk.backbone(model.trunk.embed({"ids": ids}))
            ids = torch.cat([ids, model.task.logits(model.trunk, hidden[:, -1:]).argmax(-1)], 1)
    assert torch.equal(found, ids)


# ---------------------------------------------------------------------------------------------- the command


def export(capsys: Any, *arguments: object) -> list[str]:
    """The lines printed."""
    assert command(["export", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_says_what_it_wrote(runs, tmp_path, capsys):
    first, second = export(capsys, runs["llama"], f"to={tmp_path / 'new'}")
    assert first.startswith(f"{tmp_path / 'new'}: ")
    assert second == f"{tmp_path / 'new'}/huggingface: for transformers.LlamaForCausalLM"


def test_the_run_directory_is_where_it_goes_by_default(runs, tmp_path, capsys):
    path = shutil.copytree(runs["gpt2"], tmp_path / "run")
    export(capsys, path)
    assert (path / "export/huggingface/model.safetensors").is_file()


def test_a_family_can_be_chosen(runs, tmp_path, capsys):
    assert export(capsys, runs["bert"], f"to={tmp_path / 'new'}", "family=roberta")[1].endswith("RobertaForMaskedLM")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "new/huggingface")
    assert_equal(read_folder(tmp_path / "new/huggingface").tensors, read_folder(tmp_path / "new").tensors)
    assert theirs.config.model_type == "roberta"


def test_says_why_no_family_fits(runs, tmp_path, capsys):
    """And writes our own form."""
    lines = export(capsys, runs["none"], f"to={tmp_path / 'new'}")
    assert lines[1] == "No Hugging Face form fits. The nearest:"
    assert "    task=classification: BERT has task=mlm" in lines
    assert "    position=rope: BERT has position=learned" in lines
    assert not (tmp_path / "new/huggingface").exists()
    assert "model.safetensors" in inside(tmp_path / "new")


def test_an_empty_folder_is_filled(runs, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    export(capsys, runs["llama"], f"to={tmp_path / 'new'}")
    assert inside(tmp_path / "new")


def occupied(folder: Path) -> Sequence[str]:
    (folder / "new").mkdir()
    (folder / "new/mine.txt").write_text("mine")
    return []


def is_a_file(folder: Path) -> Sequence[str]:
    (folder / "new").write_text("mine")
    return []


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (occupied, "new: is there already. Remove it, or choose another folder with to=FOLDER"),
        (is_a_file, "new: is there already"),
        (lambda folder: ["family=lama"], "family=lama: no such plugin. Did you mean llama?"),
        (lambda folder: ["family=bert"], "Not a BERT:\n  backbone=decoder: BERT has backbone=encoder"),
        (lambda folder: ["checkpoint=last"], "last.ckpt: no such checkpoint; there is best"),
        (lambda folder: ["chekpoint=last"], "chekpoint: no such option of export. Did you mean checkpoint?"),
        (lambda folder: ["trainer.max_epochs=1"], "trainer.max_epochs: no such option of export"),
        (lambda folder: ["checkpoint=../checkpoints/best"], "expected one of best, last"),
        (lambda folder: [f"to={folder / 'other'}"], "to is set already"),
        (lambda folder: ["family=llama,gpt2"], "family=llama,gpt2: several values, and one was expected"),
        (lambda folder: ["+family=llama"], "+family: no such option of export. Did you mean family?"),
        (lambda folder: ["last"], "last: not an override"),
    ],
)
def test_refusals_write_nothing(runs, tmp_path, prepare, told):
    further = prepare(tmp_path)
    before = inside(tmp_path)
    with pytest.raises(UserError) as error:
        command(["export", str(runs["llama"]), f"to={tmp_path / 'new'}", *further])
    assert told in str(error.value)
    assert inside(tmp_path) == before


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        command(["export", str(tmp_path)])


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_export_leaves_nothing(runs, tmp_path, monkeypatch, problem):
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(exporting, "write_huggingface_form", fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as error:
        exporting.export(runs["llama"], tmp_path / "new")
    assert isinstance(error.value, KeyboardInterrupt) or "new: can't be written (No space left" in str(error.value)
    assert not list(tmp_path.iterdir())
