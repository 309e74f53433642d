"""Leaves of the published files and ours: names, axes, and what is listed where they do not go together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import serialization

from models import LinenNetwork, NCSNpp, NCSNv2, ncsnv2_levels
from models.blocks import AttentionBlock
from models.layers import GroupNorm, conv3x3, dense
from published_lib.msgpack_file import read_msgpack
from published_lib.score_sde import read_published
from published_lib.score_sde_names import from_flax, from_torch, parameter_shapes, torch_parameters, torch_trainable
from published_lib.torch_file import read_torch
from tests.published_lib.published import GOLDEN, NETWORKS


class Small(nn.Module):
    """A convolution, a square dense layer, attention and a norm: in the order of their names reversed."""

    @nn.compact
    def __call__(self, x, c_noise):
        h = GroupNorm()(conv3x3(x, 4))
        h = h + dense(h, 4)
        return dense(AttentionBlock()(h), x.shape[-1])


SHAPES = {
    "Conv_0": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "GroupNorm_0": {"scale": (4,), "bias": (4,)},
    "Dense_0": {"kernel": (4, 4), "bias": (4,)},
    "AttentionBlock_0": {
        "GroupNorm_0": {"scale": (4,), "bias": (4,)},
        **{f"Dense_{i}": {"kernel": (4, 4), "bias": (4,)} for i in range(4)},
    },
    "Dense_1": {"kernel": (4, 2), "bias": (2,)},
}


@pytest.fixture(scope="module")
def shapes():
    return parameter_shapes(LinenNetwork(Small()), (4, 4, 2))


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def flax_tree():
    """Sorted, as flax stores it, and so in another order than the network's."""
    nin = {f"NIN_{i}": {"W": numbers(4, 4) + i, "b": numbers(4) - i} for i in range(4)}
    norm = {"bias": numbers(1, 1, 1, 4), "scale": numbers(1, 1, 1, 4) + 1}
    return {
        "AttnBlockpp_0": {"GroupNorm_0": norm, **nin},
        "Conv_0": {"bias": numbers(4), "kernel": numbers(3, 3, 2, 4)},
        "Dense_0": {"bias": numbers(4), "kernel": numbers(4, 4)},
        "Dense_1": {"bias": numbers(2), "kernel": numbers(4, 2)},
        "GroupNorm_0": {"bias": numbers(4) + 2, "scale": numbers(4) + 3},
    }


def torch_dict():
    """The same: kernels are [out, in, *k] there, but for those of NIN."""
    tree = flax_tree()
    of = lambda module, leaf: tree[module][leaf]  # noqa: E731
    kernel = np.ascontiguousarray(np.moveaxis(of("Conv_0", "kernel"), (2, 3), (1, 0)))
    attention = tree["AttnBlockpp_0"]
    entries = {
        "0.weight": kernel, "0.bias": of("Conv_0", "bias"),
        "1.weight": of("GroupNorm_0", "scale"), "1.bias": of("GroupNorm_0", "bias"),
        "2.weight": of("Dense_0", "kernel").T, "2.bias": of("Dense_0", "bias"),
        "4.GroupNorm_0.weight": attention["GroupNorm_0"]["scale"].ravel(),
        "4.GroupNorm_0.bias": attention["GroupNorm_0"]["bias"].ravel(),
        **{f"4.NIN_{i}.{leaf}": attention[f"NIN_{i}"][leaf] for i in range(4) for leaf in "Wb"},
        "11.weight": of("Dense_1", "kernel").T, "11.bias": of("Dense_1", "bias"),
    }  # fmt: skip
    return {f"module.all_modules.{name}": value for name, value in entries.items()}


def without(tree, *names):
    return {name: value for name, value in tree.items() if name not in names}


def test_shapes_come_in_the_order_of_making(shapes):
    as_tuples = jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert as_tuples == SHAPES and list(shapes) == list(SHAPES)
    assert shapes["Dense_0"]["kernel"].dtype == jnp.float32


def test_leaves_and_axes(shapes):
    """Both give the same tree, in which a kernel's last axis is out and one before is in."""
    ours = from_flax(flax_tree(), shapes)
    jax.tree.map(np.testing.assert_array_equal, from_torch(torch_dict(), shapes), ours)
    theirs = flax_tree()
    for module in ("Conv_0", "Dense_0", "Dense_1", "GroupNorm_0"):
        jax.tree.map(np.testing.assert_array_equal, ours[module], theirs[module])
    for i in range(4):
        found, expected = ours["AttentionBlock_0"][f"Dense_{i}"], theirs["AttnBlockpp_0"][f"NIN_{i}"]
        np.testing.assert_array_equal(found["kernel"], expected["W"])
        np.testing.assert_array_equal(found["bias"], expected["b"])
    np.testing.assert_array_equal(ours["AttentionBlock_0"]["GroupNorm_0"]["scale"], numbers(4) + 1)
    assert jax.tree.map(lambda leaf: leaf.dtype, ours) == jax.tree.map(lambda leaf: leaf.dtype, shapes)


