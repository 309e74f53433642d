"""An extension of griffe: docstrings as Markdown, and the fields of a class as the arguments that build it."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator

import griffe
from api_pages import NAMES, ROOT, documented_modules
from docstrings import to_markdown

PARAMETERS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}
OF_FLAX = ("parent", "name")
"""Fields that flax.linen adds to every module."""


class ReadableDocstrings(griffe.Extension):
    """Applied to each package once, when it is read."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs) -> None:
        modules = documented_modules()
        for item in objects(pkg):
            if item.docstring:
                module = item.module.path
                local = local_words(item)
                item.docstring.value = to_markdown(
                    item.docstring.value, lambda code, module=module, local=local: NAMES.link(code, module, local)
                )
            if isinstance(item, griffe.Class) and "__init__" not in item.members and item.module.path in modules:
                add_fields(item, loader)


def objects(item: griffe.Object) -> Iterator[griffe.Object]:
    """An object and what it contains, without what is imported."""
    yield item
    for member in item.members.values():
        if isinstance(member, griffe.Object):
            yield from objects(member)


def local_words(item: griffe.Object) -> set[str]:
    """The parameters, fields and methods that a docstring may name in backticks."""
    words: set[str] = set()
    holder: griffe.Object | griffe.Alias | None = item
    while holder is not None and not holder.is_module:
        words |= holder.members.keys() | {holder.name}
        if isinstance(holder, griffe.Function):
            words |= {parameter.name for parameter in holder.parameters}
        holder = holder.parent
    return words


def add_fields(item: griffe.Class, loader: griffe.GriffeLoader) -> None:
    """Gives a dataclass, named tuple or network an `__init__` with its fields, so that the signature shows them."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    cls: object = importlib.import_module(item.module.path)
    for part in item.path.removeprefix(f"{item.module.path}.").split("."):
        cls = getattr(cls, part)
    if not isinstance(cls, type) or not (hasattr(cls, "__dataclass_fields__") or hasattr(cls, "_fields")):
        return
    parameters = [
        griffe.Parameter(
            given.name,
            annotation=annotation_of(cls, given.name, loader),
            kind=PARAMETERS[given.kind],
            default=shown(given.default),
        )
        for given in inspect.signature(cls).parameters.values()
        if given.name not in OF_FLAX
    ]
    item.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))


def annotation_of(cls: type, field: str, loader: griffe.GriffeLoader) -> griffe.Expr | str | None:
    """The field's annotation as the source has it, in the class or the nearest base that declares it."""
    for base in cls.__mro__:
        with contextlib.suppress(KeyError):
            declared = loader.modules_collection[f"{base.__module__}.{base.__qualname__}"].members.get(field)
            if isinstance(declared, griffe.Attribute) and declared.annotation is not None:
                return declared.annotation
    return None


def shown(default: object) -> str | None:
    """A default value as code: functions and classes by their names."""
    if default is inspect.Parameter.empty:
        return None
    text = getattr(default, "__qualname__", None) or repr(default)
    return "..." if " at 0x" in text or "<factory>" in text or "<lambda>" in text else text
