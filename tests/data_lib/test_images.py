import hashlib
import io
import logging
import os

import numpy as np
import pytest
from PIL import Image

from data_lib import gather
from data_lib.files import ReadError, decode_all, default_threads, find_files, in_threads, split_mask
from data_lib.images import FORMATS, SUFFIXES, FileSource, from_folder, read_image


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def folder_of(root, count=20, classes=("cat", "dog"), suffix=".png"):
    """The top left pixel carries the number and the class."""
    for i in range(count):
        pixels = noise(6, 5, 3, seed=i)
        pixels[0, 0, :2] = i, i % len(classes)
        place = root / classes[i % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:03d}{suffix}")
    return root


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_sub_folders_are_labels_and_splits_are_disjoint(tmp_path):
    train, test = from_folder(folder_of(tmp_path), shape=(6, 5, 3), test=6)
    assert (len(train), len(test)) == (14, 6) and train.classes == ("cat", "dog")
    numbers = [*train.x[:, 0, 0, 0], *test.x[:, 0, 0, 0]]
    assert sorted(numbers) == list(range(20))
    for part in (train, test):
        np.testing.assert_array_equal(part.x[:, 0, 0, 1], part.label)
        for x in part.x:
            np.testing.assert_array_equal(x[1:], noise(6, 5, 3, seed=int(x[0, 0, 0]))[1:])


def test_files_on_demand_are_those_in_memory(tmp_path):
    folder_of(tmp_path)
    for now, later in zip(
        from_folder(tmp_path, (4, 4, 3)), from_folder(tmp_path, (4, 4, 3), in_memory=False), strict=True
    ):
        assert isinstance(later, FileSource) and len(now) == len(later)
        order = np.random.default_rng(0).permutation(len(now))
        for key in ("x", "label"):
            np.testing.assert_array_equal(gather(now, order)[key], gather(later, order)[key])


def test_a_file_added_moves_no_other():
    names = [f"{i}.png" for i in range(2000)]
    before, after = split_mask(names, 0.1, 0, ""), split_mask([*names, "new.png"], 0.1, 0, "")
    np.testing.assert_array_equal(before, after[:-1])
    assert abs(before.mean() - 0.1) < 4 * np.sqrt(0.09 / 2000)
    assert (split_mask(names, 0.1, 1, "") != before).any()
    assert split_mask(names, 7, 0, "").sum() == 7
    u = int.from_bytes(hashlib.blake2b(b"0/5.png", digest_size=8).digest(), "big") / 2**64
    assert not split_mask(names, u, 0, "")[5] and split_mask(names, u + 1e-12, 0, "")[5]
    assert [split_mask(["a", "b"], share, 0, "").sum() for share in (1e-9, 1 - 1e-9)] == [1, 1]
    with pytest.raises(ValueError, match=r"here: test=2 of 2 gives 2 for testing: expected at least one"):
        split_mask(["a", "b"], 2, 0, "here")


def test_labels_of_a_table(tmp_path, caplog):
    folder_of(tmp_path / "images", count=4)
    table = tmp_path / "labels.csv"
    lines = ["cat/000.png,7", "dog/001.png,0", "cat/002.png,3", "dog/003.png,1"]
    table.write_text("file,label\n" + "\n".join(lines))
    parts = from_folder(tmp_path / "images", (6, 5, 3), labels=str(table), test=1)
    found = {int(x[0, 0, 0]): int(label) for part in parts for x, label in zip(part.x, part.label, strict=True)}
    assert found == {0: 3, 1: 0, 2: 2, 3: 1} and parts.train.classes == ("0", "1", "3", "7")
    assert (
        caplog.text.count("labels.csv: its labels are not 0 to 3, so they are numbered in order: 0 is 0, 1 is 1") == 1
    )
    table.write_text("file,label\n" + "\n".join(lines[1:]) + "\ncat/9.png,2")
    with pytest.raises(ValueError, match=r"1 have none \(first: cat/000\.png\), 1 lines have no image \(first: cat/9"):
        from_folder(tmp_path / "images", labels=str(table))
    table.write_text("name,label\nx,1")
    with pytest.raises(ValueError, match=r"labels\.csv: expected the header file,label, got 'name,label'"):
        from_folder(tmp_path / "images", labels=str(table))
    table.write_text("file,label\n" + "\n".join(line.replace(",7", ",-1") for line in lines))
    with pytest.raises(ValueError, match="labels that are numbers must be 0 or more, got -1"):
        from_folder(tmp_path / "images", labels=str(table))
    for wrong, message in (
        ([*lines[:3], "dog/003.png,"], r"line 5: 'dog/003.png' has no label"),
        ([*lines, lines[0]], r"line 6: 'cat/000.png' appears twice"),
    ):
        table.write_text("file,label\n" + "\n".join(wrong))
        with pytest.raises(ValueError, match=message):
            from_folder(tmp_path / "images", labels=str(table))
    assert from_folder(tmp_path / "images", labels="none").train.label is None


