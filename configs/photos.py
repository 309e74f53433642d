"""Photographs of your own, of any size: a DDPM++ whose depth follows the resolution.

    python main.py --config=configs/photos.py --data=FOLDER --workdir=runs/photos
    python main.py --config=configs/photos.py --data=FOLDER --workdir=runs/photos128 --config.shape=128,128,3
    python main.py --config=configs/photos.py:small --data=FOLDER --workdir=runs/small       # minutes on a CPU
    python main.py --config=configs/photos.py:fid --workdir=runs/photos --mode=eval --data=FOLDER      # FID and KID

Images are cropped to the ratio of config.shape, resized, and mirrored left to right with probability ½ in training
(--config.training.flip=False where left and right differ, as in text). Subfolders are classes, which the network
ignores unless --config.network.num_classes is set. `small` computes on patches of 2×2 pixels with 1/8 of the
parameters, and trains in 12 minutes on two CPU cores. docs/starting.md says what to expect of it.
"""

import math

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from config_lib.spec import bind, spec
from configs.starting import (
    Choice,
    label_choice,
    noise_choices,
    starting_point,
    training_choices,
    unet,
    unet_choice,
)
from data_lib import from_folder
from eval_lib import InceptionFeatures, PyramidFeatures, fid, kid
from models.conditioning import OPTIONS, by_kind, checked_field
from models.dit import from_patches, to_patches, zero_dense
from models.layers import conv3x3, dense, noise_features

COARSEST = 8  # positions along the shorter side at the lowest resolution
ATTENTION = 16  # positions along the shorter side: resolutions up to this have attention
WORDS = ("small", "fid")


class OnPatches(nn.Module):
    """A network for [B, H/p, W/p, p² C] on images [B, H, W, C]: the pixels of p×p patches become channels.

        F(x, c_noise) = network(x, c_noise) + Σ_k g_k(c_noise) (w_k * x)          in patches                        (1)

    A field that the network is conditioned on is resized to x, and cut into patches as x is: network.cond_channels is
    p² times its channels. The `filters` convolutions w_k of 3×3 patches, with gains g_k per channel, are 0 at first.
    They learn to remove noise within some hundred steps: the best F for a stationary Gaussian process is a convolution
    at each noise level.
    """

    network: nn.Module
    patch: int
    filters: int = 4

    @property
    def num_classes(self) -> int:
        return getattr(self.network, "num_classes", 0)

    @property
    def cond_dim(self) -> int:
        return getattr(self.network, "cond_dim", 0)

    @property
    def cond_channels(self) -> int:
        """Of the field before it is cut into patches."""
        return getattr(self.network, "cond_channels", 0) // self.patch**2

    @property
    def context_dim(self) -> int:
        return getattr(self.network, "context_dim", 0)

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], c_noise: Float[Array, " B"], cond: object = None, train: bool = False
    ) -> Float[Array, "B H W C"]:
        rows = to_patches(x, self.patch)
        height, width = (-(-n // self.patch) for n in x.shape[1:3])
        patches = rows.reshape(len(x), height, width, -1)
        if self.cond_channels:
            cond = by_kind(cond, {k: n for k, o in OPTIONS.items() if (n := getattr(self, o))}, len(x), x.ndim)
            field = checked_field(cond.get("field"), x, self.cond_channels)
            cond["field"] = None if field is None else to_patches(field, self.patch).reshape(len(x), height, width, -1)
        y = self.network(patches, c_noise, cond, train)
        gains = zero_dense(
            nn.swish(dense(noise_features(c_noise, 64, "positional", 1.0), 64)), self.filters * y.shape[-1]
        )
        filtered = conv3x3(patches, self.filters * y.shape[-1]) * gains[:, None, None].astype(patches.dtype)
        y = y + filtered.reshape(*y.shape, self.filters).sum(-1)
        return from_patches(y.reshape(rows.shape), self.patch, x.shape[1:])


def photo_network(
    shape: tuple[int, ...] = (64, 64, 3),
    nf: int = 64,
    num_res_blocks: int = 2,
    dropout: float = 0.1,
    num_classes: int = 0,
    cond_dim: int = 0,
    cond_channels: int = 0,
    context_dim: int = 0,
    cond_dropout: float = 0.0,
    cond_dropout_each: float = 0.0,
    cond_null: str = "zero",
    dtype: str | None = None,
    remat: bool = False,
    patch: int = 1,
) -> nn.Module:
    """DDPM++ for images [H, W, C]: it halves the resolution while the shorter side has at least 8 positions.

    Channels are nf at full resolution and 2 nf below. Attention is where the shorter side has at most 16 positions. A
    position is a pixel, or a patch of patch×patch pixels.
    """
    options = dict(locals())
    for name in ("shape", "patch"):
        del options[name]
    shorter = -(-min(shape[:2]) // patch)
    levels = 1 + max(0, math.floor(math.log2(shorter / COARSEST)))
    attn_levels = tuple(k for k in range(levels) if shorter / 2**k <= ATTENTION)
    options["cond_channels"] = cond_channels * patch**2
    network = unet(levels, attn_levels, options)
    return network if patch == 1 else OnPatches(network, patch)


def photo_choices(config: ConfigDict, x: np.ndarray, about: dict) -> list[Choice]:
    """The noise levels, network, training and evaluation, each with its reason."""
    size = "images are cropped to its ratio and resized; another: --config.shape=128,128,3"
    if x.shape[-1] == 3 and np.array_equal(x[..., 1:], x[..., :-1]):
        size = f"all images are gray: --config.shape={x.shape[1]},{x.shape[2]},1 takes one channel"
    metric = "means of color and detail of each size, without a network; FID: --config=photos:fid"
    if "InceptionFeatures" in config.eval.features["call"]:
        metric = "the FID's network; `python -m eval_lib` downloads its weights"
    return [
        Choice("shape", size),
        *noise_choices(config, x),
        *unet_choice(config),
        *label_choice(about["classes"]),
        *training_choices(config, about["examples"]),
        Choice("training.flip", "images are mirrored with probability 1/2; False where left and right differ"),
        Choice("eval.features.call", metric),
    ]


def get_config(words: str = "") -> ConfigDict:
    """`words` are any of small and fid, joined by commas: a network for a CPU, and evaluation by FID and KID."""
    chosen = words.split(",") if words else []
    if unknown := set(chosen) - set(WORDS):
        raise ValueError(f"photos: expected any of {', '.join(WORDS)}, got {', '.join(sorted(unknown))}")
    config = starting_point((64, 64, 3), sigma_data=0.5, learning_rate=2e-4, num_steps=100_000, choices=photo_choices)
    config.data = spec(from_folder, path="photos", shape=(64, 64, 3))
    config.data.shape = config.get_oneway_ref("shape")
    config.network = spec(photo_network, shape=(64, 64, 3))
    config.network.shape = config.get_oneway_ref("shape")
    config.training.update(batch_size=64, flip=True, ema=0.9995, sample_every=2000)
    config.eval.features = spec(PyramidFeatures)
    if "small" in chosen:
        config.network.update(nf=32, num_res_blocks=1, dropout=0.0, patch=2)
        config.training.update(batch_size=16, num_steps=1500, ema=0.995, log_every=50, eval_every=500)
        config.training.update(checkpoint_every=500, sample_every=500)
        config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    if "fid" in chosen:
        config.eval.features = spec(InceptionFeatures)
        config.eval.metrics = ConfigDict({"fid": bind(fid), "kid": bind(kid)})
    return config
