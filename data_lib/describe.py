"""A data set in numbers: counts, shapes, range, labels, σ_data, unreadable files, examples in both splits."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_lib.conditions import keys_in
from data_lib.layout import remarks
from data_lib.sources import ArraySource, Dataset, Source, gather, spread
from data_lib.transform import FAR, MANY, Standardize, Transform, infer_transform

SAMPLE = 10_000
LOOKED_AT = 500  # examples whose scales are compared with the config's before training
APART = 10.0  # times: deviations of columns that differ more are reported
NEAR = 0.2, 5.0  # times the deviation that a config assumes: others are reported, and means beyond the second
SHOWN = 20
COARSE = 1e-3  # of a deviation: steps between stored values that are larger are reported


@dataclass(frozen=True)
class SplitDescription:
    """One split. Range, σ_data and labels are those of `seen` examples: all of them if they are in memory."""

    count: int
    seen: int
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    sigma_data: float
    labels: tuple[tuple[str, int], ...]
    unreadable: tuple[str, ...]
    negative: bool = False  # whether there are labels below 0
    rounding: str = ""  # a line if the dtype, or model space's float32, loses digits of the data
    conditions: tuple[str, ...] = ()  # a line for each: name, dtype, shape, range


@dataclass(frozen=True)
class Description:
    """Both splits. `shared` test examples are also training examples; None if that was not checked.

    `remarks` are lines on a doubtful layout (`layout`).
    """

    train: SplitDescription
    test: SplitDescription
    shared: int | None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        doubts = [f"layout   {line}" for line in self.remarks]
        return "\n".join([*_lines("train", self.train), *_lines("test", self.test), _split(self), *doubts])


def describe(dataset: Dataset, transform: Transform) -> Description:
    """The numbers of both splits. σ_data is the standard deviation of all values in model space.

    Use it for `EDMPreconditioning(sigma_data)`.
    """
    train, test = (_describe_split(source, transform) for source in dataset)
    return Description(train, test, shared_examples(dataset), remarks(dataset))


def shared_examples(dataset: Dataset) -> int | None:
    """How many test examples equal a training example, byte for byte.

    None if the splits are two sources that are not both in memory.
    """
    train, test = dataset
    if train is test:
        return len(test)
    if not (isinstance(train, ArraySource) and isinstance(test, ArraySource)):
        return None
    known = set(_keys(train.x))
    return sum(key in known for key in _keys(test.x))


def _describe_split(source: Source, transform: Transform) -> SplitDescription:
    count = len(source)
    whole = isinstance(source, ArraySource)
    seen = np.arange(count) if whole else np.linspace(0, count - 1, min(count, SAMPLE)).astype(int)
    low, high = np.inf, -np.inf
    data, model = _Moments(), _Moments()
    shape: tuple[int, ...] = ()
    dtype = np.dtype(np.float32)
    labels: dict[int, int] = {}
    conditions: dict[str, tuple[float, float]] = {}
    kinds: dict[str, str] = {}
    for start in range(0, len(seen), 1000):
        batch = gather(source, seen[start : start + 1000])
        x = batch["x"]
        shape, dtype = x.shape[1:], x.dtype
        low, high = min(low, float(x.min())), max(high, float(x.max()))
        data.add(x)
        model.add(transform.forward(x))
        for key in keys_in(batch):
            values, (least, most) = batch[key], conditions.get(key, (np.inf, -np.inf))
            kinds[key] = f"{key} {values.dtype} {list(values.shape[1:])}"
            conditions[key] = min(least, float(values.min())), max(most, float(values.max()))
        label = batch.get("label")
        if label is not None and label.ndim == 1 and label.dtype.kind == "i":
            for value, n in zip(*np.unique(label, return_counts=True), strict=True):
                labels[int(value)] = labels.get(int(value), 0) + int(n)
    names = getattr(source, "classes", ())
    named = [(names[k] if 0 <= k < len(names) else str(k), n) for k, n in sorted(labels.items())]
    bad = tuple(map(str, getattr(source, "unreadable", ())))
    given = tuple("{} range {} to {}".format(kinds[key], *_shown_range(*conditions[key])) for key in kinds)
    rounding = _rounding(data, dtype) or _rounding(model, np.dtype(np.float32), " in model space")
    return SplitDescription(
        count,
        len(seen),
        shape,
        str(dtype),
        low,
        high,
        model.overall(),
        tuple(named),
        bad,
        min(labels, default=0) < 0,
        rounding,
        given,
    )


def scale_remark(train: Source, transform: Transform, expected: float | np.ndarray, sigma_data: bool = False) -> str:
    """One line if the training examples in model space are unlike the deviation that is `expected` of them, or "".

    `expected` is one number, or one per entry of the last axis. Reported are columns (the entries of a last axis of at
    most 16) whose deviations differ by more than a factor of 10 from each other, relative to the expected ones; a
    deviation of all values below 0.2 or above 5 times the expected one; and means beyond 5 of them. The line has the
    transform that `infer_transform` chooses, or, if that is the transform already, the deviation for `sigma_data`, if
    there is such a number. 500 examples, evenly spaced, are looked at.
    """
    rows = spread(train, LOOKED_AT)
    x, model = gather(train, rows)["x"], _Moments()
    model.add(transform.forward(x))
    std, mean = model.std() / expected, model.mean / expected
    used = std[std > 0]
    overall = model.overall() / float(np.sqrt(np.mean(np.square(expected))))
    found = []
    if len(used) and used.max() > APART * used.min():
        found.append(f"the deviations of columns go from {_least(model.std()):.3g} to {model.std().max():.3g}")
    if 0 < overall < NEAR[0] or overall > NEAR[1]:
        found.append(f"their deviation is {model.overall():.3g}")
    if np.max(np.abs(mean)) > NEAR[1]:
        found.append(f"their mean is {model.mean[np.argmax(np.abs(mean))]:.3g}")
    if not found:
        return ""
    better = infer_transform(train.x if isinstance(train, ArraySource) else x)
    if better == transform and not sigma_data:
        return ""
    remedy = f"config.parameterization.sigma_data = {model.overall():.3g}"
    if better != transform:
        remedy = f"config.transform = {_as_spec(better)}, or --data=FILE, which sets it"
    assumed = " to ".join(dict.fromkeys(f"{e:.3g}" for e in (np.min(expected), np.max(expected))))
    return f"in model space {', '.join(found)}; the config assumes a deviation of {assumed}. Write {remedy}"


def _least(std: np.ndarray) -> float:
    return float(std[std > 0].min())


def _as_spec(transform: Transform) -> str:
    """The config's line for a transform, with means to a thousandth of the deviation."""
    values = dict(vars(transform))
    if isinstance(transform, Standardize):
        mean, std = np.broadcast_arrays(np.atleast_1d(transform.mean), np.atleast_1d(transform.std))
        digits = 4 + np.ceil(np.maximum(np.log10(np.maximum(np.abs(mean), 1e-300) / std), 0)).astype(int)
        parts = [f"{m:.{d}g}" for m, d in zip(mean, digits, strict=True)], [f"{s:.4g}" for s in std]
        comma = "," if len(std) == 1 else ""
        joined = [f"({', '.join(part)}{comma})" if np.ndim(transform.std) else part[0] for part in parts]
        values = dict(zip(("mean", "std"), joined, strict=True))
    return f"spec({type(transform).__name__}, {', '.join(f'{name}={value}' for name, value in values.items())})"


