"""What a published file says about itself: its network, process and parameterization, and which array is which leaf.

    file ── describe ──► Description ── sections ──► the config of a work directory
                                    └── leaves(options of the network) ──► its parameters, by the paths of ours

A reader of another project is a module with a function `describe(path)`; `published_lib.formats` finds the one that
fits a file.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Part(NamedTuple):
    """An object of a config: the name of its class or function, and the options that the file states.

    `bound` marks a function that is called later."""

    target: str
    options: Mapping[str, Any] = MappingProxyType({})
    bound: bool = False


class Leaf(NamedTuple):
    """One of their arrays: its name, its value in our order of axes, and the path of our leaf, or None."""

    name: str
    value: Any
    ours: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Description:
    """A published file.

    `sections` are keys of a config ("network", "training.ema") with their part or value. `missing` are keys that the
    file leaves open, with what to give; `requires_config` says what else only a config can. `leaves` maps the options
    of the network, as configured, to the leaves; `raw` those of training, where they are not the averages.
    `config` is a whole config as JSON, of our own files.
    """

    project: str
    license: str
    sections: dict[str, Any]
    leaves: Callable[[Mapping[str, Any]], list[Leaf]] = field(repr=False)
    raw: Callable[[Mapping[str, Any]], list[Leaf]] | None = field(default=None, repr=False)
    missing: dict[str, str] = field(default_factory=dict)
    requires_config: str = ""
    config: str = ""
    remarks: tuple[str, ...] = ()
    step: int = 0


class Module(NamedTuple):
    """One of their modules, in the order in which the network applies them.

    Its arrays start with `theirs`; ours is the next module of the class `ours`. `parts` maps what follows `theirs`,
    without the last name, to the path inside our module."""

    theirs: str
    ours: str
    parts: Mapping[str, str] = MappingProxyType({"": ""})


def leaves_of(arrays: Arrays, modules: Iterable[Module]) -> list[Leaf]:
    """Each array with the path of our leaf; modules of one class of ours are counted in their order."""
    counts: dict[str, int] = {}
    places: dict[str, tuple[str, ...]] = {}
    for module in modules:
        number = counts.setdefault(module.ours, 0)
        counts[module.ours] += 1
        for part, path in module.parts.items():
            theirs = ".".join(filter(None, (module.theirs, part)))
            places[theirs] = (f"{module.ours}_{number}", *filter(None, path.split("/")))
    return [_leaf(name, value, places) for name, value in arrays.items()]


def _leaf(name: str, value: Any, places: Mapping[str, tuple[str, ...]]) -> Leaf:
    module, _, last = name.rpartition(".")
    if name in places:  # an array that is a leaf of its own
        return Leaf(name, value, places[name])
    path = places.get(module)
    if path is None:
        return Leaf(name, value, None)
    norm, table = path[-1].startswith("GroupNorm"), path[-1].startswith("Embed")
    ours = {"weight": "scale" if norm else "embedding" if table else "kernel"}.get(last, last)
    if ours == "kernel" and value.ndim > 1:
        value = value.transpose(*range(2, value.ndim), 1, 0)
    return Leaf(name, value, (*path, ours))


def known(options: Mapping[str, Any], names: Iterable[str], what: str) -> None:
    """ValueError, naming it, for an option that `what` does not have here."""
    if unknown := sorted(set(options) - set(names)):
        raise ValueError(f"{what}: the option {unknown[0]}={str(options[unknown[0]])[:40]} is not supported")


def within_file(arrays: Arrays, what: str, levels: int, blocks: int) -> None:
    """ValueError if the options claim more blocks than the file has arrays: to build them would take forever."""
    if not (0 <= blocks <= len(arrays) and 0 < levels <= len(arrays)):
        raise ValueError(
            f"{what}: the options claim {levels} levels of {blocks} blocks, the file has {len(arrays)} arrays"
        )


def expected(what: str, name: str, value: Any, *allowed: Any) -> Any:
    """The value. ValueError, naming the option, unless it is one of those allowed."""
    if value not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"{what}: the option {name} must be {wanted}, got {str(value)[:60]}")
    return value
