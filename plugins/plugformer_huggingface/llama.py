"""Llama (Touvron et al. 2023)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import TokenSpec
from plugformer_huggingface.places import Places, linked
from plugformer_huggingface.table import EMBEDDING, UNTIED, TableFamily

WITH_BIAS = {True: ("weight", "bias"), False: ("weight",)}


class Llama(TableFamily):
    """Rotary positions, norms by the root mean square inside the residual branches, gated feed-forwards."""

    model_types: ClassVar[frozenset[str]] = frozenset({"llama"})
    title = "Llama"
    architecture = "LlamaForCausalLM"
    prefix = "model."
    fixed: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backbone": {"name": "decoder", "qk_norm": "none", "num_registers": 0, "embedding_norm": False},
        "block": {"name": "pre_norm"},
        "attention": {"name": "full"},
        "position": {"name": "rope", "fraction": 1.0},
        "norm": {"name": "rms"},
        "feed_forward": {"name": "glu"},
        "task": {"name": "causal_lm"},
    }
    same: ClassVar[Mapping[str, str]] = {
        "backbone.dim": "hidden_size",
        "backbone.num_layers": "num_hidden_layers",
        "backbone.num_heads": "num_attention_heads",
        "backbone.bias": "attention_bias",
        "norm.eps": "rms_norm_eps",
        "feed_forward.bias": "mlp_bias",
        "task.tied": "tie_word_embeddings",
    }
    example: ClassVar[Mapping[str, Any]] = {
        "model_type": "llama",
        "vocab_size": 13,
        "max_position_embeddings": 7,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 12,
        "attention_bias": True,
    }
    dropout: ClassVar[Mapping[str, str]] = {"attention.dropout": "attention_dropout"}
    silent: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }

    def composition(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        said = self.said(config)
        made = super().composition(config)
        heads = said["num_attention_heads"]
        head_dim = said["hidden_size"] / heads
        if said.get("head_dim", head_dim) != head_dim:
            raise UserError(
                f"config.json: head_dim={said['head_dim']}: ours is always hidden_size / num_attention_heads, "
                f"here {head_dim:g}."
            )
        kv_heads = said.get("num_key_value_heads", heads)
        made["backbone"]["num_kv_heads"] = None if kv_heads == heads else kv_heads
        made["position"] |= _rope(said)
        made["feed_forward"]["multiple_of"] = 8 if said["intermediate_size"] % 8 == 0 else 1
        return made

    def places(self, config: Mapping[str, Any]) -> Places:
        attention, mlp = WITH_BIAS[config["attention_bias"]], WITH_BIAS[config["mlp_bias"]]
        names = {EMBEDDING: "model.embed_tokens", "trunk.backbone.norm": "model.norm"}
        if not config["tie_word_embeddings"]:
            names[UNTIED] = "lm_head"
        found = dict(linked(names, kinds=["weight"]))
        for number in range(config["num_hidden_layers"]):
            at = {"ours": f"trunk.backbone.blocks.{number}.", "theirs": f"model.layers.{number}."}
            found |= linked(
                {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"},
                **at,
                kinds=["weight"],
            )
            found |= linked(
                {
                    "attention.query": "self_attn.q_proj",
                    "attention.key": "self_attn.k_proj",
                    "attention.value": "self_attn.v_proj",
                    "attention.output": "self_attn.o_proj",
                },
                **at,
                kinds=attention,
            )
            found |= linked(
                {
                    "feed_forward.gate": "mlp.gate_proj",
                    "feed_forward.expand": "mlp.up_proj",
                    "feed_forward.contract": "mlp.down_proj",
                },
                **at,
                kinds=mlp,
            )
        return found

    def reasons(self, config: Mapping[str, Any], tokens: TokenSpec) -> Iterator[str]:
        yield from super().reasons(config, tokens)
        if config["position"]["name"] == "rope" and config["position"]["scaling"] == "ntk":
            yield "position.scaling=ntk: Llama has position.scaling=none or linear"

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        backbone, position = config["backbone"], config["position"]
        scaling = {"rope_type": "default"}
        if position["scaling"] == "linear":
            scaling = {"rope_type": "linear", "factor": position["factor"]}
        return super().their_config(config, tokens, weights) | {
            "num_key_value_heads": backbone["num_kv_heads"] or backbone["num_heads"],
            "head_dim": backbone["dim"] // backbone["num_heads"],
            "max_position_embeddings": len(tokens.grid),
            "rope_parameters": {**scaling, "rope_theta": position["base"]},
            # As transformers wrote it before version 5, and as others read it.
            "rope_theta": position["base"],
            "rope_scaling": scaling if position["scaling"] == "linear" else None,
        }


def _rope(said: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `position=rope`, from `rope_parameters` or what it was before transformers 5.

    Raises:
        UserError: of a kind that ours can't be.
    """
    parameters = said.get("rope_parameters") or said.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    base = float(parameters.get("rope_theta", said.get("rope_theta", 10_000.0)))
    share = parameters.get("partial_rotary_factor", said.get("partial_rotary_factor", 1.0))
    if share != 1.0:
        raise UserError(f"config.json: partial_rotary_factor={share}: a Llama's is 1.")
    if kind == "default":
        return {"base": base, "scaling": "none", "factor": 1.0}
    if kind == "linear":
        if "factor" not in parameters:
            raise UserError("config.json: rope_type=linear: the factor is missing.")
        return {"base": base, "scaling": "linear", "factor": float(parameters["factor"])}
    raise UserError(
        f"config.json: rope_type={kind}: ours can be default or linear.\n"
        "  Other kinds scale each pair of channels by itself, so the weights would mean something else."
    )
