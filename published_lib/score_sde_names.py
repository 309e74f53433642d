"""Parameters of the published implementations (Song et al. 2021, their code in JAX and in PyTorch) as our networks'.

    theirs, flax     AttnBlockpp_1/NIN_0/W                  by name: class and counter, translated by the table MODULES
    theirs, torch    module.all_modules.10.NIN_0.W          by place: the i-th module with parameters is our i-th
                     module.res1.0.conv1.weight             by name, where modules have names (`score_sde_ncsn_names`)
      ↓ inside a module, both by name: PARTS, then LEAVES
    ours, linen      AttentionBlock_1/Dense_0/kernel

Nothing here lists the leaves of a network. Our leaves come from the network itself, in the order in which it makes
them. That is the order of the published code wherever both compute the same. Axes:

    torch  weight [out, in, *k] → kernel [*k, in, out];  W [in, out] of NIN is a kernel already
    both   leading axes of length 1 may differ: group norms of (1, 1, 1, C) → (C,), NIN for a convolution of size 1

Each of their leaves must be used once, and each of ours filled once; otherwise nothing is.

Another architecture requires a line in the tables for each class or part whose name differs from ours. Two of its
classes may map to one of ours only if they are counted together, or never occur in the same network.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, path_aware_map, unflatten_dict

from published_lib.description import Leaf
from published_lib.score_sde_ncsn_names import ncsn_path

LeafPath = tuple[str, ...]

# Their class → ours, for flax files. A class without a line has the same name.
MODULES = {
    "ResnetBlockBigGANpp": "ResidualBlock",
    "ResnetBlockDDPMpp": "ResidualBlock",
    "ResnetBlockDDPM": "ResidualBlock",
    "AttnBlockpp": "AttentionBlock",
    "AttnBlock": "AttentionBlock",
    "Downsample": "ConvDownsample",
    "Upsample": "ConvUpsample",
    "ResidualBlock": "DilatedBlock",
    "InstanceNorm2dPlus": "InstanceNormPlus",
}
# Our module / their part → our part, or their part alone, in any module; with its counter or without.
PARTS = {
    "NIN": "Dense",
    "ResidualBlock/NIN_0": "Conv_2",
    "Conv2d": "Conv",
    "InstanceNorm2dPlus": "InstanceNormPlus",
}
# Their leaf → our leaf, the first that the module has.
LEAVES = {
    "weight": ("kernel", "scale"),
    "W": ("kernel", "W"),
    "b": ("bias",),
}
# Buffers of torch modules: tables computed from the configuration, not parameters.
BUFFERS = ("sigmas",)

_SHOWN = 4  # leaves of each kind that an error lists


def parameter_shapes(network, shape: tuple[int, ...]) -> dict:
    """Nested dicts of jax.ShapeDtypeStruct, in the order in which the network makes them for events of `shape`."""
    made = []

    def init(key):
        params = network.init(key, jnp.zeros((1, *shape), jnp.float32), jnp.zeros(1, jnp.float32))
        made.append(path_aware_map(lambda _, leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params))
        return params

    jax.eval_shape(init, jax.random.key(0))
    return made[0]


def from_flax(theirs: Mapping[str, Any], shapes: dict) -> dict:
    """Our parameters from the tree of a flax file. ValueError listing what is unknown, missing or of another shape."""
    leaves = []
    for path, value in flatten_dict(theirs).items():
        module, *rest = path
        ours = _module(module) if len(path) > 1 else None
        leaves.append(Leaf("/".join(path), value, _inside(ours, rest, shapes)))
    return filled(leaves, shapes)


def from_torch(theirs: Mapping[str, Any], shapes: dict) -> dict:
    """Our parameters from the state dict of a torch file, in its order, without buffers. ValueError as `from_flax`."""
    names = frozenset(theirs)
    numbers = list(dict.fromkeys(match[1] for match in map(_numbered, theirs) if match))
    modules = dict(zip(numbers, shapes, strict=False))
    leaves = []
    for name, value in theirs.items():
        match = _numbered(name)
        path = [modules.get(match[1]), *match[2].split(".")] if match else ncsn_path(name, names)
        ours = _inside(path[0], path[1:], shapes) if path else None
        if name.endswith(".weight") and getattr(value, "ndim", 0) > 1:
            value = value.transpose(*range(2, value.ndim), 1, 0)
        leaves.append(Leaf(name, value, ours))
    return filled(leaves, shapes)


def _numbered(name: str) -> re.Match | None:
    return re.fullmatch(r"(?:module\.)?all_modules\.(\d+)\.(.+)", name)


def torch_parameters(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters among the entries of a state dict: all but buffers, in the order of parameters()."""
    return {name: value for name, value in state_dict.items() if name.split(".")[-1] not in BUFFERS}


