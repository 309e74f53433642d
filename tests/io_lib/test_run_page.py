"""The page of a run as HTML: nothing of its content becomes markup, charts have the right places, space is limited."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from io_lib.embedded import FRAMES, REDUCED_FRAMES, Space, cost, evenly, reduced
from io_lib.line_chart import HEIGHT, POINTS, WIDTH, Series, axis, finite, line_chart
from io_lib.run_page import (
    STORED,
    Chart,
    Fold,
    Links,
    Listing,
    Media,
    Section,
    Slider,
    Stored,
    Table,
    Text,
    run_page,
    stored_in,
)

HOSTILE = """</script><script>window.hacked=1</script>"><img src=x onerror="window.hacked=1">' onload='x'&lt;"""


class Elements(HTMLParser):
    """Every element with its attributes, and the text between them, as a browser's parser finds them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.inside = [], "", []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        self.text += "" if {"script", "style"} & {*self.inside} else data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def png(width=2, height=2, value=100):
    with BytesIO() as buffer:
        Image.fromarray(np.full((height, width), value, np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()


def noise(path, side, seed=0):
    """A picture that hardly compresses."""
    x = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(x).save(path, compress_level=0)
    return path


def page_of(*parts, title="run"):
    return run_page(title, "runs/run", [("step", "5")], [Section("All", parts)])


def hostile_page():
    series = [Series(HOSTILE, [1, 2], [1, 2], "bars", 0, [0.1, 0.1])]
    frames = [Media(HOSTILE, "image/png", png(value=v)) for v in (1, 2)]
    parts = [
        *(Text(HOSTILE), Listing(HOSTILE), Table([HOSTILE], [[HOSTILE]]), Chart(HOSTILE, series, HOSTILE, HOSTILE)),
        *(Media(HOSTILE, "image/png", png(), HOSTILE), Media(HOSTILE, "audio/wav", b"RIFF", f"javascript:{HOSTILE}")),
        *(Slider(HOSTILE, frames), Links(HOSTILE, [HOSTILE]), Fold(HOSTILE, [Text(HOSTILE)])),
        *(Text(STORED + "1"), Stored({HOSTILE: [HOSTILE, STORED]})),
    ]
    return run_page(HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)], [Section(HOSTILE, parts)])


def test_no_content_is_markup():
    found = Elements(hostile_page())
    scripts = found.of("script")
    # The slider's pictures, a stored value, and the page's own.
    assert scripts == [{"type": "application/json"}, {"type": "application/json", "id": "stored"}, {}]
    assert stored_in(hostile_page()) == {HOSTILE: [HOSTILE, STORED]} and stored_in(page_of(Text(STORED))) is None
    assert (
        all(image["src"].startswith("data:image/png;base64,") for image in found.of("img"))
        and len(found.of("img")) == 2
    )
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert all(link["href"].startswith(("#", "./")) for link in found.of("a")) and len(found.of("a")) == 4
    assert found.text.count(HOSTILE) >= 17
    assert found.of("img")[0]["alt"] == HOSTILE == found.of("input")[0]["aria-label"]


def test_json_for_the_script_survives_and_does_not_end_it():
    page = hostile_page().decode()
    store = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in store and "\\u003c/script\\u003e" in store
    first, last = json.loads(store)
    assert first["title"] == last["title"] == HOSTILE and "src" not in last  # the image has it
    assert base64.b64decode(first["src"].split(",")[1]) == png(value=1)


def test_the_policy_admits_the_pages_own_script_and_style_and_nothing_else():
    page = page_of(Text("x")).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_empty_sections_and_charts_are_left_out():
    page = run_page("run", "", [], [Section("Empty", []), Section("Full", [Text("x")])]).decode()
    assert "Empty" not in page and "Full" in page and "<dl" not in page
    assert "<figure" not in page_of(Chart("c", [Series("", [1.0], [float("nan")])], "x", "y"), Slider("s", [])).decode()


def test_small_pictures_are_enlarged_by_a_whole_number():
    large, small = Elements(page_of(Media("m", "image/png", png(400, 20)), Media("m", "image/png", png(50, 100)))).of(
        "img"
    )
    assert "width" not in large and small["width"] == "250" and small["class"] == "sharp"


def test_bytes_that_are_not_text_in_a_name_do_not_fail():
    assert b"?.png" in page_of(Media("\udcff.png", "image/png", png(), "samples/\udcff.png"))
    assert b"./samples/%FF.png" in page_of(Media("m", "image/png", png(), "samples/\udcff.png"))


def points_of(svg):
    return [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]*)"', svg)[1].split()]


def test_a_chart_places_its_points():
    """Linear in x; y is logarithmic from a ratio of 5 on: equal ratios are equal distances."""
    at = points_of(line_chart([Series("", [0, 1, 2], [1, 10, 100])], "step", "loss"))
    (x0, y0), (x1, y1), (x2, y2) = at
    np.testing.assert_allclose([x2 - x1, y2 - y1], [x1 - x0, y1 - y0], atol=0.11)
    assert 0 < x0 < x2 < WIDTH and 0 < y2 < y0 < HEIGHT
    assert "loss (log)" in line_chart([Series("", [0, 1], [1, 5])], "step", "loss")
    linear = line_chart([Series("", [0, 1, 2], [1, 2, 3])], "step", "loss")
    assert "(log)" not in linear and "(log)" not in line_chart([Series("", [0, 1], [0, 100])], "step", "loss")
    (_, a), (_, b), (_, c) = points_of(linear)
    np.testing.assert_allclose(c - b, b - a, atol=0.11)


@pytest.mark.parametrize("low, high", [(0.0, 2500.0), (-3e-5, 1e-5), (7.0, 7.0), (0.0, 0.0), (1e6, 1.3e6)])
def test_linear_ticks_are_round_and_inside(low, high):
    place, ticks = axis(low, high, 0, 100, log=False)
    assert 2 <= len(ticks) <= 8 and all(0 <= place(v) <= 100 for v in ticks) and 0 <= place(low) <= place(high) <= 100


@pytest.mark.parametrize("low, high", [(1.0, 5.0), (0.3, 2.1), (1e-8, 1e4), (2e-3, 0.9), (3.1, 19.0)])
def test_logarithmic_ticks(low, high):
    place, ticks = axis(low, high, 0, 100, log=True)
    assert 2 <= len(ticks) <= 7 and ticks == sorted(ticks) and 0 <= place(low) < place(high) <= 100


def test_long_curves_keep_their_extremes_and_drop_what_is_not_finite():
    x, y = list(range(100_000)), [1.0] * 100_000
    y[50_321], y[7], y[8] = 9.0, float("nan"), float("inf")
    found = finite(Series("", x, y))
    assert len(found.x) <= POINTS and max(found.y) == 9.0 and list(found.x) == sorted(found.x)
    assert line_chart([Series("", [1], [float("inf")])], "x", "y") == ""


def test_what_fits_is_embedded_as_it_is_and_the_rest_named(tmp_path):
    small, large, sound = tmp_path / "a.png", noise(tmp_path / "b.png", 700), tmp_path / "c.wav"
    small.write_bytes(png())
    sound.write_bytes(bytes(800_000))
    space = Space(tmp_path, 300_000)
    (found,) = space.media("small", small)
    assert found.data == png() and found.path == "a.png" and space.left == 300_000 - cost(len(png()))
    assert space.media("large", large) == [] == space.media("sound", sound)
    (note,) = space.note()
    assert note.paths == ["b.png", "c.wav"] and space.note() == []
    space = Space(tmp_path, 2_000_000)
    (found,) = space.media("large", large)
    assert found.kind == "image/jpeg" and found.title == "large (reduced)" and len(found.data) < 600_000
    space.reserve(1.0)
    assert space.media("small", small) == []


def test_snapshots_are_thinned_out_evenly_and_reduced(tmp_path):
    paths = [noise(tmp_path / f"{i:03}.png", 64, i) for i in range(100)]
    titles = [str(i) for i in range(100)]
    found = Space(tmp_path, 4_000_000).frames(titles, paths)
    assert len(found) == FRAMES and found[0].title == "0" and found[-1].title == "99"
    assert {one.kind for one in found} == {"image/png"}
    found = Space(tmp_path, 200_000).frames(titles, paths)
    assert len(found) == REDUCED_FRAMES and {one.kind for one in found} == {"image/jpeg"} and found[0].title == "0"
    space = Space(tmp_path, 30_000)
    found = space.frames(titles, paths)
    assert 2 <= len(found) < REDUCED_FRAMES and found[-1].title == "99" and space.left >= 0
    assert Space(tmp_path, -5).frames(titles, paths) == [] == Space(tmp_path, 10_000).frames([], [])


def test_evenly():
    assert evenly([1, 2, 3], 5) == [1, 2, 3] and evenly(list(range(9)), 3) == [0, 4, 8]
    assert evenly([1, 2, 3], 1) == [3] and evenly([1, 2, 3], 0) == []


def test_a_reduced_picture(tmp_path):
    image = Image.open(BytesIO(reduced(noise(tmp_path / "a.png", 300), 100)))
    assert image.size == (100, 100) and image.format == "JPEG"
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    assert reduced(tmp_path / "b.png", 100) == b""
    (tmp_path / "c.png").write_bytes(png(1000, 1000)[:500])
    assert reduced(tmp_path / "c.png", 100) == b""
