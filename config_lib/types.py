"""Which values a config may hold, and which of them a parameter accepts, by its annotation or its default."""

import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from config_lib.names import ConfigError, nearest

_SCALARS = (bool, int, float, str)  # bool first: a bool is an int to Python, but not to a config
_SEQUENCES = (tuple, list, Sequence)


def as_config_value(value: Any, where: str) -> Any:
    """The value, if it is None, a bool, an int, a finite float or a str. ConfigError for anything else."""
    if value is None:
        return None
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return _finite(scalar(value), where)
    hint = "; wrap it in bind(...) or spec(...)" if callable(value) else ""
    kinds = "None, bool, int, float, str, a sequence, a dict or a spec"
    raise ConfigError(f"{where}: a config holds {kinds}, got {type(value).__name__}{hint}")


def coerce(value: Any, parameter: inspect.Parameter, where: str) -> Any:
    """The value as the parameter accepts it: an int becomes a float, a list a tuple. ConfigError if impossible."""
    if isinstance(value, Mapping | ConfigDict):
        return value
    return _fit(value, parameter.annotation, parameter.default, where)


def accepted(annotation: Any, default: Any) -> tuple[type, ...] | None:
    """The plain types that a parameter accepts, or None if neither its annotation nor its default restricts them.

    Only a default that is a bool or a number restricts: False to bool, 1.0 to float, 1 to int and float.
    """
    found = _from_annotation(annotation)
    if found is not None:
        return (*found, type(None)) if default is None and type(None) not in found else found
    numbers = {bool: (bool,), int: (int, float), float: (float,)}.get(type(default))
    return (*numbers, type(None)) if numbers else None


def _fit(value: Any, annotation: Any, default: Any, where: str) -> Any:
    kinds = accepted(annotation, default)
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(value, tuple):
        item = _item_annotation(annotation)
        value = tuple(_fit(v, item, inspect.Parameter.empty, f"{where}[{i}]") for i, v in enumerate(value))
    if type(value) is int and kinds is not None and int not in kinds and float in kinds:
        value = float(value)
    if kinds is None or type(value) in kinds or isinstance(value, Mapping | ConfigDict):
        return _allowed(value, annotation, where)
    expected = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
    raise ConfigError(f"{where} expects {expected}, got {type(value).__name__} {value!r}")


def _allowed(value: Any, annotation: Any, where: str) -> Any:
    """The value, or ConfigError if a Literal, alone or in a union, lists only others of its type."""
    unions = (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if typing.get_origin(annotation) in unions else (annotation,)
    known = [
        arg for member in members if typing.get_origin(member) is typing.Literal for arg in typing.get_args(member)
    ]
    if type(value) not in {type(arg) for arg in known} or type(value) in members or value in known:
        return value
    choices = ", ".join(map(repr, known))
    hint = f"; {nearest(value, known)}" if all(type(arg) is str for arg in known) else ""
    raise ConfigError(f"{where} expects one of {choices}, got {value!r}{hint}")


def _from_annotation(annotation: Any) -> tuple[type, ...] | None:
    origin = typing.get_origin(annotation)
    if annotation is None or annotation is type(None):
        return (type(None),)
    if annotation in _SCALARS:
        return (annotation,)
    if annotation in _SEQUENCES or origin in _SEQUENCES:
        return (tuple,)
    if origin is typing.Literal:
        return tuple(dict.fromkeys(type(value) for value in typing.get_args(annotation)))
    if origin in (typing.Union, types.UnionType):
        members = [_from_annotation(member) for member in typing.get_args(annotation)]
        known = [kinds for kinds in members if kinds is not None]
        return tuple(dict.fromkeys(kind for kinds in known for kind in kinds)) if len(known) == len(members) else None
    return None


def _item_annotation(annotation: Any) -> Any:
    """X of tuple[X, ...], list[X] or Sequence[X], alone or as one member of a union; else Parameter.empty."""
    unions = (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if typing.get_origin(annotation) in unions else (annotation,)
    sequences = [member for member in members if typing.get_origin(member) in _SEQUENCES]
    items = [arg for arg in typing.get_args(sequences[0]) if arg is not ...] if len(sequences) == 1 else []
    return items[0] if len(set(items)) == 1 else inspect.Parameter.empty


def _finite(value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: a config holds finite numbers, got {value}")
    return value
