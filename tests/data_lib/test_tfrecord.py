"""The frames against the values of the format's own description; the messages against Google's protocol buffers."""

import struct

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from data_lib import from_tfrecord, gather
from data_lib.tfrecord import frames, masked_crc, parse_example

BYTES, FLOAT, INT64, MESSAGE = 12, 2, 3, 11


def example_class():
    """tensorflow.Example, written out, with a repeated entry in place of the map: the same bytes."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    for name, fields in {
        "BytesList": [("value", 1, BYTES, None, 3)],
        "FloatList": [("value", 1, FLOAT, None, 3)],
        "Int64List": [("value", 1, INT64, None, 3)],
        "Feature": [
            (f"l{i}", i, MESSAGE, kind, 1) for i, kind in enumerate(("BytesList", "FloatList", "Int64List"), 1)
        ],
        "Entry": [("key", 1, BYTES, None, 1), ("value", 2, MESSAGE, "Feature", 1)],
        "Features": [("feature", 1, MESSAGE, "Entry", 3)],
        "Example": [("features", 1, MESSAGE, "Features", 1)],
    }.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of, label in fields:
            message.field.add(name=field, number=number, type=kind, label=label, type_name=of and f".t.{of}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


Example = example_class()


def example(**features):
    out = Example()
    for key, value in features.items():
        entry = out.features.feature.add(key=key.encode())
        if isinstance(value, bytes):
            entry.value.l1.value.append(value)
        elif np.asarray(value).dtype.kind == "f":
            entry.value.l2.value.extend(value)
        else:
            entry.value.l3.value.extend(value)
    return out.SerializeToString()


def frame(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def written(path, count=12):
    x = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 5), np.uint8)
    path.write_bytes(b"".join(frame(example(shape=[3, 4, 5], data=one.tobytes())) for one in x))
    return x.transpose(0, 2, 3, 1)


def test_the_checksum_is_crc_32c():
    """The check value of the polynomial, 0xe3069283 of '123456789', and 32 zeros of RFC 3720, B.4."""
    for data, crc in ((b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA)):
        assert masked_crc(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_messages_are_read_as_google_writes_them():
    found = parse_example(example(a=[1, -2, 2**62, 300], b=[0.5, -3.25], c=b"\0\xff" * 300, d=[]))
    np.testing.assert_array_equal(found["a"], [1, -2, 2**62, 300])
    np.testing.assert_array_equal(found["b"], np.float32([0.5, -3.25]))
    assert found["c"] == [b"\0\xff" * 300] and list(found) == ["a", "b", "c", "d"]


def test_shards_of_one_set_are_not_taken_for_resolutions(tmp_path):
    for k in range(2):
        written(tmp_path / f"train-0000{k}-of-00002.tfrecords", count=2)
    with pytest.raises(ValueError, match=r"2 files of records, not one per resolution \(-r02 to -r10\): name one"):
        from_tfrecord(tmp_path)


def test_images_of_the_published_layout(tmp_path):
    x = written(tmp_path / "celeba-r05.tfrecords")
    written(tmp_path / "celeba-r03.tfrecords", count=2)
    for path in (tmp_path, tmp_path / "celeba-r05.tfrecords"):
        parts = from_tfrecord(path, test=4)
        assert [len(part) for part in parts] == [8, 4]
        found = np.concatenate([gather(part, np.arange(len(part)))["x"] for part in parts])
        assert found.shape == (12, 4, 5, 3)
        assert {image.tobytes() for image in found} == {image.tobytes() for image in x}


def test_records_of_lower_resolution_are_said_and_those_of_other_folders_refused(tmp_path, caplog):
    written(tmp_path / "a-r05.tfrecords")
    written(tmp_path / "a-r03.tfrecords", count=2)
    (tmp_path / "readme.txt").write_text("")
    from_tfrecord(tmp_path, test=4)
    assert "left out: 1 file (1 .txt)" in caplog.text
    assert caplog.text.count("records of a-r05.tfrecords are used, not those of lower resolution: a-r03.tfrecords") == 1
    (tmp_path / "val").mkdir()
    written(tmp_path / "val" / "a-r05.tfrecords")
    with pytest.raises(ValueError, match=r"files of records in several folders: name one"):
        from_tfrecord(tmp_path)


def test_files_that_are_truncated_or_of_another_format(tmp_path):
    path = tmp_path / "a.tfrecords"
    written(path, count=3)
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 60, len(whole) // 3 + 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a\.tfrecords: truncated within a record at byte \d+ of \d+"):
            from_tfrecord(path)
    path.write_bytes(b"no records here" * 5)
    with pytest.raises(ValueError, match=r"no TFRecord at byte 0 of 75: the checksum"):
        from_tfrecord(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no records"):
        from_tfrecord(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        from_tfrecord(tmp_path / "b.tfrecords")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"data": b"1"}, r"record \d: expected the features 'shape' \[C, H, W\] and 'data', got \['data'\]"),
        ({"shape": [3, 4, 5], "data": b"1"}, r"shape \(.*3.*4.*5.*\) and 1 bytes of data do not agree"),
        ({"shape": [3, 4], "data": b"1" * 12}, "expected the features"),
        ({"shape": [3.0, 4.0, 5.0], "data": b"1" * 60}, "expected the features"),
        ({"shape": b"345", "data": b"1" * 60}, "expected the features"),
        ({"shape": [3, 4, 5], "data": [1]}, "expected the features"),
    ],
)
def test_records_of_something_else(tmp_path, features, message):
    (tmp_path / "a.tfrecords").write_bytes(frame(example(**features)) * 3)
    with pytest.raises(ValueError, match=message):
        from_tfrecord(tmp_path / "a.tfrecords", test=1).train[0]


def test_mutated_messages_are_read_or_refused():
    generator = np.random.default_rng(0)
    whole, refused = np.frombuffer(example(shape=[3, 4, 5], data=bytes(60)), np.uint8), 0
    for _ in range(300):
        content = whole.copy()
        content[generator.integers(0, len(content), 3)] = generator.integers(0, 256, 3)
        try:
            parse_example(content[: generator.integers(1, len(content) + 1)].tobytes())
        except ValueError:
            refused += 1
    assert 50 < refused < 300
    assert [end - start for start, end in frames(frame(b"abc") + frame(b""), "here")] == [3, 0]
