"""Texts that are to be written, as tokens and as they are."""

from collections.abc import Sequence

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plugformer.data.target import target_sample
from plugformer.interfaces import Features, Sample, Targets, Tokenizer

END = 0xFF  # behind a text; no byte of UTF-8


class TargetTokens(Targets):
    """Features: `ids`, int `[length]`, as the tokenizer makes them, and `reference`, uint8 `[bytes]`, the whole text.

    So a text is compared with what should have been written, even if it was too long or had unknown characters.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, sample: Sample, inputs: Features) -> Features:
        text = target_sample(sample)
        ids = self.tokenizer.encode(text)["ids"]
        return {"ids": ids, "reference": torch.tensor(list(text["text"].encode()), dtype=torch.uint8)}

    def example(self, inputs: Features) -> Features:
        ids = self.tokenizer.example()["ids"]
        return {"ids": ids, "reference": torch.zeros(len(ids), dtype=torch.uint8)}

    def collate(self, features: Sequence[Features]) -> Features:
        return {
            **self.tokenizer.collate([{"ids": each["ids"]} for each in features]),
            "reference": pad([each["reference"] for each in features], END),
        }


class TaughtTokens(Targets):
    """What a decoder is given and what it is to predict from it. Features, int `[length]`: `ids`, the token that
    begins a target and all of it but the last, and `following`, at each place what comes next.

    Args:
        tokenizer: of the target.
        start: the token that begins it.
    """

    def __init__(self, tokenizer: Tokenizer, *, start: int) -> None:
        self.tokenizer = tokenizer
        self.start = start

    def taught(self, ids: Int[Tensor, "length"]) -> Features:
        """What is learned of a target."""
        return {"ids": torch.cat([ids.new_tensor([self.start]), ids[:-1]]), "following": ids}

    def collate(self, features: Sequence[Features]) -> Features:
        batch = self.tokenizer.collate([{"ids": each["ids"]} for each in features])
        following = pad([each["following"] for each in features], 0)
        more = batch["ids"].shape[1] - following.shape[1]  # the tokenizer may pad to more
        return {**batch, "following": torch.nn.functional.pad(following, (0, more))}


class TaughtTexts(TaughtTokens):
    """The same of a sample's target text, and `reference` as in `TargetTokens`."""

    def __init__(self, tokenizer: Tokenizer, *, start: int) -> None:
        super().__init__(tokenizer, start=start)
        self.texts = TargetTokens(tokenizer)

    def encode(self, sample: Sample, inputs: Features) -> Features:
        return self._taught(self.texts.encode(sample, inputs))

    def example(self, inputs: Features) -> Features:
        return self._taught(self.texts.example(inputs))

    def _taught(self, text: Features) -> Features:
        """If the tokenizer begins texts with the very token, it is not put there once more."""
        spec, ids = self.tokenizer.spec, text["ids"]
        begun = "bos" in spec.around and spec.specials["bos"] == self.start
        return text | self.taught(ids[1:] if begun else ids)

    def collate(self, features: Sequence[Features]) -> Features:
        return super().collate(features) | {"reference": pad([each["reference"] for each in features], END)}


def pad(tensors: Sequence[Tensor], fill: int) -> Tensor:
    """Tensors `[length]` of several lengths as one `[batch, longest]`."""
    return pad_sequence(list(tensors), batch_first=True, padding_value=fill)


def references(batch: UInt8[Tensor, "batch bytes"]) -> list[str]:
    """The texts of a batch's feature `reference`."""
    return [bytes(row).partition(bytes([END]))[0].decode() for row in batch.tolist()]
