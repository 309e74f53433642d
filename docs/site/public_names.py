"""The public names of the packages, read from their source: nothing is imported.

A package exports `from module import X as X` in its `__init__`, and what that file defines. A package whose `__init__`
exports nothing is imported module by module: its public names are the functions and classes of its modules. The core of
sde_lib, its top level, is imported in both ways. A name is listed once, under the shortest package that exports it.
"""

import ast
import functools
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("run_lib", "sde_lib", "models", "data_lib", "eval_lib", "config_lib", "io_lib", "published_lib")
BY_MODULE = ("config_lib", "io_lib", "published_lib", "sde_lib")
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class Name(NamedTuple):
    """A public name: where it is imported from, and where it is defined."""

    path: str
    module: str
    name: str

    @property
    def identifier(self) -> str:
        """The path, or the place of definition where the path is a module's too, as that of `data_lib.digits` is."""
        return f"{self.module}.{self.name}" if source_of(self.path) else self.path

    @property
    def docstring(self) -> str | None:
        return docstring_of(self.module, self.name)


def source_of(module: str) -> Path | None:
    """The file of a module or package of this repository; None if there is none."""
    base = ROOT / module.replace(".", "/")
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


@functools.cache
def tree_of(module: str) -> ast.Module:
    file = source_of(module)
    if file is None:
        raise ValueError(f"expected a module of this repository; got {module!r}")
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def modules_of(package: str) -> tuple[str, ...]:
    """The modules directly in a package, in the order of their names; none for a module."""
    files = sorted((ROOT / package.replace(".", "/")).glob("*.py"))
    return tuple(f"{package}.{file.stem}" for file in files if not file.stem.startswith("_"))


def subpackages_of(package: str) -> tuple[str, ...]:
    files = sorted((ROOT / package.replace(".", "/")).glob("*/__init__.py"))
    return tuple(f"{package}.{file.parent.name}" for file in files)


@functools.cache
def definitions(module: str) -> dict[str, Definition]:
    """Name → statement, of what the module's top level defines without a leading underscore."""
    found: dict[str, Definition] = {}
    for node in tree_of(module).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return {name: node for name, node in found.items() if not name.startswith("_")}


@functools.cache
def exports(module: str) -> dict[str, str]:
    """Name → the module that it is re-exported from."""
    return {
        alias.name: node.module
        for node in tree_of(module).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname == alias.name
    }


def old_names(module: str) -> dict[str, str]:
    """Old name → name, of the assignments of one of the module's names to another."""
    known = definitions(module).keys() | exports(module).keys()
    assigned = ((old, getattr(node, "value", None)) for old, node in definitions(module).items())
    return {old: f"{module}.{new.id}" for old, new in assigned if isinstance(new, ast.Name) and new.id in known}


def moved_names() -> dict[str, str]:
    """Old name → place, of those that `run_lib` finds in other modules."""
    tables = {}
    for node in tree_of("run_lib").body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict):
            tables[node.targets[0].id] = ast.literal_eval(node.value)
    moved = {name: f"{module}.{name}" for module, names in tables["_MOVED"].items() for name in names}
    return moved | {name: place.replace(":", ".") for name, place in tables["_RENAMED"].items()}


def defined_in(module: str, name: str) -> str:
    """The module that defines a name which `module` exports."""
    while name not in definitions(module):
        module = exports(module)[name]
    return module


def docstring_of(module: str, name: str) -> str | None:
    """A function's or class's docstring, or the string after an assignment."""
    node = definitions(module)[name]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return ast.get_docstring(node)
    body = tree_of(module).body
    after = body[body.index(node) + 1 : body.index(node) + 2]
    match after:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return text
    return None


def _of_package(package: str) -> list[Name]:
    """What one `__init__`, or one module that is no package, exports and defines."""
    names = [Name(f"{package}.{name}", defined_in(module, name), name) for name, module in exports(package).items()]
    own = (name for name in definitions(package) if name not in old_names(package))
    return names + [Name(f"{package}.{name}", package, name) for name in own]


def _of_module(module: str) -> list[Name]:
    """The functions and classes that a module defines, and its constants that have a docstring."""
    constants = ast.Assign | ast.AnnAssign
    return [
        Name(f"{module}.{name}", module, name)
        for name, node in definitions(module).items()
        if name not in old_names(module)
        if docstring_of(module, name) or not isinstance(node, constants)
    ]


@functools.cache
def public_names() -> tuple[Name, ...]:
    """All of them; the first path of an object is the shortest, since packages come before what is in them."""
    found: dict[tuple[str, str], Name] = {}
    for package in PACKAGES:
        parts = _of_package(package)
        for inner in subpackages_of(package):
            parts += _of_package(inner)
        for module in modules_of(package) if package in BY_MODULE else ():
            parts += _of_module(module)
        for name in parts:
            found.setdefault((name.module, name.name), name)
    return tuple(found.values())


def docstring_of_module(module: str) -> str | None:
    return ast.get_docstring(tree_of(module))
