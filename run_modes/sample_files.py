"""--mode=sample --out=FOLDER: samples as files that other programs open, one for each.

images [H, W, 1 or 3], uint8                 PNG
sounds, of data_lib:from_audio               WAV at config.data.rate, 16 bits; values beyond ±1 are clipped
texts, of data_lib:from_text                 txt, UTF-8
anything else                                npy, in the units of the data
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_lib import text_of
from io_lib import pictures
from io_lib.workdir import write_atomic


def write_samples(folder: str | Path, x: np.ndarray, config: ConfigDict) -> None:
    """Writes 000000.png …, one file for each of the samples x [N, *shape]; files of these names are replaced."""
    folder, (suffix, write) = Path(folder), writer_of(x, config)
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(x):
        write(folder / f"{number:06d}.{suffix}", one)
    print(f"{len(x)} samples as {suffix} files: {folder}")


def writer_of(x: np.ndarray, config: ConfigDict) -> tuple[str, Callable[[Path, np.ndarray], None]]:
    """The ending of the files of such samples, and what writes one."""
    kind = str(config.data.get("call", "")).split(":")[-1]
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] in (1, 3):
        return "png", pictures.save_png
    if kind == "from_audio" and x.ndim == 3 and x.shape[-1] == 1:
        return "wav", lambda file, one: write_wav(file, one[:, 0], config.data.rate)
    if kind == "from_text" and x.ndim == 3:
        alphabet = config.data.get("alphabet", "")
        return "txt", lambda file, one: write_atomic(file, text_of(one[None], alphabet)[0])
    return "npy", np.save


def write_wav(file: Path, x: np.ndarray, rate: int) -> None:
    """x [N] with full scale ±1, as 16-bit integers at `rate` values per second."""
    from scipy.io import wavfile

    wavfile.write(file, rate, np.rint(32767 * np.clip(x, -1, 1)).astype(np.int16))
