"""What a restoration is given: measurements y = A x + σ_y n in the units of the data, and the truth where it is known.

    --task=inpaint      A keeps the pixels where --mask is white (not 0)
    --task=upscale:2    means over boxes of 2 × 2 pixels
    --task=colorize     gray, by Rec. 601
    --task=deblur:1.0   a normal kernel with a standard deviation of 1 pixel
    --task=ct:30        parallel beams at 30 angles
    --task=mri          Fourier coefficients where --mask is not 0 (frequency 0 at index 0)
    --task=decimate:2   every second position of a signal
    --task=operator     config.restore.operator, any function x [B, *event] → y [B, *measurement]

Measurements are image files of y's size, or arrays in .npy or .npz files. Files of images hold 0 … 255, whatever the
units of the data: v is the value low + (high − low) v/255. Arrays are in the units of the data. Nothing is cropped or
resized. Given the truth alone, measurements are simulated from it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from config_lib.spec import ConfigError, build
from data_lib import gather, read_exact
from data_lib.arrays import load_arrays
from data_lib.files import search
from data_lib.images import SUFFIXES
from run_modes.experiment import Experiment
from sde_lib.posterior import (
    BoxDownsample,
    ColorMix,
    Decimate,
    FourierMask,
    Mask,
    Observation,
    gaussian_blur,
    parallel_beam,
)

TASKS: dict[str, tuple[Callable[..., Any], str, float | int | None]] = {
    "inpaint": (lambda mask: Mask(mask=mask), "mask", None),
    "upscale": (lambda size: BoxDownsample(size=size), "size", 2),
    "colorize": (ColorMix, "", None),
    "deblur": (lambda std: gaussian_blur(std=std), "std", 1.0),
    "ct": (lambda count: parallel_beam(count=count), "count", 30),
    "mri": (lambda mask: FourierMask(mask=mask[..., 0]), "mask", None),
    "decimate": (lambda step: Decimate(step=step), "step", 2),
}
"""Task → (its operator as a function of one option, the option's name, the option's default)."""


class Measurements(NamedTuple):
    """N observations with their names; the truth [N, *shape] in the units of the data; the mask that was given."""

    task: str
    observation: Observation
    names: list[str]
    truth: np.ndarray | None = None
    known: np.ndarray | None = None

    def known_of(self, i: int) -> np.ndarray:
        """1 where measurement i has values, 0 elsewhere, in a form that broadcasts against y."""
        if self.known is None:
            return np.ones(1)
        rows = self.known if self.known.ndim == np.ndim(self.observation.y) else self.known[None]
        return rows[i if len(rows) > 1 else 0][None]

    def digest(self) -> str:
        """A hash of y, of σ_y and of the operator's arrays."""
        found = hashlib.sha256(repr(jax.tree.structure(self.observation)).encode())
        for leaf in jax.tree.leaves(self.observation):
            found.update(f"{np.shape(leaf)}".encode() + np.ascontiguousarray(leaf).tobytes())
        return found.hexdigest()[:16]


def read_measurements(
    experiment: Experiment,
    task: str,
    images: Any = None,
    truth: Any = None,
    mask: Any = None,
    noise_std: float | None = None,
    seed: int = 0,
) -> Measurements:
    """The observations of `images`, else those simulated from `truth` with noise that is a function of (seed, i).

    Each is an array [N, ...] in the units of the data, or a path; truth may also be "test" or "test:N", the first test
    examples. ConfigError of one line for what is missing, and for files and arrays that do not fit.
    """
    if images is None and truth is None:
        raise ConfigError("--images=PATH (measurements), or --truth=PATH to simulate them, is required for restoration")
    if noise_std is None:
        raise ConfigError("--noise_std is required: the deviation of y's noise in the units of the data, 0 if exact")
    if not noise_std >= 0:
        raise ConfigError(f"--noise_std={noise_std}: expected at least 0")
    shape = experiment.shape
    known = None if mask is None else read_mask(mask, shape)
    operator = operator_of(experiment, task, known)
    measured = measured_shape(operator, shape, task)
    given, names = (None, []) if truth is None else read_truth(experiment, truth)
    if given is not None:
        require_as_many(known, shape, len(given))
    if images is not None:
        y, names = read_events(images, measured, experiment, operator, "--images")
        if given is not None and len(given) != len(y):
            raise ConfigError(f"--truth has {len(given)} examples, --images {len(y)}: expected as many")
        require_as_many(known, shape, len(y))
    else:
        assert given is not None
        y = simulated(operator, given, noise_std, seed)
        print(f"measurements are simulated from {len(y)} true examples, with noise of deviation {noise_std:g}")
    y = y if known is None else y * known  # whatever fills the holes
    return Measurements(task, Observation(y=y, operator=operator, noise_std=float(noise_std)), names, given, known)


