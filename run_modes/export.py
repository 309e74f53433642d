"""--mode=export: the EMA parameters of a run as one file of safetensors, which any language reads without this library.

    DiTBlock_0.Dense_1.kernel     an array, by its path in the network, joined by dots
    metadata                      config (the JSON of config.json), card, step: texts in the header

`--mode=import --checkpoint=FILE.safetensors` makes a work directory of it again, with the same parameters.
"""

import json
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from config_lib.spec import ConfigError, to_json
from io_lib.checkpoint import Checkpoints
from published_lib.exported import FORMAT
from published_lib.safetensors_file import write_safetensors
from run_modes.trained import open_trained


def export(directory: str | Path, out: str | Path, step: int | None = None) -> Path:
    """Writes the network's EMA parameters of `step`, or the newest, to the file `out`; returns its path.

    ConfigError if it is not a work directory, has no such checkpoint, or the file exists or does not end in
    .safetensors.
    """
    out = Path(out)
    if out.suffix != ".safetensors" or out.exists():
        raise ConfigError(f"--out={out}: expected a new file that ends in .safetensors")
    trained = open_trained(directory, step=step, guided=False)
    with Checkpoints(trained.directory / "checkpoints") as checkpoints:
        card = checkpoints.card(trained.step)
    leaves = flatten_dict(jax.device_get(trained.model.params))
    arrays = {".".join(path): np.asarray(leaf) for path, leaf in leaves.items()}
    metadata = {
        **{"format": FORMAT, "config": to_json(trained.config), "card": json.dumps(card)},
        **{"step": str(trained.step), "license": str(card.get("license", "not stated"))},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(out, arrays, metadata)
    count = sum(array.size for array in arrays.values())
    what = f"{count:,} parameters in {len(arrays)} arrays, the EMA of step {trained.step}"
    print(f"{out}: {what}; license: {metadata['license']}")
    return out
