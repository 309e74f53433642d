"""Networks of EDM2, DiT, SiT, ADM and diffusers, against the numbers of their own code; what they state and lack."""

import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from config_lib.spec import ConfigError, build
from configs.adm import get_config as adm_config
from models import LinenNetwork, log_variance
from published_lib import adm, diffusers
from published_lib.description import Description
from published_lib.formats import describe
from published_lib.safetensors_file import read_safetensors, write_safetensors
from published_lib.score_sde_names import filled, parameter_shapes
from run_modes.experiment import make_experiment
from run_modes.import_published import config_of, described, import_checkpoint, read, with_description
from sde_lib import discrete_vp
from sde_lib.solvers.predictors import posterior_std, transition_std
from tests.helpers import close

pytestmark = pytest.mark.usefixtures("usual_promotion")

GOLDEN = Path(__file__).parents[1] / "golden" / "published"
FILES = {
    "edm2_cond": "network-snapshot-0002097-0.100.pkl",
    "dit_train": "0050000.pt",
    "sit": "SiT-tiny-2-128x128.pt",
    "diffusers_class": "",
    "diffusers_ncsnpp": "",
}


@functools.cache
def golden(name):
    with np.load(GOLDEN / name / "golden.npz") as arrays:
        return {key: jnp.asarray(value) for key, value in arrays.items()}


def model_of(path, **network):
    """The model of a file, with these options of its network, as an import makes it."""
    description = described(path)
    config = config_of(path, description)
    config.network.update(network)
    experiment = make_experiment(config, jax.devices()[:1])
    shapes = parameter_shapes(experiment.network, experiment.shape)
    return experiment.score_model(read(path, config, shapes, description).ema_params)


@jax.jit
def evaluated(model, x, t, cond):
    """The network's output at t, the score, and the denoised x."""
    return model._output(x, t, cond), model.score(x, t, cond), model.denoise(x, t, cond)


def each_close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        close(a, b, tolerance)


def doubled(x, cond, null):
    """x twice: with its classes, and without."""
    return jnp.concatenate([x, x]), jnp.concatenate([cond, jnp.full_like(cond, null)])


def test_edm2():
    """Denoiser with and without a class, at three noise levels, and the log variance of the loss."""
    m, g = model_of(GOLDEN / "edm2_cond" / FILES["edm2_cond"]), golden("edm2_cond")
    x, labels = doubled(g["x"][:, 0], jnp.tile(g["class_labels"], 3), 10)
    sigma = jnp.tile(g["sigma"], 2)
    D = evaluated(m, x, sigma, labels)[2]
    each_close(D, jnp.concatenate([g["D"][:, 0], g["D_uncond"][:, 0]]), 1e-5)
    np.testing.assert_allclose(
        log_variance(m.network.module, m.params, jnp.log(g["sigma"]) / 4), g["logvar"], atol=1e-5
    )


def test_dit():
    """ε and the variance half, with a class and without; the raw weights of train.py's file are those of training."""
    path, g = GOLDEN / "dit_train" / FILES["dit_train"], golden("dit_train")
    with pytest.raises(ValueError, match="expected DiT or SiT in the file's name"):
        describe_as(path, {"args": {"model": ""}})
    m = model_of(path, heads=4)
    x, labels = doubled(g["x"], g["class_labels"], 7)
    t = jnp.tile((g["timesteps"] + 1) / 1000, 2).astype(jnp.float32)
    out, score, _ = evaluated(m, x, t, labels)
    expected = jnp.concatenate([g["out"], g["out_null"]])
    each_close(out, expected, 1e-5)
    each_close(-m.sde.sigma(t)[:, None, None, None] * score, expected[..., :4], 1e-5)
    description = described(path)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), m.params)
    raw = m.replace(params=filled(description.raw({}), shapes))
    each_close(evaluated(raw, g["x"], t[:2], g["class_labels"])[0], g["out_model"], 1e-5)


def describe_as(path, changes):
    """The description of a file whose content has these changes."""
    from published_lib import dit
    from published_lib.torch_file import read_torch

    return dit.describe({**read_torch(path), **changes}, path)


def test_sit():
    """Velocity with and without a class; score (t v − x)/(1 − t) and x̂₀ = x + (1 − t) v at their time t."""
    m, g = model_of(GOLDEN / "sit" / FILES["sit"], heads=2), golden("sit")
    x, labels = doubled(g["x"], g["class_labels"], 10)
    t = jnp.tile(g["t"], 2)
    v, score, x0 = evaluated(m, x, 1 - t, labels)
    each_close(v, jnp.concatenate([g["velocity"], g["velocity_null"]]), 1e-5)
    time = t[:, None, None, None]
    each_close(score, (time * v - x) / (1 - time), 1e-5)
    each_close(x0, x + (1 - time) * v, 1e-5)