def operator_of(experiment: Experiment, task: str, mask: np.ndarray | None) -> Any:
    """A of a task, NAME or NAME:OPTION. ConfigError for another name, a wrong option, a missing or needless mask."""
    name, _, option = task.partition(":")
    if name == "operator":
        section = experiment.config.get("restore", {}).get("operator", "")
        if not section:
            raise ConfigError("--task=operator: set config.restore.operator, such as spec(Blur, kernel=…)")
        return build(section, "config.restore.operator")
    if name not in TASKS:
        raise ConfigError(f"--task={task}: expected one of {', '.join(TASKS)}, operator")
    make, parameter, default = TASKS[name]
    if (mask is None) == (parameter == "mask"):
        raise ConfigError(f"--mask is {'required for' if mask is None else 'not used by'} --task={name}")
    if default is None:
        if option:
            raise ConfigError(f"--task={task}: {name} has no option")
        return make() if mask is None else make(mask)
    try:
        value = type(default)(option) if option else default
        if not value > 0:
            raise ValueError
    except ValueError:
        raise ConfigError(f"--task={task}: expected a positive {parameter}, such as {name}:{default}") from None
    return make(value)


def measured_shape(operator: Any, shape: tuple[int, ...], task: str) -> tuple[int, ...]:
    """The shape of one measurement. ConfigError if the operator does not fit the events."""
    one = operator.take(np.array([0]), len(shape)) if hasattr(operator, "take") else operator  # if it has rows
    try:
        return jax.eval_shape(lambda x: one(x), jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--task={task}: {error}") from error


def simulated(operator: Any, truth: np.ndarray, noise_std: float, seed: int) -> np.ndarray:
    """A x + σ_y n, n a function of (seed, i)."""
    y = np.asarray(operator(jnp.asarray(truth, jnp.float32)))
    noise = [np.random.default_rng([seed, i]).standard_normal(y.shape[1:], np.float32) for i in range(len(y))]
    return y + np.float32(noise_std) * np.stack(noise)


# Files


def read_events(
    given: Any, shape: tuple[int, ...], experiment: Experiment, operator: Any, flag: str
) -> tuple[np.ndarray, list[str]]:
    """(arrays [N, *shape] in the units of the data, their names) of an array, a file or a folder of images.

    Values v of image files are low + (high − low) v/255 of x, so r v + A(low) of y = A x, with r = (high − low)/255.
    """
    if not isinstance(given, str | Path):
        return require_rows(np.asarray(given), shape, flag), [f"{i:05d}" for i in range(len(given))]
    path = Path(given).expanduser()
    if path.suffix.lower() in (".npy", ".npz"):
        try:
            arrays = load_arrays(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{flag}={path}: {error}") from error
        x = next((arrays[name] for name in ("x", "y", "samples") if name in arrays), next(iter(arrays.values())))
        return require_rows(x, shape, f"{flag}={path}"), [f"{i:05d}" for i in range(len(x))]
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ConfigError(f"{flag}={path}: expected an array of shape [N, {', '.join(map(str, shape))}], .npy or .npz")
    files = image_files(path, flag)
    values = np.stack([read_image_file(file, shape, flag) for file in files]).astype(np.float32)
    low, high = (getattr(experiment.transform, name, default) for name, default in (("low", 0.0), ("high", 255.0)))
    darkest = np.asarray(operator(jnp.full((1, *experiment.shape), low, jnp.float32)))
    return values * np.float32((high - low) / 255) + darkest, unique_names(files)


def read_truth(experiment: Experiment, truth: Any) -> tuple[np.ndarray, list[str]]:
    """(examples [N, *shape] in the units of the data, names): those given, or the first of the test data."""
    if isinstance(truth, str) and (truth == "test" or truth.startswith("test:")):
        source = build(experiment.config.data, "config.data").test
        text = truth.partition(":")[2]
        if text and not text.isdigit():
            raise ConfigError(f"--truth={truth}: expected test or test:N")
        count = min(int(text), len(source)) if text else len(source)
        if not count:
            raise ConfigError(f"--truth={truth}: there are no such test examples")
        return np.asarray(gather(source, np.arange(count))["x"]), [f"test_{i:05d}" for i in range(count)]
    return read_events(truth, experiment.shape, experiment, lambda x: x, "--truth")


def read_mask(given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of 0 and 1 [*space, 1], or one for each measurement [N, *space, 1], of an array, a file or a folder.

    White (above 127 in image files, not 0 in arrays) is known. ConfigError for another size, or if nothing is known.
    """
    space, flag = shape[:-1] if len(shape) > 1 else shape, "--mask"
    path = Path(given).expanduser() if isinstance(given, str | Path) else None
    if path is None or path.suffix.lower() in (".npy", ".npz"):
        try:
            found = np.asarray(given) if path is None else next(iter(load_arrays(path).values()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{flag}={path}: {error}") from error
        found = found != 0
    elif len(shape) == 3:
        files = image_files(path, flag)
        found = np.stack([read_image_file(file, (*space, 1), flag) for file in files]) > 127
        found = found[0] if path.is_file() else found
    else:
        raise ConfigError(f"{flag}={path}: expected an .npy or .npz array of shape {space}")
    where = flag if path is None else f"{flag}={path}"
    if len(shape) > 1 and found.shape[-1:] != (1,) and found.shape[-len(space) :] == space:
        found = found[..., None]
    event = (*space, 1) if len(shape) > 1 else space
    if found.shape[-len(event) :] != event or found.ndim > len(event) + 1:
        raise ConfigError(f"{where}: expected a mask of shape {space}, that of the data, got {found.shape}")
    if not found.any():
        raise ConfigError(f"{where}: no value is known: expected white (not 0) where the measurement is known")
    print(f"{where}: {found.mean():.1%} of the values are known (white)")
    return found.astype(np.float32)


def require_as_many(mask: np.ndarray | None, shape: tuple[int, ...], count: int) -> None:
    """ConfigError for masks of another number than there are measurements."""
    if mask is not None and mask.ndim > len(shape) and len(mask) not in (1, count):
        raise ConfigError(f"--mask has {len(mask)} masks for {count} measurements: expected one, or one each")


def image_files(path: Path, flag: str) -> list[Path]:
    """The image files of a folder in the order of their names, or the one file."""
    if path.is_file():
        return [path]
    try:
        return [path / name for name in search(path, SUFFIXES).names]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{flag}={path}: {error}") from error


def read_image_file(file: Path, shape: tuple[int, ...], flag: str) -> np.ndarray:
    try:
        return read_exact(file, shape)
    except Exception as error:  # Pillow raises any class for damaged files
        raise ConfigError(f"{flag}={file}: {' '.join(str(error).split())}") from error


def unique_names(files: list[Path]) -> list[str]:
    """The names of files without their endings; with a number where two are equal."""
    stems = Counter(file.stem for file in files)
    return [file.stem if stems[file.stem] == 1 else f"{file.stem}_{i:05d}" for i, file in enumerate(files)]


def require_rows(x: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    """x [N, *shape], or [*shape] as one row. ConfigError for another shape, no row, and numbers that are not finite."""
    x = x[None] if x.shape == tuple(shape) else x
    if x.shape[1:] != tuple(shape) or not len(x):
        raise ConfigError(f"{where}: expected an array of shape [N, {', '.join(map(str, shape))}], got {x.shape}")
    if not np.issubdtype(x.dtype, np.number) or not np.isfinite(x).all():
        raise ConfigError(f"{where}: expected finite numbers, got others")
    return x.astype(np.float32)
