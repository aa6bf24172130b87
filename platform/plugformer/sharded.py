"""Checkpoints as folders, into which each process writes its own parts (torch.distributed.checkpoint).

Any number of processes can read them again, and one can read all. What is no tensor of the model or of its optimisers
stands in a file beside them.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from plugformer.run_dir import replacing

REST = "rest.ckpt"
WEIGHTS, OPTIMIZERS = "state_dict", "optimizer_states"


def write_sharded(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Every process has to come here.

    Args:
        checkpoint: as Lightning makes it.
        folder: that becomes it; removed if it is there.
    """
    tensors = {f"{WEIGHTS}/{name}": value for name, value in checkpoint[WEIGHTS].items()}
    rest: dict[str, Any] = {**checkpoint, WEIGHTS: {}, OPTIMIZERS: []}
    for index, optimizer in enumerate(checkpoint.get(OPTIMIZERS, ())):
        states: dict[int, dict[str, Any]] = {}
        for number, values in optimizer["state"].items():
            states[number] = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
            for name in values.keys() - states[number].keys():
                tensors[f"{OPTIMIZERS}/{index}/{number}/{name}"] = values[name]
        rest[OPTIMIZERS].append({**optimizer, "state": states})
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder, sync_files=True, overwrite=True))
    if distributed.get_rank() == 0:
        with replacing(folder / REST) as file:
            torch.save(rest, file)
    distributed.barrier()


def read_sharded(folder: Path, like: Callable[[str, torch.Size], Tensor | None] | None = None) -> dict[str, Any]:
    """What was written, with whole tensors on the CPU or, for every process that comes here, with parts.

    Args:
        folder: of the checkpoint.
        like: for the name of a tensor and its whole shape, one to read into; None for one of its own.
    """
    reader = DataReader(folder)
    tensors: dict[str, Tensor] = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata), "nothing but tensors is written"
        given = None if like is None else like(name, stored.size)
        tensors[name] = torch.empty(stored.size, dtype=stored.properties.dtype) if given is None else given
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as is meant, where one process reads all
        dcp.load(tensors, storage_reader=reader, no_dist=like is None)
    checkpoint: dict[str, Any] = torch.load(folder / REST, map_location="cpu", weights_only=True)
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == WEIGHTS:
            checkpoint[WEIGHTS][rest] = tensor
        else:
            index, number, key = rest.split("/", 2)
            checkpoint[OPTIMIZERS][int(index)]["state"].setdefault(int(number), {})[key] = tensor
    return checkpoint


class DataReader(dcp.FileSystemReader):
    """Reads the list of what is where as data alone, where torch's own would run what somebody put there."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _DataUnpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _DATA:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a list of tensors")
        return super().find_class(module, name)


_METADATA = "torch.distributed.checkpoint.metadata"
_DATA = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),  # where it was written
    ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in ("float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool")),
}
