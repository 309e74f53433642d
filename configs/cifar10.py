"""CIFAR-10, unconditional, NCSN++ with the continuous VE process: the published experiment at its full size.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10
    python main.py --config=configs/cifar10.py --workdir=runs/cifar10 --config.data.data_dir=DIR

Song et al. 2021, arXiv:2011.13456, table 3: FID 2.38 at 2,000 evaluations for "NCSN++ cont. (VE)" (deep: 2.20).
That figure is theirs. With this code it has not been measured, nor have hardware and time for 1.3 million steps.

CIFAR-10 is read through tensorflow-datasets, prepared beforehand in the array_record format.

Values follow the published configuration in a model space of [−1, 1], where theirs is [0, 1]: all noise levels
are twice theirs (σ from 0.02 to 100 in place of 0.01 to 50), and the network sees the same numbers.
"""

from configs import score_sde


def get_config():
    return score_sde.get_config("cifar10_ncsnpp_ve")
