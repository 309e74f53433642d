"""The published weights of the FID's Inception-v3, 96 MB: their place in the cache, checksum and download.

    python -m eval_lib

downloads them and prints the URL. Nothing else in this package accesses the internet.
"""

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from published_lib.torch_file import read_torch

NAME = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAME}"
COMMAND = "python -m eval_lib"


def cached() -> Path:
    """$XDG_CACHE_HOME/score-sde-jax/NAME; ~/.cache replaces a variable that is not set."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "score-sde-jax" / NAME


def read_weights(path: str | Path = "") -> Mapping[str, np.ndarray]:
    """The arrays of the file at `path`, by default the one in the cache.

    FileNotFoundError, with path, checksum and download command, if there is no such file. ValueError for another file.
    """
    path = Path(path) if path else cached()
    if not path.is_file():
        raise FileNotFoundError(
            f"the Inception weights are not at {path} (sha256 {SHA256}): `{COMMAND}` downloads them from {URL}"
        )
    require_checksum(path)
    return read_torch(path)


def require_checksum(path: Path) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{path}: expected the Inception weights, sha256 {SHA256}, got {found}")


def download(url: str = URL) -> Path:
    """Downloads the file into the cache, unless it is there, and checks it; returns its path.

    OSError, in one line, if the download fails. ValueError if the checksum differs.
    """
    target = cached()
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{NAME}.{os.getpid()}.tmp")
        print(f"{url} → {target}")
        try:
            try:
                with urllib.request.urlopen(url, timeout=60) as source, open(part, "wb") as file:
                    shutil.copyfileobj(source, file)
            except OSError as error:
                raise OSError(f"{url}: {error}; or copy the file, sha256 {SHA256}, to {target}") from error
            require_checksum(part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    require_checksum(target)
    return target
