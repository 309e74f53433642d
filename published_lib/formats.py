"""Which project wrote a file, and what it says: the one entry to the readers of `published_lib`.

starts with PK or a pickle of protocol 2    torch.save: ADM, DiT, SiT by their names; else score_sde_pytorch
starts with a pickle of protocol 4          EDM, EDM2
a folder with config.json                   diffusers
anything else                               flax's msgpack of score_sde
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from published_lib import edm
from published_lib.description import Description
from published_lib.nvidia_pickle import Persistent, is_nvidia_pickle, read_nvidia


def describe(path: str | Path) -> Description | None:
    """What the file says, or None for score_sde's formats, which do not state their network.

    ValueError, on one line with the name of the file, for a file that cannot be read or has an option that is not
    supported; FileNotFoundError."""
    path = Path(path)
    if is_nvidia_pickle(path):
        return _of_nvidia(path)
    return None


def _of_nvidia(path: Path) -> Description:
    content = read_nvidia(path)
    ema = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(ema, Persistent):
        raise ValueError(f"{path}: expected a pickle with a network ema, got another")
    readers: dict[str, Callable[[Mapping[str, Any]], Description]] = {name: edm.describe for name in edm.CLASSES}
    if ema.class_name not in readers:
        raise ValueError(f"{path}: expected ema of class {', '.join(readers)}, got {ema.class_name}")
    try:
        return readers[ema.class_name](content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its network lacks what its class has: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
