"""T5 (Raffel et al. 2020) and its version 1.1."""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any, ClassVar

from torch import Tensor

from plugformer.interfaces import TokenSpec
from plugformer_huggingface.activations import activation_of
from plugformer_huggingface.encoder_decoder import EncoderDecoderFamily
from plugformer_huggingface.places import Places, linked
from plugformer_huggingface.table import EMBEDDING, UNTIED

GATED = "gated-"
TABLE, HEAD = "shared.weight", "lm_head.weight"
FINAL_NORM = "trunk.backbone.decoder.norm.weight"


def _attention(ours: str, place: str, theirs: str) -> dict[str, str]:
    projections = {"query": "q", "key": "k", "value": "v", "output": "o"}
    places = {f"{ours}.{mine}": f"{place}.{theirs}.{other}" for mine, other in projections.items()}
    return {**places, f"{ours}_norm": f"{place}.layer_norm"}


def _feed_forward(place: str, *, gated: bool) -> dict[str, str]:
    maps = {"gate": "wi_0", "expand": "wi_1", "contract": "wo"} if gated else {"expand": "wi", "contract": "wo"}
    places = {f"feed_forward.{mine}": f"{place}.DenseReluDense.{other}" for mine, other in maps.items()}
    return {**places, "feed_forward_norm": f"{place}.layer_norm"}


class T5(EncoderDecoderFamily):
    """Relative positions, norms by the root mean square inside the residual branches, no biases.

    Their queries are not divided by the root of a head's width, and where the output is tied their last hidden states
    are by that of the model: both are factors of ours, exact up to rounding, and exactly so where these roots are
    powers of two. Version 1.1 has gated feed-forwards and an output of its own.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"t5"})
    title = "T5"
    architecture = "T5ForConditionalGeneration"
    prefix = ""
    fixed: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **EncoderDecoderFamily.fixed,
        "backbone": {**EncoderDecoderFamily.fixed["backbone"], "bias": False, "embedding_norm": False},
        "block": {"name": "pre_norm"},
        "position": {"name": "relative"},
        "norm": {"name": "rms"},
        "feed_forward": {"name": ("mlp", "glu"), "bias": False},
    }
    same: ClassVar[Mapping[str, str]] = {
        "backbone.dim": "d_model",
        "backbone.num_layers": "num_layers",
        "backbone.num_heads": "num_heads",
        "position.num_buckets": "relative_attention_num_buckets",
        "position.max_distance": "relative_attention_max_distance",
        "norm.eps": "layer_norm_epsilon",
        "task.tied": "tie_word_embeddings",
    }
    activation = "feed_forward_proj"
    hidden = "d_ff"
    decoder_layers = "num_decoder_layers"
    sizes = ("d_kv", "num_decoder_layers")
    dropout: ClassVar[Mapping[str, str]] = {"backbone.dropout": "dropout_rate"}
    silent: ClassVar[Mapping[str, Any]] = {
        "d_kv": 64,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    shared = (TABLE, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    example: ClassVar[Mapping[str, Any]] = {
        "model_type": "t5",
        "vocab_size": 13,
        "d_model": 16,
        "d_kv": 4,
        "num_layers": 2,
        "num_decoder_layers": 1,
        "num_heads": 4,
        "d_ff": 24,
    }

    # ------------------------------------------------------------------------------------------ in

    def said(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if config.get("num_decoder_layers") is None:
            config = {**config, "num_decoder_layers": config.get("num_layers")}
        said = super().said(config)
        # transformers 5 says of every T5 that it is tied, and in another place whether it is of version 1.0.
        said.setdefault("scale_decoder_outputs", said["tie_word_embeddings"])
        said["tie_word_embeddings"] = said["tie_word_embeddings"] and said["scale_decoder_outputs"]
        return said

    def problems(self, said: Mapping[str, Any]) -> Iterator[str]:
        yield from super().problems(said)
        if said["d_kv"] * said["num_heads"] != said["d_model"]:
            yield (
                f"d_kv={said['d_kv']}: ours is always d_model / num_heads, here {said['d_model'] / said['num_heads']:g}"
            )

    def feed_forward(self, said: Mapping[str, Any]) -> dict[str, Any]:
        kind = said[self.activation]
        gate = str(kind).removeprefix(GATED)
        if gate == kind:
            return {"name": "mlp", "activation": activation_of(kind, where=self.activation)}
        activation = "gelu_tanh" if gate == "gelu" else activation_of(gate, where=self.activation)
        return {"name": "glu", "activation": activation, "multiple_of": 8 if said[self.hidden] % 8 == 0 else 1}

    def places(self, config: Mapping[str, Any]) -> Places:
        gated = str(config[self.activation]).startswith(GATED)
        names = {EMBEDDING: "shared"} if config["tie_word_embeddings"] else {EMBEDDING: "shared", UNTIED: "lm_head"}
        found = dict(linked(names, kinds=["weight"]))
        own = _attention("attention", "layer.0", "SelfAttention")
        layers = {
            "encoder": {**own, **_feed_forward("layer.1", gated=gated)},
            "decoder": {
                **own,
                **_attention("cross_attention", "layer.1", "EncDecAttention"),
                **_feed_forward("layer.2", gated=gated),
            },
        }
        for side, count in (("encoder", config["num_layers"]), ("decoder", config["num_decoder_layers"])):
            ours = f"trunk.backbone.{side}."
            names = {
                "position.tables.0.values": "block.0.layer.0.SelfAttention.relative_attention_bias",
                "norm": "final_layer_norm",
            }
            found |= linked(names, ours=ours, theirs=f"{side}.", kinds=["weight"])
            for number in range(count):
                blocks = {"ours": f"{ours}blocks.{number}.", "theirs": f"{side}.block.{number}."}
                found |= linked(layers[side], **blocks, kinds=["weight"])
        return found

    def read(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        said = self.said(config)
        if config.get("tie_word_embeddings", True) and not said["tie_word_embeddings"]:
            weights = {HEAD: weights[TABLE], **weights} if TABLE in weights else weights
        found = super().read(weights, config)
        return {name: _times(tensor, _factor(name, said)) for name, tensor in found.items()}

    # ------------------------------------------------------------------------------------------ out

    def their_feed_forward(self, node: Mapping[str, Any]) -> str:
        if node["name"] == "mlp":
            return super().their_feed_forward(node)
        gelus = {"gelu_tanh": "gelu", "gelu": "gelu_python"}  # their gated gelu is the approximation
        return GATED + (gelus.get(node["activation"]) or super().their_feed_forward(node))

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        backbone = config["backbone"]
        return super().their_config(config, tokens, weights) | {
            "d_kv": backbone["dim"] // backbone["num_heads"],
            "n_positions": len(tokens.grid),
            "scale_decoder_outputs": config["task"]["tied"],
        }

    def write(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        said = self.said(config)
        return super().write(
            {name: _times(tensor, 1 / _factor(name, said)) for name, tensor in weights.items()}, config
        )


def _factor(name: str, said: Mapping[str, Any]) -> float:
    """What a tensor of theirs is multiplied by to be ours."""
    if name.endswith("attention.query.weight"):
        return sqrt(said["d_kv"])
    return said["d_model"] ** -0.5 if name == FINAL_NORM and said["scale_decoder_outputs"] else 1.0


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else (tensor.double() * factor).to(tensor.dtype)
