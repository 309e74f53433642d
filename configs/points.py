"""Points in the plane, or any small vectors: VP and a small residual network, for arrays passed to run_lib.train.

    run_lib.train(get_config(), "runs/moons", from_arrays(x))        # x float [N, 2]

This takes about half a minute on two CPU cores. On the command line, set `--config.data.path=FILE.npz`. `--mode=eval`
compares samples with training examples, and these with test examples (docs/evaluation.md), within seconds.
"""

from ml_collections import ConfigDict

from config_lib.spec import bind, spec
from configs.base import base
from data_lib import Identity, from_npz
from eval_lib import RawFeatures, c2st, energy, marginals, sliced_wasserstein
from models import MLP
from sde_lib import EDMGrid, EDMPreconditioning, EDMWeight, LogNormalTime, Sampler, adam, as_is, dsm_loss, mean
from sde_lib.solvers import Heun


def get_config():
    config = base()
    config.shape = (2,)
    config.data = spec(from_npz, path="points.npz")
    config.transform = spec(Identity)
    config.network = spec(MLP, features=128, num_layers=3)
    config.parameterization = spec(EDMPreconditioning, sigma_data=0.7)
    config.loss = bind(dsm_loss, weight=EDMWeight(sigma_data=0.7), reduce=mean)
    config.time_distribution = spec(LogNormalTime, mean=-1.2, std=1.2)
    config.optimizer = spec(adam, learning_rate=2e-3, warmup_steps=100, decay_steps=0)
    config.training.update(batch_size=512, num_steps=3000, ema=0.995, log_every=100, checkpoint_every=1000)
    config.optimizer.decay_steps = config.training.get_oneway_ref("num_steps")
    config.training.update(sample_every=0, keep_every=0)
    config.sampling.ode = spec(Sampler, solver=Heun(), grid=EDMGrid(), num_steps=32, denoise=as_is)
    config.sampling.use = "ode"
    compare_points(config)
    return config


def compare_points(config: ConfigDict) -> None:
    """Metrics for data that are no images, each with a floor, in units of each coordinate's standard deviation."""
    config.eval.features = spec(RawFeatures)
    metrics = {"sliced_wasserstein": sliced_wasserstein, "energy": energy, "c2st": c2st, "marginals": marginals}
    config.eval.metrics.update({name: bind(metric) for name, metric in metrics.items()})
