"""Tensors in files of the safetensors format, which hold nothing that could run."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plugformer.errors import UserError
from plugformer.run_dir import read_json

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, in model.safetensors or in the shards that its index names.

    Raises:
        UserError: there are none, a file is missing, truncated or something else, or there are only pickles.
    """
    if (folder / FILE).is_file():
        return _read(folder / FILE)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{folder}: its weights are pickles ({', '.join(pickles[:3])}), and reading a pickle can run any code in "
            "it, so they are refused.\n"
            "  If you trust them, convert them once: transformers.AutoModel.from_pretrained(FOLDER).save_pretrained("
            "OTHER) writes safetensors. On the hub, most models have them in a newer revision."
        )
    raise UserError(f"{folder}: there is no {FILE} in it, and no {INDEX}.")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    index = read_json(folder / INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{folder / INDEX}: expected a weight_map, which says where each tensor is.")
    shards: dict[str, list[str]] = defaultdict(list)
    for name, file in places.items():
        if Path(str(file)).name != file:
            raise UserError(f"{folder / INDEX}: {file} is outside of the folder.")
        shards[file].append(name)
    missing = sorted(file for file in shards if not (folder / file).is_file())
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing)}")
    found: dict[str, Tensor] = {}
    for file, names in sorted(shards.items()):
        shard = _read(folder / file)
        if lacking := sorted(set(names) - shard.keys()):
            raise UserError(f"{folder / file}: lacks {', '.join(lacking[:5])}, which {INDEX} says is in it.")
        found |= {name: shard[name] for name in names}
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(100).startswith(b"version https://git-lfs")
        what = "a pointer of Git LFS, whose file `git lfs pull` fetches" if pointer else "truncated or foreign"
        raise UserError(f"{path}: {what} ({error}).") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: Any) -> None:
    """
    Args:
        path: of the new file.
        tensors: by name; two may share their storage.
        metadata: what the file says of itself besides that torch wrote it.
    """
    alone = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    path.touch()
    mode = path.stat().st_mode  # the library makes files that nobody else can read
    save_file(alone, path, metadata={"format": "pt", **{key: str(value) for key, value in metadata.items()}})
    path.chmod(mode)
