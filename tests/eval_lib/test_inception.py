import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval_lib.inception import Taps, from_state_dict, inception, resize
from tests.helpers import close

GOLDEN = Path(__file__).parents[1] / "golden" / "inception"
TAPS = Taps("64", "192", "768", "2048", "logits_unbiased", "logits")


def drawn(name, shape, salt):
    """The golden file's weights: drawn for each name, since the true ones are 96 MB."""
    draw = np.random.default_rng(zlib.crc32((salt + name).encode()))
    if name.endswith(("bn.weight", "running_var")):
        return draw.uniform(0.5, 1.5, shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    scale = 0.1
    if name.endswith("conv.weight"):
        scale = np.sqrt(2 / np.prod(shape[1:]))
    elif name == "fc.weight":
        scale = 0.02
    return scale * draw.standard_normal(shape)


@pytest.fixture(scope="module")
def weights():
    golden = json.loads((GOLDEN / "keys.json").read_text())
    made = {}
    for name, about in golden["keys"].items():
        made[name] = drawn(name, tuple(about["shape"]), golden["salt"]).astype(about["dtype"])
        if "sum" in about:
            np.testing.assert_allclose(made[name].sum(dtype=np.float64), about["sum"], atol=1e-6)
    return made


@pytest.fixture(scope="module")
def params(weights):
    return from_state_dict(weights)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "golden.npz") as file:
        return dict(file)


@pytest.mark.parametrize("size", ["32x32", "64x48"])
def test_the_resize_is_that_of_tensorflow_1(golden, size):
    rows = jax.jit(lambda x: (resize(x) - 128)[:, 150] / 128)(golden[f"images_{size}"].astype(np.float32))
    close(rows, golden[f"resized_row150_{size}"], 2e-6)


@pytest.mark.parametrize("size", ["32x32", pytest.param("64x48", marks=pytest.mark.slow)])
def test_every_tap_is_that_of_the_reference(params, golden, size):
    """Largest values are 2.2, 4.9, 19, 37 and 20."""
    found = jax.device_get(jax.jit(inception)(params, golden[f"images_{size}"]))
    for name, value in zip(TAPS, found, strict=True):
        assert value.dtype == np.float32
        close(value, golden[f"{name}_{size}"], 1e-4, err_msg=name)


def test_gray_images_are_three_equal_channels(params, golden):
    """At the first tap: the rest of the graph is pruned."""
    first = jax.jit(lambda images: inception(params, images).pool1)
    gray = golden["images_32x32"][..., :1]
    np.testing.assert_array_equal(first(gray), first(gray.repeat(3, axis=-1)))


def test_what_is_refused(weights):
    with pytest.raises(ValueError, match=r"expected images \[N, H, W, 1 or 3\] of 0 to 255, got shape \(2, 8, 8\)"):
        inception({}, jnp.zeros((2, 8, 8)))
    lacking = {name: value for name, value in weights.items() if name != "Mixed_6e.branch7x7_2.bn.bias"}
    with pytest.raises(ValueError, match=r"expected Mixed_6e.branch7x7_2.bn.bias \(192,\), got none of that name"):
        from_state_dict(lacking)
    other = weights | {"fc.weight": weights["fc.weight"][:1000]}
    with pytest.raises(ValueError, match=r"expected fc.weight \(1008, 2048\), got \(1000, 2048\)"):
        from_state_dict(other)
