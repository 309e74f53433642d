"""EDM (Karras et al. 2022, arXiv:2206.00364) and the networks of others in its format, as our networks and processes.

Their denoiser is D(x; σ) = c_skip x + c_out F(c_in x, c_noise), of one of four kinds (their table 1), in our terms:

    EDMPrecond    EDM(t_min, t_max)              EDMPreconditioning(sigma_data)          c_noise = ¼ ln σ
    VEPrecond     VE(sigma_min, sigma_max)       PredictScore:  D = x + σ F(x)           c_noise = ln (σ/2)
    VPPrecond     VP(β_min, β_min + β_d)         PredictNoise:  D = x − σ F(x/√(1+σ²))   c_noise = (M − 1) t
    iDDPMPrecond  discrete_vp(M, cosine)         PredictNoise, on a table of M levels    c_noise = k − 1 at t = k/M

with x = α x_0 + σ_t ε at σ = σ_t/α. Their networks:

    SongUNet       NCSNpp     labels and augmentation are added to the features of the noise level
    DhariwalUNet   ADM        augmentation is added there, labels to the embedding
    label k, no label         the rows √K W_k + b and b (SongUNet), W_k and 0 (DhariwalUNet) of our table
    qkv                       row (head · C/heads + c) · 3 + {q, k, v} of theirs
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from published_lib.description import Arrays, Description, Leaf, Module, Part, expected, known, leaves_of, within_file
from published_lib.nvidia_pickle import Persistent, arrays_of

LICENSE = "CC BY-NC-SA 4.0 (NVIDIA): not for commercial use"
_ENCODERS = {"standard": "none", "skip": "input_skip", "residual": "residual"}
_DECODERS = {"standard": "none", "skip": "output_skip"}
_HEAD = 64
_PRECONDITIONED = ("img_resolution", "in_channels", "out_channels")
_UNET = (
    *("label_dim", "augment_dim", "model_channels", "channel_mult", "channel_mult_emb", "num_blocks"),
    *("attn_resolutions", "dropout", "label_dropout"),
)
_SONG = ("embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter")


def describe(content: Mapping[str, Any]) -> Description:
    """The description of a pickle's content. ValueError, naming it, for an option that cannot be read."""
    precond = content["ema"]
    model = precond.modules.get("model")
    if not isinstance(model, Persistent) or model.class_name not in _NETWORKS:
        got = model.class_name if isinstance(model, Persistent) else type(model).__name__
        raise ValueError(f"expected a network of class {' or '.join(_NETWORKS)}, got {got}")
    network, leaves = _NETWORKS[model.class_name]
    options, arrays = network(model), arrays_of(model)
    within_file(arrays, model.class_name, len(options["ch_mult"]), options["num_res_blocks"])
    channels, size = precond.state["img_channels"], precond.state["img_resolution"]
    if precond.class_name == "iDDPMPrecond":
        expected("iDDPMPrecond", "out_channels", model.options["out_channels"], 2 * channels)
        options["learned_variance"] = True
    sections = {
        "shape": (size, size, channels),
        "transform": Part("data_lib:Scale", dict(low=0.0, high=255.0)),
        "network": Part(f"models:{'NCSNpp' if model.class_name == 'SongUNet' else 'ADM'}", options),
        "license": LICENSE,
        **PROCESSES[precond.class_name](precond.state, content.get("loss_fn")),
        **_augmentation(content.get("augment_pipe"), options["cond_dim"]),
    }
    return Description(
        remarks=("the parameters of training are set to the averages: the file has no others",),
        project=f"EDM: {precond.class_name} of {model.class_name}",
        license=LICENSE,
        sections=sections,
        leaves=lambda _: leaves(arrays, options),
    )


# Processes


def _edm(state: Mapping[str, Any], loss: Any) -> dict[str, Any]:
    ends = dict(t_min=max(0.002, float(state["sigma_min"])), t_max=min(80.0, float(state["sigma_max"])))
    return edm_sections(float(state["sigma_data"]), loss, "EDMLoss", **ends) | sampled_as_published()


def edm_sections(
    sigma_data: float,
    loss: Any,
    loss_class: str,
    t_min: float = 0.002,
    t_max: float = 80.0,
    mean: float = -1.2,
    std: float = 1.2,
) -> dict[str, Any]:
    """Process, parameterization and loss of EDM; the loss's numbers are those of the file, if it has them."""
    state = loss.state if isinstance(loss, Persistent) and loss.class_name == loss_class else {}
    law = dict(mean=float(state.get("P_mean", mean)), std=float(state.get("P_std", std)))
    weight = Part("sde_lib:EDMWeight", dict(sigma_data=float(state.get("sigma_data", sigma_data))))
    return {
        "sde": Part("sde_lib:EDM", dict(t_min=t_min, t_max=t_max)),
        "parameterization": Part("sde_lib:EDMPreconditioning", dict(sigma_data=sigma_data)),
        "loss": Part("sde_lib:dsm_loss", dict(weight=weight), bound=True),
        "time_distribution": Part("sde_lib:LogNormalTime", law),
    }


