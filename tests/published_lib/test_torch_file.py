"""PyTorch files: real ones, ones made by hand, hostile ones and damaged ones."""

import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from published_lib.torch_file import is_torch_file, read_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
ROOT = "archive"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value):
    return b"J" + struct.pack("<i", value)


def sequence(*values):
    return b"(" + b"".join(values) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + sequence(*arguments) + b"R"


def storage(key="0", count=6, kind="FloatStorage", location="cpu"):
    return sequence(text("storage"), name("torch", kind), text(key), text(location), integer(count)) + b"Q"


def tensor(shape, strides, offset=0, **keywords):
    numbers = (sequence(*map(integer, axes)) for axes in (shape, strides))
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", storage(**keywords), integer(offset), *numbers, b"\x89", hooks)


def program(value, stop=b"."):
    return b"\x80\x02" + value + stop


NUMBERS = np.arange(6, dtype="<f4")


def torch_file(path, value, storages=None, compression=zipfile.ZIP_STORED, stop=b".", **others):
    """A file whose pickle leaves `value`, with NUMBERS in its storage 0."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{ROOT}/data.pkl", program(value, stop))
        for key, content in ({"0": NUMBERS} if storages is None else storages).items():
            archive.writestr(f"{ROOT}/data/{key}", bytes(content))
        for key, content in others.items():
            archive.writestr(f"{ROOT}/{key}", content)
    return path


@pytest.fixture
def read(tmp_path):
    return lambda value, *args, **keywords: read_torch(torch_file(tmp_path / "a.pth", value, *args, **keywords))


@pytest.fixture
def refusal(tmp_path):
    """What reading says, without the name of the file: one line, and not a long one."""

    def of(content, *args, **keywords):
        path = tmp_path / "a.pth"
        if isinstance(content, bytes) and not args and not keywords.pop("raw", False):
            torch_file(path, content, **keywords)
        elif not args:
            path.write_bytes(content)
        else:
            torch_file(path, content, *args)
        with pytest.raises(ValueError) as error:
            read_torch(path)
        message = str(error.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 250
        return message.removeprefix(f"{path}: ")

    return of


# What is read


def test_a_file_of_pytorch_1_7():
    found = read_torch(GOLDEN / "ddpmpp_vp" / "torch.pth")  # written with the location cuda:0
    assert list(found) == ["optimizer", "model", "ema", "step"] and found["step"] == 4321
    kernel = found["model"]["module.all_modules.2.weight"]
    assert kernel.shape == (4, 3, 3, 3) and kernel.dtype == np.float32
    assert found["model"]["module.sigmas"].dtype == np.float64
    np.testing.assert_allclose(found["model"]["module.sigmas"][[0, -1]], [50, 0.01])
    assert found["ema"]["decay"] == 0.9999 and found["ema"]["num_updates"] == 4321
    assert found["optimizer"]["param_groups"][0]["lr"] == np.float64(2e-4 * 4321 / 5000)  # a NumPy scalar in the file
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert found["optimizer"]["state"][0]["step"] == 4321


def test_shapes_strides_and_offsets(read):
    values = (tensor((2, 3), (3, 1)), tensor((3, 2), (1, 3)), tensor((2,), (2,), 1), tensor((), (), 4))
    found = read(sequence(*values, tensor((0, 3), (3, 1))))
    table = NUMBERS.reshape(2, 3)
    for array, expected in zip(found, (table, table.T, [1, 3], 4.0, np.zeros((0, 3))), strict=True):
        np.testing.assert_array_equal(array, expected)
    assert not found[0].flags.writeable and found[3].shape == ()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("DoubleStorage", "<f8"), ("HalfStorage", "<f2"), ("LongStorage", "<i8"), ("ByteStorage", "u1"),
     ("BoolStorage", "?")],
)  # fmt: skip
def test_kinds_of_numbers(read, kind, dtype):
    numbers = np.array([0, 1, 3], dtype)
    found = read(tensor((3,), (1,), count=3, kind=kind), {"0": numbers.tobytes()})
    assert found.dtype == numbers.dtype
    np.testing.assert_array_equal(found, numbers)


def test_bfloat16(read):
    found = read(tensor((2,), (1,), count=2, kind="BFloat16Storage"), {"0": b"\x80\x3f\x20\xc0"})
    np.testing.assert_array_equal(found.astype(np.float32), [1.0, -2.5])


def test_containers_numbers_and_shared_values(read):
    pairs = b"(" + text("a") + integer(-3) + text("b") + b"G" + struct.pack(">d", 0.25) + b"u"
    ordered = call("collections", "OrderedDict") + pairs + b"}" + text("_metadata") + b"]sb"
    assert read(ordered) == {"a": -3, "b": 0.25}
    assert read(b"](" + b"N\x88\x89" + sequence(integer(1)) + b"e") == [None, True, False, (1,)]
    assert read(b"](" + text("w") + b"q\x01h\x01e") == ["w", "w"]
    assert read(b"}K\x07]K\x01as") == {7: [1]}


# What is refused


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def evil(*call):
    return pickle.dumps(Evil(*call), protocol=2)[2:-1]


def test_nothing_is_run(tmp_path, refusal):
    """The file that these would make, and that pickle makes from the first, is not there."""
    mark = tmp_path / "mark"
    values = [
        evil(os.system, f"touch {mark}"),
        evil(eval, f"open({str(mark)!r}, 'w')"),
        evil(exec, f"open({str(mark)!r}, 'w')"),
        evil(subprocess.Popen, ["touch", str(mark)]),
        evil(open, str(mark), "w"),
    ]
    pickle.loads(program(values[0]))
    mark.unlink()
    for value in values:
        assert refusal(value).endswith("which is not allowed")
    assert not mark.exists()
    assert "names 'posix.system'" in refusal(values[0])


@pytest.mark.parametrize(
    ("module", "attribute"),
    [("os", "system"), ("torch", "load"), ("torch", "nn.Module"), ("torch._utils", "_rebuild_parameter"),
     ("numpy", "load"), ("collections", "namedtuple"), ("_codecs", "lookup"),
     ("published_lib.torch_file", "read_torch")],
)  # fmt: skip
def test_other_names_are_refused_by_name(refusal, module, attribute):
    assert refusal(call(module, attribute)).endswith(f"names '{module}.{attribute}', which is not allowed")


LAUGHS = b"(]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"t"
PROGRAMS = {
    "a class": (name("torch", "FloatStorage") + b")\x81", "calls a name with a tuple"),
    "protocol 4": (text("os") + text("system") + b"\x93", "names 'os.system', which is not allowed"),
    "an instance": (b"(ios\nsystem\n", "opcode INST, which is not allowed"),
    "an extension": (b"\x82\x01", "opcode EXT1, which is not allowed"),
    "a storage called": (call("torch", "FloatStorage"), "calls a name with a tuple"),
    "a number called": (integer(3) + b")R", "calls 3 with a tuple"),
    "a list called with": (name("collections", "OrderedDict") + b"]R", "with a list"),
    "arguments too many": (call("_codecs", "encode", b"N", b"N", b"N"), "positional"),
    "a name left over": (name("collections", "OrderedDict"), "got a name"),
    "a dtype left over": (call("numpy", "dtype", text("f8")), "got a dtype"),
    "another encoding": (call("_codecs", "encode", text("a"), text("rot13")), "bytes written in latin1, got 'rot13'"),
    "bytes left over": (call("_codecs", "encode", text("a"), text("latin1")), "got b'a'"),
    "filled at once": (call("collections", "OrderedDict", b"]"), "filled later"),
    "state of a list": (b"]Nb", "writes into a list"),
    "state of a name": (name("collections", "OrderedDict") + b"}b", "writes into a name"),
    "items of a list": (b"]" + text("a") + b"Ns", "sets items of a list"),
    "an item of a tuple": (b")Na", "appends to a tuple"),
    "a tuple as key": (b"})Ns", "as the keys of a dict, got a tuple"),
    "an empty stack": (b"0", "opcode POP, which is not allowed"),
    "nothing to call": (b"R", "damaged at byte 2, REDUCE"),
    "two values": (b"NN", "left over"),
    "an open mark": (b"(N", "left over"),
    "no mark": (b"t", "damaged at byte 2, TUPLE"),
    "no such memo": (b"h\x05", "damaged at byte 2, BINGET"),
    "a list in itself": (b"]q\x00h\x00a", "repeats its values too often"),
    "a billion laughs": (LAUGHS, "repeats its values too often"),
    "no storage": (call("torch._utils", "_rebuild_tensor_v2", b"N", b"N", b")", b")"), "with a storage, got None"),
    "another id": (text("0") + b"Q", "the persistent id of a storage, got '0'"),
    "a short id": (sequence(text("storage")) + b"Q", "the persistent id of a storage, got a tuple"),
    "a kind that is text": (sequence(*[text("storage")] * 4, b"K\x01") + b"Q", "the persistent id of a storage"),
    "a kind that is no storage": (
        sequence(text("storage"), name("numpy", "dtype"), text("0"), text("cpu"), integer(6)) + b"Q",
        "the persistent id of a storage, got a tuple",
    ),
    "a storage left over": (storage(), "got a storage"),
    "another scalar": (call("numpy.core.multiarray", "scalar", call("numpy", "dtype", text("O8")), b"N"), "'O8'"),
    "a scalar without dtype": (call("numpy.core.multiarray", "scalar", b"N", b"N"), "got None in None"),
    "a big-endian scalar": (
        call("numpy", "dtype", text("f8")) + sequence(integer(3), text(">")) + b"b", "little-endian dtype"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("value", "message"), PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_do_something_else(refusal, value, message):
    assert message in refusal(value)


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "message"),
    [
        ((2, 3), (3, 1), 1, "shape (2, 3), strides (3, 1) and offset 1 reach outside its 6 numbers"),
        ((7,), (1,), 0, "outside its 6"),
        ((2,), (6,), 0, "outside its 6"),
        ((1,), (1,), 6, "outside its 6"),
        ((2**30, 2**30), (0, 0), 0, "outside its 6"),
        ((7,), (0,), 0, "outside its 6"),
        ((2,), (-1,), 1, "without negative numbers"),
        ((-2,), (1,), 0, "without negative numbers"),
        ((2,), (1,), -1, "without negative numbers"),
        ((2,), (1, 1), 0, "without negative numbers"),
        ((1,) * 9, (1,) * 9, 0, "at most 8 axes, got 9"),
        ((0, 2**30, 2**30, 2**30), (1, 1, 1, 1), 0, ""),
    ],
)
def test_tensors_outside_of_their_storage(refusal, shape, strides, offset, message):
    assert message in refusal(tensor(shape, strides, offset))


def test_storages_that_are_not_as_said(refusal):
    assert "there is no entry for storage '1'" in refusal(tensor((1,), (1,), key="1"))
    assert "there is no entry for storage '../data.pkl/'" in refusal(tensor((1,), (1,), key="../data.pkl/"))
    assert "expected 7 numbers of 4 bytes, got 24 bytes" in refusal(tensor((1,), (1,), count=7))
    assert "expected 5 numbers of 4 bytes, got 24 bytes" in refusal(tensor((1,), (1,), count=5))
    assert "expected 6 numbers of 8 bytes, got 24" in refusal(tensor((1,), (1,), kind="DoubleStorage"))
    assert "expected a number of elements, got -1" in refusal(tensor((1,), (1,), count=-1))


def test_files_that_are_not_such_zips(tmp_path, refusal):
    assert "zip file, which starts with PK, got b''" in refusal(b"", raw=True)
    assert "zip file, which starts with PK, got b'\\x93NUM'" in refusal(b"\x93NUMPY", raw=True)
    assert "not a zip file" in refusal(b"PK\x03\x04 and no more", raw=True)
    assert "entries that are not compressed" in refusal(b"N", compression=zipfile.ZIP_DEFLATED)
    assert "expected little-endian numbers" in refusal(b"N", byteorder="big")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("notes", "x")
    assert "expected one entry data.pkl, got 0" in refusal((tmp_path / "b.pth").read_bytes(), raw=True)
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "none.pth")


def old_file(value, keys=("0",), magic=0x1950A86A20F9469CFC6C, little_endian=True, count=6):
    """As PyTorch wrote before 1.6: pickles, then the numbers."""
    head = [magic, 1001, {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}]
    content = b"".join(pickle.dumps(part, protocol=2) for part in head)
    return (
        content + program(value) + pickle.dumps(list(keys), protocol=2) + struct.pack("<q", count) + NUMBERS.tobytes()
    )


def test_files_from_before_pytorch_1_6(tmp_path, refusal):
    path = tmp_path / "old.pth"
    path.write_bytes(old_file(sequence(tensor((2, 3), (3, 1)), tensor((2,), (2,), offset=1))))
    first, second = read_torch(path)
    np.testing.assert_array_equal(first, NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(second, NUMBERS[1:4:2])
    one = tensor((6,), (1,))
    assert "magic number of PyTorch before 1.6" in refusal(old_file(one, magic=7), raw=True)
    assert "little-endian" in refusal(old_file(one, little_endian=False), raw=True)
    assert "there is no tensor of storage '1'" in refusal(old_file(one, keys=("1",)), raw=True)
    assert "there is no entry for storage '0'" in refusal(old_file(one, keys=()), raw=True)
    assert "the file ends before its 7 numbers do" in refusal(old_file(one, count=7), raw=True)
    assert "expected 6 numbers of 4 bytes, got 20 bytes" in refusal(old_file(one, count=5), raw=True)
    two = sequence(tensor((6,), (1,)), tensor((6,), (1,), kind="IntStorage"))
    assert "two storages of one key, are not supported" in refusal(old_file(two), raw=True)
    for evil_value in (call("os", "system", text("true")), call("torch", "FloatStorage")):
        refusal(old_file(evil_value), raw=True)


def test_entries_that_share_their_bytes_are_refused(tmp_path, refusal):
    """A directory of many names for one entry would take their sum in memory."""
    path = torch_file(tmp_path / "b.pth", b"N", {"0": bytes(5000)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start, entry = archive.start_dir, archive.infolist()[1]
    directory = content[start : content.rindex(b"PK\x05\x06")]
    record = directory[directory.rindex(b"PK\x01\x02") :]
    assert entry.filename.encode() in record
    copies = b"".join(record.replace(b"data/0", b"data/%c" % (65 + i)) for i in range(20))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 22, 22, len(directory + copies), start, 0)
    assert "more than the" in refusal(content[:start] + directory + copies + end, raw=True)


def test_what_kind_of_file(tmp_path):
    assert is_torch_file(GOLDEN / "ddpmpp_vp" / "torch.pth") and not is_torch_file(
        GOLDEN / "ddpmpp_vp" / "flax.msgpack"
    )
    legacy = tmp_path / "legacy.pth"
    legacy.write_bytes(pickle.dumps({}, protocol=2))
    assert is_torch_file(legacy)


# Damage


def arrays_and_numbers(value):
    if isinstance(value, dict):
        return all(type(key) in (str, int) and arrays_and_numbers(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(arrays_and_numbers, value))
    return value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic)


def mutated(content, rng):
    content = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 5)):
        content[place] = rng.integers(256)
    return bytes(content)


def outcome(path):
    """True if it is read, as arrays and numbers; False if it is refused, in one line."""
    try:
        assert arrays_and_numbers(read_torch(path))
    except ValueError as error:
        assert "\n" not in str(error)
        return False
    return True


SMALL = (
    b"}(" + text("model") + call("collections", "OrderedDict") + text("w") + tensor((2, 3), (3, 1)) + b"s"
    + text("lr") + call("numpy.core.multiarray", "scalar",
                        call("numpy", "dtype", text("f8"), b"\x89", b"\x88") + sequence(integer(3), text("<")) + b"b",
                        call("_codecs", "encode", text("abcdefgh"), text("latin1")))
    + text("step") + integer(4321) + b"q\x05" + text("again") + b"h\x05" + b"u"
)  # fmt: skip


def test_damaged_pickles(tmp_path):
    """Mutations of the pickle itself, in a zip that is whole."""
    path, rng = torch_file(tmp_path / "a.pth", SMALL), np.random.default_rng(0)
    assert list(read_torch(path)) == ["model", "lr", "step", "again"]
    read = sum(outcome(torch_file(path, mutated(SMALL, rng))) for _ in range(3000))
    assert 30 < read < 1000  # a byte of text or of a number changes nothing else
    assert not any(outcome(torch_file(path, SMALL[:length], stop=b"")) for length in range(len(SMALL) + 1))


def test_damaged_files(tmp_path):
    """Mutations and cuts of a whole file, small and real."""
    path, rng = torch_file(tmp_path / "a.pth", SMALL), np.random.default_rng(1)
    small, real = path.read_bytes(), (GOLDEN / "ddpmpp_vp" / "torch.pth").read_bytes()
    for content, count in ((small, 1000), (real, 20)):
        for _ in range(count):
            path.write_bytes(mutated(content, rng))
            outcome(path)
        for length in rng.integers(len(content), size=count // 2):
            path.write_bytes(content[:length])
            assert not outcome(path)
