"""ADM (Dhariwal & Nichol 2021, arXiv:2105.05233) and improved DDPM (Nichol & Dhariwal 2021, arXiv:2102.09672).

The files of guided-diffusion and improved-diffusion are state dicts. Their shapes give the widths, depths, levels with
attention, classes, and the way of resampling. They do not give the heads, the order of q, k and v, and the noise
schedule: those are of `configs.adm`, as command-line flags gave them there.

    time_embed.{0, 2}, label_emb            the maps of the embedding; one row for each class, none for no class
    input_blocks.I.0, .1                    a convolution, a residual block or op (stride 2); attention
    middle_block.{0, 1, 2}                  block, attention, block
    output_blocks.I.0, .1, .2               block, attention, upsampling (conv or a block)
    out.{0, 2}                              the last norm and convolution: F, and with twice the channels a variance
    a block                                 in_layers.{0, 2}, emb_layers.1, out_layers.{0, 3}, skip_connection
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from published_lib.description import Arrays, Description, Leaf, Module, Part, leaves_of
from published_lib.edm import label_rows

LICENSE = "MIT (OpenAI)"
REQUIRES = (
    "its heads, the order of q, k and v, and its noise schedule; give --config=configs/adm.py:NAME, imagenet64_cond "
    "for instance, with --config.network.num_heads=N and the like for others"
)
_BLOCK = {
    **{"in_layers.0": "GroupNorm_0", "in_layers.2": "Conv_0", "emb_layers.1": "Dense_0"},
    **{"out_layers.0": "GroupNorm_1", "out_layers.3": "Conv_1", "skip_connection": "Conv_2"},
}
_ATTENTION = {
    **{"norm": "HeadsAttention_0/GroupNorm_0", "qkv": "HeadsAttention_0/Dense_0"},
    **{"proj_out": "HeadsAttention_0/Dense_1"},
}


def is_adm(content: Any) -> bool:
    """Whether the value of a torch file is a state dict of these networks."""
    return isinstance(content, Mapping) and {"time_embed.0.weight", "input_blocks.0.0.weight"} <= content.keys()


def describe(arrays: Arrays, path: Path) -> Description:
    """The description of a state dict. ValueError for one of their other networks."""
    if "out.2.weight" not in arrays or "output_blocks.0.0.in_layers.0.weight" not in arrays:
        raise ValueError("expected a network with input, middle and output blocks; classifiers are not supported")
    if "upsampler" in path.name:
        raise ValueError("networks that enlarge images (upsampler, with low_res) are not supported")
    options, channels = _options(arrays)
    size = re.search(r"(\d+)x\1", path.name)
    return Description(
        project="ADM or improved DDPM (guided-diffusion, improved-diffusion)",
        license=LICENSE,
        sections={
            **({"shape": (int(size[1]), int(size[1]), channels)} if size else {}),
            "transform": Part("data_lib:Scale", dict(low=0.0, high=255.0)),
            "network": Part("models:ADM", options),
            "license": LICENSE,
        },
        leaves=lambda network: _leaves(arrays),
        requires_config=REQUIRES,
        missing={f"network.{name}": REQUIRES for name in ("num_heads", "head_features", "attention_order")},
        remarks=() if "label_emb.weight" not in arrays else ("its label for no class is a row of zeros: it has none",),
    )


def _options(arrays: Arrays) -> tuple[dict[str, Any], int]:
    """What the shapes say: the options of `models.ADM`, and the channels of images."""
    nf, channels = arrays["time_embed.0.weight"].shape[1], arrays["input_blocks.0.0.weight"].shape[1]
    count, out = _count(arrays, "output_blocks"), arrays["out.2.weight"].shape[0]
    ups = [i for i in range(count) if _upsampling(arrays, i)]
    levels = len(ups) + 1
    per_level = count // levels
    if out not in (channels, 2 * channels) or count != levels * per_level or count != _count(arrays, "input_blocks"):
        raise ValueError(
            f"expected {channels} or twice as many channels in the output, and as many blocks at each level; networks "
            f"that resample without parameters (conv_resample=False) are not supported"
        )
    # Level i begins at block i · per_level; its first block is a convolution, or halves the size.
    firsts = [i * per_level + 1 for i in range(levels)]
    widths = [arrays[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in firsts] if per_level > 1 else []
    if not widths or arrays["input_blocks.0.0.weight"].shape[0] != widths[0]:
        raise ValueError("expected residual blocks at each level, and as many channels in the first convolution")
    block = arrays["input_blocks.1.0.emb_layers.1.weight"]
    return dict(
        nf=nf,
        ch_mult=tuple(_ratio(width, nf) for width in widths),
        num_res_blocks=per_level - 1,
        attn_resolutions=(),
        attn_levels=tuple(i for i, first in enumerate(firsts) if f"input_blocks.{first}.1.qkv.weight" in arrays),
        emb_mult=arrays["time_embed.0.weight"].shape[0] // nf,
        num_classes=len(arrays["label_emb.weight"]) if "label_emb.weight" in arrays else 0,
        scale_shift=block.shape[0] == 2 * widths[0],
        resample="conv" if any(name.endswith(".op.weight") for name in arrays) else "block",
        learned_variance=out == 2 * channels,
        embedding="timestep", norm_eps=1e-5, min_group=1, max_groups=32, padding="both",
    ), channels  # fmt: skip


def _ratio(width: int, nf: int) -> int | float:
    return width // nf if width % nf == 0 else width / nf


def _count(arrays: Arrays, section: str) -> int:
    return len({name.split(".")[1] for name in arrays if name.startswith(f"{section}.")})


def _upsampling(arrays: Arrays, block: int) -> str:
    """The name of the module that doubles the size at the end of an output block; "" if there is none."""
    for part in (1, 2):
        name = f"output_blocks.{block}.{part}"
        if f"{name}.conv.weight" in arrays or f"{name}.in_layers.0.weight" in arrays:
            return name
    return ""


def _leaves(arrays: Arrays) -> list[Leaf]:
    table = {}
    for name, value in arrays.items():
        if name == "label_emb.weight":
            name, value = "label_emb.table.weight", label_rows(value.T)
        table[name] = value
    modules = [Module("time_embed.0", "Dense"), Module("time_embed.2", "Dense")]
    modules.append(Module("label_emb.table", "Conditioning", {"": "Embed_0"}))
    for i in range(_count(arrays, "input_blocks")):
        name = f"input_blocks.{i}"
        if f"{name}.0.in_layers.0.weight" in arrays:
            modules.append(_block(arrays, name))
        else:
            modules.append(Module(f"{name}.0.op" if f"{name}.0.op.weight" in arrays else f"{name}.0", "Conv"))
    modules += [_block(arrays, "middle_block"), Module("middle_block.2", "ADMBlock", _BLOCK)]
    for i in range(_count(arrays, "output_blocks")):
        modules.append(_block(arrays, f"output_blocks.{i}"))
        if up := _upsampling(arrays, i):
            by_block = f"{up}.in_layers.0.weight" in arrays
            modules.append(
                Module(up, "ADMBlock", _BLOCK) if by_block else Module(up, "ConvUpsample", {"conv": "Conv_0"})
            )
    modules += [Module("out.0", "GroupNorm"), Module("out.2", "Conv")]
    return leaves_of(table, modules)


def _block(arrays: Arrays, name: str) -> Module:
    """The block at `name`.0, with the attention at `name`.1 if there is one."""
    parts = {f"0.{part}": ours for part, ours in _BLOCK.items()}
    if f"{name}.1.qkv.weight" in arrays:
        parts |= {f"1.{part}": ours for part, ours in _ATTENTION.items()}
    return Module(name, "ADMBlock", parts)
