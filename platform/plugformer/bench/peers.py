"""Layers of other projects, through thin adapters in a file that the command line names.

The file holds `PEERS = {"name": Peer(make=…, install="pip install …")}`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from plugformer.errors import UserError, unknown


@dataclass(frozen=True)
class Peer:
    """An attention layer of another project.

    Attributes:
        make: called as `make(dim=…, num_heads=…, length=…, causal=…)`; the module takes and returns
            `[batch, length, dim]`. ImportError: it is not installed. UserError: it can't do what is asked.
        install: the command that installs what it needs.
    """

    make: Callable[..., nn.Module]
    install: str


def load_peers(path: Path, names: list[str] | None = None) -> Mapping[str, Peer]:
    """Run a file of adapters; all of its peers, or those named.

    Raises:
        UserError: the file can't be run, holds no peers, or not those named.
    """
    module_name = f"plugformer_peers_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"peers={path}: {type(error).__name__}: {error}") from error
    peers = getattr(module, "PEERS", None)
    if not isinstance(peers, Mapping) or not all(isinstance(peer, Peer) for peer in peers.values()):
        raise UserError(f'peers={path}: holds no PEERS = {{"name": Peer(...)}}.')
    names = list(peers) if names is None else names
    for name in names:
        if name not in peers:
            raise unknown(f"peers={path}:{name}: no such peer", name, peers)
    return {name: peers[name] for name in names}