def test_labels_by_name_and_images_beside_folders(tmp_path):
    folder_of(tmp_path, count=6, classes=("only",))
    assert set(from_folder(tmp_path).train.label) == {0}
    saved(tmp_path / "top.png", Image.fromarray(noise(4, 4, 3)))
    assert from_folder(tmp_path).train.label is None
    with pytest.raises(ValueError, match=r"labels='folders', but top\.png is in no folder below it"):
        from_folder(tmp_path, labels="folders")


def class_folders(root, names, count=4):
    """`count` images per class; the top left pixel carries the place of the class in `names`."""
    for k, name in enumerate(names):
        for i in range(count):
            pixels = noise(6, 5, 3, seed=100 * k + i)
            pixels[0, 0] = k, i, 0
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def class_of_folder(dataset, names):
    """{name of the folder: name of its class}, from the pixels and labels."""
    pairs = {(names[x[0, 0, 0]], part.classes[k]) for part in dataset for x, k in zip(part.x, part.label, strict=True)}
    assert len(pairs) == len(names)
    return dict(pairs)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("1", "01"), ("01", "1")),
        (tuple(str(i) for i in range(1, 11)), tuple(str(i) for i in range(1, 11))),
        (("10", "9", "2"), ("2", "9", "10")),
        (("0", "2"), ("0", "2")),
        (("0", "00", "1"), ("0", "00", "1")),
        (("-1", "1", "0"), ("-1", "0", "1")),
        (("2", "10", "b"), ("10", "2", "b")),
        (("007", "08"), ("007", "08")),
        (("2", "10", "02"), ("02", "10", "2")),
        (("2", "0", "1"), ("0", "1", "2")),
        (("Ⅳ", "٣", "1"), ("1", "٣", "Ⅳ")),
    ],
)
def test_names_of_classes_are_names(tmp_path, names, classes):
    dataset = from_folder(class_folders(tmp_path, names), (6, 5, 3), test=3)
    assert dataset.train.classes == dataset.test.classes == classes
    assert class_of_folder(dataset, names) == {name: name for name in names}


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "VAL"), ("train", "valid"), ("TRAIN", "Test")]
)
def test_folders_of_splits_are_splits(tmp_path, train, test, caplog):
    """Their sub-folders are the classes, also one that only one of them has; a val next to a test is not used."""
    class_folders(tmp_path / train, ("cat", "dog"), count=5)
    class_folders(tmp_path / test, ("cat", "dog", "owl"), count=2)
    if test == "test":
        class_folders(tmp_path / "val", ("cat", "dog"), count=3)
        class_folders(tmp_path / "extra", ("cat",), count=1)
    dataset = from_folder(tmp_path, (6, 5, 3))
    assert [len(part) for part in dataset] == [10, 6] and dataset.train.classes == ("cat", "dog", "owl")
    for part in dataset:
        np.testing.assert_array_equal(part.x[:, 0, 0, 0], part.label)
    lines = [record.message for record in caplog.records if "for training" in record.message]
    assert len(lines) == 1 and "train (10 files); for testing: " in lines[0] and f"{test.lower()} (6)" in lines[0]
    assert ("not used: " in lines[0]) == (test == "test")
    if test == "test":
        assert "val (6 files)" in lines[0] and "extra (1 file)" in lines[0]


