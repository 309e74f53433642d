import numpy as np
import pytest

from data_lib import Bits, Characters, from_characters, reference_text, text_alphabet
from data_lib.forms import form_of


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def text_of(x, alphabet):
    return form_of(Characters(alphabet), x.shape[1:]).texts(x)


def test_windows_are_the_texts_and_the_splits_do_not_overlap(tmp_path):
    text = "".join(f"{i:05d} größer; " for i in range(3000))
    data = from_characters(file := write(tmp_path / "a.txt", text), length=42, stride=14)
    alphabet = text_alphabet(file)
    train, test = (text_of(part.x, alphabet) for part in data)
    assert all(piece in text for piece in train[:50] + test[:50]) and len(train[0]) == 42
    places = [{i + k for piece in part for i in [text.index(piece)] for k in range(42)} for part in (train, test)]
    assert not places[0] & places[1] and len(places[0] | places[1]) > 0.98 * len(text)
    assert 0.08 < len(places[1]) / len(text) < 0.12
    starts = sorted(text.index(piece) for piece in train)
    assert starts[:3] == [0, 14, 28]
    assert data.train.x.dtype == np.int32


def test_bits_are_those_of_the_tokens(tmp_path):
    file = write(tmp_path / "a.txt", "abcdefg hij. " * 100)
    tokens, bits = (from_characters(file, length=20, bits=b).train.x for b in (False, True))
    np.testing.assert_array_equal(bits @ (1 << np.arange(bits.shape[-1])[::-1]), tokens)
    form = form_of(Bits(alphabet=text_alphabet(file)), bits.shape[1:])
    assert form.texts(bits[:3].astype(np.float32)) == text_of(tokens[:3], text_alphabet(file))


def test_a_byte_order_mark_and_line_ends_are_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n" * 30)
    (tmp_path / "b.md").write_bytes(b"one\ntwo" * 30)
    assert "\r" not in text_alphabet(str(tmp_path)) and text_alphabet(str(tmp_path / "a.txt"))[0] == "\n"
    assert len(from_characters(str(tmp_path), length=10).train) > 30


def test_bad_texts_are_refused_with_the_place(tmp_path):
    cases = {
        "empty": (b"", "expected a text, got an empty file"),
        "white": (b" \n\n", "expected a text, got white space alone"),
        "binary": (b"abc\0def", "expected a text, got binary data: byte 3 is 0"),
        "latin": ("ab\ncd é".encode("latin-1"), "expected UTF-8; line 2, byte 6 is 0xe9"),
        "short": (b"abcdefghij" * 3, "at least two windows of 20 characters in a text, .* has 30 characters"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.txt: .*{message}"):
            from_characters(str(tmp_path / f"{name}.txt"), length=20)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.txt"):
        from_characters(str(tmp_path / "none.txt"))
    file = write(tmp_path / "é.txt", "abc\nabé\nαβ" * 30)
    with pytest.raises(
        ValueError, match=r"é.txt: line 2, column 3: 'é' \(U\+00E9\) is not in the alphabet of 4 .*; 2 more"
    ):
        from_characters(file, length=20, alphabet="abc\n")
    with pytest.raises(ValueError, match="expected an alphabet of different characters, got 'a' twice"):
        Characters("aba")


def test_unknown_tokens_are_shown_and_samples_go_there_and_back(tmp_path):
    transform = Characters("abc")
    form = form_of(transform, (4,))
    assert form.texts(np.array([[0, 2, 3, -1]])) == ["ac\ufffd\ufffd"]
    x = np.array([[0, 1, 2, 0]])
    assert transform.forward(x).dtype == np.float32 and form.to_samples(transform.forward(x)).dtype == np.int32
    np.testing.assert_array_equal(form.to_samples(form.from_samples(x)), x)
    form.write(tmp_path / "a.txt", x[0])
    assert (tmp_path / "a.txt").read_text() == "abca"
    np.testing.assert_array_equal(transform.tokens("cab"), [2, 0, 1])


def test_every_python_has_the_reference_text_without_repetitions():
    text = reference_text()
    assert 200_000 < len(text) < 900_000 and text.count("Assert statements are a convenient way") == 1
    assert 80 < len(text_alphabet()) < 250
