"""Files of safetensors as arrays: read by its own package, which runs nothing.

    file = u64 length of the header ‖ header, JSON: name → {dtype, shape, data_offsets} ‖ numbers

The package checks the header's length, and the offsets against the file's size, before it reads numbers.
"""

from pathlib import Path
from typing import Any

import numpy as np


def is_safetensors(path: str | Path) -> bool:
    """Whether the file has a header of JSON after eight bytes, as these files start."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by their names. ValueError, on one line with the name of the file, if it is damaged."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a dict
    except Exception as error:  # its errors are of a class of its own, and of NumPy for types that it lacks
        raise _error(path, error) from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts of the header. ValueError as in `read_safetensors`."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise _error(path, error) from error


def write_safetensors(path: str | Path, arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    """Writes the arrays, with texts in the header."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, str(path), metadata)


def _error(path: str | Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path}: not a whole file of safetensors: {reason}")