def _ve(state: Mapping[str, Any], loss: Any) -> dict[str, Any]:
    levels = {name: float(state[name]) for name in ("sigma_min", "sigma_max")}
    return {
        "sde": Part("sde_lib:VE", levels | dict(t_min=0.0)),
        "parameterization": Part("sde_lib:PredictScore", dict(c_noise=Part("sde_lib:LogSigma", dict(unit=2.0)))),
        **_uniform(),
    }


def _vp(state: Mapping[str, Any], loss: Any) -> dict[str, Any]:
    low, rise = float(state["beta_min"]), float(state["beta_d"])
    label = Part("sde_lib:ScaledTime", dict(scale=float(state["M"] - 1)))
    return {
        "sde": Part("sde_lib:VP", dict(beta_min=low, beta_max=low + rise, t_min=float(state["epsilon_t"]))),
        "parameterization": Part("sde_lib:PredictNoise", dict(c_noise=label)),
        **_uniform(),
    }


def _iddpm(state: Mapping[str, Any], loss: Any) -> dict[str, Any]:
    expected("iDDPMPrecond", "C_1", float(state["C_1"]), 0.001)
    expected("iDDPMPrecond", "C_2", float(state["C_2"]), 0.008)
    steps = int(state["M"])
    label = Part("sde_lib:ScaledTime", dict(scale=float(steps), offset=-1.0))
    return {
        "sde": Part("sde_lib:discrete_vp", dict(num_steps=steps, schedule="cosine")),
        "parameterization": Part("sde_lib:PredictNoise", dict(c_noise=label)),
        "loss": Part("sde_lib:dsm_loss", {}, bound=True),
        "time_distribution": Part("sde_lib:GridTime", dict(num_steps=steps)),
    }


def _uniform() -> dict[str, Any]:
    return {
        "loss": Part("sde_lib:dsm_loss", {}, bound=True),
        "time_distribution": Part("sde_lib:UniformTime"),
        **sampled_as_published(),
    }


def sampled_as_published(num_steps: int = 18) -> dict[str, Any]:
    """Their algorithm 1 with `num_steps` noise levels: Heun's rule between them, then a step of Euler to 0."""
    sampler = dict(solver=Part("sde_lib.solvers:EDMHeun"), grid=Part("sde_lib:EDMGrid"), num_steps=num_steps - 1)
    ends = dict(denoise=Part("sde_lib:tweedie", {}, bound=True))
    return {"sampling.published": Part("sde_lib:Sampler", sampler | ends), "sampling.use": "published"}


PROCESSES = {"EDMPrecond": _edm, "VEPrecond": _ve, "VPPrecond": _vp, "iDDPMPrecond": _iddpm}
CLASSES = tuple(PROCESSES)


def _augmentation(pipe: Any, cond_dim: int) -> dict[str, Any]:
    """Their augmentation, for a network with its vector of 9; without a pipe in the file, as published."""
    if not cond_dim:
        return {}
    state = pipe.state if isinstance(pipe, Persistent) else {}
    return {"augmentation": Part("sde_lib:Augmentation", dict(probability=float(state.get("p", 0.12))))}


# Networks


