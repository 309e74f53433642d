"""Checkpoints in flax's msgpack format, as `flax.training.checkpoints` writes them since its first versions.

    file  = map of str → file | leaf
    leaf  = ext 1: (shape, name of a dtype, bytes) | ext 3: the same for a NumPy scalar | number | nil

The format names no classes, so reading it calls nothing but NumPy's `frombuffer`. Arrays above 2³⁰ bytes are stored in
chunks, which are joined.
"""

from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization

_NUMBERS = (bool, int, float, type(None))


def read_msgpack(path: str | Path) -> dict[str, Any]:
    """Nested dicts of arrays and numbers. ValueError on one line, with the name of the file, for any other content."""
    content = Path(path).read_bytes()
    try:
        tree = serialization.msgpack_restore(content)
    except Exception as error:  # a damaged file fails wherever its first wrong byte leads
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: expected a whole msgpack checkpoint of flax, got another or a truncated file: "
                         f"{reason}") from error  # fmt: skip
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected a msgpack checkpoint with named entries, got {type(tree).__name__}")
    _require_arrays(tree, path, "")
    return tree


def _require_arrays(value: Any, path: str | Path, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path}: expected names of type str in {name or 'the file'}, got {key!r:.40}")
            _require_arrays(item, path, f"{name}/{key}" if name else key)
    elif isinstance(value, np.ndarray | np.generic):
        if not (np.issubdtype(value.dtype, np.number) or value.dtype in (np.bool_, "bfloat16")):
            raise ValueError(f"{path}: {name:.80}: expected an array of numbers, got dtype {value.dtype}")
    elif not isinstance(value, _NUMBERS):
        raise ValueError(f"{path}: {name:.80}: expected an array or a number, got {type(value).__name__}")
