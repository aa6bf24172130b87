"""Which parameters weight decay applies to, how many there are, and of which precision."""

import torch
from torch import nn

from plugformer.interfaces import Backbone, ParameterGroups


def group_parameters(model: nn.Module) -> ParameterGroups:
    """Matrices are decayed; norms, biases, embeddings and single vectors are not (Loshchilov and Hutter 2019; BERT)."""
    embeddings = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.dim() >= 2 and id(parameter) not in embeddings]
    chosen = {id(parameter) for parameter in decayed}
    inside = {id(p) for module in model.modules() if isinstance(module, Backbone) for p in module.parameters()}
    return ParameterGroups(
        decayed=decayed,
        undecayed=[parameter for parameter in trained if id(parameter) not in chosen],
        hidden=[parameter for parameter in decayed if parameter.dim() == 2 and id(parameter) in inside],
    )


def weights_dtype(precision: str) -> torch.dtype:
    """Of the weights of a run in this `trainer.precision`; mixed precisions keep them in float32."""
    return {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