@pytest.mark.parametrize("names", ["today", "old"])
def test_diffusers_in_the_form_of_ddpm(tmp_path, names):
    """With classes; the names of attention may be those of 2022."""
    folder, g = GOLDEN / "diffusers_class", golden("diffusers_class")
    if names == "old":
        shutil.copytree(folder, tmp_path / "folder")
        folder = tmp_path / "folder"
        file = folder / diffusers.WEIGHTS[0]
        old = {new: old for old, new in diffusers._OLD.items()}
        arrays = {functools.reduce(lambda n, new: n.replace(new, old[new]), old, name): value
                  for name, value in read_safetensors(file).items()}  # fmt: skip
        assert any(".proj_attn." in name for name in arrays)
        file.chmod(0o644)
        write_safetensors(file, arrays, {})
        found, expected = (described(each).leaves({}) for each in (folder, GOLDEN / "diffusers_class"))
        assert {leaf.ours: leaf.value.tobytes() for leaf in found} == {l.ours: l.value.tobytes() for l in expected}
        return
    m = model_of(folder)
    t = ((g["timesteps"] + 1) / 1000).astype(jnp.float32)
    out, score, _ = evaluated(m, g["x"], t, g["class_labels"])
    each_close(out, g["out"], 1e-5)
    each_close(-m.sde.sigma(t)[:, None, None, None] * score, g["out"], 1e-5)
    np.testing.assert_allclose(m.sde.alpha(t) ** 2, g["alphas_cumprod_t"], rtol=2e-5)


def test_diffusers_in_the_form_of_ncsnpp():
    """Their output is the score of p_σ at σ."""
    m, g = model_of(GOLDEN / "diffusers_ncsnpp"), golden("diffusers_ncsnpp")
    t = m.sde.time_of_log_snr(-2 * jnp.log(g["sigma"]))
    each_close(evaluated(m, g["x"], t, None)[1], g["out"], 2e-4)


# ADM: a state dict made here, since a network of 32 groups is too large to store