def torch_trainable(names: Iterable[str]) -> list[str]:
    """The trained parameters: all but the frequencies of a Fourier embedding, a module whose only leaf is W."""
    return [name for name in names if not re.fullmatch(r"(?:module\.)?all_modules\.\d+\.W", name)]


def _module(name: str) -> str:
    kind, counter = _split(name)
    return f"{MODULES.get(kind, kind)}{counter}"


def _inside(module: str | None, theirs: list[str], shapes: dict) -> LeafPath | None:
    """The path of our leaf for their path inside our module; None if there is no such leaf."""
    if module is None or module not in shapes:
        return None
    path, group, kind = (module,), shapes[module], _split(module)[0]
    for part in theirs[:-1]:
        path = (*path, _part(kind, part))
        group, kind = group.get(path[-1]), _split(path[-1])[0]
        if not isinstance(group, dict):
            return None
    found = [leaf for leaf in LEAVES.get(theirs[-1], (theirs[-1],)) if leaf in group]
    return (*path, found[0]) if found and not isinstance(group[found[0]], dict) else None


def _part(module: str, part: str) -> str:
    kind, counter = _split(part)
    for key in (f"{module}/{part}", part):
        if key in PARTS:
            return PARTS[key]
    return PARTS.get(f"{module}/{kind}", PARTS.get(kind, kind)) + counter


def _split(name: str) -> tuple[str, str]:
    """("NIN", "_0") of NIN_0."""
    kind, underscore, number = name.rpartition("_")
    return (kind, f"_{number}") if underscore and number.isdecimal() else (name, "")


def filled(leaves: list[Leaf], shapes: dict) -> dict:
    """Our tree with their values; ValueError listing the leaves that do not match.

    Each of theirs must be used once, and each of ours filled once."""
    wanted = cast(dict[LeafPath, jax.ShapeDtypeStruct], flatten_dict(shapes))
    found, unknown, misfits = {}, [], []
    for leaf in leaves:
        if leaf.ours is None or leaf.ours in found:
            unknown.append(f"{leaf.name} {_shape(leaf.value)}")
            continue
        target = wanted[leaf.ours]
        found[leaf.ours] = leaf.value
        if _without_ones(leaf.value) != _without_ones(target):
            misfits.append(f"{leaf.name} {_shape(leaf.value)} for {'/'.join(leaf.ours)} {_shape(target)}")
        elif not jnp.issubdtype(leaf.value.dtype, jnp.floating):
            misfits.append(f"{leaf.name} of dtype {leaf.value.dtype}")
        else:
            found[leaf.ours] = leaf.value.reshape(target.shape).astype(target.dtype, copy=False)
    missing = [f"{'/'.join(path)} {_shape(target)}" for path, target in wanted.items() if path not in found]
    complaints = [
        _listed(unknown, "not in the network"),
        _listed(missing, "not in the file"),
        _listed(misfits, "of another shape"),
    ]
    if any(complaints):
        raise ValueError("the file is not of this network; " + "; ".join(filter(None, complaints)))
    return unflatten_dict(found)


def _listed(leaves: list[str], what: str) -> str:
    if not leaves:
        return ""
    more = f" and {len(leaves) - _SHOWN} more" if len(leaves) > _SHOWN else ""
    return f"{len(leaves)} {what}: {', '.join(leaves[:_SHOWN])}{more}"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__


def _without_ones(value: Any) -> tuple[int, ...] | None:
    """The shape without its leading axes of length 1; None for a value that is not an array."""
    if not hasattr(value, "shape"):
        return None
    shape = tuple(value.shape)
    first = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]
