"""In a few lines, what a model took of weights from elsewhere."""

import re
from collections import defaultdict
from collections.abc import Iterable

from plugformer.model import Model
from plugformer.weights.match import Match, merged
from plugformer.weights.source import Weights

# As far as a tensor's name says which module it is in that a person would speak of.
_SIDE = r"trunk\.backbone\.(?:(?:encoder|decoder)\.)?"
_MODULE = re.compile(rf"task|trunk\.(?:target_)?embedding|{_SIDE}blocks\.\d+|{_SIDE}\w+|\w+")


def match_lines(model: Model, weights: Weights, match: Match) -> list[str]:
    """What is taken, what is new, and what of the weights is left behind: how many tensors and numbers, and where."""
    sizes = {
        name: tensor.numel() for tensors in (weights.tensors, model.state_dict()) for name, tensor in tensors.items()
    }
    lines = [f"begins from {weights.origin}"]
    for what, names in (("taken", match.taken), ("new", match.new), ("left behind", match.left)):
        if names:
            count = sum(sizes[name] for name in names)
            lines.append(f"  {what}: {len(names)} tensors, {count:,} numbers: {modules_of(names)}")
    if match.interpolated is not None:
        lines.append(f"  {match.interpolated}: {modules_of(match.interpolated.names)}")
    return [*lines, f"  head: {match.head}"]


def modules_of(names: Iterable[str]) -> str:
    """The modules that hold these tensors, blocks as one."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found = _MODULE.match(name)
        assert found is not None, name
        module = found[0]
        if module not in alike[key := re.sub(r"\d+", "*", module)]:
            alike[key].append(module)
    return ", ".join(map(merged, alike.values()))
