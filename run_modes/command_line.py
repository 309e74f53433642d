"""The command line: every mode as a function of the flags.

    score-sde --config=digits --workdir=runs/digits --mode=train          installed
    python main.py --config=configs/digits.py --workdir=runs/digits       in a checkout

A new mode is a file in `run_modes` and a function here. Training, import and reproduction make a work directory from a
config; sampling, evaluation and inspection read the config from it; the other modes need only a config. Each function
imports its mode when it is called, since JAX takes seconds to import and --help should not.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict

from config_lib.command_line import ConfigError, define_config_flag, run
from config_lib.command_line import load_config as config_of_file
from io_lib import hub
from io_lib.metrics import PROJECT, WRITERS
from io_lib.workdir import CONFIG, load_config

F = flags.FLAGS
STOPPED = 75  # status of a mode that a signal stopped: the same command resumes (EX_TEMPFAIL of sysexits.h)
_OF_SAMPLER = re.compile(r"^--?config\.sampling\.(\w+)\.")
flags.disclaim_key_flags()  # so that --help lists the flags as the program's


class Mode(NamedTuple):
    """A mode: summary, function, the flags it reads in addition to --config and --workdir, and those it requires.

    A mode that makes a work directory requires --config; one that only needs a directory reads the config from it.
    """

    summary: str
    call: Callable[[ConfigDict], int | None]
    flags: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    makes_workdir: bool = False
    needs_workdir: bool = True
    needs_config: bool = True


MODES: dict[str, Mode] = {}


def mode(name: str, summary: str, **options) -> Callable:
    """Registers a function of the config as a mode; its result is the exit status."""

    def register(call: Callable) -> Callable:
        MODES[name] = Mode(summary, call, **options)
        return call

    return register


@mode("train", "trains, or resumes training", flags=("processes", "continue"), makes_workdir=True)
def train(config: ConfigDict) -> int:
    from run_modes.train import train

    base = (F.config, config_of_file(F.config)) if F.config else None
    done = train(config=config, directory=F.workdir, allow_changes=bool(F["continue"].value), base=base)
    return 0 if done else STOPPED


@mode(
    "sample", "draws samples from a run", flags=("num_samples", "seed", "animate", "step", "num_steps", "cond", "out")
)
def sample(config: ConfigDict) -> int:
    from run_modes.sample import sample

    drawn = sample(
        directory=F.workdir,
        num_samples=F.num_samples,
        seed=F.seed,
        config=with_num_steps(config, F.num_steps),
        animate=F.animate,
        step=F.step,
        cond=F.cond,
        out=F.out,
    )
    return STOPPED if drawn is None else 0


@mode("eval", "evaluates a run", flags=("num_samples", "seed", "eval_folder", "step", "num_steps"))
def evaluate(config: ConfigDict) -> int:
    from run_modes.evaluate import evaluate

    report = evaluate(
        directory=F.workdir,
        num_samples=F.num_samples or 1000,
        seed=F.seed,
        config=with_num_steps(config, F.num_steps),
        folder=F.eval_folder,
        step=F.step,
    )
    return STOPPED if report is None else 0


@mode(
    "restore",
    "draws answers to measurements: inpainting, upscaling, …; completes texts",
    flags=(
        "task",
        "text",
        "images",
        "truth",
        "mask",
        "noise_std",
        "num_samples",
        "seed",
        "out",
        "step",
        "num_steps",
        "cond",
    ),
    required=("task",),
)
def restore(config: ConfigDict) -> int:
    from run_modes.infill import infill
    from run_modes.restore import restore

    options = {"directory": F.workdir, "num_samples": F.num_samples or 4, "seed": F.seed, "out": F.out, "step": F.step}
    config = with_num_steps(config, F.num_steps)
    if F.task == "infill":
        infill(text=F.text, config=config, **options)
        return 0
    answers = restore(
        task=F.task,
        images=F.images,
        truth=F.truth,
        mask=F.mask,
        noise_std=F.noise_std,
        config=config,
        cond=F.cond,
        **options,
    )
    return STOPPED if answers is None else 0


@mode(
    "reproduce",
    "compares a run with the config's stated figures; status 1 if one is missed",
    flags=("checkpoint", "eval_folder"),
    makes_workdir=True,
)
def reproduce(config: ConfigDict) -> int:
    from run_modes.reproduce import reproduce

    reached = reproduce(config=config, directory=F.workdir, checkpoint=F.checkpoint or "", folder=F.eval_folder)
    return STOPPED if reached is None else int(not reached)


@mode(
    "stats", "computes statistics of the data, for evaluations", flags=("out",), required=("out",), needs_workdir=False
)
def stats(config: ConfigDict) -> None:
    from run_modes.evaluate import stats

    stats(config=config, out=F.out)


@mode("data", "describes the data", flags=("out",), needs_workdir=False)
def data(config: ConfigDict) -> None:
    from run_modes.describe_data import describe_data

    describe_data(config=config, out=F.out or "data.png")


@mode("check", "checks that the config's SDE is consistent", needs_workdir=False)
def check(config: ConfigDict) -> None:
    from run_modes.check import check
    from sde_lib import SDECheckError

    try:
        check(config=config)
    except SDECheckError as error:
        fail(error)


@mode("suggest", "suggests parameters of the SDE from the data", needs_workdir=False)
def suggest(config: ConfigDict) -> None:
    from run_modes.check import suggest

    print(suggest(config=config))


@mode(
    "import",
    "converts a published checkpoint into a work directory",
    flags=("checkpoint",),
    required=("checkpoint",),
    makes_workdir=True,
)
def import_published(config: ConfigDict) -> None:
    from run_modes.import_published import import_as, import_checkpoint

    import_file = import_as if F.config is None else import_checkpoint  # that of `saved_config` is the file's
    import_file(config=config, checkpoint=F.checkpoint, directory=F.workdir)


@mode(
    "export",
    "writes the EMA parameters of a run to a file of safetensors",
    flags=("out", "step"),
    required=("out",),
)
def export(config: ConfigDict) -> None:
    from run_modes.export import export

    export(directory=F.workdir, out=F.out, step=F.step)


@mode("inspect", "describes a run and one of its checkpoints", flags=("step",))
def inspect(config: ConfigDict) -> None:
    from run_modes.inspect_run import inspect

    inspect(directory=hub.local(F.workdir), step=F.step)


@mode("push", "uploads a run to the Hugging Face Hub", flags=("to", "private", "step"), required=("to",))
def push(config: ConfigDict) -> None:
    from run_modes.push import push

    push(directory=F.workdir, to=F.to, step=F.step, private=F.private)


@mode(
    "pull",
    "makes a work directory of a run on the Hugging Face Hub",
    flags=("from",),
    required=("from",),
    needs_config=False,
)
def pull(config: ConfigDict) -> None:
    from run_modes.pull import pull

    pull(source=str(F["from"].value), directory=F.workdir)


@mode(
    "compare",
    "compares runs: losses, figures of their last evaluations, and what differs in their configs",
    flags=("workdirs", "out"),
    required=("workdirs",),
    needs_workdir=False,
    needs_config=False,
)
def compare(config: ConfigDict) -> None:
    from run_modes.compare import compare

    compare(directories=F.workdirs, out=F.out or "compare.png")


@mode("list", "lists modes, flags and shipped experiments", needs_workdir=False, needs_config=False)
def list_all(config: ConfigDict) -> None:
    from run_modes.listing import listing

    listing((name, mode.summary, mode.flags) for name, mode in MODES.items())


@mode("plan", "prints the memory that training requires", flags=("memory",), needs_workdir=False)
def plan(config: ConfigDict) -> None:
    from run_modes.plan import plan

    plan(config=config, memory=F.memory)


def define_flags() -> None:
    """Defines the flags below, --config and --data."""
    define_config_flag()
    modes = "; ".join(f"{name}: {mode.summary}" for name, mode in MODES.items())
    flags.DEFINE_string("workdir", None, "Directory of the run: made by training, read by the other modes.")
    flags.DEFINE_list("workdirs", None, "Directories of runs to compare: A,B,C.")
    flags.DEFINE_enum("mode", "train", list(MODES), modes)
    flags.DEFINE_string(
        "checkpoint", None, "A published file or folder, or hf:OWNER/NAME, to import; to reproduce, of score_sde."
    )
    flags.DEFINE_string(
        "out",
        None,
        "The .npz file of stats; the .png file of data or compare; a folder of restore or sample; export: .safetensors",
    )
    flags.DEFINE_string(
        "task", None, "Restoration: inpaint, upscale:2, colorize, deblur:1, ct:30, mri, decimate:2, infill, …"
    )
    flags.DEFINE_string("text", None, "Restoration: for --task=infill, a text with gaps, [____], to fill.")
    flags.DEFINE_string("images", None, "Restoration: the measurements, an image, a folder of images, or .npy or .npz.")
    flags.DEFINE_string("truth", None, "Restoration: true examples, or test:N; without --images they are measured.")
    flags.DEFINE_string("mask", None, "Restoration: an image, white where it is known, a folder of them, or .npy.")
    flags.DEFINE_float("noise_std", None, "Restoration: deviation of the measurements' noise, in the data's units.")
    flags.DEFINE_string("eval_folder", "eval", "Folder in the work directory that evaluation writes to.")
    flags.DEFINE_string("memory", None, "For --mode=plan: memory per device, such as 16GiB, if not the device's own.")
    flags.DEFINE_string(
        "processes", None, "Training in several processes: auto in a cluster, else HOST:PORT,INDEX/COUNT."
    )
    flags.DEFINE_boolean("continue", False, "Training resumes with a changed optimizer, batch size, loss or data.")
    flags.DEFINE_integer(
        "num_samples", None, "How many samples: 1000, or the rows of --cond; restoration: 4 answers.", lower_bound=1
    )
    flags.DEFINE_string("cond", None, "Sampling: the conditions, a row for each sample, in a .npy, .npz or .csv file.")
    flags.DEFINE_integer("step", None, "The checkpoint to use, if not the newest.", lower_bound=0)
    flags.DEFINE_integer("num_steps", None, "Steps of the sampler in use, config.sampling.use.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the samples; training uses --config.seed.", lower_bound=0)
    flags.DEFINE_string("to", None, "The repository on the Hugging Face Hub to push to: OWNER/NAME.")
    flags.DEFINE_string("from", None, "The run on the Hugging Face Hub to pull: OWNER/NAME or OWNER/NAME@REVISION.")
    flags.DEFINE_boolean("private", False, "A repository that a push makes is private.")
    flags.DEFINE_boolean("compile_cache", True, "Compiled programs are cached in the user's cache folder, up to 1 GiB.")
    flags.DEFINE_boolean("animate", False, "Sampling also draws the path from noise to data: samples/animation.gif.")


def saved_config() -> ConfigDict:
    """The config of the work directory, for modes that do not require --config."""
    if not MODES[F.mode].needs_config:
        return ConfigDict()
    if F.workdir is None:
        raise ConfigError("--workdir=DIR is required")
    if F.mode != "inspect":
        hub.require_local(F.workdir)
    if F.mode == "train" and (Path(F.workdir) / CONFIG).is_file():
        config = load_config(F.workdir)  # of a run that is resumed by its directory alone
        if "training" in config:  # flags may set what runs of earlier versions lack
            config.training = ConfigDict({"writers": WRITERS, "wandb_project": PROJECT, **config.training})
        return config
    if F.mode == "import" and F.checkpoint is not None:
        from run_modes.import_published import config_of

        return config_of(F.checkpoint)
    if MODES[F.mode].makes_workdir:
        raise ConfigError(f"--config=FILE is required for --mode={F.mode}, configs/digits.py for instance")
    config = load_config(hub.local(F.workdir))
    if F.mode == "restore" and "restore" not in config:  # a run of an earlier version
        from run_modes.restore import default_section

        config.restore = default_section()
    return config


def class_names(message: str) -> str:
    """For a class that is not given by its number: the numbers of all classes, if the run's card has their names."""
    if not message.startswith("config.sampling.label="):
        return ""
    from io_lib.checkpoint import Checkpoints, DamagedError

    names = []
    if F.workdir and (Path(F.workdir) / CONFIG).is_file():
        with Checkpoints(Path(F.workdir) / "checkpoints") as checkpoints, contextlib.suppress(DamagedError):
            names = (
                checkpoints.card(checkpoints.steps()[-1])["data"].get("class_names", []) if checkpoints.steps() else []
            )
    listed = ", ".join(f"{number}: {name}" for number, name in enumerate(names[:20]))
    more = f", … ({len(names)} classes)" if len(names) > 20 else ""
    return f", the class to draw, or -1 for all{'; ' if listed else ''}{listed}{more}"


