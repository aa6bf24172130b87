"""BERT (Devlin et al. 2019)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import TokenSpec
from plugformer_huggingface.places import ALL, Part, Place, Places, linked
from plugformer_huggingface.table import EMBEDDING, POSITIONS, UNTIED, TableFamily

BOTH = ("weight", "bias")
TYPES = "embeddings.token_type_embeddings.weight"
LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.expand": "intermediate.dense",
    "feed_forward.contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}


class Bert(TableFamily):
    """Learned positions, norms after the residual sums, a bias everywhere, the head of a masked language model.

    All our tokens are of their first type, so its vector is added to those of positions when they are read, which is
    exact up to rounding; what is written has types of zeros. Their pooler and next-sentence head are left out.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"bert"})
    title = "BERT"
    architecture = "BertForMaskedLM"
    prefix = "bert."
    fixed: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backbone": {
            "name": "encoder",
            "num_kv_heads": None,
            "qk_norm": "none",
            "bias": True,
            "num_registers": 0,
            "embedding_norm": True,
        },
        "block": {"name": "post_norm"},
        "attention": {"name": "full"},
        "position": {"name": "learned"},
        "norm": {"name": "layer", "bias": True},
        "feed_forward": {"name": "mlp", "bias": True, "activation": "gelu"},
        "task": {"name": "mlm"},
    }
    same: ClassVar[Mapping[str, str]] = {
        "backbone.dim": "hidden_size",
        "backbone.num_layers": "num_hidden_layers",
        "backbone.num_heads": "num_attention_heads",
        "norm.eps": "layer_norm_eps",
        "task.norm_eps": "layer_norm_eps",
        "task.tied": "tie_word_embeddings",
    }
    dropout: ClassVar[Mapping[str, str]] = {
        "backbone.dropout": "hidden_dropout_prob",
        "attention.dropout": "attention_probs_dropout_prob",
    }
    silent: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    }
    demanded: ClassVar[Mapping[str, Any]] = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "hidden_act": "gelu",  # the head has it, and theirs is one for head and blocks
    }
    example: ClassVar[Mapping[str, Any]] = {
        "model_type": "bert",
        "vocab_size": 13,
        "max_position_embeddings": 7,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    }
    head: ClassVar[Mapping[str, str]] = {
        "task.transform.dense": "cls.predictions.transform.dense",
        "task.transform.norm": "cls.predictions.transform.LayerNorm",
    }
    output: ClassVar[str] = "cls.predictions"

    def places(self, config: Mapping[str, Any]) -> Places:
        embeddings = f"{self.prefix}embeddings"
        found = dict(linked({EMBEDDING: f"{embeddings}.word_embeddings"}, kinds=["weight"]))
        positions = Place(f"{embeddings}.position_embeddings", self.real_positions(config))
        found |= linked({POSITIONS: positions}, kinds=["weight"])
        found |= linked({"trunk.backbone.embedding_norm": f"{embeddings}.LayerNorm"}, kinds=BOTH)
        for number in range(config["num_hidden_layers"]):
            ours, theirs = f"trunk.backbone.blocks.{number}.", f"{self.prefix}encoder.layer.{number}."
            found |= linked(LAYER, ours=ours, theirs=theirs, kinds=BOTH)
        found |= linked(self.head, kinds=BOTH)
        if config["tie_word_embeddings"]:
            return found | {"task.output.bias": Place(f"{self.output}.bias")}
        decoder = f"{self.output}.decoder"
        return found | {f"{UNTIED}.weight": Place(f"{decoder}.weight"), "task.output.bias": Place(f"{decoder}.bias")}

    def real_positions(self, config: Mapping[str, Any]) -> Part:
        """Which rows of their table belong to places."""
        return ALL

    def read(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        named = {_modern(name): tensor for name, tensor in weights.items()}
        found = super().read(named, config)
        types = next((tensor for name, tensor in named.items() if name.endswith(TYPES)), None)
        if types is None:
            raise UserError(f"The weights lack {self.prefix}{TYPES}, which every {self.title} has.")
        positions = found[f"{POSITIONS}.weight"]
        found[f"{POSITIONS}.weight"] = (positions.double() + types[0].double()).to(positions.dtype)
        return found

    def write(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        made = super().write(weights, config)
        table = weights[f"{EMBEDDING}.weight"]
        made[f"{self.prefix}{TYPES}"] = table.new_zeros(config["type_vocab_size"], table.shape[1])
        if not config["tie_word_embeddings"]:  # theirs has it twice, and uses the other
            made[f"{self.output}.bias"] = made[f"{self.output}.decoder.bias"].clone()
        return made

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        return super().their_config(config, tokens, weights) | {
            "max_position_embeddings": len(tokens.grid),
            "type_vocab_size": 2,
        }


def _modern(name: str) -> str:
    """As transformers calls the tensors of norms today."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
