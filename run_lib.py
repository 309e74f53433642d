"""The public functions: every mode, in the order in which an experiment uses them, and `load`.

    train(config, "runs/digits")          checkpoints, resumed by the same call
    sample("runs/digits", 1000)           samples, cached and resumed
    evaluate("runs/digits")               loss, likelihood, metrics of samples, a report
    restore("runs/digits", "upscale:2", images="small", noise_std=1.0)   answers to measurements
    push("runs/digits", "owner/digits")   to the Hugging Face Hub; load("hf:owner/digits") loads it
    model = load("runs/digits")           the trained model in Python: .sample .score .log_prob .encode .decode

A work directory holds one run:

    config.json   checkpoints/   metrics.jsonl   tensorboard/   samples/   eval/

Sampling requires nothing else. Training resumes from the newest checkpoint exactly, since a batch and its noise are
functions of (seed, step). Sampling resumes too, since sample i is a function of (seed, i).
"""

# ruff: isort: skip_file
# ruff: noqa: E402
import importlib
from pathlib import Path
from typing import Any

from _score_sde_jax_guard import check_packages

check_packages(Path(__file__).parent)  # before anything of another project could be imported

# Before training
from run_modes.check import check as check
from run_modes.check import suggest as suggest
from run_modes.describe_data import describe_data as describe_data
from run_modes.plan import plan as plan

# Training
from run_modes.train import train as train
from run_modes.import_published import import_checkpoint as import_checkpoint

# A trained run
from run_modes.inspect_run import inspect as inspect
from run_modes.trained import load as load
from run_modes.trained import load_classifier as load_classifier
from run_modes.sample import sample as sample
from run_modes.restore import restore as restore
from run_modes.compare import compare as compare
from run_modes.show import show as show

from run_modes.export import export as export

# The Hugging Face Hub
from run_modes.push import push as push
from run_modes.pull import pull as pull

# Evaluation
from run_modes.evaluate import evaluate as evaluate
from run_modes.evaluate import stats as stats
from run_modes.reproduce import reproduce as reproduce

_MOVED = {
    "run_modes.card": ("card_of", "data_of"),
    "run_modes.data": ("check_data", "load_data", "log_shared"),
    "run_modes.evaluate": ("evaluate_one", "steps_to_evaluate", "write_report"),
    "run_modes.labels": ("for_network",),
    "run_modes.sample": ("require_animation", "samples_of"),
    "run_modes.train": ("prepared", "say"),
    "run_modes.trained": ("Trained", "open_trained"),
    "run_modes.training_loop": ("check_shapes",),
    "config_lib.spec": ("ConfigError", "build", "to_json"),
    "data_lib": ("Batches", "Dataset", "gather", "prefetch"),
    "eval_lib": ("Statistics",),
    "io_lib.checkpoint": ("Checkpoints",),
    "io_lib.metrics": ("MetricsLog", "NoLog", "read_metrics"),
    "io_lib.signals": ("StopRequest",),
    "sde_lib": ("ScoreModel", "check_sde"),
    "sde_lib.check": ("Report",),
    "sde_lib.check.suggest": ("Suggestion",),
}
_RENAMED = {
    "is_first": "io_lib.processes:is_main_process",
    "together": "io_lib.processes:raise_on_all",
    "Run": "run_modes.training_loop:TrainingRun",
    "build_parts": "run_modes.experiment:make_experiment",
    "make_layout": "run_modes.devices:make_devices",
    "placed": "run_modes.state:init_state_on_devices",
    "restored": "run_modes.state:restore_state",
    "suggest_parameters": "sde_lib:suggest",
}


def __getattr__(name: str) -> Any:
    """Names of version 0.1 that have moved to other modules."""
    places = {moved: f"{module}:{moved}" for module, names in _MOVED.items() for moved in names} | _RENAMED
    if name not in places:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = places[name].split(":")
    return getattr(importlib.import_module(module), attribute)
