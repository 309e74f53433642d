"""What the starting points photos, signals, volume and table share: EDM's preconditioning and noise levels on VP.

σ_data, the standard deviation of the data in model space, is measured when --data is read (`configs.own_data`), and
printed. Set it, or the distribution of noise levels, as any other value: --config.parameterization.sigma_data=0.5.
T. Karras et al. 2022, arXiv:2206.00364, table 1.
"""

from ml_collections import ConfigDict

from config_lib.spec import bind, spec
from configs.base import base
from sde_lib import EDMGrid, EDMPreconditioning, EDMWeight, LogNormalTime, Sampler, adam, as_is, dsm_loss, mean
from sde_lib.solvers import Heun


def starting_point(shape: tuple[int, ...], sigma_data: float, learning_rate: float, num_steps: int) -> ConfigDict:
    """A config for events of this shape, without data and network; `sigma_data` is that before --data is read."""
    config = base()
    config.shape = shape
    config.parameterization = spec(EDMPreconditioning, sigma_data=sigma_data)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=sigma_data), reduce=mean)
    config.loss.weight.sigma_data = config.parameterization.get_oneway_ref("sigma_data")
    config.measure_sigma_data = True
    config.time_distribution = spec(LogNormalTime, mean=-1.2, std=1.2)
    config.optimizer = spec(adam, learning_rate=learning_rate, warmup_steps=200, decay_steps=0, b2=0.99)
    config.training.update(num_steps=num_steps, ema=0.999, log_every=100, eval_every=1000, keep_every=0)
    config.training.update(checkpoint_every=1000, sample_every=0)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    config.sampling.ode = spec(Sampler, solver=Heun(), grid=EDMGrid(t_end=1e-3), num_steps=18, denoise=as_is)
    config.sampling.use = "ode"
    return config
