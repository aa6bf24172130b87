"""Kinds of parts, the plugins that offer them, and how a part is built from its name and options.

A *kind* is a part of a run that somebody may want to swap. A *plugin* is a class with a kind and a name, registered by
one line of packaging,

    [project.entry-points."plugformer.attention"]
    performer = "my_package.performer:Performer"

or, in a notebook or a single file, by `@register("attention", "mine")`. Listing plugins imports none of them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypeVar

from plugformer.errors import Stopped, UserError, unknown
from plugformer.options import REQUIRED, Signature, check_options
from plugformer.signatures import read_class, read_signature

PREFIX = "plugformer."
Class = TypeVar("Class", bound=type)


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Attributes:
        does: what a part of this kind does, in a few words.
        interface: the base class its plugins subclass, as `module:Class`.
        context: constructor parameters that the core fills in, because it knows them better than the user; a plugin
            receives those it names and is never asked for them in a configuration.
        many: several plugins of this kind may be chosen at once, as in `callback=[early_stopping,mine]`.
        composed: whether it is a part of a run, to be chosen in its composition.
        plugins_of: the kind whose plugins fill this part of a run, where it isn't a kind of its own.
        optional: whether a run may do without.
    """

    does: str
    interface: str
    context: frozenset[str] = frozenset()
    many: bool = False
    composed: bool = True
    plugins_of: str = ""
    optional: bool = False


def _interface(name: str) -> str:
    return f"plugformer.interfaces:{name}"


KINDS: Mapping[str, Kind] = {
    "data": Kind("raw samples in three splits", _interface("DataSource")),
    "tokenizer": Kind("samples of one modality to tokens", _interface("Tokenizer"), frozenset({"part"})),
    "backbone": Kind(
        "tokens to hidden states",
        _interface("Backbone"),
        frozenset(
            {
                "make_block",
                "make_attention",
                "make_norm",
                "make_feed_forward",
                "make_position",
                "make_target_attention",
                "make_target_position",
                "make_cross_attention",
            }
        ),
    ),
    "block": Kind(
        "how norm, mixer and feed-forward meet the residual stream",
        _interface("Block"),
        frozenset({"attention", "cross_attention", "feed_forward", "make_norm", "dropout", "layer", "num_layers"}),
    ),
    "attention": Kind(
        "the attention mechanism",
        _interface("Attention"),
        frozenset({"num_heads", "head_dim", "causal", "max_length", "layer", "seed"}),
    ),
    "position": Kind(
        "where a token stands",
        _interface("Position"),
        frozenset({"dim", "num_heads", "head_dim", "grids", "causal"}),
    ),
    "norm": Kind("normalisation of the residual stream", "torch.nn:Module", frozenset({"dim"})),
    "feed_forward": Kind("the part applied to each token", "torch.nn:Module", frozenset({"dim", "dropout"})),
    "task": Kind(
        "head, objective and metrics",
        _interface("Task"),
        frozenset({"dim", "tokens", "data", "tokenizer", "target_tokenizer"}),
    ),
    "optimizer": Kind("how weights are updated", _interface("Optimizer")),
    "schedule": Kind("the learning rate over the steps", _interface("Schedule")),
    "logger": Kind("where metrics go", "plugformer.track.logger:Logger", many=True),
    "callback": Kind("what else happens while training", "plugformer.train.callbacks:Callback", many=True),
    "family": Kind(
        "another library's models that ours can equal, weight for weight", _interface("Family"), composed=False
    ),
}

# Further parts of a run that are filled by another kind's plugins.
OTHERS: Mapping[str, Kind] = {
    "target_tokenizer": replace(
        KINDS["tokenizer"],
        does="texts that are to be written to tokens; null for the tokenizer of the source",
        plugins_of="tokenizer",
        optional=True,
    ),
    "cross_attention": replace(
        KINDS["attention"],
        does="the mechanism from a decoder to an encoder; null for full",
        plugins_of="attention",
        optional=True,
    ),
}

PARTS: Mapping[str, Kind] = {**{name: kind for name, kind in KINDS.items() if kind.composed}, **OTHERS}