def test_the_order_of_modules_is_that_of_the_file_and_not_of_their_numbers_as_text(shapes):
    """11 comes after 4; and torch files may lack numbers, of modules without parameters, and the prefix."""
    bare = {name.removeprefix("module."): value for name, value in torch_dict().items()}
    jax.tree.map(np.testing.assert_array_equal, from_torch(bare, shapes), from_flax(flax_tree(), shapes))


def test_wider_and_narrower_floats_become_ours(shapes):
    halves = jax.tree.map(lambda leaf: leaf.astype(np.float16), flax_tree())
    jax.tree.map(np.testing.assert_array_equal, from_flax(halves, shapes), from_flax(flax_tree(), shapes))


def complaint(function, theirs, shapes):
    with pytest.raises(ValueError) as error:
        function(theirs, shapes)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix("the file is not of this network; ")


def test_what_does_not_fit_is_listed_from_flax(shapes):
    tree = flax_tree()
    extra = {**tree, "Conv_1": {"kernel": numbers(3, 3, 2, 4)}}
    assert complaint(from_flax, extra, shapes) == "1 not in the network: Conv_1/kernel (3, 3, 2, 4)"
    assert complaint(from_flax, {**tree, "rate": numbers(1)}, shapes) == "1 not in the network: rate (1,)"
    assert complaint(from_flax, without(tree, "Conv_0"), shapes) == (
        "2 not in the file: Conv_0/kernel (3, 3, 2, 4), Conv_0/bias (4,)"
    )
    wrong = {**tree, "Dense_0": {"kernel": numbers(2, 8), "bias": numbers(4).astype(np.int32)}}
    assert complaint(from_flax, wrong, shapes) == (
        "2 of another shape: Dense_0/kernel (2, 8) for Dense_0/kernel (4, 4), Dense_0/bias of dtype int32"
    )
    twice = {**tree, "Dense_0": {**tree["Dense_0"], "b": numbers(4)}}
    assert complaint(from_flax, twice, shapes) == "1 not in the network: Dense_0/b (4,)"
    deeper = {**tree, "Dense_0": {"kernel": {"kernel": numbers(4, 4)}, "bias": numbers(4)}}
    assert "1 not in the network: Dense_0/kernel/kernel (4, 4); 1 not in the file" in complaint(
        from_flax, deeper, shapes
    )
    shallow = {**tree, "AttnBlockpp_0": {**tree["AttnBlockpp_0"], "NIN_0": numbers(4)}}
    assert "1 not in the network: AttnBlockpp_0/NIN_0 (4,); 2 not in the file" in complaint(from_flax, shallow, shapes)
    assert "18 not in the file: " in complaint(from_flax, {}, shapes) and "and 14 more" in complaint(
        from_flax, {}, shapes
    )


def test_what_does_not_fit_is_listed_from_torch(shapes):
    entries = torch_dict()
    name = "module.all_modules.4.NIN_2.W"
    missing = complaint(from_torch, without(entries, name), shapes)
    assert missing == "1 not in the file: AttentionBlock_0/Dense_2/kernel (4, 4)"
    extra = complaint(from_torch, {**entries, "module.all_modules.4.NIN_4.W": numbers(4, 4)}, shapes)
    assert extra == "1 not in the network: module.all_modules.4.NIN_4.W (4, 4)"
    assert complaint(from_torch, {**entries, name: numbers(4, 3)}, shapes) == (
        f"1 of another shape: {name} (4, 3) for AttentionBlock_0/Dense_2/kernel (4, 4)"
    )
    later = complaint(from_torch, {**entries, "module.all_modules.12.weight": numbers(4, 4)}, shapes)
    assert later == "1 not in the network: module.all_modules.12.weight (4, 4)"
    assert "1 not in the network: module.begin.weight (3,)" in complaint(
        from_torch, {**entries, "module.begin.weight": numbers(3)}, shapes
    )
    transposed = {**entries, "module.all_modules.11.weight": entries["module.all_modules.11.weight"].T}
    assert "module.all_modules.11.weight (2, 4) for Dense_1/kernel (4, 2)" in complaint(from_torch, transposed, shapes)


def test_names_of_several_lines_are_listed_too(tmp_path, shapes):
    path = tmp_path / "checkpoint_1"
    tree = {**flax_tree(), "a\nb": {"kernel": numbers(1)}}
    path.write_bytes(serialization.msgpack_serialize({"step": 1, "optimizer": {"target": tree}, "params_ema": tree}))
    with pytest.raises(ValueError, match=r"checkpoint_1: .*; 1 not in the network: a b/kernel \(1,\)$"):
        read_published(path, shapes)


