"""EDM2 (Karras et al. 2024, arXiv:2312.02696): snapshots of training and the averages made after it, as `models.EDM2`.

    ema      Precond(UNet): EDM's denoiser, with its parameters in float16; its buffers hold the random frequencies
    encoder  pixels: [0, 255] → [−1, 1];   latents: raw · scale + bias for each channel, raw those of Stability's VAE
    names    unet.enc.16x16_block0.conv_res0.weight, …: modules in the order in which the network applies them
    qkv      row (head · C/heads + c) · 3 + {q, k, v} of theirs; ours [q, k, v][head][channel]

Each .pkl file is one average: its length is in the file's name. A file of post-hoc averages (their section 3.2) is read
likewise. Parameters become float32, as in their own sums of averages.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from published_lib.description import Arrays, Description, Leaf, Module, Part, known, leaves_of, within_file
from published_lib.edm import LICENSE, edm_sections, sampled_as_published
from published_lib.nvidia_pickle import Persistent, arrays_of

CLASS = "Precond"
_OPTIONS = {
    "model_channels": ("nf", 192),
    "channel_mult": ("ch_mult", (1, 2, 3, 4)),
    "channel_mult_noise": ("noise_mult", 0),
    "channel_mult_emb": ("embedding_mult", 0),
    "num_blocks": ("num_res_blocks", 3),
    "attn_resolutions": ("attn_resolutions", (16, 8)),
    "label_balance": ("label_balance", 0.5),
    "concat_balance": ("concat_balance", 0.5),
    "resample_filter": ("fir_taps", (1.0, 1.0)),
    "channels_per_head": ("head_features", 64),
    "dropout": ("dropout", 0.0),
    "res_balance": ("res_balance", 0.3),
    "attn_balance": ("attn_balance", 0.3),
    "clip_act": ("clip", 256.0),
    "logvar_channels": ("log_variance_features", 128),
}
_OF_PRECOND = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data")
_BLOCK = {
    name: name for name in ("conv_res0", "emb_linear", "conv_res1", "conv_skip", "attn_qkv", "attn_proj", "emb_gain")
}


def describe(content: Mapping[str, Any]) -> Description:
    """The description of a pickle's content. ValueError, naming it, for an option that cannot be read."""
    precond = content["ema"]
    given = precond.options
    known(given, (*_OPTIONS, *_OF_PRECOND), "EDM2's network")
    size, channels, classes = (precond.state[name] for name in ("img_resolution", "img_channels", "label_dim"))
    options = {ours: _plain(given.get(theirs), default) for theirs, (ours, default) in _OPTIONS.items()}
    loss = content.get("loss_fn")
    sections = {
        "shape": (size, size, channels),
        "transform": _transform(content.get("encoder")),
        "network": Part("models:EDM2", options | dict(num_classes=classes)),
        "license": LICENSE,
        **edm_sections(float(precond.state["sigma_data"]), loss, "EDM2Loss", mean=-0.4, std=1.0),
        **sampled_as_published(32),
    }
    arrays = arrays_of(precond)
    within_file(arrays, "EDM2", len(options["ch_mult"]), options["num_res_blocks"])
    return Description(
        project="EDM2",
        license=LICENSE,
        sections=sections,
        leaves=lambda network: _leaves(arrays, network["head_features"]),
        remarks=("the parameters of training are set to the averages: the file has no others",),
    )


def _plain(value: Any, default: Any) -> Any:
    """An option as ours: its default for None, and lists as tuples."""
    value = default if value is None else value
    value = tuple(value) if isinstance(value, list | tuple) else value
    if isinstance(default, float):
        return float(value)
    return tuple(map(float, value)) if isinstance(default, tuple) and isinstance(default[0], float) else value


def _transform(encoder: Any) -> Part:
    state = encoder.state if isinstance(encoder, Persistent) else {}
    if "scale" not in state:
        return Part("data_lib:Scale", dict(low=0.0, high=255.0))
    scale, bias = (np.asarray(state[name], np.float64).reshape(-1) for name in ("scale", "bias"))
    return Part("data_lib:Standardize", dict(mean=tuple((-bias / scale).tolist()), std=tuple((1 / scale).tolist())))


def _leaves(arrays: Arrays, head_features: int) -> list[Leaf]:
    table = {name: _in_our_order(name, value, head_features) for name, value in arrays.items()}
    modules = [
        Module("unet.emb_fourier", "Fourier", {"freqs": "frequencies", "phases": "phases"}),
        Module("unet.emb_noise", "NormalizedConv"),
        *([Module("unet.emb_label", "NormalizedConv")] if "unet.emb_label.weight" in arrays else []),
        Module("logvar_fourier", "LogVariance", {"freqs": "Fourier_0/frequencies", "phases": "Fourier_0/phases"}),
    ]
    for name in dict.fromkeys(
        ".".join(each.split(".")[:3]) for each in arrays if each.startswith(("unet.enc.", "unet.dec."))
    ):
        block = f"{name}.conv_res0.weight" in arrays
        modules.append(Module(name, "EDM2Block", _BLOCK) if block else Module(name, "NormalizedConv"))
    modules.append(Module("unet.out_conv", "NormalizedConv"))
    leaves = leaves_of(table, modules)
    special = {"unet.out_gain": ("out_gain",), "logvar_linear.weight": ("LogVariance_0", "NormalizedConv_0", "kernel")}
    return [leaf._replace(ours=special.get(leaf.name, leaf.ours)) for leaf in leaves]


def _in_our_order(name: str, value: np.ndarray, head_features: int) -> np.ndarray:
    if name.endswith("attn_qkv.weight"):
        heads = value.shape[0] // 3 // head_features
        value = value.reshape(heads, -1, 3, *value.shape[1:]).transpose(2, 0, 1, 3, 4, 5).reshape(value.shape)
    if name == "logvar_linear.weight":
        value = value.T
    return value
