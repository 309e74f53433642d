"""Configs of earlier versions: their names and sections as those of today.

A saved config names the shortest package that exports an object (`sde_lib:VP`), so that files can move. Configs of
version 0.1 named the module that an object was defined in (`sde_lib.processes:VP`), and some objects had other names;
`current_name` gives today's name for each.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

# Module of version 0.1: (package that exports them, the names that a config may hold).
MOVED = {
    "data_lib.archives": ("data_lib", "from_cifar from_idx from_svhn"),
    "data_lib.arrays": ("data_lib", "from_arrays from_npz"),
    "data_lib.batches": ("data_lib", "Batches Waits as_grain eval_batches prefetch"),
    "data_lib.describe": ("data_lib", "Description describe shared_examples"),
    "data_lib.digits": ("data_lib", "digits"),
    "data_lib.images": ("data_lib", "from_folder read_image"),
    "data_lib.sequences": ("data_lib", "alphabet_of from_audio from_text text_of"),
    "data_lib.sources": ("data_lib", "ArraySource Dataset Source gather"),
    "data_lib.splits": ("data_lib", "split"),
    "data_lib.tfds_source": ("data_lib", "tfds_dataset"),
    "data_lib.tfrecord": ("data_lib", "from_tfrecord"),
    "data_lib.toys": ("data_lib", "checkerboard gaussians moons swirl"),
    "data_lib.transform": ("data_lib", "Identity Scale Standardize Transform fitting"),
    "eval_lib.expected": ("eval_lib", "Expected markdown"),
    "eval_lib.extrapolate": ("eval_lib", "frechet_infinity"),
    "eval_lib.features": ("eval_lib", "ClassifierFeatures DINOv2Features InceptionFeatures RawFeatures"),
    "eval_lib.frechet": ("eval_lib", "frechet_distance moments"),
    "eval_lib.inception_score": ("eval_lib", "inception_score"),
    "eval_lib.kernel": ("eval_lib", "kernel_distance squared_mmd"),
    "eval_lib.metrics": ("eval_lib", "classifier_score coverage fid fid_infinity fidelity kid"),
    "eval_lib.neighbours": ("eval_lib", "density_coverage precision_recall"),
    "eval_lib.network": ("eval_lib", "NetworkFeatures Seen"),
    "eval_lib.report": ("eval_lib", "markdown small_image_report"),
    "models.adm": ("models", "ADM"),
    "models.dit": ("models", "DiT"),
    "models.mlp": ("models", "MLP"),
    "models.ncsn": ("models", "NCSN NCSNv2 ncsnv2_levels"),
    "models.ncsnpp": ("models", "NCSNpp"),
    "models.network": ("models", "FunctionNetwork LinenNetwork Network NnxNetwork as_network"),
    "sde_lib.adaptive": ("sde_lib", "AdaptiveSDE ProbabilityFlowODE brownian_path redrawn"),
    "sde_lib.augmentation": ("sde_lib", "Augmentation"),
    "sde_lib.bits": ("sde_lib", "Elbo bits_per_dim elbo nats_to_bits"),
    "sde_lib.check": ("sde_lib", "check_sde"),
    "sde_lib.check.report": ("sde_lib", "SDECheckError"),
    "sde_lib.dequantisation": ("sde_lib", "Dequantiser fit_dequantiser"),
    "sde_lib.divergence": ("sde_lib", "Exact HutchPlusPlus Hutchinson"),
    "sde_lib.exact": ("sde_lib", "GaussianMixture gaussian"),
    "sde_lib.grids": ("sde_lib", "TabulatedGrid optimised_grid"),
    "sde_lib.guidance": ("sde_lib", "classifier_free classifier_guided"),
    "sde_lib.integrate": ("sde_lib", "Adaptive Fixed"),
    "sde_lib.likelihood": ("sde_lib", "Likelihood LogProb slerp"),
    "sde_lib.likelihood_training": ("sde_lib", "ImportanceLikelihoodWeight LogSNRTime"),
    "sde_lib.losses": (
        "sde_lib",
        (
            "GridTime KarrasWeight LikelihoodWeight LogNormalTime PowerTime SigmaSquared StratifiedTime "
            "UniformTime dequantise dsm_loss half_sum mean"
        ),
    ),
    "sde_lib.noise": ("sde_lib", "fold normal sample_keys"),
    "sde_lib.parameterization": (
        "sde_lib",
        (
            "Karras LogSigma Parameterization PlainScore PredictNoise PredictPathScore PredictScore PredictV "
            "PredictX0 ScaledTime eps_hat make_score_fn v_hat x0_hat"
        ),
    ),
    "sde_lib.pathwise": ("sde_lib", "PathSDE fit_prior simulate simulate_path sliced_loss transition_loss"),
    "sde_lib.processes": ("sde_lib", "CosineVP DiagonalVP EDM OrnsteinUhlenbeck StraightLine SubVP VE VP"),
    "sde_lib.quadrature": ("sde_lib", "CoefficientSDE"),
    "sde_lib.sampling": (
        "sde_lib",
        ("Grid KarrasGrid LogSNRGrid PowerGrid Sampler UniformGrid as_is last_mean sample sample_path tweedie"),
    ),
    "sde_lib.schedules": (
        "sde_lib",
        ("DiscreteVE DiscreteVP LearnedLogSNR LogSNRSDE TabulatedLogSNR discrete_ve discrete_vp"),
    ),
    "sde_lib.score_model": ("sde_lib", "ScoreModel"),
    "sde_lib.sde": ("sde_lib", "GaussianSDE SDE expand"),
    "sde_lib.solvers.base": ("sde_lib.solvers", "Solver SolverState"),
    "sde_lib.solvers.churn": ("sde_lib.solvers", "EDMHeun"),
    "sde_lib.solvers.exponential": ("sde_lib.solvers", "DPMSolver SEEDS2"),
    "sde_lib.solvers.multistep": ("sde_lib.solvers", "DEIS DPMSolverPlusPlus UniPC"),
    "sde_lib.solvers.ode": ("sde_lib.solvers", "Euler Heun"),
    "sde_lib.solvers.predictor_corrector": (
        "sde_lib.solvers",
        ("AnnealedLangevin Corrector Langevin NoCorrector PredictorCorrector"),
    ),
    "sde_lib.solvers.predictors": ("sde_lib.solvers", "Ancestral DDIM EulerMaruyama NoPredictor ReverseDiffusion"),
    "sde_lib.suggest": ("sde_lib", "suggest"),
    "sde_lib.training": ("sde_lib", "TrainState adam init_state make_eval_step make_train_step"),
    "sde_lib.transfer": ("sde_lib", "transfer_score within"),
}

# Exported name of an earlier version: its name today.
RENAMED = {
    "sde_lib:Karras": "sde_lib:EDMPreconditioning",
    "sde_lib:KarrasGrid": "sde_lib:EDMGrid",
    "sde_lib:KarrasWeight": "sde_lib:EDMWeight",
    "sde_lib:StraightLine": "sde_lib:RectifiedFlow",
    "sde_lib:Dequantiser": "sde_lib:Dequantizer",
    "sde_lib:fit_dequantiser": "sde_lib:fit_dequantizer",
    "sde_lib:dequantise": "sde_lib:dequantize",
    "sde_lib:optimised_grid": "sde_lib:optimized_grid",
    "data_lib:fitting": "data_lib:infer_transform",
}

# Today's name of a class or function: the earlier names of its parameters, and today's.
RENAMED_PARAMETERS = {
    "sde_lib.solvers:EDMHeun": {"churn": "gamma", "s_min": "S_tmin", "s_max": "S_tmax", "s_noise": "S_noise"},
}


def current_name(name: str) -> str:
    """Today's name of a class or function that a config of any version names."""
    module, _, path = name.partition(":")
    package, names = MOVED.get(module, ("", ""))
    if path.split(".")[0] in names.split():
        name = f"{package}:{path}"
    return RENAMED.get(name, name)


