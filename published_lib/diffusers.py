"""Folders of diffusers with a UNet2DModel: config.json, scheduler_config.json, and weights in safetensors or .bin.

    folder/config.json, diffusion_pytorch_model.{safetensors, bin}, scheduler_config.json
    folder/unet/…, folder/scheduler/…                                      as their pipelines are saved today

    DDPM's form      (Attn)DownBlock2D, (Attn)UpBlock2D             models.ADM with resample="conv"
    NCSN++'s form    (Attn)SkipDownBlock2D, (Attn)SkipUpBlock2D     models.NCSNpp with pyramids of input and output

    DDPM's process     discrete_vp of the scheduler's β;  ε, x_0 or v by its prediction_type;  label k − 1 at t = k/N
    NCSN++'s process   VE from sigma_min to sigma_max;    F/σ is the score, label ln σ

Names of attention are of two generations, as diffusers accepts both: query, key, value, proj_attn, and to_q, to_k,
to_v, to_out.0. A setting that the code here does not have is refused by its name. Files of weights that the folder has
twice are read once, safetensors first.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from published_lib.description import Arrays, Description, Leaf, Module, Part, expected, leaves_of, within_file
from published_lib.safetensors_file import read_safetensors
from published_lib.torch_file import read_torch

LICENSE = "that of its model card (google/ddpm-* and google/ncsnpp-*: Apache 2.0)"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_FIXED = {  # settings with one value here, and what the code of diffusers takes where the file has none
    **{"act_fn": "silu", "center_input_sample": False, "class_embed_type": None, "time_embedding_dim": None},
    **{"mid_block_type": "UNetMidBlock2D", "add_attention": True, "attn_norm_num_groups": None},
    **{"downsample_type": "conv", "upsample_type": "conv"},
}
_READ = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "block_out_channels": (224, 448, 672, 896),
    "down_block_types": ("DownBlock2D", *("AttnDownBlock2D",) * 3), "layers_per_block": 2, "attention_head_dim": 8,
    "up_block_types": (*("AttnUpBlock2D",) * 3, "UpBlock2D"), "time_embedding_type": "positional", "freq_shift": 0,
    "flip_sin_to_cos": True, "norm_eps": 1e-5, "norm_num_groups": 32, "mid_block_scale_factor": 1, "dropout": 0.0,
    "downsample_padding": 1, "num_class_embeds": None, "resnet_time_scale_shift": "default",
}  # fmt: skip
_IGNORED = ("num_train_timesteps",)  # read by no line of theirs for these embeddings
_UNIT = "UNet2DModel"
_RESNET = {
    **{"norm1": "GroupNorm_0", "conv1": "Conv_0", "time_emb_proj": "Dense_0"},
    **{"norm2": "GroupNorm_1", "conv2": "Conv_1", "conv_shortcut": "Conv_2"},
}


def is_diffusers(path: Path) -> bool:
    """Whether it is a folder with the config of a model, or of a pipeline."""
    return path.is_dir() and any((path / part / "config.json").is_file() for part in ("", "unet"))


def describe(path: Path) -> Description:
    """The description of a folder. ValueError, naming it, for a setting that is not supported."""
    folder = path if (path / "config.json").is_file() else path / "unet"
    config = _json(folder / "config.json")
    if config.get("_class_name") != _UNIT:
        raise ValueError(f"{folder / 'config.json'}: expected the config of a {_UNIT}, got {config.get('_class_name')}")
    arrays, skips = _weights(folder), "Skip" in str(config.get("down_block_types"))
    given = _settings(config)
    size = given["sample_size"]
    size = size if isinstance(size, int) else expected(_UNIT, "sample_size", tuple(size or ()), (size or [0])[0])
    expected(_UNIT, "out_channels", given["out_channels"], given["in_channels"])
    network, leaves = (_ncsnpp, _ncsnpp_leaves) if skips else (_ddpm, _ddpm_leaves)
    within_file(arrays, _UNIT, len(given["block_out_channels"]), given["layers_per_block"])
    options = network(given)
    return Description(
        project=f"diffusers' {_UNIT}, in the form of {'NCSN++' if skips else 'DDPM'}",
        license=LICENSE,
        sections={
            "shape": (size, size, given["in_channels"]),
            # Theirs for VE is [0, 1], which their network does not center.
            "transform": Part(f"data_lib:{'UnitScale' if skips else 'Scale'}", dict(low=0.0, high=255.0)),
            "network": Part(f"models:{'NCSNpp' if skips else 'ADM'}", options),
            "license": LICENSE,
            **_process(_scheduler(path), skips),
        },
        leaves=lambda _: leaves(_today(arrays), given),
    )


# Files


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > 1_000_000:
        raise ValueError(f"{path}: expected a small JSON file, got {path.stat().st_size} bytes")
    try:
        value = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected settings by name, got {type(value).__name__}")
    return value


def _scheduler(path: Path) -> dict[str, Any]:
    for place in (path / "scheduler_config.json", path / "scheduler" / "scheduler_config.json"):
        if place.is_file():
            return _json(place)
    raise ValueError(f"{path}: expected scheduler_config.json, which states the noise schedule; there is none")


def weight_files(path: Path) -> list[Path]:
    """The file of weights in a folder, safetensors before .bin; none if there is none."""
    found = [path / part / name for part in ("", "unet") for name in WEIGHTS]
    return [file for file in found if file.is_file()][:1]


def _weights(folder: Path) -> Arrays:
    for file in weight_files(folder):
        found = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
        if not isinstance(found, Mapping) or not all(isinstance(value, np.ndarray) for value in found.values()):
            raise ValueError(f"{file}: expected a state dict of arrays")
        return found
    raise ValueError(f"{folder}: expected weights in {' or '.join(WEIGHTS)}, got none")


def _today(arrays: Arrays) -> dict[str, np.ndarray]:
    """The arrays by the names of today."""
    table = {}
    for name, value in arrays.items():
        for old, new in _OLD.items():
            name = name.replace(old, new) if "attentions" in name else name
        table[name] = value
    return table


# Settings


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in config.items():
        if name in _FIXED:
            expected(_UNIT, name, value, _FIXED[name])
        elif not name.startswith("_") and name not in (*_READ, *_IGNORED):
            raise ValueError(f"{_UNIT}: the option {name}={str(value)[:40]} is not supported")
    given = {name: config.get(name, default) for name, default in _READ.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _levels(given: Mapping[str, Any], down: tuple[str, str], up: tuple[str, str]) -> tuple[int, ...]:
    """The levels with attention: those whose block is the second of `down`. Up and down must agree."""
    downs, ups = given["down_block_types"], tuple(reversed(given["up_block_types"]))
    for name in downs:
        expected(_UNIT, "down_block_types", name, *down)
    for name in ups:
        expected(_UNIT, "up_block_types", name, *up)
    levels = tuple(i for i, name in enumerate(downs) if name == down[1])
    if levels != tuple(i for i, name in enumerate(ups) if name == up[1]) or len(downs) != len(ups):
        raise ValueError(f"{_UNIT}: the option up_block_types must mirror down_block_types, got {list(reversed(ups))}")
    return levels


def _ddpm(given: Mapping[str, Any]) -> dict[str, Any]:
    widths = given["block_out_channels"]
    features = (bool(given["flip_sin_to_cos"]), given["freq_shift"])
    expected(_UNIT, "time_embedding_type", given["time_embedding_type"], "positional")
    expected(_UNIT, "(flip_sin_to_cos, freq_shift)", features, (False, 1), (True, 0))
    expected(_UNIT, "mid_block_scale_factor", given["mid_block_scale_factor"], 1)
    head, groups = given["attention_head_dim"], given["norm_num_groups"]
    return dict(
        nf=widths[0],
        ch_mult=tuple(width // widths[0] if width % widths[0] == 0 else width / widths[0] for width in widths),
        num_res_blocks=given["layers_per_block"],
        attn_resolutions=(),
        attn_levels=_levels(given, ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")),
        **(dict(num_heads=1) if head is None else dict(head_features=head, num_heads=0)),
        dropout=float(given["dropout"]),
        embedding="timestep" if features[0] else "positional",
        num_classes=given["num_class_embeds"] or 0,
        scale_shift=expected(_UNIT, "resnet_time_scale_shift", given["resnet_time_scale_shift"], "default",
                             "scale_shift") == "scale_shift",
        resample="conv",
        padding="after" if expected(_UNIT, "downsample_padding", given["downsample_padding"], 0, 1) == 0 else "both",
        min_group=1,
        max_groups=groups,
        norm_eps=float(given["norm_eps"]),
    )  # fmt: skip


def _ncsnpp(given: Mapping[str, Any]) -> dict[str, Any]:
    widths = given["block_out_channels"]
    levels = _levels(given, ("SkipDownBlock2D", "AttnSkipDownBlock2D"), ("SkipUpBlock2D", "AttnSkipUpBlock2D"))
    for name, value in dict(norm_num_groups=None, attention_head_dim=None, num_class_embeds=None).items():
        expected(_UNIT, name, given[name], value)
    expected(_UNIT, "time_embedding_type", given["time_embedding_type"], "fourier")
    expected(_UNIT, "mid_block_scale_factor", round(float(given["mid_block_scale_factor"]), 8), 1.41421356)
    expected(_UNIT, "norm_eps", float(given["norm_eps"]), 1e-6)
    expected(_UNIT, "resnet_time_scale_shift", given["resnet_time_scale_shift"], "default")
    if any(width % widths[0] for width in widths) or any(widths[i] < 128 for i in levels):
        raise ValueError(
            f"{_UNIT}: the option block_out_channels must be multiples of the first, and 128 or more where there is "
            f"attention (AttnSkipDownBlock2D), got {list(widths)}"
        )
    return dict(
        nf=widths[0],
        ch_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=given["layers_per_block"],
        attn_resolutions=(),
        attn_levels=levels,
        dropout=float(given["dropout"]),
        fir_taps=(1.0, 3.0, 3.0, 1.0),
        embedding="fourier",
        progressive_input="input_skip",
        progressive="output_skip",
    )


def _process(scheduler: Mapping[str, Any], skips: bool) -> dict[str, Any]:
    kind = str(scheduler.get("_class_name"))
    if skips:
        expected("scheduler_config.json", "_class_name", kind, "ScoreSdeVeScheduler")
        ends = {name: float(scheduler.get(name, value)) for name, value in (("sigma_min", 0.01), ("sigma_max", 1348.0))}
        return {
            "sde": Part("sde_lib:VE", ends | dict(t_min=0.0)),
            "parameterization": Part("sde_lib:PredictScore", dict(c_noise=Part("sde_lib:LogSigma", dict(unit=1.0)))),
            "loss": Part("sde_lib:dsm_loss", {}, bound=True),
            "time_distribution": Part("sde_lib:UniformTime"),
        }
    if kind in ("ScoreSdeVeScheduler", "ScoreSdeVpScheduler") or "Karras" in kind or "Flow" in kind:
        raise ValueError(f"scheduler_config.json: the option _class_name={kind} is not supported for this network")
    if scheduler.get("rescale_betas_zero_snr"):
        raise ValueError("scheduler_config.json: the option rescale_betas_zero_snr=True is not supported")
    steps = int(scheduler.get("num_train_timesteps", 1000))
    schedules = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
    schedule = expected("scheduler_config.json", "beta_schedule", scheduler.get("beta_schedule", "linear"), *schedules)
    predicted = {"epsilon": "PredictNoise", "sample": "PredictX0", "v_prediction": "PredictV"}
    name = expected("scheduler_config.json", "prediction_type", scheduler.get("prediction_type", "epsilon"), *predicted)
    label = Part("sde_lib:ScaledTime", dict(scale=float(steps), offset=-1.0))
    betas = dict(beta_min=float(scheduler.get("beta_start", 1e-4)), beta_max=float(scheduler.get("beta_end", 0.02)))
    if (table := scheduler.get("trained_betas")) is not None:
        process = Part("sde_lib:discrete_vp", dict(betas=tuple(map(float, table))))
    else:
        process = Part("sde_lib:discrete_vp", dict(num_steps=steps, schedule=schedules[schedule], **betas))
    return {
        "sde": process,
        "parameterization": Part(f"sde_lib:{predicted[name]}", dict(c_noise=label)),
        "loss": Part("sde_lib:dsm_loss", dict(reduce=Part("sde_lib:mean", {}, bound=True)), bound=True),
        "time_distribution": Part("sde_lib:GridTime", dict(num_steps=steps)),
    }


# Leaves: their modules in the order in which the network applies them


def _ddpm_leaves(arrays: Arrays, given: Mapping[str, Any]) -> list[Leaf]:
    table: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if name == "class_embedding.weight":
            value = np.concatenate([value, np.zeros_like(value[:1])])
        table[name] = value
    for name in [name for name in table if ".to_q." in name]:
        names = [name.replace(".to_q.", f".to_{kind}.") for kind in "qkv"]
        if not set(names) <= set(table):
            raise ValueError(f"expected to_q, to_k and to_v, got {name} without the others")
        kinds = [table.pop(each) for each in names]
        heads = _heads(len(kinds[0]), given["attention_head_dim"])
        by_head = np.stack([kind.reshape(heads, -1, *kind.shape[1:]) for kind in kinds], axis=1)
        table[name.replace(".to_q.", ".qkv.")] = by_head.reshape(-1, *kinds[0].shape[1:])
    modules = [
        Module("time_embedding.linear_1", "Dense"),
        Module("time_embedding.linear_2", "Dense"),
        Module("class_embedding", "Conditioning", {"": "Embed_0"}),
        Module("conv_in", "Conv"),
    ]
    levels, layers = len(given["block_out_channels"]), given["layers_per_block"]
    for level in range(levels):
        modules += [_block(table, f"down_blocks.{level}", i) for i in range(layers)]
        modules.append(Module(f"down_blocks.{level}.downsamplers.0.conv", "Conv"))
    modules += [_block(table, "mid_block", 0), _block(table, "mid_block", 1)]
    for level in range(levels):
        modules += [_block(table, f"up_blocks.{level}", i) for i in range(layers + 1)]
        if level < levels - 1:
            modules.append(Module(f"up_blocks.{level}.upsamplers.0", "ConvUpsample", {"conv": "Conv_0"}))
    modules = [
        module for module in modules if "downsamplers" not in module.theirs or f"{module.theirs}.weight" in table
    ]
    modules += [Module("conv_norm_out", "GroupNorm"), Module("conv_out", "Conv")]
    return leaves_of(table, modules)


def _heads(channels: int, head: int | None) -> int:
    return 1 if head is None else max(1, channels // head)


def _block(table: Arrays, section: str, number: int) -> Module:
    """A residual block, with the attention that follows it if there is one."""
    parts = {f"resnets.{number}.{part}": ours for part, ours in _RESNET.items()}
    attention = f"attentions.{number}"
    if f"{section}.{attention}.group_norm.weight" in table:
        inside = {"group_norm": "GroupNorm_0", "qkv": "Dense_0", "to_out.0": "Dense_1"}
        parts |= {f"{attention}.{part}": f"HeadsAttention_0/{ours}" for part, ours in inside.items()}
    return Module(section, "ADMBlock", parts)


def _ncsnpp_leaves(arrays: Arrays, given: Mapping[str, Any]) -> list[Leaf]:
    attention = {
        "group_norm": "GroupNorm_0",
        "to_q": "Dense_0",
        "to_k": "Dense_1",
        "to_v": "Dense_2",
        "to_out.0": "Dense_3",
    }

    def blocks(section: str, resnets: int, attentions: int) -> list[Module]:
        made = []
        for i in range(resnets):
            made.append(Module(f"{section}.resnets.{i}", "ResidualBlock", _RESNET))
            if i < attentions and f"{section}.attentions.{i}.group_norm.weight" in arrays:
                made.append(Module(f"{section}.attentions.{i}", "AttentionBlock", attention))
        return made

    levels, layers = len(given["block_out_channels"]), given["layers_per_block"]
    modules = [
        Module("time_proj.weight", "GaussianFourierProjection", {"": "W"}),
        Module("time_embedding.linear_1", "Dense"),
        Module("time_embedding.linear_2", "Dense"),
        Module("conv_in", "Conv"),
    ]
    for level in range(levels):
        modules += blocks(f"down_blocks.{level}", layers, layers)
        if level < levels - 1:
            modules.append(Module(f"down_blocks.{level}.resnet_down", "ResidualBlock", _RESNET))
            modules.append(Module(f"down_blocks.{level}.skip_conv", "Combine", {"": "Conv_0"}))
    modules += blocks("mid_block", 2, 1)
    for level in range(levels):
        name = f"up_blocks.{level}"
        modules += [Module(f"{name}.resnets.{i}", "ResidualBlock", _RESNET) for i in range(layers + 1)]
        if f"{name}.attentions.0.group_norm.weight" in arrays:
            modules.append(Module(f"{name}.attentions.0", "AttentionBlock", attention))
        if level < levels - 1:
            modules += [Module(f"{name}.skip_norm", "GroupNorm"), Module(f"{name}.skip_conv", "Conv")]
            modules.append(Module(f"{name}.resnet_up", "ResidualBlock", _RESNET))
    modules += [Module("conv_norm_out", "GroupNorm"), Module("conv_out", "Conv")]
    return leaves_of(arrays, modules)
