import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

import pytest
from torch import nn

from plugformer import registry
from plugformer.errors import UserError
from plugformer.interfaces import Attention, Capabilities
from plugformer.options import REQUIRED, coerce
from plugformer.registry import KINDS, Plugin, build, check, find, offers, register, register_file
from plugformer.signatures import read_class, read_signature

INSTALLED = [plugin for kind in KINDS for rivals in offers(kind).values() for plugin in rivals]


@pytest.fixture(autouse=True)
def _nothing_stays_registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def refusal(call, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("plugin", INSTALLED, ids=str)
def test_the_read_signature_is_the_introspected_one(plugin):
    context = KINDS[plugin.kind].context
    introspected = read_class(plugin.load(), context)
    assert read_signature(plugin.target, context) == introspected
    assert not introspected.problems
    assert Path(introspected.file).is_file()


@pytest.mark.parametrize("plugin", INSTALLED, ids=str)
def test_every_option_has_a_type_help_and_a_default_of_that_type(plugin):
    assert plugin.signature.doc
    for name in plugin.options:
        option = plugin.signature.parameters[name]
        assert option.type is not Any, name
        assert option.help, name
        if option.default is not REQUIRED:
            assert coerce(option.default, option.type, name) == option.default


def test_reading_all_signatures_imports_no_torch():
    code = """
        import sys
        from plugformer.registry import KINDS, offers
        read = [plugin.options for kind in KINDS for rivals in offers(kind).values() for plugin in rivals]
        heavy = {"torch", "torchvision", "sklearn", "pytorch_lightning", "omegaconf"} & set(sys.modules)
        print(len(read), *heavy)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(INSTALLED))]


SOURCE = '''
"""Constructors as people write them."""
from __future__ import annotations
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional, Union

Mode = Literal["fast", "slow"]
SIZE = 4
GROWING = 1
GROWING += 1

class Plain:
    """Plain.

    Args:
        mode: how it goes,
            over two lines.
        size: how large.
    """
    def __init__(self, *, mode: Mode = "fast", size: int = SIZE, rate: float | None = None,
                 pair: tuple[int, int] = (1, -2), root: Optional[Path] = None, quoted: "int" = 3,
                 names: Union[list[str], None] = None, needed: int, dim: Nowhere = 0) -> None: ...

class Inherited(Plain):
    """Inherited."""

class Computed:
    def __init__(self, *, scale: float = math.sqrt(4.0)) -> None: ...

class Grown:
    def __init__(self, *, size: int = GROWING) -> None: ...

@dataclass(kw_only=True)
class Fields:
    """Fields.

    Args:
        width: how wide.
    """
    width: int = 2
    mode: Mode = "slow"

@dataclass(kw_only=True)
class MoreFields(Fields):
    depth: int = 3
    names: list[str] = field(default_factory=lambda: ["a"])

class Bare: ...

class Loose:
    def __init__(self, size: int, *rest: int, mode: Mode = "fast", **others: int) -> None: ...
'''
AWKWARD = ("Plain", "Inherited", "Computed", "Grown", "Fields", "MoreFields", "Bare", "Loose")


@pytest.fixture
def awkward(tmp_path, monkeypatch, request):
    """The name of a module with these constructors, found by import but not imported."""
    module = f"awkward_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    sys.modules.pop(module, None)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_constructors_are_read_as_python_reads_them(awkward, name):
    context = frozenset({"dim"})
    read = read_signature(f"{awkward}:{name}", context)
    imported = awkward in sys.modules
    assert imported == (name in ("Computed", "Grown", "MoreFields"))  # their defaults are known only to Python
    assert read == read_class(getattr(__import__(awkward), name), context)


def test_options_are_what_the_source_says(awkward):
    parameters = read_signature(f"{awkward}:Inherited", frozenset({"dim"})).parameters
    assert (parameters["mode"].type, parameters["mode"].default) == (Literal["fast", "slow"], "fast")
    assert parameters["mode"].help == "how it goes, over two lines."
    assert parameters["size"].default == 4
    assert parameters["pair"].default == (1, -2)
    assert parameters["quoted"].type is int
    assert parameters["needed"].default is REQUIRED


def test_a_computed_default_is_found_by_importing(awkward):
    assert read_signature(f"{awkward}:Computed").parameters["scale"].default == 2.0
    assert read_signature(f"{awkward}:Grown").parameters["size"].default == 2


def test_parameters_that_are_not_keyword_only_are_named(awkward):
    (problem,) = read_signature(f"{awkward}:Loose").problems
    assert problem.endswith("must be keyword-only and named one by one; these are not: size, *rest, **others")


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, 1.0),
        (3, str, "3"),
        ([1, 2], tuple[int, int], (1, 2)),
        ([1, 2.5], list[float], [1.0, 2.5]),
        (2, Literal["1", "2"], "2"),
        (None, int | None, None),
        (1, int | float, 1),
        ("a", Path, Path("a")),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
    ],
)
def test_values_are_converted_where_nothing_is_lost(value, hint, expected):
    converted = coerce(value, hint, "it")
    assert (converted, type(converted)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "hint", "where", "message"),
    [
        ("fast", float, "optimizer.lr", "optimizer.lr=fast: expected a number."),
        ("clss", Literal["cls", "mean"], "p", "p=clss: expected one of cls, mean. Did you mean cls?"),
        ([1, 2, 3], tuple[int, int], "p", "p=[1, 2, 3]: expected a list of 2: an integer, an integer."),
        ([1, "b"], list[int], "p", "p[1]=b: expected an integer."),
        (True, int, "p", "p=true: expected an integer."),
        (True, float, "p", "p=true: expected a number."),
        (1, bool, "p", "p=1: expected true or false."),
        ("tru", bool, "p", "p=tru: expected true or false. Did you mean true?"),
        (1.5, int, "p", "p=1.5: expected an integer."),
        (2**60, float, "p", f"p={2**60}: expected a number."),
        (None, float, "p", "p=null: expected a number."),
        ("x", int | None, "p", "p=x: expected an integer or null."),
        (1.1, str, "p", "p=1.1: expected a string. To mean text, put it in quotes: 'p=\"1.1\"'"),
        ({"a": "b"}, dict[str, int], "p", "p.a=b: expected an integer."),
    ],
)
def test_other_values_are_refused_with_what_was_expected(value, hint, where, message):
    assert refusal(coerce, value, hint, where) == message


# ---------------------------------------------------------------------------------------------- registering


class Mine(Attention):
    capabilities = Capabilities()

    def __init__(self, *, num_heads: int, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        self.taken = (num_heads, seed, width)

    def forward(self, q, k, v, mask, bias=None):
        return v


def test_a_registered_class_is_found_checked_and_built():
    assert register("attention", "mine")(Mine) is Mine
    assert find("attention", "mine").load() is Mine
    assert find("attention", "mine").options == {"width": 4}
    built = build("attention", {"name": "mine", "width": 5}, num_heads=2, seed=7, head_dim=8)
    assert built.taken == (2, 7, 5)
    assert find("attention", "mine").provenance() == {
        "name": "mine",
        "entry_point": f"{__name__}:Mine",
        "package": __file__,
        "version": "unversioned",
    }


def test_running_a_cell_again_replaces_its_own_class():
    register("attention", "mine")(Mine)
    again = type("Mine", (Mine,), {"__module__": __name__, "__qualname__": "Mine"})
    register("attention", "mine")(again)
    assert find("attention", "mine").load() is again


def test_a_name_that_is_taken_is_refused_with_both_owners():
    message = refusal(register("attention", "full"), Mine)
    assert message.startswith("attention=full: the name is offered more than once.\n  plugformer ")
    assert "plugformer.nn.full_attention:Full" in message
    assert f"{__file__} unversioned: {__name__}:Mine" in message
    assert find("attention", "full").package == "plugformer"


def test_two_packages_of_one_name_are_both_named(monkeypatch):
    rivals = [Plugin("attention", "mine", f"{package}:Mine", package, "1.0") for package in ("one", "two")]
    monkeypatch.setattr(registry, "_installed", lambda: {"attention": rivals})
    assert refusal(find, "attention", "mine") == (
        "attention=mine: the name is offered more than once.\n"
        "  one 1.0: one:Mine\n  two 1.0: two:Mine\n  Uninstall or rename one of them."
    )


def test_classes_that_miss_the_interface_are_refused():
    class Abstract(Attention):
        def __init__(self) -> None: ...

    class Positional(Mine):
        def __init__(self, width: int, **others: int) -> None: ...

    class Untyped(Mine):
        def __init__(self, *, width: "Nowhere") -> None: ...

    attempt = register("attention", "mine")
    where = f"attention=mine: {__name__}:"
    assert "Linear of " in refusal(attempt, nn.Linear)
    message = refusal(attempt, nn.Linear)
    assert message.endswith("is not a subclass of plugformer.interfaces.Attention, as every attention must be.")
    message = refusal(attempt, Abstract)
    assert message.startswith(where)
    assert message.endswith("lacks forward, which plugformer.interfaces.Attention asks for.")
    assert refusal(attempt, Positional).endswith("named one by one; these are not: width, **others.")
    assert "the type of width can't be found (NameError: name 'Nowhere' is not defined)" in refusal(attempt, Untyped)
    assert "mine" not in offers("attention")


def test_unknown_names_are_answered_with_the_nearest():
    assert refusal(find, "atention", "full").startswith(
        "atention: no such kind of plugin. Did you mean attention?\n  Kinds: attention, "
    )
    message = refusal(find, "attention", "ful")
    assert message.startswith("attention=ful: no such plugin. Did you mean full?\n  Installed: ")
    assert refusal(check, "attention", {"name": "full", "dropuot": 0.1}) == (
        "attention.dropuot: no such option of attention=full. Did you mean attention.dropout?\n"
        "  Its options: attention.dropout"
    )
    assert refusal(check, "attention", {}).startswith("attention: the node needs a name. Choose one with attention=")


def test_a_node_cannot_set_what_the_core_fills_in():
    register("attention", "mine")(Mine)
    message = refusal(build, "attention", {"name": "mine", "num_heads": 3}, num_heads=2)
    assert message == "attention.num_heads: is filled in by the core and can't be set."


def test_a_required_option_is_asked_for():
    @dataclass(kw_only=True)
    class Needy(nn.Module):
        """Needs.

        Args:
            width: how wide.
        """

        width: int

    register("norm", "needy")(Needy)
    message = "norm.width has no default: set norm.width=VALUE.\n  norm.width: how wide."
    assert refusal(check, "norm", {"name": "needy"}) == message
    assert refusal(check, "norm", {"name": "needy", "width": "???"}) == message


# ---------------------------------------------------------------------------------------------- files

FILE = """
from torch import nn
from plugformer.registry import register

@register("norm", "from_file")
class FromFile(nn.Module):
    def __init__(self, *, dim: int, width: int = 2) -> None:
        super().__init__()
"""


def test_a_file_joins_with_its_hash_as_version(tmp_path):
    path = tmp_path / "my_norm.py"
    path.write_text(FILE)
    register_file(path)
    register_file(path)
    plugin = find("norm", "from_file")
    assert plugin.options == {"width": 2}
    assert plugin.package == str(path)
    sha256 = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout
    assert plugin.version == f"sha256:{sha256[:12]}"
    sys.modules.pop(plugin.load().__module__)


def test_files_that_cannot_join_are_named(tmp_path):
    missing, raising, exiting = (tmp_path / f"{name}.py" for name in ("missing", "raising", "exiting"))
    raising.write_text("1 / 0")
    exiting.write_text("raise SystemExit(3)")
    assert refusal(register_file, missing) == f"plugins={missing}: no such file."
    for _ in range(2):  # nothing half-imported stays behind
        assert refusal(register_file, raising) == f"plugins={raising}: ZeroDivisionError: division by zero"
    assert refusal(register_file, exiting) == f"plugins={exiting}: SystemExit: 3"
