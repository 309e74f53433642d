"""python main.py --config=configs/digits.py --workdir=runs/digits --mode=train

Flags to functions, and nothing else. Training, import and reproduction make a work directory from a config; sampling,
evaluation and inspection read the config from it; the other modes need a config alone.
"""

import importlib
import sys

from absl import flags, logging

from configs.command_line import ConfigError, define_config_flag, run
from io_lib.workdir import load_config

F = flags.FLAGS
# mode: what it does, and how: (module, function of it, its arguments).
MODES = {
    "train": ("resumes by itself", lambda c: ("run_lib", "train", c, F.workdir)),
    "sample": ("draws from a run", lambda c: ("run_lib", "sample", F.workdir, F.num_samples, F.seed, c, F.animate)),
    "eval": (
        "judges a run",
        lambda c: ("run_lib", "evaluate", F.workdir, F.num_samples, F.seed, c, None, None, F.eval_folder),
    ),
    "reproduce": (
        "the config's stated figures; status 1 if they are missed",
        lambda c: ("run_reproduce", "reproduce", c, F.workdir, F.checkpoint or "", None, None, F.eval_folder),
    ),
    "stats": ("of the data, for evaluations", lambda c: ("run_lib", "stats", c, F.out)),
    "data": ("says what they are", lambda c: ("run_data", "report", c, F.out or "data.png", None, F.out is not None)),
    "check": ("does the config's SDE agree with itself", lambda c: ("run_lib", "check", c)),
    "suggest": ("parameters of the SDE", lambda c: ("run_lib", "suggest", c)),
    "import": ("a published checkpoint", lambda c: ("run_import", "import_checkpoint", c, F.checkpoint, F.workdir)),
    "inspect": ("what a run's newest checkpoint holds", lambda c: ("run_inspect", "inspect", F.workdir)),
    "plan": ("what training takes of memory", lambda c: ("run_plan", "plan", c, F.memory)),
}
MAKING, WITHOUT_WORKDIR = ("train", "import", "reproduce"), ("stats", "data", "check", "suggest", "plan")

# Flags that some modes alone look at.
OF_MODES = {
    "num_samples": ("sample", "eval"),
    "seed": ("sample", "eval"),
    "animate": ("sample",),
    "eval_folder": ("eval", "reproduce"),
    "memory": ("plan",),
    "processes": ("train",),
}

define_config_flag()
flags.DEFINE_string("workdir", None, "Directory of the run: made by training, read by the other modes.")
flags.DEFINE_enum("mode", "train", list(MODES), "; ".join(f"{mode}: {what}" for mode, (what, _) in MODES.items()))
flags.DEFINE_string("checkpoint", None, "To import or reproduce: one of score_sde (flax) or score_sde_pytorch (.pth).")
flags.DEFINE_string("out", None, "The file that --mode=stats writes, .npz, or a picture of --mode=data, .png.")
flags.DEFINE_string("eval_folder", "eval", "Where in the work directory evaluation writes.")
flags.DEFINE_string("memory", None, "To plan: what each device has, 16GiB or 500MB, if not its own limit.")
flags.DEFINE_string("processes", None, "To train in several: auto in a cluster, else HOST:PORT,INDEX/COUNT.")
flags.DEFINE_integer("num_samples", 1000, "How many samples to draw.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the samples; training takes --config.seed.", lower_bound=0)
flags.DEFINE_boolean("animate", False, "Sampling also draws the way from noise to data: samples/animation.gif.")


def saved_config():
    """The work directory's own config, for the modes that need no --config."""
    if F.workdir is None:
        raise ConfigError("--workdir=DIR is needed")
    if F.mode in MAKING:
        raise ConfigError(f"--config=FILE is needed to {F.mode}, configs/digits.py for instance")
    return load_config(F.workdir)


def main(config):
    if F.workdir is None and F.mode not in WITHOUT_WORKDIR:
        raise ConfigError("--workdir=DIR is needed")
    if F.mode != "reproduce" and (F.mode == "import") != (F.checkpoint is not None):
        raise ConfigError("--checkpoint=FILE and --mode=import go together")
    if F.mode != "data" and (F.mode == "stats") != (F.out is not None):
        raise ConfigError("--out=FILE.npz and --mode=stats go together")
    for flag, modes in OF_MODES.items():
        if F[flag].present and F.mode not in modes:
            raise ConfigError(f"--{flag} is for --mode={' and '.join(modes)}; --mode={F.mode} does not look at it")
    logging.set_verbosity(logging.WARNING)  # absl's own start is at INFO, where JAX reports each missing backend
    module, function, *arguments = MODES[F.mode][1](config)
    if F.processes is not None:
        importlib.import_module("io_lib.processes").join(F.processes)
    module = importlib.import_module(module)  # here, since JAX takes seconds to import and --help should not
    from sde_lib import SDECheckError

    try:
        found = getattr(module, function)(*arguments)
    except (FloatingPointError, SDECheckError, OSError) as error:
        sys.exit(f"main.py: {' '.join(str(error).split())}")
    if F.mode == "suggest":
        print(found)
    if F.mode == "reproduce":
        sys.exit(not found)


if __name__ == "__main__":
    run(main, default=saved_config)