def check_flags() -> None:
    """ConfigError for a missing flag, and for a flag that the mode does not read."""
    chosen = MODES[F.mode]
    if F.workdir is None and chosen.needs_workdir:
        raise ConfigError("--workdir=DIR is required")
    if F.workdir is not None and F.mode != "inspect":
        hub.require_local(F.workdir)
    for flag in chosen.required:
        if F[flag].value is None:
            what = {"task": "NAME", "to": "OWNER/NAME", "from": "OWNER/NAME"}.get(flag, "FILE")
            raise ConfigError(f"--{flag}={what} is required for --mode={F.mode}")
    for flag in sorted({flag for mode in MODES.values() for flag in mode.flags}):
        if F[flag].present and flag not in chosen.flags:
            readers = listed([name for name, mode in MODES.items() if flag in mode.flags])
            raise ConfigError(f"--{flag} is for --mode={readers}; --mode={F.mode} does not read it")


def listed(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def with_num_steps(config: ConfigDict, num_steps: int | None) -> ConfigDict:
    """The config with this number of steps in the sampler in use. ConfigError if that chooses its steps itself."""
    use = config.sampling.use
    if num_steps is not None:
        if "num_steps" not in config.sampling[use]:
            raise ConfigError(f"--num_steps={num_steps}: config.sampling.{use} chooses its number of steps itself")
        config.sampling[use].num_steps = num_steps
    return config


def check_samplers(config: ConfigDict, arguments: Sequence[str]) -> None:
    """ConfigError for a flag that changes a sampler that is not in use: it would change nothing."""
    for name in (match[1] for match in map(_OF_SAMPLER.match, arguments) if match):
        if name in config.sampling and name != config.sampling.use:
            raise ConfigError(
                f"config.sampling.{name} is not in use: config.sampling.use is {config.sampling.use!r}. Set it to "
                f"{name!r}, or change config.sampling.{config.sampling.use}; --num_steps is for the sampler in use"
            )


def join_processes() -> None:
    """Joins the processes of --processes, which must come before any use of JAX, of a config's data too."""
    if F.processes is not None:
        check_flags()
        from io_lib.processes import join

        join(F.processes)


def dispatch(config: ConfigDict | None) -> None:
    """Runs the mode of the flags."""
    check_flags()
    assert config is not None  # `saved_config` returns one or raises
    if F.mode in ("sample", "eval", "restore"):
        check_samplers(config, sys.argv[1:])
    logging.set_verbosity(logging.WARNING)  # absl's default is INFO, where JAX reports each missing backend
    if not F.compile_cache:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)
    try:
        sys.exit(MODES[F.mode].call(config))
    except (FloatingPointError, OSError) as error:
        fail(error)


def fail(error: Exception) -> None:
    """Prints one line to stderr and exits with status 1."""
    sys.exit(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}")


def main() -> None:
    """The console script `score-sde`."""
    define_flags()
    run(dispatch, default=saved_config, explain=class_names, before_config=join_processes)
