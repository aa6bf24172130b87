"""The options of a plugin, read from its constructor's keyword-only parameters.

The source is read, not run: a plugin's module usually imports torch, and neither `--help`, nor shell completion, nor
the answer to a misspelt option may wait for that. Only a constructor that can't be understood from its text (a computed
default, an inherited one from a compiled module) is imported.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from plugformer.options import REQUIRED, Option, Signature


class _Opaque(Exception):
    """The text alone doesn't say; the module has to be imported."""


# ---------------------------------------------------------------------------------------------- reading the source


_NAMES: dict[str, Any] = {
    name: getattr(typing, name) for name in ("Any", "Callable", "Literal", "Optional", "Union")
} | {"Mapping": Mapping, "Path": Path, "Sequence": Sequence}
_NAMES |= {kind.__name__: kind for kind in (bool, dict, float, int, list, str, tuple)}
_NAMES_ARE_OF = {"builtins", "collections.abc", "pathlib", "typing"}
_ANNOTATION_NODES = (
    ast.Expression, ast.Name, ast.Load, ast.Subscript, ast.Tuple, ast.List, ast.Constant, ast.BinOp, ast.BitOr,
    ast.UnaryOp, ast.USub,
)  # fmt: skip
_ROOTS = {"object", "ABC", "Protocol", "Generic", "nn.Module", "torch.nn.Module", "Module"}


