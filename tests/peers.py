"""Models of ours and of transformers, side by side on the same tokens."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from plugformer.assemble import build_backbone
from plugformer.interfaces import DataSpec, Grid, TokenSpec
from plugformer.model import Model, Trunk
from plugformer.registry import build, check
from plugformer.testing.family import OF_MODEL
from plugformer_text.embedding import TextEmbedding

VOCAB, LENGTH, DIM, HIDDEN, LAYERS = 11, 9, 32, 40, 3
SPECIALS = {"pad": 1, "mask": 2, "bos": 3, "eos": 4}
TOKENS = TokenSpec(Grid(("position",), (LENGTH,)), vocab_size=VOCAB, specials=SPECIALS, pads=True)
IDS = torch.randint(2, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))  # RoBERTa pads with 1
VALID = torch.arange(LENGTH) < torch.tensor([[LENGTH], [6], [4]])
SIZES = {"vocab_size": VOCAB, "num_attention_heads": 4, "num_hidden_layers": LAYERS, "hidden_size": DIM}


def make_bert() -> Any:
    config = transformers.BertConfig(
        **SIZES,
        intermediate_size=HIDDEN,
        max_position_embeddings=LENGTH,
        pad_token_id=None,  # or its row of the table gets no gradient
    )
    return without_types(transformers.BertForMaskedLM(config))


def make_roberta() -> Any:
    config = transformers.RobertaConfig(
        **SIZES, intermediate_size=HIDDEN, max_position_embeddings=LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5
    )
    return without_types(transformers.RobertaForMaskedLM(config))


def without_types(model: Any) -> Any:
    """One segment is none."""
    model.base_model.embeddings.token_type_embeddings.weight.requires_grad_(False).zero_()
    return model


def make_gpt2() -> Any:
    config = transformers.GPT2Config(
        **SIZES, n_positions=LENGTH, n_inner=HIDDEN, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    return transformers.GPT2LMHeadModel(config)


def make_llama() -> Any:
    config = transformers.LlamaConfig(
        **SIZES,
        num_key_value_heads=2,
        intermediate_size=HIDDEN,
        max_position_embeddings=LENGTH,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config)


MAKE = {"bert": make_bert, "roberta": make_roberta, "gpt2": make_gpt2, "llama": make_llama}


def make_ours(composition: Mapping[str, Any], tokens: TokenSpec = TOKENS) -> Model:
    """A model of ours on these tokens, of a composition whose kinds of data don't matter."""
    config = {"seed": 0, **{kind: check(kind, node) for kind, node in composition.items() if kind in OF_MODEL}}
    backbone = build_backbone(config, tokens)
    embedding = TextEmbedding(vocab_size=tokens.vocab_size, dim=backbone.dim, grid=tokens.grid)
    task = build("task", config["task"], dim=backbone.dim, tokens=tokens, data=DataSpec(frozenset()))
    return Model(trunk=Trunk(embedding=embedding, backbone=backbone), task=task)


def call_ours(model: Model) -> tuple[Tensor, Tensor]:
    """Hidden states and logits."""
    hidden = model.trunk.backbone(model.trunk.embed({"ids": IDS, "valid": VALID}))
    task: Any = model.task
    return hidden, task.output.logits(model.trunk, task.transform(hidden) if hasattr(task, "transform") else hidden)


def call_theirs(model: Any) -> tuple[Tensor, Tensor]:
    out = model(IDS, attention_mask=VALID.long(), output_hidden_states=True)
    return out.hidden_states[-1], out.logits
