"""python main.py --config=configs/digits.py --workdir=runs/digits --mode=train

Flags to run_lib, and nothing else; the modes are train, sample, eval, stats, data, check, suggest, import, inspect
and plan. Sampling, evaluation and inspection read the config from the work directory; stats, data, check, suggest and
plan need a config alone; import makes a work directory from a config and a published checkpoint.
"""

import sys

from absl import flags, logging

from configs.command_line import ConfigError, define_config_flag, run
from io_lib.workdir import load_config

MODES = ("train", "sample", "eval", "stats", "data", "check", "suggest", "import", "inspect", "plan")
WITHOUT_WORKDIR = ("stats", "data", "check", "suggest", "plan")

define_config_flag()
flags.DEFINE_string("workdir", None, "Directory of the run: made by training, read by the other modes.")
flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train (resumes by itself), sample or eval a run; stats of the data, for evaluations; data: what they are; "
    "check the config's SDE, suggest its parameters; "
    "import a published checkpoint; inspect: what a run's newest checkpoint holds; "
    "plan: what training takes of memory.",
)
flags.DEFINE_string("checkpoint", None, "To import: a checkpoint of score_sde (flax) or score_sde_pytorch (.pth).")
flags.DEFINE_string("out", None, "The file that --mode=stats writes, .npz, or a picture of --mode=data, .png.")
flags.DEFINE_string("eval_folder", "eval", "Where in the work directory evaluation writes.")
flags.DEFINE_string("memory", None, "To plan: what each device has, 16GiB or 500MB, if not its own limit.")
flags.DEFINE_integer("num_samples", 1000, "How many samples to draw.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the samples; training takes --config.seed.", lower_bound=0)
flags.DEFINE_boolean("animate", False, "Sampling also draws the way from noise to data: samples/animation.gif.")
FLAGS = flags.FLAGS


def saved_config():
    """The work directory's own config, for the modes that need no --config."""
    if FLAGS.workdir is None:
        raise ConfigError("--workdir=DIR is needed")
    if FLAGS.mode == "train":
        raise ConfigError("--config=FILE is needed to train, configs/digits.py for instance")
    if FLAGS.mode == "import":
        raise ConfigError("--config=FILE is needed to import: the experiment of the checkpoint")
    return load_config(FLAGS.workdir)


def main(config):
    if FLAGS.workdir is None and FLAGS.mode not in WITHOUT_WORKDIR:
        raise ConfigError("--workdir=DIR is needed")
    if (FLAGS.mode == "import") != (FLAGS.checkpoint is not None):
        raise ConfigError("--checkpoint=FILE and --mode=import go together")
    if FLAGS.mode != "data" and (FLAGS.mode == "stats") != (FLAGS.out is not None):
        raise ConfigError("--out=FILE.npz and --mode=stats go together")
    logging.set_verbosity(logging.WARNING)  # absl's own start is at INFO, where JAX reports each missing backend
    import run_lib  # here, since JAX takes seconds to import and --help and wrong flags should not
    from sde_lib import SDECheckError

    try:
        if FLAGS.mode == "train":
            run_lib.train(config, FLAGS.workdir)
        elif FLAGS.mode == "sample":
            run_lib.sample(FLAGS.workdir, FLAGS.num_samples, FLAGS.seed, config, FLAGS.animate)
        elif FLAGS.mode == "stats":
            run_lib.stats(config, FLAGS.out)
        elif FLAGS.mode == "data":
            from run_data import report

            report(config, FLAGS.out)
        elif FLAGS.mode == "check":
            run_lib.check(config)
        elif FLAGS.mode == "suggest":
            print(run_lib.suggest(config))
        elif FLAGS.mode == "import":
            from run_import import import_checkpoint

            import_checkpoint(config, FLAGS.checkpoint, FLAGS.workdir)
        elif FLAGS.mode == "inspect":
            from run_inspect import inspect

            inspect(FLAGS.workdir)
        elif FLAGS.mode == "plan":
            from run_plan import plan

            plan(config, FLAGS.memory)
        else:
            run_lib.evaluate(FLAGS.workdir, FLAGS.num_samples, FLAGS.seed, config, folder=FLAGS.eval_folder)
    except (FloatingPointError, SDECheckError, OSError) as error:
        sys.exit(f"main.py: {' '.join(str(error).split())}")


if __name__ == "__main__":
    run(main, default=saved_config)