@dataclass(frozen=True)
class Plugin:
    """One offer: this package's class for this kind and name."""

    kind: str
    name: str
    target: str
    package: str
    version: str
    registered: type | None = None

    @cached_property
    def signature(self) -> Signature:
        """The constructor's options and the class's docstring; the module is imported only where unavoidable."""
        context = KINDS[self.kind].context
        if self.registered is not None:
            return read_class(self.registered, context)
        try:
            return read_signature(self.target, context)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:
            raise self._broken(error) from error

    @property
    def options(self) -> dict[str, Any]:
        """The user's options with their defaults; `???` for those without one."""
        parameters = self.signature.parameters.values()
        chosen = [option for option in parameters if option.name not in KINDS[self.kind].context]
        return {option.name: "???" if option.default is REQUIRED else option.default for option in chosen}

    def load(self) -> type:
        """The class itself, imported, and checked against its kind's interface."""
        if self.registered is not None:
            return self.registered
        module, _, name = self.target.partition(":")
        try:
            cls = getattr(importlib.import_module(module), name)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:
            raise self._broken(error) from error
        check_interface(self, cls)
        return cls

    def provenance(self) -> dict[str, str]:
        return {"name": self.name, "entry_point": self.target, "package": self.package, "version": self.version}

    def _broken(self, error: BaseException) -> UserError:
        return UserError(
            f"{self}: {self.target} of {self.package} {self.version} can't be imported: "
            f"{type(error).__name__}: {error}\n  Other plugins are not affected. Mend or uninstall {self.package}."
        )

    def __str__(self) -> str:
        return f"{self.kind}={self.name}"


def check_interface(plugin: Plugin, cls: Any) -> None:
    """Refuse a class that can't be a plugin of its kind.

    Raises:
        UserError: not a subclass of the kind's interface, still abstract, or a constructor that isn't keyword-only.
    """
    where = f"{plugin}: {plugin.target} of {plugin.package} {plugin.version}"
    module, _, name = KINDS[plugin.kind].interface.partition(":")
    interface = getattr(importlib.import_module(module), name)
    if not (isinstance(cls, type) and issubclass(cls, interface)):
        raise UserError(f"{where} is not a subclass of {module}.{name}, as every {plugin.kind} must be.")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}, which {module}.{name} asks for.")
    problems = replace(plugin, registered=cls).signature.problems
    if problems:
        raise UserError(f"{where}: {'; '.join(problems)}.")


# ---------------------------------------------------------------------------------------------- registering and finding

_registered: dict[tuple[str, str], Plugin] = {}


def register(kind: str, name: str) -> Callable[[Class], Class]:
    """Register a class for this process, as in `@register("attention", "mine")`.

    Running a notebook cell again replaces its own registration.

    Raises:
        UserError: an unknown kind, a name that another class or package offers already, or a class that doesn't meet
            the kind's interface.
    """
    if find_kind(kind).plugins_of:
        raise UserError(f"{kind}: is filled by plugins of {find_kind(kind).plugins_of}. Register it as one of them.")

    def decorate(cls: Class) -> Class:
        module = sys.modules.get(cls.__module__)
        version = getattr(module, "__plugformer_version__", "unversioned")
        target = f"{cls.__module__}:{cls.__qualname__}"
        plugin = Plugin(kind, name, target, getattr(module, "__file__", None) or "notebook", version, cls)
        rivals = [rival for rival in offers(kind).get(name, []) if rival.target != target]
        if rivals:
            raise _duplicate([*rivals, plugin])
        check_interface(plugin, cls)
        _registered[kind, name] = plugin
        return cls

    return decorate


