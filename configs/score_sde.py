"""All experiments of score_sde (Song et al. 2021, arXiv:2011.13456) by name: data, process, network and changes.

    python main.py --config=configs/score_sde.py:cifar10_ddpmpp_vp --workdir=runs/ddpmpp
    score-sde --config=score_sde:cifar10_ddpmpp_vp --workdir=runs/ddpmpp

A name is DATA_NETWORK_PROCESS. `_discrete` means the objective on a table of noise levels, as in NCSN and DDPM; `deep`
means twice the number of blocks. `configs/published.py` has the shared parts and the conventions. FIDs are those of the
paper's table 3; none has been measured with this code. docs/experiments.md lists sizes and differences.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from config_lib.spec import ConfigError, bind
from configs.published import (
    annealed,
    celeba,
    cifar10,
    ddpm,
    ddpm_256,
    ddpmpp,
    discrete_ve,
    discrete_vp,
    large,
    ncsn,
    ncsnpp,
    ncsnpp_256,
    ncsnpp_1024,
    ncsnv2,
    published_fid,
    subvp,
    ve,
    vp,
)  # fmt: skip
from sde_lib import mean
from sde_lib.solvers import ReverseDiffusion


class Published(NamedTuple):
    """One experiment: a description, its file under score_sde's configs/, and functions that build it here.

    `process` returns a config with data and process, `network` the network's section. `fid` is that of table 3;
    `changes` maps keys of the config to their values.
    """

    what: str
    source: str
    process: Callable[[], ConfigDict]
    network: Callable[[], ConfigDict]
    fid: float | None = None
    changes: Mapping[str, Any] = MappingProxyType({})


EXPERIMENTS = {
    "cifar10_ncsnpp_ve": Published(
        "CIFAR-10, NCSN++ with the continuous VE process",
        "ve/cifar10_ncsnpp_continuous",
        lambda: ve(cifar10()),
        lambda: ncsnpp(embedding="fourier"),
        fid=2.38,
    ),
    "cifar10_ncsnpp_ve_discrete": Published(
        "CIFAR-10, NCSN++ with VE on a table of 1,000 noise levels",
        "ve/cifar10_ncsnpp",
        lambda: discrete_ve(cifar10()),
        ncsnpp,
        fid=2.45,
    ),
    "cifar10_ncsnpp_vp": Published(
        "CIFAR-10, NCSN++ with the continuous VP process",
        "vp/cifar10_ncsnpp_continuous",
        lambda: vp(cifar10()),
        ncsnpp,
    ),
    "cifar10_ncsnpp_vp_discrete": Published(
        "CIFAR-10, NCSN++ with DDPM's 1,000 noise levels",
        "vp/cifar10_ncsnpp",
        lambda: discrete_vp(cifar10(), predictor=ReverseDiffusion()),
        ncsnpp,
    ),
    "cifar10_ncsnpp_subvp": Published(
        "CIFAR-10, NCSN++ with the continuous sub-VP process",
        "subvp/cifar10_ncsnpp_continuous",
        lambda: subvp(cifar10()),
        ncsnpp,
    ),
    "cifar10_ncsnpp_deep_ve": Published(
        "CIFAR-10, NCSN++ of twice the depth with the continuous VE process",
        "ve/cifar10_ncsnpp_deep_continuous",
        lambda: ve(cifar10()),
        lambda: ncsnpp(embedding="fourier", num_res_blocks=8),
        fid=2.2,
        changes={"training.num_steps": 950_000},
    ),
    "cifar10_ncsnpp_deep_vp": Published(
        "CIFAR-10, NCSN++ of twice the depth with the continuous VP process",
        "vp/cifar10_ncsnpp_deep_continuous",
        lambda: vp(cifar10()),
        lambda: ncsnpp(num_res_blocks=8),
        changes={"training.num_steps": 950_000},
    ),
    "cifar10_ncsnpp_deep_subvp": Published(
        "CIFAR-10, NCSN++ of twice the depth with the continuous sub-VP process",
        "subvp/cifar10_ncsnpp_deep_continuous",
        lambda: subvp(cifar10()),
        lambda: ncsnpp(num_res_blocks=8),
        changes={"training.num_steps": 950_000},
    ),
    "cifar10_ddpmpp_vp": Published(
        "CIFAR-10, DDPM++ with the continuous VP process",
        "vp/cifar10_ddpmpp_continuous",
        lambda: vp(cifar10()),
        ddpmpp,
        fid=2.55,
    ),
    "cifar10_ddpmpp_vp_discrete": Published(
        "CIFAR-10, DDPM++ with DDPM's 1,000 noise levels",
        "vp/cifar10_ddpmpp",
        lambda: discrete_vp(cifar10()),
        ddpmpp,
        fid=2.78,
    ),
    "cifar10_ddpmpp_subvp": Published(
        "CIFAR-10, DDPM++ with the continuous sub-VP process",
        "subvp/cifar10_ddpmpp_continuous",
        lambda: subvp(cifar10()),
        ddpmpp,
        fid=2.61,
    ),
    "cifar10_ddpmpp_deep_vp": Published(
        "CIFAR-10, DDPM++ of twice the depth with the continuous VP process",
        "vp/cifar10_ddpmpp_deep_continuous",
        lambda: vp(cifar10()),
        lambda: ddpmpp(num_res_blocks=8),
        fid=2.41,
        changes={"training.num_steps": 950_000},
    ),
    "cifar10_ddpmpp_deep_subvp": Published(
        "CIFAR-10, DDPM++ of twice the depth with the continuous sub-VP process",
        "subvp/cifar10_ddpmpp_deep_continuous",
        lambda: subvp(cifar10()),
        lambda: ddpmpp(num_res_blocks=8),
        fid=2.41,
        changes={"training.num_steps": 950_000},
    ),
    "cifar10_ddpm_vp": Published(
        "CIFAR-10, DDPM's network with the continuous VP process",
        "vp/ddpm/cifar10_continuous",
        lambda: vp(cifar10()),
        ddpm,
    ),
    "cifar10_ddpm_subvp": Published(
        "CIFAR-10, DDPM's network with the continuous sub-VP process",
        "subvp/cifar10_ddpm_continuous",
        lambda: subvp(cifar10()),
        ddpm,
    ),
    "cifar10_ddpm_vp_discrete": Published(
        "CIFAR-10, DDPM (Ho et al. 2020, arXiv:2006.11239)",
        "vp/ddpm/cifar10",
        lambda: discrete_vp(cifar10()),
        ddpm,
        fid=3.24,
    ),
    "cifar10_ddpm_ve_discrete": Published(
        "CIFAR-10, DDPM's network with VE on a table of 1,000 noise levels",
        "ve/cifar10_ddpm",
        lambda: discrete_ve(cifar10()),
        ddpm,
    ),
    "cifar10_ddpm_unconditional_vp_discrete": Published(
        "CIFAR-10, DDPM whose network is not conditioned on the noise level (technique 3 of Song & Ermon 2020)",
        "vp/ddpm/cifar10_unconditional",
        lambda: discrete_vp(cifar10()),
        lambda: ddpm(noise_conditional=False),
    ),
    "celeba_ncsnpp_ve_discrete": Published(
        "CelebA at 64², NCSN++ with VE on a table of 1,000 noise levels",
        "ve/celeba_ncsnpp",
        lambda: discrete_ve(celeba(), sigma_max=90.0, snr=0.17),
        ncsnpp,
    ),
    "bedroom_ncsnpp_ve": Published(
        "LSUN bedroom at 256², NCSN++ with the continuous VE process",
        "ve/bedroom_ncsnpp_continuous",
        lambda: ve(large("data/lsun/bedroom", 256), sigma_max=378.0, num_steps=2000, snr=0.075),
        ncsnpp_256,
    ),
    "church_ncsnpp_ve": Published(
        "LSUN church at 256², NCSN++ with the continuous VE process",
        "ve/church_ncsnpp_continuous",
        lambda: ve(large("data/lsun/church_outdoor", 256), sigma_max=380.0, num_steps=2000, snr=0.075),
        ncsnpp_256,
    ),
    "celebahq_256_ncsnpp_ve": Published(
        "CelebA-HQ at 256², NCSN++ with the continuous VE process",
        "ve/celebahq_256_ncsnpp_continuous",
        lambda: ve(large("data/celebahq-r08.tfrecords", 256), sigma_max=348.0, num_steps=2000, snr=0.075),
        ncsnpp_256,
    ),
    "ffhq_256_ncsnpp_ve": Published(
        "FFHQ at 256², NCSN++ with the continuous VE process",
        "ve/ffhq_256_ncsnpp_continuous",
        lambda: ve(large("data/ffhq-r08.tfrecords", 256), sigma_max=348.0, num_steps=2000, snr=0.075),
        ncsnpp_256,
    ),
    "celebahq_1024_ncsnpp_ve": Published(
        "CelebA-HQ at 1024², NCSN++ with the continuous VE process",
        "ve/celebahq_ncsnpp_continuous",
        lambda: ve(
            large("data/celebahq-r10.tfrecords", 1024, batch_size=8), sigma_max=1348.0, num_steps=2000, snr=0.15
        ),
        ncsnpp_1024,
        changes={"training.ema": 0.9999},
    ),
    "ffhq_1024_ncsnpp_ve": Published(
        "FFHQ at 1024², NCSN++ with the continuous VE process",
        "ve/ffhq_ncsnpp_continuous",
        lambda: ve(large("data/ffhq-r10.tfrecords", 1024, batch_size=8), sigma_max=1348.0, num_steps=2000, snr=0.15),
        ncsnpp_1024,
        changes={"training.ema": 0.9999, "loss.reduce": bind(mean)},
    ),
    "bedroom_ddpm_vp_discrete": Published(
        "LSUN bedroom at 256², DDPM",
        "vp/ddpm/bedroom",
        lambda: discrete_vp(large("data/lsun/bedroom", 256)),
        ddpm_256,
        changes={"optimizer.learning_rate": 2e-5},
    ),
    "church_ddpm_vp_discrete": Published(
        "LSUN church at 256², DDPM",
        "vp/ddpm/church",
        lambda: discrete_vp(large("data/lsun/church_outdoor", 256)),
        ddpm_256,
        changes={"optimizer.learning_rate": 2e-5},
    ),
    "celebahq_256_ddpm_vp_discrete": Published(
        "CelebA-HQ at 256², DDPM",
        "vp/ddpm/celebahq",
        lambda: discrete_vp(large("data/celebahq-r08.tfrecords", 256)),
        ddpm_256,
        changes={"optimizer.learning_rate": 2e-5},
    ),
    "cifar10_ncsn": Published(
        "CIFAR-10, NCSN (Song & Ermon 2019)",
        "ve/ncsn/cifar10",
        lambda: annealed(cifar10(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True),
        lambda: ncsn(10),
        changes={"training.ema": 0.0},
    ),
    "cifar10_ncsn_5": Published(
        "CIFAR-10, NCSN with technique 5 of Song & Ermon 2020: averaging",
        "ve/ncsn/cifar10_5",
        lambda: annealed(cifar10(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True),
        lambda: ncsn(10),
    ),
    "cifar10_ncsn_124": Published(
        "CIFAR-10, NCSN with techniques 1, 2 and 4 of Song & Ermon 2020: noise levels and steps",
        "ve/ncsn/cifar10_124",
        lambda: annealed(cifar10(), sigma_max=50.0, num_scales=232, steps=5, snr=0.176, plain=True),
        lambda: ncsn(232),
        changes={"training.ema": 0.0},
    ),
    "cifar10_ncsn_1245": Published(
        "CIFAR-10, NCSN with techniques 1, 2, 4 and 5 of Song & Ermon 2020: noise levels, steps and averaging",
        "ve/ncsn/cifar10_1245",
        lambda: annealed(cifar10(), sigma_max=50.0, num_scales=232, steps=5, snr=0.176, plain=True),
        lambda: ncsn(232),
    ),
    "celeba_ncsn": Published(
        "CelebA at 64², NCSN (Song & Ermon 2019)",
        "ve/ncsn/celeba",
        lambda: annealed(celeba(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True),
        lambda: ncsn(10),
        changes={"training.ema": 0.0},
    ),
    "celeba_ncsn_5": Published(
        "CelebA at 64², NCSN with technique 5 of Song & Ermon 2020: averaging",
        "ve/ncsn/celeba_5",
        lambda: annealed(celeba(), sigma_max=1.0, num_scales=10, steps=100, snr=0.316, plain=True),
        lambda: ncsn(10),
    ),
    "celeba_ncsn_124": Published(
        "CelebA at 64², NCSN with techniques 1, 2 and 4 of Song & Ermon 2020: noise levels and steps",
        "ve/ncsn/celeba_124",
        lambda: annealed(celeba(), sigma_max=90.0, num_scales=500, steps=5, snr=0.128, plain=True),
        lambda: ncsn(500),
        changes={"training.ema": 0.0},
    ),
    "celeba_ncsn_1245": Published(
        "CelebA at 64², NCSN with techniques 1, 2, 4 and 5 of Song & Ermon 2020: noise levels, steps and averaging",
        "ve/ncsn/celeba_1245",
        lambda: annealed(celeba(), sigma_max=90.0, num_scales=500, steps=5, snr=0.128, plain=True),
        lambda: ncsn(500),
    ),
    "cifar10_ncsnv2": Published(
        "CIFAR-10, NCSNv2 (Song & Ermon 2020)",
        "ve/ncsnv2/cifar10",
        lambda: annealed(cifar10(), sigma_max=50.0, num_scales=232, steps=5, snr=0.176),
        lambda: ncsnv2(32),
    ),
    "celeba_ncsnv2": Published(
        "CelebA at 64², NCSNv2 (Song & Ermon 2020)",
        "ve/ncsnv2/celeba",
        lambda: annealed(celeba(), sigma_max=90.0, num_scales=500, steps=5, snr=0.128),
        lambda: ncsnv2(64),
    ),
    "bedroom_ncsnv2": Published(
        "LSUN bedroom at 128², NCSNv2 (Song & Ermon 2020)",
        "ve/ncsnv2/bedroom",
        lambda: annealed(
            large("data/lsun/bedroom", 128, batch_size=128), sigma_max=190.0, num_scales=1086, steps=3, snr=0.095
        ),
        lambda: ncsnv2(128),
        changes={"training.ema": 0.9999},
    ),
}
NAMES = tuple(EXPERIMENTS)


def get_config(name: str = "") -> ConfigDict:
    """The config of an experiment by name. ConfigError, with all names, for an unknown one."""
    if name not in EXPERIMENTS:
        raise ConfigError(f"no experiment {name!r}: expected configs/score_sde.py:NAME with one of {', '.join(NAMES)}")
    experiment = EXPERIMENTS[name]
    config = experiment.process()
    config.network = experiment.network()
    for key, value in experiment.changes.items():
        section, _, last = key.rpartition(".")
        getattr(config, section)[last] = value
    return config if experiment.fid is None else published_fid(config, experiment.fid)
