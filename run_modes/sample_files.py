"""--mode=sample --out=FOLDER: samples as files that other programs open, one for each.

images [H, W, 1 or 3]        PNG
sounds                       WAV at the data's rate, 16 bits; values beyond ±1 are clipped
texts                        txt, UTF-8
anything else                npy, in the units of the data
"""

from pathlib import Path

import numpy as np

from data_lib import Form


def write_samples(folder: str | Path, x: np.ndarray, form: Form) -> None:
    """Writes 000000.png …, one file for each of the samples x [N, *shape]; files of these names are replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(x):
        form.write(folder / f"{number:06d}.{form.suffix}", one)
    print(f"{len(x)} samples as {form.suffix} files: {folder}")