def test_a_folder_train_alone_is_split_and_a_folder_test_alone_is_refused(tmp_path, caplog):
    class_folders(tmp_path / "a" / "train", ("cat", "dog"), count=10)
    dataset = from_folder(tmp_path / "a", (6, 5, 3), test=4)
    assert [len(part) for part in dataset] == [16, 4] and dataset.train.classes == ("cat", "dog")
    assert "for testing: a part of these, as there is no folder test" in caplog.text
    class_folders(tmp_path / "b" / "test", ("cat", "dog"))
    with pytest.raises(ValueError, match=r"there is a folder test but no folder train: name one of its folders"):
        from_folder(tmp_path / "b")
    class_folders(tmp_path / "c", ("bus", "car", "train"))  # a class like others
    assert from_folder(tmp_path / "c", (6, 5, 3)).train.classes == ("bus", "car", "train")


def test_a_table_labels_images_of_split_folders(tmp_path):
    for split, names in (("train", "abc"), ("test", "de"), ("val", "f")):
        class_folders(tmp_path, (split,), count=len(names))
    files = [f"{split}/{i}.png" for split, n in (("train", 3), ("test", 2), ("val", 1)) for i in range(n)]
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n" + "\n".join(f"{name},{i % 2}" for i, name in enumerate(files)))
    dataset = from_folder(tmp_path, (6, 5, 3), labels=str(table))
    assert sorted(dataset.train.label) == [0, 0, 1] and sorted(dataset.test.label) == [0, 1]


def test_what_a_folder_leaves_out_is_counted_and_said_once(tmp_path, caplog):
    root = folder_of(tmp_path / "photos", count=6)
    (root / "labels.csv").write_text("file,label\n" + "\n".join(f"{n},a" for n in find_files(root, (".png",))))
    for i in range(40):
        (root / f"{i}.ABC").write_text("")
    for name in ("cat/a.csv", "b.csv", "none", ".hidden", "c.pfm"):
        (root / name).write_text("")
    (root / ".git").mkdir()
    (root / "link").symlink_to(tmp_path)
    from_folder(root, (6, 5, 3), labels=str(root / "labels.csv"))
    lines = [record.message for record in caplog.records if "left out" in record.message]
    assert lines == [
        f"{root}: left out: 44 files (40 .abc, 2 .csv, 1 .pfm, 1 without an ending), 1 linked folder, 2 hidden"
    ]
    caplog.clear()
    from_folder(folder_of(tmp_path / "plain"), (6, 5, 3))
    assert "left out" not in caplog.text


def test_every_suffix_of_the_formats_is_read():
    """Those that Pillow registers, but .pfm."""
    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert registered - {".pfm"} <= set(SUFFIXES)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".jfif", "JPEG"), (".jpe", "JPEG"), (".dib", "DIB"), (".pbm", "PPM"), (".pnm", "PPM"), (".apng", "PNG")],
)
def test_other_suffixes_of_a_format(tmp_path, suffix, kind, caplog):
    for i in range(10):
        end = suffix if i % 2 else ".png"
        saved(tmp_path / f"{i}{end}", Image.new("L", (4, 4), 255 * (i % 2)), format=kind if i % 2 else "PNG")
    dataset = from_folder(tmp_path, (4, 4, 1), test=2)
    assert sorted(x.mean() for part in dataset for x in part.x) == [0] * 5 + [255] * 5
    assert "left out" not in caplog.text


def test_labels_that_only_some_images_have_are_said(tmp_path, caplog):
    folder_of(tmp_path, count=6)
    saved(tmp_path / "top.png", Image.fromarray(noise(4, 4, 3)))
    assert from_folder(tmp_path).train.label is None
    assert "no labels, since 1 images are in no folder (first: top.png)" in caplog.text


# The rule


