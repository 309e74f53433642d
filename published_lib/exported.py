"""Files of --mode=export: our own parameters, with the config of their run in the header."""

from pathlib import Path

from published_lib.description import Description, Leaf
from published_lib.safetensors_file import read_metadata, read_safetensors

FORMAT = "score-sde-jax"


def describe(path: Path) -> Description:
    """The description of a file of ours. ValueError for a file of safetensors of others."""
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise ValueError(
            "expected a file of --mode=export; for weights of diffusers give the folder, with its config.json"
        )
    arrays = read_safetensors(path)
    step = metadata.get("step", "0")
    return Description(
        project="an export of score-sde-jax",
        license=metadata.get("license", "not stated"),
        sections={},
        config=metadata["config"],
        leaves=lambda _: [Leaf(name, value, tuple(name.split("."))) for name, value in arrays.items()],
        step=int(step) if step.isdecimal() and len(step) < 10 else 0,
    )
