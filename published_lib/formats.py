"""Which project wrote a file, and what it says: the one entry to the readers of `published_lib`.

    starts with PK or a pickle of protocol 2    torch.save: ADM, DiT, SiT by their names; else score_sde_pytorch
    starts with a pickle of protocol 4          EDM, EDM2
    eight bytes, then {                         safetensors of --mode=export
    a folder with config.json                   diffusers
    anything else                               flax's msgpack of score_sde

A file is recognized by its content. Its name only separates what has the same content: DiT and SiT.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from published_lib import adm, diffusers, dit, edm, edm2, exported
from published_lib.description import Description
from published_lib.nvidia_pickle import Persistent, is_nvidia_pickle, read_nvidia
from published_lib.safetensors_file import is_safetensors
from published_lib.torch_file import is_torch_file, read_torch


def describe(path: str | Path) -> Description | None:
    """What the file says, or None for score_sde's formats, which do not state their network.

    ValueError, on one line with the name of the file, for a file that cannot be read or has an option that is not
    supported; FileNotFoundError."""
    path = Path(path)
    if diffusers.is_diffusers(path):
        return _described(lambda _, path: diffusers.describe(path), None, path)
    if is_safetensors(path):
        return _described(lambda _, path: exported.describe(path), None, path)
    if is_nvidia_pickle(path):
        return _described(_of_nvidia, read_nvidia(path), path)
    if is_torch_file(path):
        return _described(_of_torch, read_torch(path), path)
    return None


def _of_nvidia(content: Any, path: Path) -> Description:
    ema = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(ema, Persistent):
        raise ValueError("expected a pickle with a network ema, got another")
    readers = {**{name: edm.describe for name in edm.CLASSES}, edm2.CLASS: edm2.describe}
    if ema.class_name not in readers:
        raise ValueError(f"expected ema of class {', '.join(readers)}, got {ema.class_name}")
    return readers[ema.class_name](content)


def _of_torch(content: Any, path: Path) -> Description | None:
    if dit.is_dit(content):
        return dit.describe(content, path)
    return adm.describe(content, path) if adm.is_adm(content) else None


def _described(reader: Callable[[Any, Path], Any], content: Any, path: Path) -> Any:
    """The reader's description. ValueError, with the name of the file, for content that is not as it expects."""
    try:
        return reader(content, path)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: its network is not complete: {' '.join(repr(error).split())[:200]}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