class _Moments:
    """Count, mean and sum of squares about the mean, per entry of the last axis if these are features; in float64.

    Parts are merged by (2.1) of Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing
    sample variances (1979), which loses no digits far from 0.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(1), np.zeros(1)

    def add(self, x: np.ndarray) -> None:
        columns = x.reshape(-1, x.shape[-1]) if x.ndim > 1 and x.shape[-1] <= MANY else x.reshape(-1, 1)
        columns = columns.astype(np.float64)
        mean, count = columns.mean(0), len(columns)
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + ((columns - mean) ** 2).sum(0) + shift**2 * self.count * count / total
        self.mean, self.count = self.mean + shift * count / total, total

    def std(self) -> np.ndarray:
        """The deviation of each entry."""
        return np.sqrt(self.squares / self.count)

    def overall(self) -> float:
        """The deviation of all values."""
        return float(np.sqrt(np.mean(self.squares / self.count) + np.var(self.mean)))


def _rounding(found: _Moments, dtype: np.dtype, where: str = "") -> str:
    """A line if `dtype` stores these values in steps of more than `COARSE` deviations, since they are far from 0."""
    if dtype.kind != "f" or dtype.itemsize > 4:
        return ""
    std, eps = found.std(), float(np.finfo(dtype).eps)
    steps = np.abs(np.spacing(found.mean.astype(dtype))).astype(np.float64)
    share = np.divide(steps, std, out=np.zeros_like(steps), where=std > 0)
    worst = int(np.argmax(share))
    if share[worst] <= max(COARSE, FAR * eps):  # float16 has steps of COARSE near 0 too
        return ""
    mean, digits = found.mean[worst], np.log10(share[worst] / eps)
    remedy = "standardize them, as --data does" if where else f"store them as float64, or minus {mean:.6g}"
    return (
        f"{dtype}{where} has steps of {steps[worst]:.3g} near {mean:.6g}, {share[worst]:.2g} deviations of the data: "
        f"{min(digits, -np.log10(eps)):.1f} of its {-np.log10(eps):.1f} digits are lost; {remedy}"
    )


def _lines(name: str, part: SplitDescription) -> Iterator[str]:
    seen = "" if part.seen == part.count else f" (of {part.seen} of them)"
    yield f"{name:8} {part.count} examples {part.dtype} {list(part.shape)}"
    low, high = _shown_range(part.low, part.high)
    yield f"{'':8} range {low} to {high}, sigma_data {part.sigma_data:.4g} in model space{seen}"
    if part.rounding and name == "train":
        yield f"{'':8} {part.rounding}"
    if part.labels:
        shown = ", ".join(f"{label}: {count}" for label, count in part.labels[:SHOWN])
        more = f", and {len(part.labels) - SHOWN} more" if len(part.labels) > SHOWN else ""
        one = "; there is one class only" if len(part.labels) == 1 else ""
        below = "; labels below 0 are out of range" if part.negative else ""
        yield f"{'':8} labels {shown}{more}{one}{below}"
    yield from (f"{'':8} {line}" for line in part.conditions)
    if part.unreadable:
        yield f"{'':8} {len(part.unreadable)} files cannot be read; --config.data.on_error=skip trains without them:"
        yield from (f"{'':10}{line}" for line in part.unreadable[:SHOWN])
        if len(part.unreadable) > SHOWN:
            yield f"{'':10}and {len(part.unreadable) - SHOWN} more"


def _shown_range(low: float, high: float) -> tuple[str, str]:
    """Both with 6 digits, or more if they are far from 0: three beyond those that they share."""
    apart = np.log10(max(abs(low), abs(high)) / (high - low)) if low < high else 0
    digits = min(17, max(6, 3 + int(np.ceil(apart))))
    return f"{low:.{digits}g}", f"{high:.{digits}g}"


def _split(found: Description) -> str:
    if found.shared is None:
        return "split    read by index: not checked whether test examples are also training examples"
    if found.shared == 0:
        return "split    no test example is also a training example"
    return f"split    {found.shared} of {found.test.count} test examples are also training examples"


def _keys(x: np.ndarray) -> Iterator[int]:
    return (hash(row.tobytes()) for row in x)
