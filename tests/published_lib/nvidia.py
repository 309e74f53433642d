"""Pickles in the form of EDM's, written from a tree that `read_nvidia` gives: to change it, or to make it hostile."""

import pickle
import struct
import sys
import types
from contextlib import contextmanager

import numpy as np

from published_lib.nvidia_pickle import Persistent


def storage_stream(numbers, kind="FloatStorage", extra=b""):
    """One storage in PyTorch's form from before 1.6; `extra` are opcodes before its description."""
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value.encode()  # noqa: E731
    integer = lambda value: b"J" + struct.pack("<i", value)  # noqa: E731
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    described = text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + integer(numbers.size) + b"N"
    value = b"\x80\x02" + extra + b"(" + described + b"tQ."
    keys = b"\x80\x02]" + text("0") + b"a."
    head = magic + b"\x80\x02" + integer(1001) + b"." + system + value + keys
    return head + struct.pack("<q", numbers.size) + numbers.tobytes()


class _Call:
    """Pickled as a call of the global `name` of `module`."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments

    def __reduce__(self):
        return getattr(sys.modules[self.module], self.name), self.arguments


NAMES = (
    ("torch_utils.persistence", "_reconstruct_persistent_obj"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.storage", "_load_from_bytes"),
)


@contextmanager
def modules(names=NAMES):
    """Modules of these names while a pickle is written."""
    made = {}
    for module, name in names:
        made.setdefault(module.split(".")[0], types.ModuleType(module.split(".")[0]))
        here = made.setdefault(module, types.ModuleType(module))
        function = types.FunctionType((lambda *arguments: None).__code__, {})
        function.__module__, function.__qualname__, function.__name__ = module, name, name
        setattr(here, name, function)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


SOURCE = "raise SystemExit('the source ran')"


def written(value, extra=b""):
    """The value in the form that pickle writes as they do."""
    if isinstance(value, Persistent):
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": value.class_name}
        meta["state"] = written(value.state, extra)
        return _Call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)
    if isinstance(value, np.ndarray):
        numbers = np.ascontiguousarray(value, "<f4")
        stored = _Call("torch.storage", "_load_from_bytes", storage_stream(numbers.reshape(-1), extra=extra))
        strides = tuple(step // 4 for step in numbers.strides)
        return _Call("torch._utils", "_rebuild_tensor_v2", stored, 0, value.shape, strides, False, None)
    if isinstance(value, frozenset):
        return set()
    if isinstance(value, dict):
        return {key: written(item, extra) for key, item in value.items()}
    return type(value)(written(item, extra) for item in value) if type(value) in (list, tuple) else value


def write(path, content, extra=b""):
    """The file, with `content` as its value, and the opcodes `extra` in the stream of each storage."""
    with modules():
        path.write_bytes(pickle.dumps(written(content, extra), protocol=4))
    return path
