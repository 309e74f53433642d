"""Pictures: every pixel where it belongs."""

import numpy as np
import pytest
from PIL import Image

from io_lib import pictures
from io_lib.sample_pictures import save_samples


def images(n, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, 2, 3, channels)).astype(np.uint8)


def test_grid_places_images_row_by_row():
    x = images(5, 3)
    grid = pictures.image_grid(x, columns=3, pad=1)
    assert grid.shape == (2 * 2 + 1, 3 * 3 + 2, 3)
    np.testing.assert_array_equal(grid[:2, 4:7], x[1])
    np.testing.assert_array_equal(grid[3:, 0:3], x[3])
    assert np.all(grid[2] == 255) and np.all(grid[:, 3] == 255) and np.all(grid[3:, 8:] == 255)


def test_grid_scales_by_repeating_pixels_and_is_square_by_itself():
    x = images(4, 1)
    grid = pictures.image_grid(x, pad=2, scale=3)
    assert grid.shape == (2 * 6 + 2, 2 * 9 + 2, 1)
    np.testing.assert_array_equal(grid[8:, :9], np.kron(x[2, ..., 0], np.ones((3, 3), np.uint8))[..., None])
    assert pictures.image_grid(x[:1], columns=8, pad=0).shape == (2, 3, 1)


def test_grid_shows_the_first_of_other_channel_counts():
    x = images(1, 4)
    np.testing.assert_array_equal(pictures.image_grid(x), x[0, ..., :1])


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 3, 3, 1)), np.zeros((3, 3, 1), np.uint8), np.zeros((0, 2, 2, 1), np.uint8)]
)
def test_grid_refuses(bad):
    with pytest.raises(ValueError, match=r"expected uint8 images \[N, H, W, C\], got "):
        pictures.image_grid(bad)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_exact(tmp_path, channels):
    grid = pictures.image_grid(images(4, channels))
    pictures.save_png(tmp_path / "a.png", grid)
    with Image.open(tmp_path / "a.png") as picture:
        read = np.asarray(picture)
    np.testing.assert_array_equal(read, grid[..., 0] if channels == 1 else grid)
    with pytest.raises(ValueError, match=r"expected a uint8 picture \[H, W, 3 or 1\], got float64"):
        pictures.save_png(tmp_path / "b.png", grid / 255)


def test_side_by_side_shows_left_and_right(tmp_path):
    black, gray = np.zeros((8, 8, 1), np.uint8), np.full((8, 8, 3), 128, np.uint8)
    pictures.save_grids_side_by_side(tmp_path / "a.png", black, gray, ("samples", "data"))
    with Image.open(tmp_path / "a.png") as picture:
        read = np.asarray(picture.convert("L"))
    height, width = read.shape
    assert read[height // 2, width // 4] == 0 and read[height // 2, 3 * width // 4] == 128


def test_loss_curves_are_drawn(tmp_path):
    metrics = [{"step": i, "loss": 1 / (i + 1)} for i in range(50)] + [{"step": 49, "eval_loss": 0.05}]
    pictures.plot_loss(tmp_path / "loss.png", metrics)
    pictures.plot_loss(tmp_path / "negative.png", [{"step": 1, "loss": -1.0}, {"step": 2, "loss": 1.0}])
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (960, 600)


def test_smooth_is_the_weighted_mean_it_says():
    x = np.array([4.0, 0.0, 2.0])
    np.testing.assert_allclose(pictures.smooth(x, 2), [4.0, 2.0 / 1.5, (2.0 + 0.0 + 1.0) / 1.75])
    np.testing.assert_allclose(pictures.smooth(np.full(9, 3.0), 5), 3.0)
    np.testing.assert_array_equal(pictures.smooth(x, 1), x)


def test_plot_process(tmp_path):
    """One coordinate and two, there and back: pictures, of different content; a wrong count is named."""
    rng, times = np.random.default_rng(0), np.linspace(0, 1, 9)
    walk = np.cumsum(rng.normal(size=(9, 200, 1)), axis=0)
    sheet = rng.normal(size=(9, 200, 2))
    for name, states in (("line", walk), ("plane", sheet)):
        pictures.plot_process(tmp_path / f"{name}.png", (times, states), (times[::-1], states[::-1]))
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.std(np.asarray(picture.convert("L"))) > 5
    with pytest.raises(ValueError, match="expected as many times as states, two or more; got 8 and 9"):
        pictures.plot_process(tmp_path / "wrong.png", (times[:8], walk), (times, walk))


def test_gif_is_exact_and_holds_its_last_frame(tmp_path):
    rng = np.random.default_rng(0)  # 240 to 256 of the gray levels in each frame
    grids = [rng.choice(256 - 4 * i, (256, 256, 1)).astype(np.uint8) for i in range(5)]
    pictures.save_gif(tmp_path / "a.gif", grids, seconds=1.0, hold=3.0)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 5 and picture.info["loop"] == 0
        for i, grid in enumerate(grids):
            picture.seek(i)
            np.testing.assert_array_equal(np.asarray(picture.convert("L")), grid[..., 0])
            assert picture.info["duration"] == (3000 if i == 4 else 200)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((131, 131), (262, 262)), ((33, 50), (198, 300)), ((263, 263), (264, 264)), ((7, 256), (8, 256))],
)
def test_a_gif_is_wide_enough_and_has_even_sizes(tmp_path, size, expected):
    """Whole pixels are repeated; a white line is added at the bottom and at the right of odd sizes."""
    grid = np.random.default_rng(0).choice(255, (*size, 1)).astype(np.uint8)
    pictures.save_gif(tmp_path / "a.gif", [grid, grid])
    with Image.open(tmp_path / "a.gif") as picture:
        seen = np.asarray(picture.convert("L"))
    assert seen.shape == expected
    times = expected[1] // size[1]
    large = grid[..., 0].repeat(times, 0).repeat(times, 1)
    np.testing.assert_array_equal(seen[: len(large), : large.shape[1]], large)
    assert np.all(seen[len(large) :] == 255) and np.all(seen[:, large.shape[1] :] == 255)