def _common(model: Persistent, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Our options for those that both networks have."""
    given = model.options
    known(given, (*_PRECONDITIONED, *_UNET, *more), model.class_name)
    dhariwal = model.class_name == "DhariwalUNet"
    return dict(
        nf=given.get("model_channels", 192 if dhariwal else 128),
        ch_mult=tuple(given.get("channel_mult", (1, 2, 3, 4) if dhariwal else (1, 2, 2, 2))),
        num_res_blocks=given.get("num_blocks", 3 if dhariwal else 4),
        attn_resolutions=tuple(given.get("attn_resolutions", (32, 16, 8) if dhariwal else (16,))),
        dropout=float(given.get("dropout", 0.1)),
        emb_mult=given.get("channel_mult_emb", 4),
        num_classes=given.get("label_dim", 0),
        cond_dim=given.get("augment_dim", 0),
        cond_dropout=float(given.get("label_dropout", 0.0)),
    )


def _song(model: Persistent) -> dict[str, Any]:
    options, given = _common(model, _SONG), model.options
    kind = expected("SongUNet", "embedding_type", given.get("embedding_type", "positional"), "positional", "fourier")
    features = options["nf"] * given.get("channel_mult_noise", 1)
    encoder = expected("SongUNet", "encoder_type", given.get("encoder_type", "standard"), *_ENCODERS)
    decoder = expected("SongUNet", "decoder_type", given.get("decoder_type", "standard"), *_DECODERS)
    return options | dict(
        embedding=kind,
        noise_features=features // 2 if kind == "fourier" else features,
        progressive_input=_ENCODERS[encoder],
        progressive=_DECODERS[decoder],
        fir_taps=tuple(map(float, given.get("resample_filter", (1, 1)))),
        cond_at_features=("labels", "vector"),
    )


def _dhariwal(model: Persistent) -> dict[str, Any]:
    options = _common(model)
    return options | dict(
        embedding="timestep", norm_eps=1e-5, head_features=_HEAD, min_attention=_HEAD, cond_at_features=("vector",)
    )


_BLOCK = {
    **{"norm0": "GroupNorm_0", "conv0": "Conv_0", "affine": "Dense_0"},
    **{"norm1": "GroupNorm_1", "conv1": "Conv_1", "skip": "Conv_2"},
}
_ATTENTION = {"norm2": "GroupNorm_0", "q": "Dense_0", "k": "Dense_1", "v": "Dense_2", "proj": "Dense_3"}
DHARIWAL_BLOCK = _BLOCK | {
    **{"norm2": "HeadsAttention_0/GroupNorm_0", "qkv": "HeadsAttention_0/Dense_0"},
    **{"proj": "HeadsAttention_0/Dense_1"},
}


def _song_leaves(arrays: Arrays, options: Mapping[str, Any]) -> list[Leaf]:
    table = {}
    for name, value in arrays.items():
        if name == "map_label.weight":
            table["labels.weight"] = label_rows(value, math.sqrt(value.shape[1]), arrays["map_label.bias"])
        elif name == "map_label.bias" or name.endswith(".resample_filter"):
            continue
        elif ".qkv." in name:
            for kind, part in zip("qkv", split_kinds(value), strict=True):
                table[name.replace(".qkv.", f".{kind}.")] = part
        else:
            table[name] = value
    modules = [Module("map_noise.freqs", "GaussianFourierProjection", {"": "W"}), *_maps()]
    for name in _blocks(arrays):
        if f"{name}.norm0.weight" in arrays:
            modules.append(Module(name, "ResidualBlock", _BLOCK))
            if f"{name}.qkv.weight" in arrays:
                modules.append(Module(name, "AttentionBlock", _ATTENTION))
        elif name.endswith("_aux_residual"):
            modules.append(Module(name, "ConvDownsample", {"": "Conv_0"}))
        elif name.endswith("_aux_skip"):
            modules.append(Module(name, "Combine", {"": "Conv_0"}))
        else:
            modules.append(Module(name, "GroupNorm" if name.endswith("norm") else "Conv"))
    return leaves_of(table, modules)


def _dhariwal_leaves(arrays: Arrays, options: Mapping[str, Any]) -> list[Leaf]:
    table = {}
    for name, value in arrays.items():
        if name == "map_label.weight":
            table["labels.weight"] = label_rows(value)
        elif ".qkv." in name:
            table[name] = by_kind_in_heads(value, value.shape[0] // 3 // _HEAD)
        elif not name.endswith(".resample_filter"):
            table[name] = value
    if "map_augment.weight" in arrays:
        modules = [Module("map_augment", "Conditioning", {"": "Dense_0"}), Module("labels", "Conditioning", _LABELS)]
    else:
        modules = [Module("labels", "Conditioning", _LABELS)]
    modules += [Module("map_layer0", "Dense"), Module("map_layer1", "Dense")]
    for name in _blocks(arrays):
        if f"{name}.norm0.weight" in arrays:
            modules.append(Module(name, "ADMBlock", DHARIWAL_BLOCK))
        else:
            modules.append(Module(name, "GroupNorm" if name.endswith("norm") else "Conv"))
    return leaves_of(table, modules)


_LABELS = {"": "Embed_0"}
_NETWORKS = {"SongUNet": (_song, _song_leaves), "DhariwalUNet": (_dhariwal, _dhariwal_leaves)}


def _maps() -> list[Module]:
    parts = {"labels": "Embed_0", "map_augment": "Dense_0"}
    return [Module("", "Conditioning", parts), Module("map_layer0", "Dense"), Module("map_layer1", "Dense")]


def _blocks(arrays: Arrays) -> list[str]:
    """The blocks of the encoder and the decoder, then the last norm and convolution, in their order."""
    names = (name.split(".") for name in arrays if name.startswith(("enc.", "dec.", "out_")))
    return list(dict.fromkeys(parts[0] if parts[0].startswith("out_") else ".".join(parts[:2]) for parts in names))


def label_rows(weight: np.ndarray, factor: float = 1.0, bias: Any = 0.0) -> np.ndarray:
    """The table [K + 1, D] of labels whose one-hot vectors · factor are mapped by [D, K]; the last row: no label."""
    rows = np.concatenate([weight.T, np.zeros_like(weight.T[:1])]).astype(np.float64)
    return (rows * factor + np.asarray(bias, np.float64)).astype(np.float32)


def split_kinds(value: np.ndarray) -> list[np.ndarray]:
    """q, k and v of rows that alternate between them."""
    return [value[kind::3] for kind in range(3)]


def by_kind_in_heads(value: np.ndarray, heads: int) -> np.ndarray:
    """The rows in our order [head][q, k, v][channel], from [head][channel][q, k, v]."""
    return np.concatenate([part for head in np.split(value, heads) for part in split_kinds(head)])
