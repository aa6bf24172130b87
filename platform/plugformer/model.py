"""tokens → backbone → task, as one module."""

from torch import nn

from plugformer.interfaces import Attention, Backbone, Batch, Embedding, Features, Output, Task, Tokens


class Trunk(nn.Module):
    """A model without its head: what a task is given to work with."""

    def __init__(self, *, embedding: Embedding, backbone: Backbone) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone

    def embed(self, features: Features) -> Tokens:
        return self.embedding(features)


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
