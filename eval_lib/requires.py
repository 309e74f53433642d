"""What a function requires of its inputs, as an attribute that callers read before they call it."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def requires(*names: str) -> Callable[[Function], Function]:
    """A decorator that sets `function.requires = names` and returns the same function."""

    def mark(function: Function) -> Function:
        vars(function)["requires"] = names
        return function

    return mark
