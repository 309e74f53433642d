"""Runs a lesson as a notebook would: `python -m tests.lessons NUMBER PARAMETERS FILE` in the folder of its runs.

PARAMETERS is JSON that replaces values of the cell with the tag `parameters`. Its entry `network` is another thing: it
changes the digits' network, for one that compiles sooner. The variables after the last cell that can be pickled are
written to FILE. It is a process of its own, since the tests' settings of JAX are not a user's.
"""

import json
import pickle
import sys
import types
from pathlib import Path

import jax
import jupytext
import numpy as np

from configs import digits
from notebooks.make import sources


def run(number: int, parameters: dict) -> dict:
    """The lesson's variables after all its cells have run."""
    with_network(parameters.pop("network", {}))
    (source,) = (source for source in sources() if source.name.startswith(f"{number:02d}_"))
    module = types.ModuleType(f"lesson_{number:02d}")
    sys.modules[module.__name__] = module
    for k, cell in enumerate(jupytext.read(source).cells):
        if cell.cell_type != "code":
            continue
        exec(compile(cell.source, f"{source.name}, cell {k}", "exec"), vars(module))
        if "parameters" in cell.metadata.get("tags", []):
            assert parameters.keys() <= vars(module).keys(), f"{source.name} has no such parameter"
            vars(module).update({k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()})
    return vars(module)


def with_network(options: dict) -> None:
    """Changes config.network of `configs.digits`."""
    original = digits.get_config

    def get_config():
        config = original()
        config.network.update(options)
        return config

    digits.get_config = get_config


def picklable(value) -> bool:
    """Whether another process can read it: no module, function, or class of the lesson."""
    if isinstance(value, types.ModuleType | types.FunctionType | type):
        return False
    try:
        return b"lesson_" not in pickle.dumps(value)
    except Exception:
        return False


def plain(value):
    """The value with NumPy's arrays instead of JAX's."""
    is_numbers = lambda leaf: isinstance(leaf, jax.Array) and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: np.asarray(leaf) if is_numbers(leaf) else leaf, value)


if __name__ == "__main__":
    number, parameters, file = sys.argv[1:]
    found = {name: plain(value) for name, value in run(int(number), json.loads(parameters)).items() if name[0] != "_"}
    Path(file).write_bytes(pickle.dumps({name: value for name, value in found.items() if picklable(value)}))