def test_alpha_lies_over_the_background(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (200, 100, 0, 255)
    pixels[2:] = (200, 100, 0, 51)  # a fifth
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    over_blue = read_image(path, (4, 4, 3), background=(0, 0, 255))
    np.testing.assert_array_equal(over_blue[0, 0], (200, 100, 0))
    np.testing.assert_allclose(over_blue[3, 3], (40, 20, 204), atol=1)
    gray = saved(tmp_path / "la.png", Image.fromarray(pixels).convert("LA"))
    luma = 0.299 * 200 + 0.587 * 100
    np.testing.assert_allclose(read_image(gray, (4, 4, 1))[3, 3], 0.2 * luma + 0.8 * 255, atol=1.5)


def test_a_palette_with_a_transparent_entry(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path / "p.png", image, transparency=1)
    np.testing.assert_array_equal(read_image(path, (1, 2, 3), (9, 8, 7))[0], [(255, 0, 0), (9, 8, 7)])


def test_sixteen_bits_are_rounded_and_floats_refused(tmp_path):
    values = np.array([[0, 128, 129, 257 * 100 + 128, 257 * 100 + 129, 65535]], np.uint16)
    path = saved(tmp_path / "16.png", Image.fromarray(values))
    np.testing.assert_array_equal(read_image(path, (1, 6, 1))[0, :, 0], [0, 0, 1, 100, 101, 255])
    path = saved(tmp_path / "f.tiff", Image.fromarray(np.zeros((2, 2), np.float32)))
    with pytest.raises(ValueError, match="mode F, 32 bits per pixel, has no stated range"):
        read_image(path, (2, 2, 1))


def in_every_depth(root, gray, exif=None):
    """The picture `gray` / 255 in files of 8, 12 and 16 bits: {name: path}."""
    exif = Image.Exif() if exif is None else exif
    tags = {k: v for k, v in exif.items() if k == 0x0112}
    deep = (gray.astype(np.uint16) * 257).astype(np.uint16)
    paths = {
        "png 8": saved(root / "8.png", Image.fromarray(gray), exif=exif),
        "png 16": saved(root / "16.png", Image.fromarray(deep), exif=exif),
        "png 16 color": saved(root / "rgb.png", Image.fromarray(gray).convert("RGB"), exif=exif),
        "tiff 8": saved(root / "8.tiff", Image.fromarray(gray), tiffinfo=tags),
        "tiff 16": saved(root / "16.tiff", Image.fromarray(deep), tiffinfo=tags),
        "tiff 16, packed": saved(root / "z.tiff", Image.fromarray(deep), tiffinfo=tags, compression="tiff_lzw"),
        "tiff 16, white is 0": saved(root / "w.tiff", Image.fromarray(65535 - deep), tiffinfo={**tags, 262: 0}),
        "webp": saved(root / "a.webp", Image.fromarray(gray).convert("RGB"), exif=exif, lossless=True),
    }
    return paths


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_the_same_in_every_depth_and_turned_alike(tmp_path, orientation):
    gray, exif = noise(5, 7), Image.Exif()
    exif[0x0112] = orientation
    turns = [
        lambda x: x, np.fliplr, lambda x: x[::-1, ::-1], np.flipud,
        np.transpose, lambda x: np.rot90(x, -1), lambda x: x[::-1, ::-1].T, np.rot90,
    ]  # fmt: skip
    expected = turns[orientation - 1](gray)
    for name, path in in_every_depth(tmp_path, gray, exif).items():
        found = read_image(path, (*expected.shape, 1))[..., 0]
        np.testing.assert_allclose(found.astype(int), expected, atol=1, err_msg=name)


def test_full_scale_is_that_of_the_file(tmp_path):
    """12 bits of a TIFF; 10, 12 and 16 bits of PGM."""
    values = np.array([[0, 1365, 2730, 4095]], np.uint16)
    packed = int("".join(f"{v:012b}" for v in values[0]), 2).to_bytes(6, "big")
    Image.fromarray(values).save(tmp_path / "a.tiff")
    tiff = bytearray((tmp_path / "a.tiff").read_bytes())
    with Image.open(tmp_path / "a.tiff") as file:
        start = file.tag_v2[273][0]
    tiff[start : start + 6] = packed
    for tag, old, new in ((258, 16, 12), (279, 8, 6)):
        place = tiff.index(int(tag).to_bytes(2, "little") + (3 if tag == 258 else 4).to_bytes(2, "little"))
        assert int.from_bytes(tiff[place + 8 : place + 10], "little") == old
        tiff[place + 8 : place + 10] = new.to_bytes(2, "little")
    (tmp_path / "12.tiff").write_bytes(tiff)
    (tmp_path / "16.pgm").write_bytes(b"P5 4 1 65535\n" + (values[0] * 16.0037).round().astype(">u2").tobytes())
    (tmp_path / "12.pgm").write_bytes(b"P5 4 1 4095\n" + values[0].astype(">u2").tobytes())
    (tmp_path / "10.pgm").write_bytes(b"P2 4 1 1023\n0 341 682 1023\n")
    for name in ("12.tiff", "16.pgm", "12.pgm", "10.pgm"):
        np.testing.assert_array_equal(read_image(tmp_path / name, (1, 4, 1))[0, :, 0], [0, 85, 170, 255], name)
    path = saved(tmp_path / "i.tiff", Image.fromarray(np.zeros((2, 2), np.int32)))
    with pytest.raises(ValueError, match="mode I, 32 bits per pixel, has no stated range"):
        read_image(path, (2, 2, 1))


def test_a_transparent_color_of_any_depth_is_over_the_background(tmp_path):
    """Gray of 16, 4 and 2 bits and color of 16 bits; the chunk tRNS is in the values of the file."""
    import struct
    import zlib

    def png(name, depth, color, row, transparent):
        parts = [
            (b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, color, 0, 0, 0)),
            (b"tRNS", np.array(transparent, ">u2").tobytes()),
            (b"IDAT", zlib.compress(b"\0" + row)),
            (b"IEND", b""),
        ]
        chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        return tmp_path / name

    cases = {
        "16 gray": (png("a.png", 16, 0, np.array([9000, 9001], ">u2").tobytes(), [9000]), 35),
        "4 gray": (png("b.png", 4, 0, bytes([0x35]), [3]), 5 * 17),
        "2 gray": (png("c.png", 2, 0, bytes([0b01100000]), [1]), 2 * 85),
        "16 color": (png("d.png", 16, 2, np.array([[9000] * 3, [300] * 3], ">u2").tobytes(), [9000] * 3), 1),
    }
    for name, (path, opaque) in cases.items():
        found = read_image(path, (1, 2, 3), background=(200, 201, 202))
        np.testing.assert_array_equal(found[0], [(200, 201, 202), (opaque,) * 3], name)


