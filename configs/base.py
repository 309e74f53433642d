"""The defaults that all experiments share; an experiment's file changes some of them."""

from ml_collections import ConfigDict

from config_lib.spec import Config, bind, spec
from data_lib import Scale
from sde_lib import (
    VP,
    Augmentation,
    Likelihood,
    LogSNRGrid,
    PowerGrid,
    PredictNoise,
    Sampler,
    ScaledTime,
    ScoreMatching,
    StratifiedTime,
    UniformGrid,
    adam,
    as_is,
    dsm_loss,
)
from sde_lib.posterior import MMPS
from sde_lib.solvers import DEIS, Heun, Langevin, PredictorCorrector


def base() -> ConfigDict:
    """Images in [−1, 1], VP, noise prediction; the published optimizer, schedule and samplers."""
    config = Config()
    config.seed = 42
    config.license = ""  # of the weights; recorded in the card of checkpoints
    config.initial = ""  # a work directory whose parameters (EMA) training starts from; "": drawn by the seed
    config.transform = spec(Scale, low=0.0, high=255.0)

    config.cond = ConfigDict()  # of the examples: measured on the training data and recorded (data_lib/conditions.py)

    config.sde = spec(VP)
    config.parameterization = spec(PredictNoise, c_noise=ScaledTime(scale=999.0))
    config.objective = bind(ScoreMatching)
    config.loss = bind(dsm_loss)
    config.time_distribution = spec(StratifiedTime)  # of t in training
    config.optimizer = spec(adam)

    config.augmentation = spec(Augmentation, probability=0.0)  # 0: none; else the network requires cond_dim=9

    config.training = ConfigDict()
    config.training.batch_size = 128
    config.training.num_steps = 1_300_000
    config.training.ema = 0.9999
    config.training.flip = False
    config.training.accumulate = 1  # parts in which a batch is processed, to fit into memory; see --mode=plan
    config.training.skip_nonfinite = False  # True: a step whose loss or gradient is not finite is skipped and counted
    config.training.steps_per_call = 0  # 0: one on a CPU, ten on an accelerator
    config.training.writers = ("tensorboard",)  # and "wandb", or none of them; metrics.jsonl is always written
    config.training.wandb_project = "score-sde"
    config.training.log_every = 50
    config.training.eval_every = 500
    config.training.sample_every = 10_000
    config.training.snapshot_size = 64
    config.training.checkpoint_every = 10_000
    config.training.keep_newest = 2
    config.training.keep_every = 50_000  # in this section, 0 means never
    config.training.lock()  # so that a wrong name in a config file is an error, not a new key

    config.sampling = Config()
    config.sampling.use = "fast"  # or any name below; docs/samplers.md helps to choose
    log_snr = LogSNRGrid(t_end=1e-4)  # fits every process; docs/samplers.md has the table that decided
    config.sampling.fast = spec(Sampler, solver=DEIS(order=3), grid=log_snr, num_steps=20, denoise=as_is)
    uniform = UniformGrid()  # that of the published samplers
    config.sampling.pc = spec(Sampler, solver=PredictorCorrector(), grid=uniform, num_steps=1000)
    config.sampling.ode = spec(Sampler, solver=Heun(), grid=PowerGrid(), num_steps=100)
    in_code = PredictorCorrector(corrector=Langevin(norm="batch"))  # score_sde's code corrects before it predicts
    config.sampling.published = spec(Sampler, solver=in_code, grid=uniform, num_steps=1000)
    in_print = in_code.replace(corrector_first=False)  # algorithm 1 of Song et al. 2021 predicts first
    config.sampling.paper = spec(Sampler, solver=in_print, grid=uniform, num_steps=1000)
    config.sampling.label = -1  # the class to draw, of a class-conditional network; -1: all
    config.sampling.classes = "uniform"  # or "data", in the shares of the training examples; for label=-1
    config.sampling.guidance = 1.0  # scale, for networks with cond_dropout; 0: unconditional, 1: conditional as learned
    config.sampling.guidance_each = ConfigDict()  # name of a condition → scale; replaces guidance
    config.sampling.guidance_interval = ()  # (low, high) in σ/α, the noise levels with guidance; (): all
    config.sampling.classifier = ""  # the work directory of a classifier that guides samples to their class; "": none
    config.sampling.classifier_scale = 1.0  # its gradient's scale; 1: Bayes' rule
    config.sampling.batch_size = 500  # samples per batch, and per file

    config.restore = Config()
    config.restore.method = spec(MMPS)  # or Replacement, or any score of sde_lib.posterior
    config.restore.operator = Config()  # for --task=operator, such as spec(Blur, kernel=…)

    config.eval = Config()
    config.eval.batch_size = 128
    config.eval.bpd = ConfigDict()
    config.eval.bpd.split = ""  # "test" or "train": bits per dimension of its examples; "": none
    config.eval.bpd.count = 0  # number of examples; 0: all
    config.eval.bpd.samples = 1  # importance samples of the dequantized density; more require Exact() below
    config.eval.bpd.elbo_times = 0  # draws of t for the reverse SDE's bound; 0: no bound
    config.eval.bpd.lock()
    config.eval.intervals = ConfigDict()  # of conditional samples: run_modes/intervals.py
    config.eval.intervals.examples = 0  # test examples whose conditions are used; 0: none
    config.eval.intervals.draws = 39  # samples per example
    config.eval.intervals.lock()
    config.eval.metrics = ConfigDict()  # functions of eval_lib/metrics.py by name; they require config.eval.features
    config.eval.seeds = 1  # num_samples are drawn with each; figures are means with their sd
    config.eval.reference = ""  # a file of --mode=stats; "": statistics of the split below
    config.eval.reference_split = "train"  # or "test"
    config.eval.keep_features = True  # False: constant memory, for metrics that require only moments
    config.eval.first_step = 0  # with last_step: every checkpoint between them; both 0: the newest
    config.eval.last_step = 0
    config.eval.reproduce = ConfigDict()  # the samples that --mode=reproduce draws
    config.eval.reproduce.num_samples = 1000
    config.eval.reproduce.seeds = 3
    config.eval.expected = ConfigDict()  # spec(Expected, …) by name: the figures that it compares
    config.eval.likelihood = spec(Likelihood, to_data=True)
    return config
