"""What the experiments have in common. A config is this, and what differs."""

from ml_collections import ConfigDict

from config_lib.spec import bind, spec
from data_lib import Scale
from sde_lib import (
    VP,
    Augmentation,
    Likelihood,
    LogSNRGrid,
    PredictNoise,
    Sampler,
    ScaledTime,
    ScoreMatching,
    StratifiedTime,
    adam,
    as_is,
    dsm_loss,
)
from sde_lib.solvers import Heun, Langevin, PredictorCorrector, UniPC


def base() -> ConfigDict:
    """Images in [−1, 1], VP, noise prediction; the published optimizer, schedule and samplers."""
    config = ConfigDict()
    config.seed = 42
    config.license = ""  # of the weights, for the card of their checkpoints
    config.transform = spec(Scale, low=0.0, high=255.0)

    config.sde = spec(VP)
    config.parameterization = spec(PredictNoise, c_noise=ScaledTime(scale=999.0))
    config.objective = bind(ScoreMatching)
    config.loss = bind(dsm_loss)
    config.time_distribution = spec(StratifiedTime)  # of t in training
    config.optimizer = spec(adam)

    config.augmentation = spec(Augmentation, probability=0.0)  # 0: none; else the network needs cond_dim=9

    config.training = ConfigDict()
    config.training.batch_size = 128
    config.training.num_steps = 1_300_000
    config.training.ema = 0.9999
    config.training.flip = False
    config.training.accumulate = 1  # parts in which a batch is seen, so as to fit into memory: --mode=plan tells
    config.training.skip_nonfinite = False  # True: a step whose loss or gradient is not finite is left out, and counted
    config.training.steps_per_call = 0  # 0: one on a CPU, ten on an accelerator
    config.training.log_every = 50
    config.training.eval_every = 500
    config.training.sample_every = 10_000
    config.training.snapshot_size = 64
    config.training.checkpoint_every = 10_000
    config.training.keep_newest = 2
    config.training.keep_every = 50_000  # 0, here and above: never

    config.sampling = ConfigDict()
    config.sampling.use = "fast"  # or any name below; docs/samplers.md says which for what
    config.sampling.fast = spec(Sampler, solver=UniPC(order=2), grid=LogSNRGrid(), num_steps=20, denoise=as_is)
    config.sampling.pc = spec(Sampler, solver=PredictorCorrector(), num_steps=1000)
    config.sampling.ode = spec(Sampler, solver=Heun(), num_steps=100)
    in_code = PredictorCorrector(corrector=Langevin(norm="batch"))  # score_sde corrects before it predicts …
    config.sampling.published = spec(Sampler, solver=in_code, num_steps=1000)
    in_print = in_code.replace(corrector_first=False)  # … and algorithm 1 of Song et al. 2021 after
    config.sampling.paper = spec(Sampler, solver=in_print, num_steps=1000)
    config.sampling.label = -1  # of a network that is told classes: the one to draw; -1: each in turn
    config.sampling.guidance = 1.0  # toward the class, for config.network.cond_dropout > 0; 0: none, 1: as learned
    config.sampling.batch_size = 500  # samples drawn together, and a file of them each

    config.eval = ConfigDict()
    config.eval.batch_size = 128
    config.eval.bpd = ConfigDict()
    config.eval.bpd.split = ""  # or "test", "train": bits per dimension of its examples
    config.eval.bpd.count = 0  # 0: all
    config.eval.bpd.samples = 1  # importance samples of the dequantized density; more need Exact() below
    config.eval.bpd.elbo_times = 0  # draws for the reverse SDE's bound; 0: none
    config.eval.metrics = ConfigDict()  # by name, functions of eval_lib/metrics.py; they need config.eval.features
    config.eval.seeds = 1  # draws of num_samples each: figures are means, and their spread
    config.eval.reference = ""  # a file of --mode=stats; "": the split below, seen anew
    config.eval.reference_split = "train"  # or "test"
    config.eval.keep_features = True  # False: constant memory, for metrics that need moments alone
    config.eval.first_step = 0  # with last_step: every checkpoint between them; both 0: the newest
    config.eval.last_step = 0
    config.eval.reproduce = ConfigDict()  # what --mode=reproduce draws
    config.eval.reproduce.num_samples = 1000
    config.eval.reproduce.seeds = 3
    config.eval.expected = ConfigDict()  # by name, spec(Expected, …): what it then compares
    config.eval.likelihood = spec(Likelihood, to_data=True)
    return config
