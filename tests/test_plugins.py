"""Every registered plugin obeys the laws of its kind. A new entry point is picked up by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plugformer.registry import KINDS, offers
from plugformer.testing import SUITES, suite
from plugformer.testing.comparing import noise


def image_folder(folder: Path) -> Mapping[str, Any]:
    for number in range(30):
        name = folder / ("cat" if number % 2 else "dog") / f"{number}.{'png' if number % 3 else 'jpg'}"
        name.parent.mkdir(exist_ok=True)
        pixels = noise(9, 8, seed=number).mul(60).add(128).clamp(0, 255).byte()
        Image.fromarray(pixels.numpy()).save(name)
    return {"root": folder}


# What has to be there before a plugin with options that have no default can be built.
PREPARED = {("data", "image_folder"): image_folder}


def test_every_kind_has_a_suite() -> None:
    assert set(SUITES) == set(KINDS)


def make_class(kind: str, name: str) -> type:
    members: dict[str, Any] = {"name": name}
    if (kind, name) in PREPARED:
        members["prepare"] = lambda self, folder: PREPARED[kind, name](folder)
    return type(f"Test{kind.title()}_{name}", (suite(kind),), members)


for kind in SUITES:
    for name in offers(kind):
        made = make_class(kind, name)
        globals()[made.__name__] = made


@pytest.mark.parametrize("kind", KINDS)
def test_no_plugin_is_left_out(kind: str) -> None:
    assert offers(kind)
    for name in offers(kind):
        assert issubclass(globals()[f"Test{kind.title()}_{name}"], suite(kind))
