"""A model as transformers loads it: config.json, weights, how to generate, and the tokenizer."""

import json
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import tokenizers
from torch import Tensor

from plugformer import __version__
from plugformer.errors import UserError
from plugformer.interfaces import Tokenizer
from plugformer.run_dir import read_json, write_json
from plugformer.weights.own_form import CONFIG
from plugformer.weights.tensors import FILE, write_tensors


def write_huggingface_form(
    folder: Path,
    *,
    said: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    generates: bool,
    continues: bool,
) -> None:
    """Everything into an empty folder.

    Args:
        said: config.json, as a family makes it.
        weights: by the family's names.
        tokenizer: of the model; its files are written if they are of the tokenizers library.
        generates: whether the model writes texts. Then no text becomes a special token.
        continues: whether it does so by going on with one. Then a text begins as a prompt does, without what marks an
            end.
    """
    write_json(folder / CONFIG, said)
    write_tensors(folder / FILE, weights, plugformer=__version__)
    if generates:
        keys = [f"{role}_token_id" for role in ("bos", "eos", "pad", "decoder_start")]
        ids = {key: said[key] for key in keys if said.get(key) is not None}
        write_json(folder / "generation_config.json", ids)
    tokenizer.save(folder)
    if (folder / "tokenizer.json").is_file():
        _complete(folder, tokenizer, generates=generates, continues=continues)


def _complete(folder: Path, tokenizer: Tokenizer, *, generates: bool, continues: bool) -> None:
    """With what stands around a text, which is an option of ours and a part of their file."""
    content = read_json(folder / "tokenizer.json")
    content["post_processor"] = _surrounding(content, *_around(tokenizer, continues=continues))
    if not generates:
        for token in content["added_tokens"]:
            if token["id"] == tokenizer.spec.specials.get("mask"):
                token["lstrip"] = _mask_takes_space(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    further = {
        "model_max_length": len(tokenizer.spec.grid),
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": generates,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(path, (read_json(path) if path.is_file() else {}) | further)


def _around(tokenizer: Tokenizer, *, continues: bool) -> tuple[list[int], list[int]]:
    """Ids of the special tokens before and behind a text."""
    specials = {number for role, number in tokenizer.spec.specials.items() if role != "unk"}
    try:
        features = tokenizer.prompt("a") if continues else tokenizer.encode(tokenizer.read("a"))
    except UserError:  # not of its symbols
        return [], []
    ids = features["ids"].tolist()
    before = list(takewhile(specials.__contains__, ids))
    behind = list(takewhile(specials.__contains__, reversed(ids[len(before) :])))
    return before, behind[::-1]


def _mask_takes_space(tokenizer: Tokenizer) -> bool:
    """Whether a space before the mask is a part of it, as before a word that begins with its space."""
    mask = tokenizer.spec.specials.get("mask")
    try:
        with_space, without = (
            tokenizer.encode(tokenizer.read(text))["ids"].tolist() for text in ("a [MASK] b", "a[MASK] b")
        )
    except UserError:  # not of its symbols
        return False
    return mask in with_space and with_space == without


def _surrounding(content: Mapping[str, Any], before: list[int], behind: list[int]) -> dict[str, Any] | None:
    """What the tokenizers library calls a template."""
    if not before and not behind:
        return None
    library = tokenizers.Tokenizer.from_str(json.dumps({**content, "post_processor": None}))
    names = {number: library.id_to_token(number) for number in (*before, *behind)}

    def specials(ids: list[int]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": names[number], "type_id": 0}} for number in ids]

    first, second = ({"Sequence": {"id": each, "type_id": 0}} for each in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [*specials(before), first, *specials(behind)],
        "pair": [*specials(before), first, *specials(behind), second, *specials(behind)],
        "special_tokens": {
            names[number]: {"id": names[number], "ids": [number], "tokens": [names[number]]} for number in names
        },
    }