def current_config(values: Any) -> Any:
    """A whole config of any version, as plain values, with today's names and sections."""
    values = _renamed(values)
    if not isinstance(values, dict):
        return values
    if "licence" in values:
        values = {"license" if key == "licence" else key: value for key, value in values.items()}
    loss = values.get("loss")
    if isinstance(loss, dict) and "objective" not in values:  # until 0.1 the loss drew its own times
        times, width = loss.get("sample_time", {"call": "sde_lib:StratifiedTime"}), loss.get("bin_width", 0.0)
        rest = {key: value for key, value in loss.items() if key not in ("sample_time", "bin_width")}
        objective = {"bind": "sde_lib:ScoreMatching", "bin_width": width}
        values = values | {"loss": rest, "time_distribution": times, "objective": objective}
    return _with_test_split(values)


def _with_test_split(values: dict) -> dict:
    """What version 0.1 called "heldout" is "test": options of the data, and the split that an evaluation names."""
    for section, key in (("eval", "reference_split"), ("eval.bpd", "split")):
        values = _changed(values, section, partial(_as_test, key=key))
    return _changed(values, "data", _with_test_options)


def _as_test(section: dict, key: str) -> dict:
    return section | {key: "test"} if section.get(key) == "heldout" else section


def _with_test_options(data: dict) -> dict:
    """Of a function of data_lib: one of the user's own may have any parameters."""
    ours = str(data.get("call", "")).startswith("data_lib:")
    return {key.replace("heldout", "test"): value for key, value in data.items()} if ours else data


def _changed(values: dict, section: str, change: Callable[[dict], dict]) -> dict:
    """The values with a section, named by its dotted path, changed if it is there."""
    name, _, rest = section.partition(".")
    old = values.get(name)
    if not isinstance(old, dict):
        return values
    return values | {name: _changed(old, rest, change) if rest else change(old)}


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        named = {key: current_name(value[key]) for key in ("call", "bind") if isinstance(value.get(key), str)}
        parameters = {old: new for name in named.values() for old, new in RENAMED_PARAMETERS.get(name, {}).items()}
        return {parameters.get(key, key): _renamed(item) for key, item in value.items()} | named
    if isinstance(value, tuple | list):
        return tuple(_renamed(item) for item in value)
    return value
