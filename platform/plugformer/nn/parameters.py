"""Which parameters weight decay applies to, and how many there are."""

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


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
