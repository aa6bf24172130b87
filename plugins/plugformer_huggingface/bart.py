"""BART (Lewis et al. 2020)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import TokenSpec
from plugformer_huggingface.encoder_decoder import EncoderDecoderFamily
from plugformer_huggingface.places import Place, Places, linked, rows_from
from plugformer_huggingface.table import EMBEDDING

BOTH = ("weight", "bias")
RESERVED = 2  # rows at the front of their tables of positions that are of no place
LOGITS_BIAS = "final_logits_bias"


def _attention(ours: str, theirs: str) -> dict[str, str]:
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    places = {f"{ours}.{mine}": f"{theirs}.{other}" for mine, other in projections.items()}
    return {**places, f"{ours}_norm": f"{theirs}_layer_norm"}


ENCODER = {
    **_attention("attention", "self_attn"),
    "feed_forward.expand": "fc1",
    "feed_forward.contract": "fc2",
    "feed_forward_norm": "final_layer_norm",
}
DECODER = {**ENCODER, **_attention("cross_attention", "encoder_attn")}


class Bart(EncoderDecoderFamily):
    """Learned positions, norms after the residual sums and of embeddings, a bias everywhere but on the logits."""

    model_types: ClassVar[frozenset[str]] = frozenset({"bart"})
    title = "BART"
    architecture = "BartForConditionalGeneration"
    prefix = "model."
    fixed: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **EncoderDecoderFamily.fixed,
        "backbone": {**EncoderDecoderFamily.fixed["backbone"], "bias": True, "embedding_norm": True},
        "block": {"name": "post_norm"},
        "position": {"name": "learned"},
        "norm": {"name": "layer", "eps": 1e-5, "bias": True},
        "feed_forward": {"name": "mlp", "bias": True},
        "task": {**EncoderDecoderFamily.fixed["task"], "tied": True},
    }
    same: ClassVar[Mapping[str, str]] = {
        "backbone.dim": "d_model",
        "backbone.num_layers": "encoder_layers",
        "backbone.num_heads": "encoder_attention_heads",
    }
    activation = "activation_function"
    hidden = "encoder_ffn_dim"
    decoder_layers = "decoder_layers"
    sizes = ("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim")
    dropout: ClassVar[Mapping[str, str]] = {"backbone.dropout": "dropout", "attention.dropout": "attention_dropout"}
    silent: ClassVar[Mapping[str, Any]] = {
        "activation_function": "gelu",
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "tie_word_embeddings": True,
    }
    demanded: ClassVar[Mapping[str, Any]] = {
        **EncoderDecoderFamily.demanded,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        # As BART's first files say it.
        "normalize_before": False,
        "normalize_embedding": True,
        "add_final_layer_norm": False,
        "add_bias_logits": False,
    }
    shared = ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    example: ClassVar[Mapping[str, Any]] = {
        "model_type": "bart",
        "vocab_size": 13,
        "max_position_embeddings": 7,
        "d_model": 8,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 12,
        "decoder_ffn_dim": 12,
    }

    def problems(self, said: Mapping[str, Any]) -> Iterator[str]:
        yield from super().problems(said)
        for option in ("attention_heads", "ffn_dim"):
            ours, other = (said[f"{side}_{option}"] for side in ("encoder", "decoder"))
            if ours != other:
                yield f"decoder_{option}={other}: ours has as many as in its encoder, {ours}"

    def places(self, config: Mapping[str, Any]) -> Places:
        found = dict(linked({EMBEDDING: "model.shared"}, kinds=["weight"]))
        for side, layer in (("encoder", ENCODER), ("decoder", DECODER)):
            ours, theirs = f"trunk.backbone.{side}.", f"model.{side}."
            positions = {"position.tables.0.0": Place("embed_positions", rows_from(RESERVED))}
            found |= linked(positions, ours=ours, theirs=theirs, kinds=["weight"])
            found |= linked({"embedding_norm": "layernorm_embedding"}, ours=ours, theirs=theirs, kinds=BOTH)
            for number in range(config[f"{side}_layers"]):
                blocks = {"ours": f"{ours}blocks.{number}.", "theirs": f"{theirs}layers.{number}."}
                found |= linked(layer, **blocks, kinds=BOTH)
        return found

    def read(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        if LOGITS_BIAS in weights and weights[LOGITS_BIAS].any():
            raise UserError(f"{LOGITS_BIAS}: is not zero, and our logits have no bias.")
        return super().read(weights, config)

    def write(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        made = super().write(weights, config)
        return {**made, LOGITS_BIAS: made["model.shared.weight"].new_zeros(1, config["vocab_size"])}

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        made = super().their_config(config, tokens, weights)
        return made | {
            "max_position_embeddings": len(tokens.grid),
            "decoder_attention_heads": made["encoder_attention_heads"],
            "decoder_ffn_dim": made["encoder_ffn_dim"],
            "activation_dropout": made["dropout"],
            "forced_eos_token_id": None,  # theirs ends texts that are cut with this token, if nothing is said
        }
