"""CIFAR-10, unconditional, NCSN++ with the continuous VE process: the published experiment at its full size.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10
    python main.py --config=configs/cifar10.py --workdir=runs/cifar10 --config.data.data_dir=DIR

Song et al. 2021, arXiv:2011.13456, table 3: FID 2.38 at 2,000 evaluations for "NCSN++ cont. (VE)" (deep: 2.20).
That figure is theirs. With this code it has not been measured, nor have hardware and time for 1.3 million steps.

CIFAR-10 is read through tensorflow-datasets, prepared beforehand in the array_record format.

Values follow the published configuration in a model space of [−1, 1], where theirs is [0, 1]: all noise levels
are twice theirs (σ from 0.02 to 100 in place of 0.01 to 50), and the network sees the same numbers.
"""

from configs.base import base
from configs.spec import bind, spec
from data_lib import tfds_dataset
from eval_lib import InceptionFeatures, classifier_score, fid, fid_infinity, fidelity, kid
from models import NCSNpp
from sde_lib import VE, LogSigma, PredictScore, Sampler, UniformTime, dsm_loss
from sde_lib.solvers import Langevin, PredictorCorrector, ReverseDiffusion


def get_config():
    config = base()
    config.shape = (32, 32, 3)
    config.data = spec(tfds_dataset, name="cifar10")
    config.training.flip = True
    config.training.ema = 0.999

    config.sde = spec(VE, sigma_min=0.02, sigma_max=100.0)
    config.parameterization = spec(PredictScore, c_noise=LogSigma(unit=2.0))
    config.loss = bind(dsm_loss, sample_time=UniformTime())
    config.network = spec(NCSNpp, embedding="fourier", fir_taps=(1.0, 3.0, 3.0, 1.0), progressive_input="residual")

    published = PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(snr=0.16, norm="batch"))
    config.sampling.use = "pc"
    config.sampling.pc = spec(Sampler, solver=published, num_steps=1000)

    config.eval.features = spec(InceptionFeatures)
    config.eval.metrics.update(
        fid=bind(fid),
        fid_infinity=bind(fid_infinity),
        kid=bind(kid),
        score=bind(classifier_score),
        fidelity=bind(fidelity),
    )
    return config
