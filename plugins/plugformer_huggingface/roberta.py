"""RoBERTa (Liu et al. 2019)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from plugformer.interfaces import TokenSpec
from plugformer_huggingface.bert import Bert
from plugformer_huggingface.places import Part, rows_from


class Roberta(Bert):
    """BERT under other names, without types, and with places that are counted from behind the padding token's id.

    The rows before that are of no place; what is written has zeros there.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"roberta"})
    title = "RoBERTa"
    architecture = "RobertaForMaskedLM"
    prefix = "roberta."
    silent: ClassVar[Mapping[str, Any]] = {**Bert.silent, "pad_token_id": 1}
    example: ClassVar[Mapping[str, Any]] = {
        **Bert.example,
        "model_type": "roberta",
        "max_position_embeddings": 9,
        "tie_word_embeddings": False,
    }
    head: ClassVar[Mapping[str, str]] = {
        "task.transform.dense": "lm_head.dense",
        "task.transform.norm": "lm_head.layer_norm",
    }
    output: ClassVar[str] = "lm_head"

    def real_positions(self, config: Mapping[str, Any]) -> Part:
        return rows_from(config["pad_token_id"] + 1)

    def reasons(self, config: Mapping[str, Any], tokens: TokenSpec) -> Iterator[str]:
        yield from super().reasons(config, tokens)
        if "pad" not in tokens.specials:
            yield f"tokenizer={config['tokenizer']['name']}: RoBERTa has a token for padding"

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        return super().their_config(config, tokens, weights) | {
            "max_position_embeddings": len(tokens.grid) + tokens.specials["pad"] + 1,
            "type_vocab_size": 1,
        }
