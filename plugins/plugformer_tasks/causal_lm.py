"""Each token from all before it."""

from collections.abc import Sequence

from plugformer.data.collate import stack
from plugformer.interfaces import Features, Needs, Sample, Targets, TokenSpec
from plugformer_tasks.language_model import NextToken, VocabularyOutput


class CausalLM(NextToken):
    """Predict each token from all before it (Bengio et al. 2003; Radford et al. 2018, section 3.1).

    Args:
        tied: whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        z_loss: factor of the squared log of the softmax's normaliser while training; PaLM takes 1e-4
            (Chowdhery et al. 2022, section 5).
        label_smoothing: share of the target probability that is spread over the vocabulary while training.
        chunk: tokens whose logits are held at once; fewer take less memory.

    Raises:
        UserError: an option out of range.
    """

    needs = Needs(directions=frozenset({"causal"}), token_kinds=frozenset({"discrete"}))

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        tied: bool = True,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        chunk: int = 1024,
    ) -> None:
        super().__init__()
        self.targets = Nothing()
        self.output = VocabularyOutput(
            dim=dim, tokens=tokens, tied=tied, z_loss=z_loss, label_smoothing=label_smoothing, chunk=chunk
        )


class Nothing(Targets):
    """What is to be predicted are the inputs."""

    def encode(self, sample: Sample, inputs: Features) -> Features:
        return {}

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)
