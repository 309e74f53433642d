"""The msgpack format of flax, from files that flax 0.3.1 wrote and from damaged ones."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax import serialization

from published_lib.msgpack_file import read_msgpack

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"


def written(tmp_path, content):
    path = tmp_path / "checkpoint_1"
    path.write_bytes(content)
    return path


def ext(code, *content):
    return msgpack.packb({"params": msgpack.ExtType(code, msgpack.packb(content))})


def test_a_file_of_flax_0_3_1():
    tree = read_msgpack(GOLDEN / "ddpmpp_vp" / "flax.msgpack")
    assert list(tree) == ["step", "optimizer", "lr", "model_state", "ema_rate", "params_ema", "rng"]
    assert tree["step"] == 4321 and tree["lr"] == np.float32(2e-4) and tree["model_state"] == {}
    kernel = tree["params_ema"]["Conv_0"]["kernel"]
    assert kernel.shape == (3, 3, 3, 4) and kernel.dtype == np.float32
    assert tree["params_ema"]["GroupNorm_0"]["scale"].shape == (1, 1, 1, 4)


def test_numbers_come_back_as_they_were(tmp_path):
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": np.int32(3), "d": None, "e": 2.5}}
    tree["f"] = np.asarray([1, -2], ml_dtypes.bfloat16)
    found = read_msgpack(written(tmp_path, serialization.msgpack_serialize(tree)))
    np.testing.assert_array_equal(found["a"], tree["a"])
    np.testing.assert_array_equal(found["f"], tree["f"])
    assert found["b"] == tree["b"] and found["f"].dtype == ml_dtypes.bfloat16


def test_chunks_come_back_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    tree = {"a": {"b": np.arange(15.0).reshape(3, 5)}}
    content = serialization.msgpack_serialize(tree)
    assert b"__msgpack_chunked_array__" in content
    np.testing.assert_array_equal(read_msgpack(written(tmp_path, content))["a"]["b"], tree["a"]["b"])


BAD = {
    "empty": b"",
    "no map": msgpack.packb([1, 2]),
    "more after it": msgpack.packb({"a": 1}) + b"\x01",
    "numbers as names": msgpack.packb({"a": {3: 1}}),
    "text": msgpack.packb({"a": "text"}),
    "a list": msgpack.packb({"a": [1]}),
    "an unknown extension": ext(9, "code"),
    "a complex number": ext(2, 1.0, 2.0),
    "objects": ext(1, (1,), "O", b"12345678"),
    "names of dtypes": ext(1, (1,), "os.system", b"12345678"),
    "dates": ext(1, (1,), "M8[s]", b"12345678"),
    "a record": ext(1, (1,), "f4,f4", b"12345678"),
    "another size": ext(1, (3,), "float32", b"12345678"),
    "a size of its own": ext(1, (1 << 40,), "float32", b"1234"),
    "half a number": ext(1, (1,), "float32", b"123"),
    "no array": ext(1, "float32"),
    "chunks without arrays": msgpack.packb({"a": {"__msgpack_chunked_array__": 1, "shape": {}, "chunks": {"0": 1}}}),
    "chunks without a shape": msgpack.packb({"a": {"__msgpack_chunked_array__": 1}}),
    "deep": b"\x81\xa1a" * 5000 + b"\x01",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_no_checkpoint_is_one_line(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(ValueError) as error:
        read_msgpack(path)
    assert str(error.value).startswith(f"{path}: ") and "expected" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(path))


def test_every_cut_file_is_refused_and_damaged_ones_never_crash(tmp_path):
    whole = serialization.msgpack_serialize({"a": {"b": np.arange(4.0), "c": np.float32(2)}, "step": 3})
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="expected"):
            read_msgpack(written(tmp_path, whole[:length]))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        try:
            read_msgpack(written(tmp_path, bytes(content)))
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 300


def test_reading_looks_up_no_class():
    """With every import refused and `eval`, `exec` and pickle taken away, the file still reads."""
    code = f"""
import builtins, sys
from published_lib.msgpack_file import read_msgpack
import jax.numpy, ml_dtypes, pathlib
path = {str(GOLDEN / "ncsnpp_highres" / "flax.msgpack")!r}
def refused(*_, **__): raise AssertionError("used")
builtins.eval = builtins.exec = builtins.compile = refused
sys.modules["pickle"].Unpickler = sys.modules["pickle"].loads = sys.modules["pickle"].load = refused
sys.addaudithook(lambda event, _: refused() if event in ("import", "exec", "compile", "os.system") else None)
print(int(read_msgpack(path)["step"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=GOLDEN.parents[2])
    assert done.stdout.strip() == "4321", done.stderr
