"""CIFAR-10, unconditional, NCSN++ with the continuous VE process: the published experiment at its full size.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10
    python main.py --config=configs/cifar10.py --workdir=runs/cifar10 --config.data.data_dir=DIR

Song et al. 2021, arXiv:2011.13456, table 3, report FID 2.38 at NFE 2,000 for "NCSN++ cont. (VE)" (deep: 2.20). Neither
this FID nor the time of 1.3 million steps has been measured with this code.

CIFAR-10 is read through tensorflow-datasets and must be prepared beforehand in the array_record format.

Values follow the published configuration, whose model space is [0, 1]. Here it is [−1, 1], so all noise levels are
twice theirs (σ from 0.02 to 100 instead of 0.01 to 50). The inputs of the network are the same numbers.
"""

from configs import score_sde


def get_config():
    return score_sde.get_config("cifar10_ncsnpp_ve")
