"""Where installed packages lie, without importing them."""

from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from plugformer.errors import UserError, nearest


def package_folder(name: str) -> Path:
    """
    Args:
        name: as it is imported; what comes after a dot is a folder inside.

    Raises:
        UserError: no such package is installed, in which case the nearest is named, or it has no such folder.
    """
    first, *inside = name.split(".")
    spec = find_spec(first) if first.isidentifier() else None
    if spec is None:
        guess = nearest(first, packages_distributions())
        hint = f" Did you mean {guess}?" if guess else ""
        raise UserError(
            f"data.packages: no package {first} is installed.{hint}\n  Install it, or give its folder as data.root."
        )
    places = list(spec.submodule_search_locations or [])
    if not places:
        raise UserError(f"data.packages: {first} is a single module, without a folder.")
    for place in places:
        folder = Path(place, *inside)
        if folder.is_dir():
            return folder
    raise UserError(f"data.packages: {name}: no such folder in {places[0]}.")