def test_what_the_rule_does_to_images_is_counted_and_said_once(tmp_path, caplog):
    root, exif = folder_of(tmp_path / "photos", count=10), Image.Exif()
    from_folder(root, (6, 5, 3))
    assert "photos: of" not in caplog.text
    exif[0x0112] = 3
    saved(root / "cat" / "turned.png", Image.fromarray(noise(6, 5, 3)), exif=exif)
    saved(root / "cat" / "wide.png", Image.fromarray(noise(6, 9, 3)))
    saved(root / "dog" / "large.png", Image.fromarray(noise(12, 10, 3)))
    frames = [Image.fromarray(noise(6, 5, seed=i)) for i in range(3)]
    saved(root / "dog" / "film.gif", frames[0], save_all=True, append_images=frames[1:])
    from_folder(root, (6, 5, 3))
    lines = [record.message for record in caplog.records if "photos: of" in record.message]
    assert len(lines) == 1 and "of 14 images" in lines[0]
    for part in (
        "1 turned by EXIF",
        "1 cropped",
        "2 resized",
        "1 with more than one frame, of which the first is used",
    ):
        assert part in lines[0]


def test_cmyk_and_grey_become_the_mode_asked_for(tmp_path):
    path = saved(tmp_path / "c.tiff", Image.new("CMYK", (3, 3), (255, 0, 0, 0)))
    np.testing.assert_array_equal(read_image(path, (3, 3, 3))[0, 0], (0, 255, 255))
    path = saved(tmp_path / "l.png", Image.new("L", (3, 3), 77))
    np.testing.assert_array_equal(read_image(path, (3, 3, 3))[0, 0], (77, 77, 77))
    path = saved(tmp_path / "rgb.png", Image.new("RGB", (3, 3), (10, 200, 30)))
    np.testing.assert_allclose(read_image(path, (3, 3, 1))[0, 0], 0.299 * 10 + 0.587 * 200 + 0.114 * 30, atol=1)