def openai_names(levels=2, blocks=1, attention=(1,), updown=False, classes=3, C=32):
    """The shapes of guided-diffusion's UNetModel with `levels` levels of C channels, by its names, in its order."""
    shapes = {"time_embed.0.weight": (4 * C, C), "time_embed.2.weight": (4 * C, 4 * C)}
    shapes |= {"label_emb.weight": (classes, 4 * C)} if classes else {}

    def conv(name, inputs, outputs, size=3):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, *(size,) * 2), (outputs,)

    def norm(name, channels):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (channels,), (channels,)

    def block(name, inputs, outputs=C):
        norm(f"{name}.in_layers.0", inputs)
        conv(f"{name}.in_layers.2", inputs, outputs)
        shapes[f"{name}.emb_layers.1.weight"], shapes[f"{name}.emb_layers.1.bias"] = (
            (2 * outputs, 4 * C),
            (2 * outputs,),
        )
        norm(f"{name}.out_layers.0", outputs)
        conv(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.skip_connection", inputs, outputs, 1)

    def attend(name):
        norm(f"{name}.norm", C)
        for part, rows in (("qkv", 3 * C), ("proj_out", C)):
            shapes[f"{name}.{part}.weight"], shapes[f"{name}.{part}.bias"] = (rows, C, 1), (rows,)

    for i in (0, 2):
        shapes[f"time_embed.{i}.bias"] = (4 * C,)
    conv("input_blocks.0.0", 3, C)
    number = 1
    for level in range(levels):
        if level:
            block(f"input_blocks.{number}.0", C) if updown else conv(f"input_blocks.{number}.0.op", C, C)
            number += 1
        for _ in range(blocks):
            block(f"input_blocks.{number}.0", C)
            if level in attention:
                attend(f"input_blocks.{number}.1")
            number += 1
    block("middle_block.0", C), attend("middle_block.1"), block("middle_block.2", C)
    number = 0
    for level in reversed(range(levels)):
        for i in range(blocks + 1):
            block(f"output_blocks.{number}.0", 2 * C)
            part = 1
            if level in attention:
                attend(f"output_blocks.{number}.1")
                part = 2
            if level and i == blocks:
                up = f"output_blocks.{number}.{part}"
                block(up, C) if updown else conv(f"{up}.conv", C, C)
            number += 1
    norm("out.0", C)
    conv("out.2", C, 6)
    return shapes


@pytest.mark.parametrize("updown", [False, True])
@pytest.mark.parametrize("attention", [(), (1,), (0, 1)])
def test_what_the_shapes_of_adm_say(updown, attention):
    """Levels, blocks, attention, classes and the way of resampling; each array is a leaf of the network, used once."""
    rng = np.random.default_rng(0)
    shapes = openai_names(blocks=2, attention=attention, updown=updown)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    description = adm.describe(arrays, Path("16x16_diffusion.pt"))
    config = with_description(adm_config("improved_cifar10"), description)
    options = config.network
    assert (options.ch_mult, options.num_res_blocks, options.attn_levels) == ((1, 1), 2, attention)
    assert options.resample == ("block" if updown else "conv") and options.num_classes == 3 and options.num_heads == 4
    assert config.shape == (16, 16, 3) and options.learned_variance and options.scale_shift
    network = LinenNetwork(build(options))
    leaves = description.leaves({})
    params = filled(leaves, parameter_shapes(network, (16, 16, 3)))
    table = params["Conditioning_0"]["Embed_0"]["embedding"]
    np.testing.assert_array_equal(table, np.concatenate([arrays["label_emb.weight"], np.zeros((1, 128))]))
    q = arrays["middle_block.1.qkv.weight"][:, :, 0].T
    middle = f"ADMBlock_{3 + 2 + (1 if updown else 0) - 1}"
    np.testing.assert_array_equal(params[middle]["HeadsAttention_0"]["Dense_0"]["kernel"], q)


def test_files_of_adm_that_are_not_networks_of_images(tmp_path):
    shapes = openai_names()
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for change, name, message in (
        ({"out.2.weight": None}, "64x64_classifier.pt", "classifiers are not supported"),
        ({}, "64_256_upsampler.pt", "networks that enlarge images"),
        ({"out.2.weight": np.zeros((5, 32, 3, 3), np.float32)}, "a.pt", "expected 3 or twice as many channels"),
    ):
        changed = {key: value for key, value in (arrays | change).items() if value is not None}
        with pytest.raises(ValueError, match=message):
            adm.describe(changed, Path(name))
    description = adm.describe(arrays, Path("a.pt"))
    with pytest.raises(ConfigError, match=r"--config=FILE is required: a.pt does not state its heads"):
        config_of("a.pt", description)
    with pytest.raises(ConfigError, match=r"expected configs/adm.py:NAME with one of imagenet64_cond, "):
        adm_config("other")


def test_the_cosine_schedule():
    """improved DDPM's table (Nichol & Dhariwal 2021, eq. 17), and a learned variance between β̃ and β (eq. 15)."""
    sde, N = discrete_vp(num_steps=40, schedule="cosine"), 40
    alpha_bar = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    betas = np.minimum(1 - alpha_bar(np.arange(1, N + 1) / N) / alpha_bar(np.arange(N) / N), 0.999)
    bars = np.cumprod(1 - betas)
    t = jnp.arange(1, N + 1) / N
    np.testing.assert_allclose(sde.alpha(t) ** 2, bars, rtol=1e-6)
    for k in (1, 20, 39):
        np.testing.assert_allclose(transition_std(sde, t[k], t[k - 1]) ** 2, betas[k], rtol=1e-5)
        expected = betas[k] * (1 - bars[k - 1]) / (1 - bars[k])
        np.testing.assert_allclose(posterior_std(sde, t[k], t[k - 1]) ** 2, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="expected one of 'linear', 'scaled_linear', 'cosine', got 'other'"):
        discrete_vp(schedule="other")


def test_settings_of_diffusers_that_are_refused(tmp_path):
    """By their names, on one line; the weights are not needed for that."""
    shutil.copytree(GOLDEN / "diffusers_class", tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    config = json.loads(file.read_text())
    file.chmod(0o644)
    for name, value in (
        ("act_fn", "mish"),
        ("center_input_sample", True),
        ("class_embed_type", "timestep"),
        ("add_attention", False),
        ("downsample_type", "resnet"),
        ("down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D"]),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        ("freq_shift", 1),
        ("mid_block_scale_factor", 2),
        ("out_channels", 6),
        ("a_new_setting", 1),
    ):
        file.write_text(json.dumps(config | {name: value}))
        with pytest.raises(ValueError) as error:
            describe(tmp_path / "folder")
        assert name in str(error.value) and "\n" not in str(error.value)
    file.write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        describe(tmp_path / "folder")


def test_every_description_says_its_license():
    for name, file in FILES.items():
        description = described(GOLDEN / name / file)
        assert isinstance(description, Description) and description.license
    assert "not for commercial use" in described(GOLDEN / "edm2_cond" / FILES["edm2_cond"]).license


def test_an_import_asks_for_heads(tmp_path):
    with pytest.raises(ConfigError, match=r"does not state network.heads: give --config.network.heads=N"):
        import_checkpoint(None, GOLDEN / "sit" / FILES["sit"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
