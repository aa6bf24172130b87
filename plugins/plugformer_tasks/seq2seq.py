"""One sequence from another: any modality in, text out."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from plugformer.data.target import target_sample
from plugformer.interfaces import Batch, Features, Monitor, Needs, Sample, Targets, Task, Tokenizer, Trunk
from plugformer_tasks.language_model import Accuracy, Perplexity, TokensOutput, VocabularyOutput, following, summaries


class Seq2Seq(Task):
    """Write a text for what was read, each token from all before it and the whole source (Sutskever et al. 2014;
    Vaswani et al. 2017).

    Args:
        tied: whether the table of the decoder's embedding is the output's matrix too (Press and Wolf 2017).
        label_smoothing: share of the target probability that is spread over the vocabulary while training.
        z_loss: factor of the squared log of the softmax's normaliser while training.
        chunk: tokens whose logits are held at once; fewer take less memory.

    Raises:
        UserError: an option out of range.
    """

    needs = Needs(directions=frozenset({"encoder_decoder"}), keys=frozenset({"target_text"}), whole_samples=True)
    monitor = Monitor("val/loss", "min")
    generates = True

    def __init__(
        self,
        *,
        dim: int,
        target_tokenizer: Tokenizer,
        tied: bool = True,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        chunk: int = 1024,
    ) -> None:
        super().__init__()
        spec = target_tokenizer.spec
        self.target_tokenizer, self.start = target_tokenizer, spec.specials["bos"]
        self.targets = TargetTokens(target_tokenizer)
        self.output = VocabularyOutput(
            dim=dim, tokens=spec, tied=tied, z_loss=z_loss, label_smoothing=label_smoothing, chunk=chunk
        )

    def forward(self, trunk: Trunk, batch: Batch) -> TokensOutput:
        target = batch["targets"]
        memory = trunk.backbone.encode(trunk.embed(batch["inputs"]))
        tokens = trunk.embed_target(target)
        hidden = trunk.backbone(tokens, memory=memory)
        counts = tokens.real
        counts = following(counts.long()).bool()
        return self.output(trunk, hidden, following(target["ids"]), counts, following(target["bytes"]))

    def logits(self, trunk: Trunk, hidden: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places vocab"]:
        return self.output.logits(trunk, hidden)

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": Accuracy(), "perplexity": Perplexity()}

    def describe(self, output: Any) -> list[dict[str, Any]]:
        return summaries(output)


class TargetTokens(Targets):
    """The tokens that are to be written, with what begins and ends them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, sample: Sample, inputs: Features) -> Features:
        return self.tokenizer.encode(target_sample(sample))

    def collate(self, features: Sequence[Features]) -> Features:
        return self.tokenizer.collate(features)

    def example(self, inputs: Features) -> Features:
        return self.tokenizer.example()
