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
from plugformer.testing.family import OF_MODEL, tokenizer_of
from plugformer_text.embedding import TextEmbedding

PARTS_OF_MODEL = (*OF_MODEL, "cross_attention")
VOCAB, LENGTH, DIM, HIDDEN, LAYERS = 11, 9, 32, 40, 3
SPECIALS = {"pad": 1, "mask": 2, "bos": 3, "eos": 4}
TOKENS = TokenSpec(
    Grid(("position",), (LENGTH,)), vocab_size=VOCAB, specials=SPECIALS, pads=True, around=frozenset({"bos", "eos"})
)
IDS = torch.randint(2, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(0))  # RoBERTa pads with 1
VALID = torch.arange(LENGTH) < torch.tensor([[LENGTH], [6], [4]])
WRITTEN = torch.randint(5, VOCAB, (3, 8), generator=torch.Generator().manual_seed(1))  # by a decoder
WRITTEN_VALID = torch.arange(8) < torch.tensor([[5], [8], [2]])
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


def make_bart() -> Any:
    sides = {
        f"{side}_{option}": value
        for side in ("encoder", "decoder")
        for option, value in {"attention_heads": 4, "ffn_dim": HIDDEN}.items()
    }
    config = transformers.BartConfig(
        vocab_size=VOCAB,
        d_model=DIM,
        encoder_layers=LAYERS,
        decoder_layers=2,
        max_position_embeddings=LENGTH,
        pad_token_id=SPECIALS["pad"],
        bos_token_id=SPECIALS["bos"],
        eos_token_id=SPECIALS["eos"],
        decoder_start_token_id=SPECIALS["eos"],
        forced_eos_token_id=None,
        **sides,
    )
    return transformers.BartForConditionalGeneration(config)


def make_t5(**options: Any) -> Any:
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=DIM,
        d_kv=DIM // 4,
        d_ff=HIDDEN,
        num_layers=LAYERS,
        num_decoder_layers=2,
        num_heads=4,
        relative_attention_num_buckets=6,
        relative_attention_max_distance=7,
        pad_token_id=SPECIALS["pad"],
        eos_token_id=SPECIALS["eos"],
        decoder_start_token_id=SPECIALS["pad"],
        **options,
    )
    return transformers.T5ForConditionalGeneration(config)


def make_t5_1_1() -> Any:
    """Gated feed-forwards, and an output that isn't tied; which transformers 5 ties until another is read."""
    model = make_t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0))
    return model


WRITERS = {"bart": make_bart, "t5": make_t5, "t5-1.1": make_t5_1_1}
MAKE = {"bert": make_bert, "roberta": make_roberta, "gpt2": make_gpt2, "llama": make_llama}


def make_ours(composition: Mapping[str, Any], tokens: TokenSpec = TOKENS) -> Model:
    """A model of ours on these tokens, of a composition whose kinds of data don't matter."""
    config = {"seed": 0, **{kind: check(kind, node) for kind, node in composition.items() if kind in PARTS_OF_MODEL}}
    backbone = build_backbone(config, tokens)
    embedding = TextEmbedding(vocab_size=tokens.vocab_size, dim=backbone.dim, grid=tokens.grid)
    task = build(
        "task",
        config["task"],
        dim=backbone.dim,
        tokens=tokens,
        data=DataSpec(frozenset()),
        target_tokenizer=tokenizer_of(tokens),
    )
    return Model(trunk=Trunk(embedding=embedding, backbone=backbone), task=task)


def call_ours(model: Model) -> tuple[Tensor, Tensor]:
    """Hidden states and logits."""
    source = model.trunk.embed({"ids": IDS, "valid": VALID})
    if model.trunk.backbone.direction == "encoder_decoder":
        memory = model.trunk.backbone.encode(source)
        written = model.trunk.embed_target({"ids": WRITTEN, "valid": WRITTEN_VALID})
        hidden = model.trunk.backbone(written, memory=memory)
        return hidden, model.task.logits(model.trunk, hidden)
    hidden = model.trunk.backbone(source)
    task: Any = model.task
    return hidden, task.output.logits(model.trunk, task.transform(hidden) if hasattr(task, "transform") else hidden)


def real(out: Tensor) -> Tensor:
    """Which places aren't padding of what either was called with."""
    return WRITTEN_VALID if out.shape[1] == WRITTEN.shape[1] else VALID


def call_theirs(model: Any) -> tuple[Tensor, Tensor]:
    if model.config.is_encoder_decoder:
        read = {"input_ids": IDS, "attention_mask": VALID.long()}
        written = {"decoder_input_ids": WRITTEN, "decoder_attention_mask": WRITTEN_VALID.long()}
        out = model(**read, **written, output_hidden_states=True)
        return out.decoder_hidden_states[-1], out.logits
    out = model(IDS, attention_mask=VALID.long(), output_hidden_states=True)
    return out.hidden_states[-1], out.logits