def test_a_network_of_other_options_does_not_fit():
    """Of the published options, each that changes a leaf is noticed; and by torch files, which keep the order, also
    attention at the other of two levels of one width."""
    tree = read_msgpack(GOLDEN / "ncsnpp_highres" / "flax.msgpack")["params_ema"]
    entries = torch_parameters(read_torch(GOLDEN / "ncsnpp_highres" / "torch.pth")["model"])
    for options in ({"nf": 8}, {"embedding": "positional"}, {"progressive": "none"}, {"attn_resolutions": ()},
                    {"attn_resolutions": (4,)}):  # fmt: skip
        network = LinenNetwork(NCSNpp(**NETWORKS["ncsnpp_highres"] | options))
        shapes = parameter_shapes(network, (16, 16, 3))
        if options != {"attn_resolutions": (4,)}:
            complaint(from_flax, tree, shapes)
        complaint(from_torch, entries, shapes)


def test_buffers_and_what_is_not_trained():
    model = read_torch(GOLDEN / "ncsnpp_highres" / "torch.pth")["model"]
    parameters = torch_parameters(model)
    assert set(model) - set(parameters) == {"module.sigmas"} and len(parameters) == 225
    assert set(parameters) - set(torch_trainable(parameters)) == {"module.all_modules.0.W"}


def torch_names_of_ncsnv2_256():
    """(name, shape) of each parameter for images of 256 x 256, as the PyTorch code of NCSNv2 has them; nf = 1."""
    conv = lambda name, i, o, k=3, bias=True: [  # noqa: E731
        (f"{name}.weight", (o, i, k, k)), *([(f"{name}.bias", (o,))] if bias else [])]  # fmt: skip
    norm = lambda name, c: [(f"{name}.{leaf}", (c,)) for leaf in ("alpha", "gamma", "beta")]  # noqa: E731
    yield from conv("begin_conv", 3, 1)
    yield from norm("normalizer", 1)
    yield from conv("end_conv", 1, 3)
    widths = {"1": (1, 1, 1), "2": (1, 2, 1), "3": (2, 2, 1), "31": (2, 2, 1), "4": (2, 4, 2), "5": (4, 4, 4)}
    for label, (i, o, dilation) in widths.items():
        pooled, down = dilation == 1 and label != "1", label != "1"
        first = i if down else o
        yield from conv(f"res{label}.0.conv1", i, first)
        yield from norm(f"res{label}.0.normalize2", first)
        yield from conv(f"res{label}.0.conv2.conv" if pooled else f"res{label}.0.conv2", first, o)
        if down:
            yield from conv(f"res{label}.0.shortcut" + ".conv" * pooled, i, o, 1 if pooled else 3)
        yield from norm(f"res{label}.0.normalize1", i)
        for part in ("conv1", "conv2"):
            yield from conv(f"res{label}.1.{part}", o, o)
        for part in ("normalize1", "normalize2"):
            yield from norm(f"res{label}.1.{part}", o)
    refines = {
        "1": ((4,), 4),
        "2": ((4, 4), 2),
        "3": ((2, 2), 2),
        "31": ((2, 2), 2),
        "4": ((2, 2), 1),
        "5": ((1, 1), 1),
    }
    for label, (inputs, o) in refines.items():
        name = f"refine{label}"
        for n, i in enumerate(inputs):
            for unit in ("1_1", "1_2", "2_1", "2_2"):
                yield from conv(f"{name}.adapt_convs.{n}.{unit}_conv", i, i, bias=False)
            if len(inputs) > 1:
                yield from conv(f"{name}.msf.convs.{n}", i, o)
        for unit in range(1, 4 if label == "5" else 2):
            for stage in (1, 2):
                yield from conv(f"{name}.output_convs.{unit}_{stage}_conv", o, o, bias=False)
        for n in range(2):
            yield from conv(f"{name}.crp.convs.{n}", o, o, bias=False)


@pytest.mark.slow
def test_names_of_a_torch_file_with_six_levels():
    """Level 31 comes between 3 and 4 on the way down, and its refine block before that of 3 on the way up."""
    names = dict(torch_names_of_ncsnv2_256())
    theirs = {f"module.{name}": np.full(shape, i, np.float32) for i, (name, shape) in enumerate(names.items())}
    shapes = parameter_shapes(LinenNetwork(NCSNv2(nf=1, **ncsnv2_levels(256))), (32, 32, 3))
    ours = from_torch(theirs, shapes)
    number = lambda leaf: list(names)[int(np.ravel(leaf)[0])]  # noqa: E731
    assert number(ours["DilatedBlock_6"]["ConvMeanPool_0"]["Conv_0"]["kernel"]) == "res31.0.conv2.conv.weight"
    assert number(ours["DilatedBlock_8"]["Conv_2"]["kernel"]) == "res4.0.shortcut.weight"
    assert number(ours["DilatedBlock_9"]["InstanceNormPlus_1"]["gamma"]) == "res4.1.normalize2.gamma"
    assert number(ours["RefineBlock_2"]["MSFBlock_0"]["Conv_1"]["bias"]) == "refine31.msf.convs.1.bias"
    assert number(ours["RefineBlock_3"]["RCUBlock_1"]["Conv_2"]["kernel"]) == "refine3.adapt_convs.1.2_1_conv.weight"
    assert number(ours["RefineBlock_5"]["RCUBlock_2"]["Conv_5"]["kernel"]) == "refine5.output_convs.3_2_conv.weight"
