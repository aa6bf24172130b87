"""tokens → backbone → task, as one module."""

from torch import nn

from plugformer.interfaces import Attention, Backbone, Batch, Embedding, Features, Output, Task, Tokens


class Trunk(nn.Module):
    """A model without its head: what a task is given to work with.

    Args:
        embedding: of the tokens that the backbone reads.
        backbone: what reads them.
        target_embedding: of the tokens of an `encoder_decoder`'s decoder, where they aren't those of its encoder.
    """

    def __init__(self, *, embedding: Embedding, backbone: Backbone, target_embedding: Embedding | None = None) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone
        self.target_embedding = target_embedding

    def embed(self, features: Features) -> Tokens:
        return self.embedding(features)

    def embed_target(self, features: Features) -> Tokens:
        """Tokens of the decoder."""
        return self.embedding(features) if self.target_embedding is None else self.target_embedding(features)

    @property
    def embeddings(self) -> list[Embedding]:
        """Of all tokens that the backbone is given."""
        return [self.embedding, *([] if self.target_embedding is None else [self.target_embedding])]

    @property
    def target_table(self) -> nn.Parameter | None:
        """A vector for each of them."""
        return (self.embedding if self.target_embedding is None else self.target_embedding).table


class Model(nn.Module):
    def __init__(self, *, trunk: Trunk, task: Task) -> None:
        super().__init__()
        self.trunk = trunk
        self.task = task

    def forward(self, batch: Batch) -> Output:
        return self.task(self.trunk, batch)


def mechanisms(model: nn.Module) -> list[Attention]:
    """The attention mechanisms of a model."""
    return [module for module in model.modules() if isinstance(module, Attention)]


def remembering(model: Model) -> list[Attention]:
    """Those that see tokens as they come while decoding, and so must remember what came before."""
    return list(model.trunk.backbone.mechanisms().get("decoder", ()))


def decodes_in_steps(model: Model) -> bool:
    """Whether all of these can go on token by token; a state of its own knows of no prefix."""
    known = {"cache"} if model.trunk.backbone.direction == "prefix" else {"cache", "state"}
    return all(mechanism.capabilities.decoding in known for mechanism in remembering(model))
