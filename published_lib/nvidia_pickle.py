"""Pickles of EDM and EDM2 (NVIDIA), read without running a line of theirs.

    file.pkl = {ema, loss_fn, …}, protocol 4
    ema      = _reconstruct_persistent_obj({class_name, module_src, state})      → Persistent(class_name, state)
    state    = {_parameters, _buffers, _modules, _init_args, _init_kwargs, …};  a module is another such object
    tensor   = _rebuild_tensor_v2(_load_from_bytes(stream), offset, shape, strides, …)

`module_src` is the source code of the class. Their loader executes it; here it is a string that is dropped. `stream` is
a pickle of its own, of one storage: it runs on the same kind of machine, with a table of storage types alone.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from published_lib.plain_pickle import Bounded, run_pickle, shown
from published_lib.torch_file import (
    Dtype,
    Scalar,
    Tensor,
    ordered_dict,
    read_storage,
    rebuild_tensor,
    scalar_of,
    strided,
)

VERSION = 6
_STARTS = (b"\x80\x04", b"\x80\x05")


class Persistent(NamedTuple):
    """An object of one of their classes: the name of the class, and its attributes."""

    class_name: str
    state: dict[str, Any]

    @property
    def modules(self) -> dict[str, Any]:
        """The modules that it holds, by name."""
        return self.state.get("_modules") or {}

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that it was built with. ValueError if it also had positional ones."""
        if self.state.get("_init_args"):
            raise ValueError(f"{self.class_name}: expected keyword arguments alone, got positional ones")
        return dict(self.state.get("_init_kwargs") or {})


def is_nvidia_pickle(path: str | Path) -> bool:
    """Whether the file starts as a pickle of protocol 4."""
    with open(path, "rb") as file:
        return file.read(2) in _STARTS


def read_nvidia(path: str | Path) -> Any:
    """The saved value: dicts, lists and tuples of arrays (read-only), numbers, texts and `Persistent` objects.

    ValueError, on one line with the name of the file, unless it is a complete file of this kind with known names only.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        try:
            value = run_pickle(Bounded(file, size), _TABLE, _no_storage)
            return _Values(file.tell()).of(value)
        except Exception as error:  # a damaged file fails wherever its first wrong byte leads
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: not a pickle of EDM or EDM2 that can be read: {reason}") from error


def arrays_of(module: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The parameters and buffers of a module and those it holds, by names joined by dots, in their order."""
    state, found = _state(module), {}
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if isinstance(value, np.ndarray):
                found[f"{prefix}{name}"] = value
            elif value is not None:
                raise ValueError(f"{prefix}{name}: expected an array, got {shown(value)}")
    for name, child in (state.get("_modules") or {}).items():
        if child is not None:
            found |= arrays_of(child, f"{prefix}{name}.")
    return found


def _state(module: Any) -> dict[str, Any]:
    state = module.state if isinstance(module, Persistent) else module
    if not isinstance(state, dict):
        raise ValueError(f"expected a module, got {shown(module)}")
    return state


# What the pickle may name


class _Attributes(dict):
    """A container of modules, as the dict of its attributes."""

    def build(self, state: Any) -> None:
        if type(state) is not dict:
            raise ValueError(f"expected the attributes of a container, got {shown(state)}")
        self.update(state)


class _EasyDict(dict):
    pass


class _Array:
    """NumPy's array, as its state describes it."""

    def __init__(self, kind: Any, shape: Any, code: Any):
        self.state: Any = None

    def build(self, state: Any) -> None:
        self.state = state


def _reconstruct_persistent(meta: Any) -> Persistent:
    named = type(meta) is dict and meta.get("type") == "class" and type(meta.get("class_name")) is str
    if not named or not isinstance(meta.get("state"), dict):
        raise ValueError(f"expected an object of a class with its state, got {shown(meta)}")
    if meta.get("version") != VERSION:
        raise ValueError(f"expected version {VERSION} of persistent objects, got {shown(meta.get('version'))}")
    return Persistent(meta["class_name"], meta["state"])


def _parameter(tensor: Any, requires_grad: Any = True, hooks: Any = None) -> Any:
    return tensor


def _no_storage(pid: Any) -> Any:
    raise ValueError(f"expected storages as bytes, got the persistent id {shown(pid)}")


_TABLE = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _reconstruct_persistent,
    ("torch.nn.modules.container", "ModuleDict"): _Attributes,
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("collections", "OrderedDict"): ordered_dict,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): read_storage,
    ("numpy", "dtype"): Dtype,
    ("numpy", "ndarray"): None,
    ("numpy.core.multiarray", "scalar"): Scalar,
    ("numpy._core.multiarray", "scalar"): Scalar,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


# Values


class _Values:
    """Plain values of what the machine made. The budget bounds those that the pickle repeats through its memo."""

    def __init__(self, budget: int):
        self._budget = budget

    def of(self, value: Any) -> Any:
        self._budget -= 1
        if self._budget < 0:
            raise ValueError("its pickle repeats its values too often")
        if isinstance(value, Tensor):
            if not isinstance(value.storage, np.ndarray):
                raise ValueError(f"expected a tensor with a storage, got {shown(value.storage)}")
            return strided(value.storage, value, "a tensor")
        if isinstance(value, Scalar):
            return scalar_of(value).item()
        if isinstance(value, _Array):
            return _array(value.state)
        if isinstance(value, Persistent):
            return Persistent(value.class_name, self.of(value.state))
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.of(item) for item in value)
        if value is None or type(value) in (bool, int, float, str, bytes, frozenset):
            return value
        raise ValueError(f"expected tensors, numbers, texts and containers of them, got {shown(value)}")


def _array(state: Any) -> np.ndarray:
    """The array of (version, shape, dtype, in Fortran's order, bytes), float32 or float64."""
    _, shape, dtype, fortran, raw = state if type(state) is tuple and len(state) == 5 else (None,) * 5
    name = dtype.name if type(dtype) is Dtype else None
    plain = type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
    if name not in ("f4", "f8") or not plain or fortran or type(raw) is not bytes:
        raise ValueError(f"expected an array of float32 or float64, got {shown(name)}")
    return np.frombuffer(raw, f"<{name}").reshape(shape or ())