def register_file(path: str | Path) -> None:
    """Run a Python file whose classes register themselves. Only ever called for files named on the command line.

    Raises:
        UserError: no such file, or it can't be imported.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"plugins={path}: no such file.")
    name = f"plugformer_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plugins={path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__plugformer_version__"] = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, UserError):
            raise
        raise UserError(f"plugins={path}: {type(error).__name__}: {error}") from error


@cache
def _installed() -> dict[str, list[Plugin]]:
    """The plugins of every kind as the installed packages' metadata lists them."""
    found: dict[str, list[Plugin]] = {kind: [] for kind in KINDS}
    seen = set()
    for package in distributions():  # the first of a name is the one that Python imports
        if package.name in seen:
            continue
        seen.add(package.name)
        try:
            points = [point for point in package.entry_points if point.group.startswith(PREFIX)]
        except Exception as error:  # a damaged package harms nobody else
            _warn(f"{package.name}: its entry points can't be read ({error}), so its plugins are not seen.")
            continue
        for point in points:
            kind = point.group.removeprefix(PREFIX)
            if kind in found:
                found[kind].append(Plugin(kind, point.name, point.value, package.name, package.version))
            else:
                why = unknown(f"{kind}: no such kind of plugin", kind, KINDS, "Kinds")
                _warn(f"{package.name} {package.version}: its plugin {point.name} is not seen. {why}")
    return found


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def find_kind(kind: str) -> Kind:
    if kind in OTHERS:
        return OTHERS[kind]
    if kind not in KINDS:
        raise unknown(f"{kind}: no such kind of plugin", kind, KINDS, "Kinds")
    return KINDS[kind]


def offers(kind: str) -> dict[str, list[Plugin]]:
    """Every name of a kind with the packages that offer it; more than one is a conflict. Imports no plugin."""
    kind = find_kind(kind).plugins_of or kind
    found: dict[str, list[Plugin]] = {}
    for plugin in _installed()[kind]:
        found.setdefault(plugin.name, []).append(plugin)
    for (registered_kind, name), plugin in _registered.items():
        rivals = found.get(name, [])
        if registered_kind == kind and plugin.target not in [rival.target for rival in rivals]:
            found[name] = [*rivals, plugin]
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Plugin:
    """The one plugin of this kind and name.

    Raises:
        UserError: no such plugin (with the nearest name), or offered by two packages.
    """
    found = offers(kind)
    if name not in found:
        raise unknown(f"{kind}={name}: no such plugin", name, found, "Installed")
    if len(found[name]) > 1:
        raise _duplicate(found[name])
    return found[name][0]


def _duplicate(rivals: list[Plugin]) -> UserError:
    packages = "\n".join(f"  {rival.package} {rival.version}: {rival.target}" for rival in rivals)
    return UserError(
        f"{rivals[0]}: the name is offered more than once.\n{packages}\n  Uninstall or rename one of them."
    )


# ---------------------------------------------------------------------------------------------- checking and building


def check(kind: str, node: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """A composed node with its options checked, converted and complete, still with its `name`. Imports no plugin.

    Args:
        kind: the kind of part.
        node: `{"name": ..., **options}`; plain values.
        where: its dotted place in a composition, if that isn't the kind.
    """
    where = where or kind
    options = dict(node)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"{where}: the node needs a name. Choose one with {kind}=NAME: {', '.join(offers(kind))}")
    plugin = find(kind, name)
    filled = find_kind(kind).context
    for word in sorted(filled & set(options)):
        raise UserError(f"{where}.{word}: is filled in by the core and can't be set.")
    parameters = {k: v for k, v in plugin.signature.parameters.items() if k not in filled}
    signature = replace(plugin.signature, parameters=parameters)
    return {"name": name, **check_options(signature, options, where, str(plugin))}


def build(kind: str, node: Mapping[str, Any], **context: Any) -> Any:
    """The part that a composed node describes.

    Args:
        kind: the kind of part.
        node: `{"name": ..., **options}`; plain values.
        **context: what the core knows; a plugin gets the entries its constructor names.

    Raises:
        UserError: an unknown name, an unknown or mistyped option, a broken plugin.
    """
    surplus = set(context) - find_kind(kind).context
    assert not surplus, f"{surplus} is no context of {kind}"
    options = check(kind, node)
    plugin = find(kind, options.pop("name"))
    cls = plugin.load()
    wanted = {word: value for word, value in context.items() if word in plugin.signature.parameters}
    return cls(**options, **wanted)
