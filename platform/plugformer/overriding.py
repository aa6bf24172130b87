"""Setting values inside a composition that is resolved already."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from plugformer.config import Config, known_keys
from plugformer.errors import unknown


def override_config(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of `config` with dotted keys set.

    Raises:
        UserError: a key that the composition doesn't have.
    """
    changed = deepcopy(config)
    known = known_keys(config)
    for key, value in values.items():
        *parents, last = key.split(".")
        if key not in known:
            raise unknown(f"{key}: no such option of this run", key, known)
        node = changed
        for parent in parents:
            node = node[parent]
        node[last] = value
    return changed
