"""Each token from all before it."""

from collections.abc import Sequence

from plugformer.data.collate import stack
from plugformer.interfaces import Features, Needs, Sample, Targets, TokenSpec
from plugformer_tasks.next_token import NextToken


class CausalLM(NextToken):
    """Predict each token from all before it.

    Of discrete tokens how likely it is (Bengio et al. 2003; Radford et al. 2018, section 3.1), of continuous ones, in
    raster order, the raw token itself (El-Nouby et al. 2024, AIM).

    Args:
        tied: of discrete tokens, whether the embedding's table is the output's matrix too (Press and Wolf 2017).
        z_loss: of discrete tokens, factor of the squared log of the softmax's normaliser while training; PaLM takes
            1e-4 (Chowdhery et al. 2022, section 5).
        label_smoothing: of discrete tokens, share of the target probability that is spread over the vocabulary while
            training.
        chunk: discrete tokens whose logits are held at once; fewer take less memory.
        normalise: whether each continuous token that is to be predicted is brought to mean 0 and deviation 1 first (He
            et al. 2022, section 4.1).
        head_layers: residual feed-forward layers between the backbone and the prediction of a continuous token; 0 for
            a linear map alone, AIM has 12 (El-Nouby et al. 2024, section 3.2).

    Raises:
        UserError: an option out of range, or of the other kind of tokens.
    """

    needs = Needs(directions=frozenset({"causal"}))

    def __init__(
        self,
        *,
        dim: int,
        tokens: TokenSpec,
        tied: bool = True,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        chunk: int = 1024,
        normalise: bool = True,
        head_layers: int = 2,
    ) -> None:
        super().__init__(
            dim=dim,
            tokens=tokens,
            tied=tied,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
            chunk=chunk,
            normalise=normalise,
            head_layers=head_layers,
        )
        self.targets = Nothing()


class Nothing(Targets):
    """What is to be predicted are the inputs."""

    def encode(self, sample: Sample, inputs: Features) -> Features:
        return {}

    def collate(self, features: Sequence[Features]) -> Features:
        return stack(features)
