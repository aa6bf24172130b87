"""Families of encoder-decoders whose two sides and output share one table of tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from plugformer.errors import UserError
from plugformer.interfaces import TokenSpec
from plugformer_huggingface.table import TableFamily

# Another run of ours may begin to write with any of these; the first that fits is what a config.json means.
STARTS = ("eos", "pad", "bos")


class EncoderDecoderFamily(TableFamily):
    """
    Attributes:
        decoder_layers: their option for the decoder's blocks.
        shared: their table of tokens; then the names under which the encoder, the decoder and, if it is tied, the
            output have it, too.
    """

    decoder_layers: ClassVar[str]
    shared: ClassVar[Sequence[str]]
    expand = "trunk.backbone.encoder.blocks.0.feed_forward.expand.weight"
    fixed: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backbone": {
            "name": "encoder_decoder",
            "encoder": "transformer",
            "decoder": "transformer",
            "num_kv_heads": None,
            "qk_norm": "none",
        },
        "attention": {"name": "full"},
        "cross_attention": {"name": "full"},
        "task": {"name": "seq2seq"},
    }
    demanded: ClassVar[Mapping[str, Any]] = {"is_encoder_decoder": True}

    # ------------------------------------------------------------------------------------------ in

    def composition(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        said = self.said(config)
        made = super().composition(config)
        layers = said[self.same["backbone.num_layers"]]
        made["backbone"]["num_decoder_layers"] = (
            None if said[self.decoder_layers] == layers else said[self.decoder_layers]
        )
        made["task"]["start"] = _start(said)
        return made

    def problems(self, said: Mapping[str, Any]) -> Iterator[str]:
        yield from super().problems(said)
        if _start(said) is None:
            yield (
                f"decoder_start_token_id={said.get('decoder_start_token_id')}: ours begins to write with the token for "
                "bos, eos or pad"
            )

    def read(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        if not any(name.startswith(self.prefix) for name in weights):  # the base model alone
            weights = {self.prefix + name: tensor for name, tensor in weights.items()}
        return super().read(self._with_table(weights, self.said(config)), config)

    def _with_table(self, weights: Mapping[str, Tensor], said: Mapping[str, Any]) -> dict[str, Tensor]:
        """With their table under its own name, whichever of those it has the files hold.

        Raises:
            UserError: there are several that differ.
        """
        names = [*self.shared, *(["lm_head.weight"] if said["tie_word_embeddings"] else [])]
        tables = {name: weights[name] for name in names if name in weights}
        for name, table in tables.items():
            first = next(iter(tables))
            if not torch.equal(table, tables[first]):
                raise UserError(f"{name} and {first} differ: in a {self.title} that ours can be they are one table.")
        return {**weights, **({self.shared[0]: next(iter(tables.values()))} if tables else {})}

    # ------------------------------------------------------------------------------------------ out

    def reasons(self, config: Mapping[str, Any], tokens: TokenSpec) -> Iterator[str]:
        yield from super().reasons(config, tokens)
        if "target_tokenizer" in config:
            yield (
                f"target_tokenizer={config['target_tokenizer']['name']}: {self.title} has one vocabulary for what it "
                "reads and what it writes"
            )
        elif config["task"]["name"] == self.fixed["task"]["name"] and config["task"]["start"] not in tokens.specials:
            yield f"task.start={config['task']['start']}: the tokenizer has no such special token"

    def their_config(
        self, config: Mapping[str, Any], tokens: TokenSpec, weights: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        backbone = config["backbone"]
        layers = backbone["num_decoder_layers"]
        return super().their_config(config, tokens, weights) | {
            self.decoder_layers: backbone["num_layers"] if layers is None else layers,
            "decoder_start_token_id": tokens.specials[config["task"]["start"]],
        }


def _start(said: Mapping[str, Any]) -> str | None:
    """The special token that their decoder begins with."""
    start = said.get("decoder_start_token_id")
    return next((role for role in STARTS if start is not None and said.get(f"{role}_token_id") == start), None)
