"""The base class of all values in the library: a frozen, keyword-only dataclass that is a JAX pytree."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform, overload

import jax
import numpy as np

from sde_lib.numbers import Allowed, Bound, check_number, is_allowed

# A transformation of JAX may replace a leaf by a tracer, a shape or None, which no narrower type admits.
Scalar = Any
"""A leaf: a number when a value is built."""
Leaf = Any
"""A leaf: an array of the shape that the class's docstring gives."""


T = TypeVar("T")
NodeType = TypeVar("NodeType", bound="PyTreeNode")
Function = TypeVar("Function", bound=Callable)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class PyTreeNode:
    """A frozen dataclass and pytree, built by keywords only.

    Fields are leaves: they may be traced, differentiated, and changed without recompilation. A field that determines a
    shape or the program, such as a number of steps or a function, is declared with `static`.

    A field may state the numbers that it allows (`number`). They are checked when a value is built or replaced, but not
    when JAX rebuilds one: gradients with respect to a process are no process. A subclass that declares the field again
    without bounds inherits them, unless its default is outside them.

    >>> class Point(PyTreeNode):
    ...     x: Scalar = 0.0
    ...     name: str = static("a")
    >>> Point(x=1.0)
    Point(x=1.0, name='a')
    >>> __import__("jax").tree.leaves(Point(x=1.0))
    [1.0]
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]
    _allowed: ClassVar[dict[str, Allowed]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _refuse_misleading(cls)
        dataclasses.dataclass(frozen=True, kw_only=True, repr=False)(cls)
        cls._allowed = {}
        for base in reversed(cls.__mro__):
            fields = vars(base).get("__dataclass_fields__", {}).values()
            cls._allowed |= {f.name: f.metadata["allowed"] for f in fields if "allowed" in f.metadata}
        for name in vars(cls).get("__annotations__", {}).keys() & cls._allowed.keys():
            if not is_allowed(cls.__dataclass_fields__[name].default, cls._allowed[name]):
                del cls._allowed[name]
        init = cls.__init__

        @functools.wraps(init)
        def checked(self, *args, **kwargs):
            init(self, *args, **kwargs)
            self._check_numbers()

        cls.__init__ = checked
        _register(cls, init)

    def _check_numbers(self) -> None:
        """Raises ValueError for a number that its field does not allow."""
        for name, allowed in self._allowed.items():
            others = {bound: getattr(self, bound, None) for bound in allowed[:4] if isinstance(bound, str)}
            check_number(type(self).__name__, name, getattr(self, name, None), allowed, others)

    def replace(self: NodeType, **changes: Any) -> NodeType:
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        """As a dataclass's, on one line (`short`), without the fields that are None by default and in this value."""
        values = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        shown = [f"{name}={short(value)}" for name, value, default in values if not value is default is None]
        return f"{type(self).__name__}({', '.join(shown)})"


def short(value: Any, longest: int = 120) -> str:
    """repr(value) on one line. Large arrays are shown by dtype and shape, trees of arrays by their size.

    >>> short({"a": np.zeros((3, 3)), "b": np.zeros(3)}), short(np.zeros((2, 9))), short(np.arange(3.0)), short(print)
    ('12 numbers in 2 arrays', 'float64[2, 9]', 'array([0., 1., 2.])', 'print')
    """
    if isinstance(value, PyTreeNode):
        return repr(value)
    if isinstance(value, np.ndarray | jax.Array) and value.size > 8:
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    leaves = jax.tree.leaves(value)
    if len(leaves) > 1 and all(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves):
        return f"{sum(leaf.size for leaf in leaves):,} numbers in {len(leaves)} arrays"
    text = getattr(value, "__qualname__", None) or " ".join(repr(value).split())
    return text if len(text) <= longest else f"{type(value).__name__}(…)"


def number(
    default: Any = dataclasses.MISSING,
    *,
    above: Bound = None,
    at_least: Bound = None,
    below: Bound = None,
    at_most: Bound = None,
    finite: bool = True,
) -> Any:
    """A leaf that must be a number within bounds; a bound may be another field's name.

    >>> class Interval(PyTreeNode):
    ...     low: Scalar = number(0.0, at_least=0, below="high")
    ...     high: Scalar = number(1.0)
    >>> Interval(low=2.0)
    Traceback (most recent call last):
    ValueError: Interval: expected a finite number low >= 0 and < high; got low=2 and high=1
    """
    return dataclasses.field(default=default, metadata={"allowed": Allowed(above, at_least, below, at_most, finite)})


def _refuse_misleading(cls: type) -> None:
    """TypeError for a class whose author expects an attribute, or an __init__, to set a field: neither would."""
    if "__init__" in vars(cls):
        raise TypeError(
            f"{cls.__qualname__} defines __init__, but its fields are its arguments: write `name: Scalar = 1.0` in the "
            f"class for each, and compute what follows from them in properties or methods"
        )
    bases = [base for base in cls.__mro__[1:] if dataclasses.is_dataclass(base)]
    inherited = {field.name for base in bases for field in dataclasses.fields(base)}  # without those of the class
    for name in inherited - vars(cls).get("__annotations__", {}).keys():
        value = vars(cls).get(name)
        if isinstance(value, bool | int | float | str | tuple | np.ndarray | np.generic | jax.Array):
            raise TypeError(
                f"{cls.__qualname__}.{name} = {value!r} has no annotation, so the field would keep its default: write "
                f"`{name}: Scalar = {value!r}`"
            )


@overload
def static() -> Any: ...
@overload
def static(*, at_least: Bound) -> Any: ...
@overload
def static(default: T, *, at_least: Bound = None) -> T: ...
def static(default: Any = dataclasses.MISSING, *, at_least: Bound = None) -> Any:
    """A field that is part of the program, not of the data: a new value recompiles. Required without a default.

    With `at_least` it must be a whole number, not less than that.
    """
    bounds = {} if at_least is None else {"allowed": Allowed(at_least=at_least, whole=True)}
    return dataclasses.field(default=default, metadata={"static": True, **bounds})


def with_attributes(**attributes: Any) -> Callable[[Function], Function]:
    """Decorates a function with attributes, such as the `requires` of a loss, and returns that function itself.

    >>> @with_attributes(nfe=2)
    ... def twice(x):
    ...     return 2 * x
    >>> twice.nfe
    2
    """

    def decorate(function: Function) -> Function:
        for name, value in attributes.items():
            setattr(function, name, value)
        return function

    return decorate


def _register(cls: type, init: Callable) -> None:
    """Registers the class as a pytree whose structure contains the class itself.

    `jax.tree_util.register_dataclass`, which flax.struct uses, does not. In jax 0.10 the structures of two classes with
    equally many leaves are equal, so `jit` may run for one class the program that it compiled for the other.
    """
    fields = dataclasses.fields(cls)
    leaves = [f.name for f in fields if not f.metadata.get("static")]
    statics = [f.name for f in fields if f.metadata.get("static")]

    def flatten_with_keys(node):
        children = [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in leaves]
        return children, (cls, *(getattr(node, name) for name in statics))

    def flatten(node):
        return [getattr(node, name) for name in leaves], (cls, *(getattr(node, name) for name in statics))

    def unflatten(aux, children):
        values = dict(zip(leaves, children, strict=True)) | dict(zip(statics, aux[1:], strict=True))
        node = object.__new__(cls)
        init(node, **values)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


Node = PyTreeNode
"""The name in version 0.1."""
