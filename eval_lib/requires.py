"""What a function requires of its inputs, and whether it has a floor: attributes that callers read first."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def requires(*names: str) -> Callable[[Function], Function]:
    """A decorator that sets `function.requires = names` and returns the same function."""

    def mark(function: Function) -> Function:
        vars(function)["requires"] = names
        return function

    return mark


def with_floor(function: Function) -> Function:
    """A decorator of metrics that have a floor: it sets `function.floor = True` and returns the same function.

    Evaluation gives such a metric as many training examples as samples, or as test examples for the floor. It must
    compare the features of its two arguments, and read no covariance. The mean and `sd` of the second are those of all
    training examples.
    """
    vars(function)["floor"] = True
    return function