def test_crop_is_of_the_centre_and_resize_is_antialiased(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255  # the center alone is white
    wide = read_image(saved(tmp_path / "wide.png", Image.fromarray(pixels)), (4, 4, 3))
    high = read_image(saved(tmp_path / "high.png", Image.fromarray(pixels.swapaxes(0, 1))), (4, 4, 3))
    assert (
        wide[:, 1:3].min() == high[1:3].min() == 255 and min(wide.min(), high.min()) > 230
    )  # the filter sees the edge
    np.testing.assert_array_equal(wide, wide[:, ::-1])
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # without a filter that is as wide as the step, one color would win
    small = read_image(saved(tmp_path / "stripes.png", Image.fromarray(stripes)), (8, 8, 3))
    np.testing.assert_allclose(small[:, 1:-1], 127.5, atol=3)


def test_exif_turns_the_image(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = read_image(saved(tmp_path / "t.png", Image.fromarray(pixels), exif=exif), (4, 4, 3))
    assert turned[0, 3].min() == 255 and turned.sum() == 3 * 255


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".gif", ".tiff", ".ppm", ".JPG"])
def test_formats(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", Image.new("RGB", (7, 7), (250, 10, 130)))
    np.testing.assert_allclose(read_image(path, (5, 6, 3)), np.broadcast_to((250, 10, 130), (5, 6, 3)), atol=6)
    assert find_files(tmp_path, (suffix.lower(),)) == [path.name]


# What cannot be read


def spoiled(root):
    """Bad files among good ones: {name: part of the reason}."""
    folder_of(root, count=40, classes=("all",))
    jpeg = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(jpeg, "JPEG")
    (root / "all" / "cut.jpg").write_bytes(jpeg.getvalue()[:1500])
    (root / "all" / "empty.png").write_bytes(b"")
    (root / "all" / "text.png").write_text("no picture")
    saved(root / "all" / "float.tiff", Image.fromarray(np.zeros((2, 2), np.float32)))
    return {
        "cut.jpg": "truncated",
        "empty.png": "the file is empty",
        "text.png": "it is not an image of the formats PNG, JPEG",
        "float.tiff": "mode F",
    }


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_cannot_be_read_raises_with_path_and_count(tmp_path, in_memory):
    reasons = spoiled(tmp_path)
    with pytest.raises(ValueError, match=r"(train|test): \d of \d+ files cannot be read; on_error=\"skip\"") as error:
        from_folder(tmp_path, test=0.5, in_memory=in_memory)
    assert "(--config.data.on_error=skip) leaves them out" in str(error.value)
    assert any(str(tmp_path / "all" / name) in str(error.value) for name in reasons)


def test_what_cannot_be_read_is_skipped_logged_and_listed(tmp_path, caplog):
    reasons = spoiled(tmp_path)
    with caplog.at_level(logging.WARNING):
        parts = from_folder(tmp_path, (6, 5, 3), test=0.3, on_error="skip", labels="folders")
    bad = [entry for part in parts for entry in part.unreadable]
    assert {entry.path.rsplit("/", 1)[1] for entry in bad} == set(reasons)
    for entry in bad:
        assert reasons[entry.path.rsplit("/", 1)[1]] in entry.reason
        assert entry.path in caplog.text
    numbers = np.concatenate([part.x[:, 0, 0, 0] for part in parts])
    assert sorted(numbers) == list(range(40)) and sum(len(part.label) for part in parts) == 40


def test_on_demand_the_next_file_stands_in_for_one_cut_short(tmp_path, caplog):
    spoiled(tmp_path)
    with caplog.at_level(logging.WARNING):
        parts = from_folder(tmp_path, (6, 5, 3), test=0.3, on_error="skip", in_memory=False)
    source = next(part for part in parts if any(path.endswith("cut.jpg") for path in part.paths))
    place = next(i for i, path in enumerate(source.paths) if path.endswith("cut.jpg"))
    caplog.clear()
    np.testing.assert_array_equal(source[place]["x"], source[(place + 1) % len(source)]["x"])
    assert "cut.jpg" in caplog.text
    strict = FileSource(source.paths, None, source.decode, "raise", 1, "mine")
    with pytest.raises(ReadError, match=r"mine: 1 of \d+ files cannot be read.*cut\.jpg") as error:
        strict[place]
    assert isinstance(error.value, OSError) and isinstance(error.value, ValueError)  # one line of main.py's


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*none"):
        from_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"expected files that end in \.png, .* got no files"):
        from_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"got 1 other files, for example notes\.txt"):
        from_folder(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train: 1 of 1 files cannot be read: .*\.png"):
        from_folder(tmp_path, test=1, on_error="skip")


def test_what_a_folder_refuses(tmp_path):
    with pytest.raises(ValueError, match="on_error: expected one of raise, skip, got 'ignore'"):
        from_folder(tmp_path, on_error="ignore")
    with pytest.raises(ValueError, match=r"shape: expected \(H, W, 3\) or \(H, W, 1\), got \(8, 8, 4\)"):
        from_folder(tmp_path, shape=(8, 8, 4))


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    folder_of(tmp_path / "outside", count=3)
    folder_of(tmp_path / "inside", count=3)
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    assert len(find_files(tmp_path / "inside", (".png",))) == 3


def test_links_to_files_are_read_and_links_to_nothing_are_named(tmp_path, caplog):
    folder_of(tmp_path / "in", count=6)
    (tmp_path / "in" / "cat" / "link.png").symlink_to(tmp_path / "in" / "cat" / "000.png")
    (tmp_path / "in" / "cat" / "nothing.png").symlink_to(tmp_path / "moved.png")
    parts = from_folder(tmp_path / "in", (6, 5, 3), on_error="skip", test=2)
    assert sum(map(len, parts)) == 7 and "nothing.png: FileNotFoundError" in caplog.text


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    folder_of(tmp_path, count=6)
    scandir = os.scandir

    def without_permission(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_permission)
    with pytest.raises(PermissionError, match="dog"):
        find_files(tmp_path, (".png",))


def test_mutated_files_are_read_or_reported_never_worse(tmp_path):
    """Flipped bytes, cuts and repeats of six formats: an array of the shape, or an entry with a reason."""
    generator, paths = np.random.default_rng(0), []
    for number, suffix in enumerate(("png", "jpg", "webp", "bmp", "gif", "tiff") * 25):
        buffer = io.BytesIO()
        Image.fromarray(noise(9, 7, 3, seed=number)).save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
        content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        kind = number % 3
        if kind == 0:
            content[generator.integers(0, len(content), 1 + number % 7)] = generator.integers(0, 256, 1 + number % 7)
        elif kind == 1:
            content = content[: generator.integers(0, len(content))]
        else:
            content = np.insert(content, generator.integers(0, len(content)), content[:50])
        paths.append(str(tmp_path / f"{number}.{suffix}"))
        content.tofile(paths[-1])

    read, places, bad = decode_all(paths, lambda path: read_image(path, (4, 4, 3)), "skip", 2, "fuzz")
    assert len(read) + len(bad) == 150 and len(read) > 20 and len(bad) > 20
    assert all(x.shape == (4, 4, 3) and x.dtype == np.uint8 for x in read)
    assert sorted([*(paths[i] for i in places), *(entry.path for entry in bad)]) == sorted(paths)
    assert all(entry.reason for entry in bad)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_threads_keep_the_order(threads, count):
    assert list(in_threads(lambda i: i * i, range(count), threads)) == [i * i for i in range(count)]


def test_small_files_take_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for name, size in (("small", 1000), ("large", 100_000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert [default_threads([str(tmp_path / name)] * 3) for name in ("small", "large")] == [1, 4]
