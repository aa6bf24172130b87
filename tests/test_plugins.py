"""Every registered plugin obeys the laws of its kind. A new entry point is picked up by itself."""

from typing import Any

import pytest
from tests.prepared import PREPARED, WRITTEN

from plugformer.registry import KINDS, offers
from plugformer.testing import SUITES, suite


def test_every_kind_has_a_suite() -> None:
    assert set(SUITES) == set(KINDS)


def make_class(kind: str, name: str) -> type:
    members: dict[str, Any] = {"name": name}
    if (kind, name) in PREPARED:
        members["prepare"] = lambda self, folder: PREPARED[kind, name](folder)
    if kind == "logger" and name in WRITTEN:
        members["written"] = lambda self, run: WRITTEN[name](run)
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
