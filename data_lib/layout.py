"""Layouts that are probably not meant: channels first, examples last, classes that are not one integer each.

Nothing is turned. A remark says what was found, what is expected, and the line of NumPy that makes it so. Another one
names the keys of examples that are not used.
"""

from collections.abc import Sequence

import numpy as np

from data_lib.sources import ArraySource, Dataset, Source, gather

CHANNELS = (1, 3, 4)  # of pictures
FEW = 64  # rows of a table that may be features
MORE = 8  # times as many columns as rows make a table doubtful


def remarks(dataset: Dataset) -> tuple[str, ...]:
    """What is doubtful in the events and labels of the training examples or not used of them, one line each."""
    train, test = dataset
    if not len(train):
        return ()
    first = gather(train, [0])
    shape = (len(train) + (0 if train is test else len(test)), *first["x"].shape[1:])
    label = first.get("label") if not isinstance(train, ArraySource) else train.label
    found = event_remark(shape), "" if label is None else label_remark(label), _unused(train)
    return tuple(line for line in found if line)


def _unused(source: Source) -> str:
    if isinstance(source, ArraySource):
        return ""
    keys = set(source[0])
    others = sorted(map(str, keys - {"x" if "x" in keys else "image", "label", "cond"}))
    return f"keys of the examples that are not used: {', '.join(others)}" if others else ""


def event_remark(shape: Sequence[int]) -> str:
    """A line on x of this shape [N, ...], or ""."""
    match tuple(shape):
        case (n, features) if n <= FEW and features >= MORE * n:
            return _remark(shape, f"a table of {n} features, transposed", "[N, features]", "x.T")
        case (_, c, length) if c in CHANNELS and length > 16:
            return _remark(shape, "signals with channels first", "[N, length, C]", "np.transpose(x, (0, 2, 1))")
        case (_, c, _, w) if c in CHANNELS and w > max(CHANNELS):
            return _remark(shape, "images with channels first", "[N, H, W, C]", "np.transpose(x, (0, 2, 3, 1))")
        case (h, _, c, n) if c in CHANNELS and n > max(CHANNELS) and h not in CHANNELS:
            return _remark(shape, "images with examples last", "[N, H, W, C]", "np.transpose(x, (3, 0, 1, 2))")
    return ""


def label_remark(label: np.ndarray) -> str:
    """A line on labels [N, ...] that may be meant as classes, one integer each, or ""."""
    if label.ndim == 2 and label.shape[1] == 1:
        return _label_remark(label, "a column", "label[:, 0]")
    if label.ndim == 2 and np.isin(label, (0, 1)).all() and (label.sum(1) == 1).all():
        return _label_remark(label, "one-hot", "label.argmax(axis=1)")
    if label.ndim == 1 and label.dtype.kind == "f" and np.array_equal(label, np.rint(label)):
        return _label_remark(label, "whole numbers stored as floats", "label.astype(int)")
    return ""


def _remark(shape: Sequence[int], looks: str, expected: str, line: str) -> str:
    return f"x of shape {list(shape)} looks like {looks}: expected {expected}, as x = {line} makes it"


def _label_remark(label: np.ndarray, looks: str, line: str) -> str:
    shown = f"{label.dtype} of shape {['N', *label.shape[1:]]}".replace("'", "")
    return f"labels of dtype {shown} look like classes, {looks}: expected integers [N], as label = {line} makes it"
