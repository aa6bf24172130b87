"""GPT-2 (Radford et al. 2019)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from plugformer.interfaces import TokenSpec
from plugformer_huggingface.places import Place, Places, linked, transposed
from plugformer_huggingface.table import EMBEDDING, POSITIONS, UNTIED, TableFamily

BOTH = ("weight", "bias")


class Gpt2(TableFamily):
    """Learned positions, norms inside the residual branches, a bias everywhere.

    Their matrices are transposed, and those of queries, keys and values are one.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"gpt2"})
    title = "GPT-2"
    architecture = "GPT2LMHeadModel"
    prefix = "transformer."
    fixed: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backbone": {
            "name": "decoder",
            "num_kv_heads": None,
            "qk_norm": "none",
            "bias": True,
            "num_registers": 0,
            "embedding_norm": False,
        },
        "block": {"name": "pre_norm"},
        "attention": {"name": "full"},
        "position": {"name": "learned"},
        "norm": {"name": "layer", "bias": True},
        "feed_forward": {"name": "mlp", "bias": True},
        "task": {"name": "causal_lm"},
    }
    same: ClassVar[Mapping[str, str]] = {
        "backbone.dim": "n_embd",
        "backbone.num_layers": "n_layer",
        "backbone.num_heads": "n_head",
        "norm.eps": "layer_norm_epsilon",
        "task.tied": "tie_word_embeddings",
    }
    activation = "activation_function"
    example: ClassVar[Mapping[str, Any]] = {
        "model_type": "gpt2",
        "vocab_size": 13,
        "n_positions": 7,
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 12,
    }
    hidden = "n_inner"
    dropout: ClassVar[Mapping[str, str]] = {"backbone.dropout": "resid_pdrop", "attention.dropout": "attn_pdrop"}
    silent: ClassVar[Mapping[str, Any]] = {
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }
    demanded: ClassVar[Mapping[str, Any]] = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }

    def said(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if config.get("n_inner") is None and isinstance(config.get("n_embd"), int):
            config = {**config, "n_inner": 4 * config["n_embd"]}
        return super().said(config)

    def places(self, config: Mapping[str, Any]) -> Places:
        names = {EMBEDDING: "transformer.wte", POSITIONS: "transformer.wpe"}
        if not config["tie_word_embeddings"]:
            names[UNTIED] = "lm_head"
        found = dict(linked(names, kinds=["weight"]))
        found |= linked({"trunk.backbone.norm": "transformer.ln_f"}, kinds=BOTH)
        layer: dict[str, str | Place] = {
            "attention_norm": "ln_1",
            "attention.query": Place("attn.c_attn", transposed(0, 3)),
            "attention.key": Place("attn.c_attn", transposed(1, 3)),
            "attention.value": Place("attn.c_attn", transposed(2, 3)),
            "attention.output": Place("attn.c_proj", transposed()),
            "feed_forward_norm": "ln_2",
            "feed_forward.expand": Place("mlp.c_fc", transposed()),
            "feed_forward.contract": Place("mlp.c_proj", transposed()),
        }
        for number in range(config["n_layer"]):
            found |= linked(
                layer, ours=f"trunk.backbone.blocks.{number}.", theirs=f"transformer.h.{number}.", kinds=BOTH
            )
        return found

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        backbone = config["backbone"]
        embedding_dropout = backbone["embedding_dropout"]
        return super().their_config(config, tokens, weights) | {
            "n_positions": len(tokens.grid),
            "embd_pdrop": backbone["dropout"] if embedding_dropout is None else embedding_dropout,
        }
