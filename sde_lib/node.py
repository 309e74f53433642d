"""The base of everything in the library that holds values: a frozen, keyword-only dataclass that is a JAX pytree."""

import dataclasses
from typing import Any

import numpy as np
from flax import struct

# What a transformation of JAX may put in the place of a leaf (a tracer, a shape, None) no narrower type admits.
Scalar = Any
"""A leaf that is a number where a value is built."""
Leaf = Any
"""A leaf that is an array, of the shape that the class's docstring says."""


class Node(struct.PyTreeNode):
    """A frozen dataclass and pytree, built by keywords alone.

    Fields are leaves: they may be traced, differentiated and changed without a recompilation. A field that decides
    a shape or a program (a number of steps, a function) is declared with `static`.

    >>> class Point(Node):
    ...     x: Scalar = 0.0
    ...     name: str = static("a")
    >>> Point(x=1.0)
    Point(x=1.0, name='a')
    >>> __import__("jax").tree.leaves(Point(x=1.0))
    [1.0]
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(kw_only=True, repr=False, **kwargs)

    def __repr__(self):
        """A dataclass's, with long arrays cut short."""
        with np.printoptions(threshold=8, edgeitems=2, precision=4):
            fields = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self))
        return f"{type(self).__qualname__}({fields})"


def static(default):
    """A field that is part of the program and not of its data: a change of it recompiles."""
    return struct.field(pytree_node=False, default=default)