def drawn(monkeypatch, path, x):
    """The axes of the picture of samples that are no images, and the picture."""
    found, figure = {}, pictures.new_figure
    monkeypatch.setattr(pictures, "new_figure", lambda *size: found.setdefault("figure", figure(*size)))
    save_samples(path, x)
    monkeypatch.undo()
    with Image.open(path) as picture:
        return found["figure"].axes if found else [], np.asarray(picture.convert("L"))


def test_samples_that_are_no_images(tmp_path, monkeypatch):
    """Points at their places, all values of a histogram, signals as lines, slices in gray levels."""
    draw = np.random.default_rng(0)
    points = draw.normal(size=(300, 2))
    axes, _ = drawn(monkeypatch, tmp_path / "a.png", points)
    np.testing.assert_allclose(axes[0].collections[0].get_offsets(), points)
    axes, _ = drawn(monkeypatch, tmp_path / "a.png", points[:, :1])
    assert sum(bar.get_height() for bar in axes[0].patches) == 300
    table = draw.normal(size=(300, 5)) * [1e-3, 1, 1, 1, 1e3]
    axes, _ = drawn(monkeypatch, tmp_path / "a.png", table)
    for i in range(5):
        counts, edges = np.histogram(table[:, i], 60)
        assert [bar.get_height() for bar in axes[i].patches] == counts.tolist()
        assert axes[i].patches[0].get_x() == pytest.approx(edges[0]) and axes[i].get_xlabel() == f"x[{i}]"
    signals = draw.normal(size=(20, 50, 2))
    axes, _ = drawn(monkeypatch, tmp_path / "a.png", signals)
    for axis, signal in zip(axes, signals[:6], strict=True):
        np.testing.assert_allclose([line.get_ydata() for line in axis.lines], signal.T)
    volumes = draw.uniform(size=(4, 8, 32, 32, 1))
    _, seen = drawn(monkeypatch, tmp_path / "a.png", volumes)
    middle = volumes[:, 4, ..., 0]
    levels = np.rint(255 * (middle - middle.min()) / np.ptp(middle))
    np.testing.assert_array_equal(seen[:32, :32], levels[0])
    np.testing.assert_array_equal(seen[33:, 33:], levels[3])
    for x in (
        np.ones((3, 1)),
        np.full((3, 2), np.nan),
        np.zeros((2, 7, 9)),
        np.zeros((1, 4, 4, 3)),
        np.zeros((2, 9, 2)),
    ):
        drawn(monkeypatch, tmp_path / "a.png", x)


@pytest.mark.parametrize("coordinates", [1, 2])
def test_point_frames_follow_the_points(coordinates):
    """A cloud that goes from left to right does so in the picture, and a second coordinate from top to bottom."""
    cloud = np.random.default_rng(0).normal(scale=0.1, size=(200, coordinates))
    states = np.stack([cloud - [3, -3][:coordinates], cloud, cloud + [3, -3][:coordinates]])
    seen = [frame.astype(float) for frame in pictures.point_frames([1.0, 0.5, 0.0], states)]
    blue = [frame[..., 2] - frame[..., 0] for frame in seen]  # the axes are gray
    places = [np.array([np.average(np.indices(b.shape)[i], weights=b) for i in (1, 0)]) for b in blue]
    first, middle, last = (place[:coordinates] for place in places)
    assert np.all(middle - first > 60) and np.all(last - middle > 60)


def test_marginals_and_pairs(tmp_path, monkeypatch):
    """Data gray, samples blue, each coordinate on its own axes; samples beyond the data's range are counted."""
    drawn = {}
    figure = pictures.new_figure
    monkeypatch.setattr(pictures, "new_figure", lambda *size: drawn.setdefault("figure", figure(*size)))
    draw = np.random.default_rng(0)
    data, samples = draw.normal(size=(500, 3)) * [1, 10, 0], draw.normal(size=(200, 3)) * [1, 10, 0]
    samples[:50, 1] = 1e6
    pictures.plot_marginals_and_pairs(tmp_path / "a.png", samples, data, ["a", "b", "c"], points=100)
    axes = np.reshape(drawn["figure"].axes, (3, 3))
    assert [axes[i, i].get_title() for i in range(3)] == ["a", "b, 25.0% outside", "c"]
    assert [len(one.get_offsets()) for one in axes[1, 0].collections] == [100, 100] and not axes[0, 1].collections
    (low, high), (left, right) = axes[1, 0].get_ylim(), axes[1, 0].get_xlim()
    assert -60 < low < -20 < 20 < high < 60 and -6 < left < -2 < 2 < right < 6
    np.testing.assert_allclose(axes[1, 0].collections[0].get_offsets(), data[:100, :2])
    np.testing.assert_allclose(axes[2, 1].collections[1].get_offsets(), samples[:100, 1:])
    with Image.open(tmp_path / "a.png") as picture:
        assert np.std(np.asarray(picture.convert("L"))) > 5
    drawn.clear()
    pictures.plot_marginals_and_pairs(tmp_path / "b.png", samples[:, :1], data[:, :1], ["a"])
    assert len(drawn["figure"].axes) == 1
    with pytest.raises(ValueError, match=r"expected \[N, D\] and \[M, D\] with D names, got \(200, 3\), \(500, 2\), 3"):
        pictures.plot_marginals_and_pairs(tmp_path / "c.png", samples, data[:, :2], "abc")