@dataclass(frozen=True)
class _Module:
    """One parsed source file: its classes, its constants and where its imported names come from."""

    name: str
    file: str
    classes: Mapping[str, ast.ClassDef]
    constants: Mapping[str, ast.expr]
    imports: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class _Class:
    """One parsed class, beside the module whose names it uses."""

    module: _Module
    node: ast.ClassDef

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def constructor(self) -> ast.FunctionDef | None:
        return next((n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)

    @property
    def decorators(self) -> dict[str, str]:
        """Their names, with their texts."""
        texts = map(ast.unparse, self.node.decorator_list)
        return {text.split("(")[0].rsplit(".", 1)[-1]: text for text in texts}


@cache
def _parse(module: str) -> _Module:
    file = _find_source(module)
    if file is None:
        raise _Opaque
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    classes, constants, imports = {}, {}, {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            constants[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            package = module if Path(file).name == "__init__.py" else module.rpartition(".")[0]
            origin = resolve_name("." * node.level + (node.module or ""), package)
            imports.update({alias.asname or alias.name: (origin, alias.name) for alias in node.names})
    stored = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    constants = {name: value for name, value in constants.items() if stored[name] == 1}  # never changed
    return _Module(module, file, classes, constants, imports)


def _find_source(module: str) -> str | None:
    """The file of a module, without importing it or the packages above it."""
    path, spec, name = None, None, ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    origin = spec.origin if spec else None
    return origin if origin and origin.endswith(".py") else None


def _evaluate(node: ast.expr, module: _Module) -> Any:
    """The value of a default: constants, and names that this page or a module defines."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not all(isinstance(part, _ANNOTATION_NODES) for part in ast.walk(node)):
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise _Opaque from None
    names = {part.id: _look_up(part.id, module) for part in ast.walk(node) if isinstance(part, ast.Name)}
    try:
        return eval(compile(ast.Expression(node), module.file, "eval"), {"__builtins__": {}}, names)
    except TypeError:  # such as "Mine" | None
        raise _Opaque from None


def _evaluate_annotation(node: ast.expr, module: _Module) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _evaluate_annotation(ast.parse(node.value, mode="eval").body, module)
    literals = [n for n in ast.walk(node) if isinstance(n, ast.Subscript) and ast.unparse(n.value) == "Literal"]
    values = {id(part) for literal in literals for part in ast.walk(literal)}
    if any(isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in values for n in ast.walk(node)):
        raise _Opaque  # a name in quotes inside another annotation
    return _evaluate(node, module)


def _look_up(name: str, module: _Module) -> Any:
    if name in module.constants:
        return _evaluate(module.constants[name], module)
    origin, original = module.imports.get(name, ("builtins", name))
    if origin in _NAMES_ARE_OF and original in _NAMES:
        return _NAMES[original]
    if name not in module.imports:
        raise _Opaque
    return _look_up(original, _parse(origin))


def _read(module: _Module, class_name: str, context: frozenset[str]) -> Signature:
    cls = _find_class(class_name, module)
    constructors = _find_constructors(cls)
    if len(constructors) > 1:
        raise _Opaque
    parameters: dict[str, Option] = {}
    problems: tuple[str, ...] = ()
    for owner in constructors:
        if owner.constructor is not None:
            parameters, problems = _from_function(owner.constructor, owner.module, context, owner.doc)
        else:
            parameters = _from_fields(owner, context, owner.doc)
    line = min([cls.node.lineno, *(decorator.lineno for decorator in cls.node.decorator_list)])  # as inspect counts
    return Signature(parameters, cls.doc, cls.module.file, line, problems)


def _find_class(name: str, module: _Module) -> _Class:
    if name in module.classes:
        return _Class(module, module.classes[name])
    if name in module.imports:
        origin, original = module.imports[name]
        return _find_class(original, _parse(origin))
    raise _Opaque


def _find_bases(cls: _Class) -> list[_Class]:
    names = [ast.unparse(base).split("[")[0] for base in cls.node.bases]
    return [_find_class(name, cls.module) for name in names if name not in _ROOTS]


def _find_constructors(cls: _Class) -> list[_Class]:
    """The class that writes the constructor; none if nobody does, several if that depends on the order of bases."""
    if cls.constructor is not None or "dataclass" in cls.decorators:
        return [cls]
    if set(cls.decorators) - {"final", "register"}:
        raise _Opaque
    found = [owner for base in _find_bases(cls) for owner in _find_constructors(base)]
    return list({id(owner.node): owner for owner in found}.values())


def _from_function(
    function: ast.FunctionDef, module: _Module, context: frozenset[str], doc: str
) -> tuple[dict[str, Option], tuple[str, ...]]:
    arguments = function.args
    defaults = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parameters = {a.arg: _option(a.arg, a.annotation, d, module, context, doc) for a, d in defaults}
    loose = [a.arg for a in (arguments.posonlyargs + arguments.args)[1:]]
    loose += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    loose += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return parameters, _loose_problem(loose)


def _loose_problem(loose: list[str]) -> tuple[str, ...]:
    message = "constructor parameters must be keyword-only and named one by one; these are not: "
    return (message + ", ".join(loose),) if loose else ()


def _from_fields(cls: _Class, context: frozenset[str], doc: str) -> dict[str, Option]:
    """The fields of a dataclass after those of its bases."""
    options: dict[str, Option] = {}
    for base in reversed(_find_bases(cls)):
        options |= _from_fields(base, context, doc)
    if "dataclass" not in cls.decorators:
        return options
    if "kw_only=True" not in cls.decorators["dataclass"] or "init=False" in cls.decorators["dataclass"]:
        raise _Opaque
    for node in cls.node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            if "ClassVar" not in ast.unparse(node.annotation):
                options[name] = _option(name, node.annotation, node.value, cls.module, context, doc)
    return options


def _option(
    name: str,
    annotation: ast.expr | None,
    default: ast.expr | None,
    module: _Module,
    context: frozenset[str],
    doc: str,
) -> Option:
    if name in context:  # filled by the core: its type is nobody's to set
        return Option(name, Any, REQUIRED if default is None else None)
    hint = Any if annotation is None else _evaluate_annotation(annotation, module)
    value = REQUIRED if default is None else _evaluate(default, module)
    return Option(name, hint, value, _help(doc, name))


@cache
def _argument_helps(doc: str) -> dict[str, str]:
    """The entries of a docstring's `Args:` section, by name."""
    _, _, section = doc.partition("Args:\n")
    helps: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section.split("\n\n")[0]).splitlines():
        if not line.startswith(" ") and ":" in line:
            name, _, text = line.partition(":")
            helps[name] = text.strip()
        elif name:
            helps[name] += " " + line.strip()
    return helps


def _help(doc: str, name: str) -> str:
    return _argument_helps(doc).get(name, "")


# ---------------------------------------------------------------------------------------------- reading the class


def read_class(cls: type, context: frozenset[str] = frozenset()) -> Signature:
    """The signature of an imported class, by introspection."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    is_root = (owner.__module__, owner.__qualname__) in _IMPORTED_ROOTS
    taken = [] if is_root else inspect.signature(cls).parameters.values()
    parameters, loose, problems = {}, [], []
    for parameter in taken:
        name = parameter.name
        if parameter.kind is not parameter.KEYWORD_ONLY:
            loose.append(str(parameter).split(":")[0].split("=")[0])
        elif name in context:
            parameters[name] = Option(name, Any, REQUIRED if parameter.default is REQUIRED else None)
        else:
            hint = Any
            try:
                hint = _resolve(parameter.annotation, owner)
            except Exception as error:
                problems.append(f"the type of {name} can't be found ({type(error).__name__}: {error})")
            parameters[name] = Option(name, hint, _default(parameter, cls), _help(_doc(owner), name))
    try:
        file, line = inspect.getsourcefile(cls) or "", inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # a class typed into a notebook or a prompt
        file, line = "", 0
    return Signature(parameters, _doc(cls), file, line, (*_loose_problem(loose), *problems))


# Whose constructors take no options. By name, so that torch isn't imported for it.
_IMPORTED_ROOTS = {("builtins", "object"), ("typing", "Protocol"), ("torch.nn.modules.module", "Module")}


def _doc(cls: type) -> str:
    written = cls.__doc__ or ""
    return "" if written.startswith(f"{cls.__name__}(") else inspect.cleandoc(written)  # a dataclass writes one itself


def _resolve(annotation: Any, owner: type) -> Any:
    """An annotation of the owner's constructor as a type; others of it may have names that type checkers alone know."""
    if annotation is REQUIRED:
        return Any
    names = inspect.unwrap(vars(owner)["__init__"]).__globals__
    return typing.get_type_hints(type("", (), {"__annotations__": {"it": annotation}}), names)["it"]


def _default(parameter: inspect.Parameter, cls: type) -> Any:
    made = getattr(cls, "__dataclass_fields__", {}).get(parameter.name)
    return parameter.default if made is None or made.default_factory is MISSING else made.default_factory()


def read_signature(target: str, context: frozenset[str] = frozenset()) -> Signature:
    """The signature of `module:Class`, from its source where that is enough, else by importing it."""
    module, _, name = target.partition(":")
    try:
        return _read(_parse(module), name, context)
    except _Opaque:
        return read_class(getattr(importlib.import_module(module), name), context)
