"""DiT (Peebles & Xie 2023, arXiv:2212.09748) and SiT (Ma et al. 2024, arXiv:2401.08740), as `models.DiT`.

    x_embedder.proj [D, C, p, p]   the map of patches              y_embedder.embedding_table   the rows of Embed
    t_embedder.mlp.{0, 2}          the two maps of the embedding   pos_embed [1, N, D]          the table of positions
    blocks.N.{adaLN_modulation.1, attn.qkv, attn.proj, mlp.fc1, mlp.fc2};   final_layer.{adaLN_modulation.1, linear}

The files have a state dict, or {model, ema, opt, args} of their train.py. Neither states the number of heads: it is
known for the published widths (table 1 of DiT). Both have the same names, so that SiT is recognized by the name of the
file alone, or by args.

    DiT   discrete_vp(1000)    PredictNoise, label k − 1 at t = k/1000; the output also has a learned variance
    SiT   RectifiedFlow        PredictVelocity at their time 1 − t; it drops the second half of the output

Data are latents of Stability's VAE, multiplied by 0.18215.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from published_lib.description import Arrays, Description, Leaf, Module, Part, leaves_of

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # width → heads, of the published sizes
LATENT_SCALE = 0.18215
_TRAINING = {"model", "ema", "opt", "args"}
_BLOCK = {
    **{"adaLN_modulation.1": "Dense_0", "attn.qkv": "Dense_1", "attn.proj": "Dense_2"},
    **{"mlp.fc1": "Dense_3", "mlp.fc2": "Dense_4"},
}


def is_dit(content: Any) -> bool:
    """Whether the value of a torch file is one of DiT or SiT."""
    if not isinstance(content, Mapping):
        return False
    weights = content.get("ema") if content.keys() >= _TRAINING else content
    return isinstance(weights, Mapping) and "x_embedder.proj.weight" in weights and "pos_embed" in weights


def describe(content: Mapping[str, Any], path: Path) -> Description:
    """The description of a file's content. ValueError for shapes that are not of these networks."""
    whole = content.keys() >= _TRAINING
    arrays = content["ema"] if whole else content
    kind = _kind(path.name, str(content["args"].get("model", "")) if whole else "")
    options, shape = _options(arrays, kind == "SiT")
    latents = dict(mean=0.0, std=1 / LATENT_SCALE)
    license = "MIT" if kind == "SiT" else "CC BY-NC 4.0 (Meta): not for commercial use"
    missing, remarks = {}, ["the file states no heads; the number of a published size is that of its width"]
    if options["heads"] is None:
        missing = {"network.heads": "give --config.network.heads=N"}
        remarks = []
    if kind == "SiT":
        remarks.append("the second half of the output's channels is left out, as SiT drops it")
    return Description(
        project=kind,
        license=license,
        sections={
            "shape": shape,
            "transform": Part("data_lib:Standardize", latents),
            "network": Part("models:DiT", options),
            "license": license,
            **(_sit_sections() if kind == "SiT" else _dit_sections()),
        },
        leaves=lambda _: _leaves(arrays, options, kind == "SiT"),
        raw=(lambda _: _leaves(content["model"], options, kind == "SiT")) if whole else None,
        missing=missing,
        remarks=tuple(remarks),
    )


def _kind(name: str, model: str) -> str:
    for text in (model, name):
        for kind in ("SiT", "DiT"):
            if kind.lower() in text.lower():
                return kind
    raise ValueError(
        "the file is of DiT or SiT, which have the same names: expected DiT or SiT in the file's name, "
        "DiT-XL-2-256x256.pt for instance"
    )


def _options(arrays: Arrays, drops_variance: bool) -> tuple[dict[str, Any], tuple[int, ...]]:
    features, channels, patch, _ = arrays["x_embedder.proj.weight"].shape
    side = math.isqrt(arrays["pos_embed"].shape[1])
    inner, out = arrays["blocks.0.mlp.fc1.weight"].shape[0], arrays["final_layer.linear.weight"].shape[0]
    outputs = (patch**2 * channels, 2 * patch**2 * channels)
    if side**2 != arrays["pos_embed"].shape[1] or inner % features or out not in outputs:
        raise ValueError(
            f"expected square images, an MLP whose width is a multiple of {features}, and {channels} or twice as many "
            f"channels in the output"
        )
    learned = out == outputs[1]
    options = dict(
        features=features,
        depth=len({name.split(".")[1] for name in arrays if name.startswith("blocks.")}),
        heads=HEADS.get(features),
        patch=patch,
        mlp_ratio=inner // features,
        embedding="timestep",
        frequencies=arrays["t_embedder.mlp.0.weight"].shape[1],
        num_classes=arrays["y_embedder.embedding_table.weight"].shape[0] - 1,
        cond_dropout=0.1,
        position_counts=(side, side),
        learned_variance=learned and not drops_variance,
    )
    return options, (side * patch, side * patch, channels)


def _dit_sections() -> dict[str, Any]:
    label = Part("sde_lib:ScaledTime", dict(scale=1000.0, offset=-1.0))
    return {
        "sde": Part("sde_lib:discrete_vp", dict(num_steps=1000)),
        "parameterization": Part("sde_lib:PredictNoise", dict(c_noise=label)),
        "loss": Part("sde_lib:dsm_loss", dict(reduce=Part("sde_lib:mean", {}, bound=True)), bound=True),
        "time_distribution": Part("sde_lib:GridTime", dict(num_steps=1000)),
    }


def _sit_sections() -> dict[str, Any]:
    label = Part("sde_lib:ScaledTime", dict(scale=-1.0, offset=1.0))
    return {
        "sde": Part("sde_lib:RectifiedFlow"),
        "parameterization": Part("sde_lib:PredictVelocity", dict(c_noise=label, sign=-1.0)),
        "loss": Part("sde_lib:dsm_loss", dict(reduce=Part("sde_lib:mean", {}, bound=True)), bound=True),
        "time_distribution": Part("sde_lib:UniformTime"),
    }


def _leaves(arrays: Arrays, options: Mapping[str, Any], drops_variance: bool) -> list[Leaf]:
    patch, table = options["patch"], {}
    for name, value in arrays.items():
        if name == "x_embedder.proj.weight":
            value = value.transpose(0, 2, 3, 1).reshape(len(value), -1)
        elif name == "pos_embed":
            value = value[0]
        elif name.startswith("final_layer.linear.") and drops_variance and not options["learned_variance"]:
            value = _first_half(value, patch)
        table[name] = value
    modules = [
        Module("t_embedder.mlp.0", "Dense"),
        Module("t_embedder.mlp.2", "Dense"),
        Module("y_embedder.embedding_table", "Conditioning", {"": "Embed_0"}),
        Module("x_embedder.proj", "Dense"),
        *(Module(f"blocks.{i}", "DiTBlock", _BLOCK) for i in range(options["depth"])),
        Module("final_layer.adaLN_modulation.1", "Dense"),
        Module("final_layer.linear", "Dense"),
    ]
    special = {"pos_embed": ("positions_table",)}
    return [leaf._replace(ours=special.get(leaf.name, leaf.ours)) for leaf in leaves_of(table, modules)]


def _first_half(value: np.ndarray, patch: int) -> np.ndarray:
    """The rows (row, column, channel) of the last map whose channels are the first half."""
    rows = value.reshape(patch * patch, -1, *value.shape[1:])
    return rows[:, : rows.shape[1] // 2].reshape(-1, *value.shape[1:])
