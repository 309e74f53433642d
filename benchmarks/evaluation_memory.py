"""Peak memory of --mode=stats for N images that are generated when they are read, without storing features.

    python -m benchmarks.evaluation_memory 2000 50000

Each N runs in its own process, which reports its peak resident memory. The images are 32×32×3 and the features 2,048
random projections of them, so that moments have the size of Inception's.
"""

import resource
import subprocess
import sys
import tempfile

import numpy as np

from configs.cifar10 import get_config
from data_lib import Dataset

WIDTH, SHAPE = 2048, (32, 32, 3)
PROJECTION = np.random.default_rng(0).normal(size=(int(np.prod(SHAPE)), WIDTH)).astype(np.float32)


class Noise:
    """`count` images, none of them stored."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"x": np.random.default_rng(int(i)).integers(0, 256, SHAPE, np.uint8)}


def project(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) @ PROJECTION


def peak(count: int, width: int = WIDTH) -> float:
    """Peak memory of this process in MB, after the statistics of `count` images."""
    import run_lib
    from config_lib.spec import bind

    config = get_config()
    config.eval.keep_features = False
    with config.unlocked():
        config.eval.features = bind(project)
    global PROJECTION
    PROJECTION = np.ascontiguousarray(PROJECTION[:, :width])
    with tempfile.TemporaryDirectory() as folder:
        stats = run_lib.stats(config, f"{folder}/stats.npz", Dataset(Noise(count), Noise(8)))
    assert stats.count == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(count: int, width: int = WIDTH) -> float:
    """`peak` in a new process."""
    code = f"from benchmarks.evaluation_memory import peak; print(peak({count}, {width}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(f"{int(argument):,} images: {measure(int(argument)):.0f} MB", flush=True)
