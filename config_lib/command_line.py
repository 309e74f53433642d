"""From the command line to a config: `--config=FILE`, then `--config.any.key=value` for each change.

    define_config_flag()

    def main(config): ...

    if __name__ == "__main__":
        run(main)

FILE may also be the name of a shipped experiment, from any folder. An error in the flags, the file or the config is
one line on stderr and exit code 2. Nothing heavy is imported before the flags are checked.
"""

import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags, config_path

from config_lib.names import ConfigError as ConfigError
from config_lib.names import nearest
from config_lib.saved import nearest_key_message

EXPERIMENTS = "configs"

flags.disclaim_key_flags()  # so that --help lists the flag as the caller's

_OVERRIDE = re.compile(r"^--?(?:no)?config\.([^=]+)")
_LOCKED = re.compile(r'Key "(\w+)" does not exist and cannot be added since the config is locked')
_NEAR = re.compile(r'Did you mean "(\w+)"')
_ILLEGAL = re.compile(r"^flag --(config\.[^=]+=.*?): (.*)$", re.DOTALL)
_NUMBERS = {"for int()": "a whole number", "could not convert string to float": "a number"}
_DATA = re.compile(r"^--?config\.data=(.*)")
_DATA_KEY = re.compile(r"^--?(?:no)?config\.(?:data\.|shape\b)")


def define_config_flag() -> None:
    """Defines --config=FILE[:ARGUMENT] and --data=PATH|NAME.

    FILE is a Python file whose get_config([ARGUMENT]) returns the config, or the name of a shipped experiment.
    --config.data=PATH|NAME means the same as --data. --config.data.KEY=VALUE and
    --config.shape=VALUE apply before such data are read.
    """
    text = "Python file that defines get_config(), or the name of a shipped experiment. "
    flags.DEFINE_string("config", None, text + "Change any value with --config.section.key=value.")
    text = "Other data for the config: a folder, a file, or a name; configs/own_data.py lists them."
    flags.DEFINE_string("data", None, text)


def run(
    main: Callable[[ConfigDict | None], None],
    argv: Sequence[str] | None = None,
    default: Callable[[], ConfigDict | None] = lambda: None,
    explain: Callable[[str], str] = lambda message: "",
    before_config: Callable[[], None] = lambda: None,
) -> None:
    """Parses the flags and calls main(config). Without --config, the config is default(), called after parsing.

    before_config() is called between the flags and the config, whose file or data may use JAX.
    A ConfigError in main, or a FileNotFoundError in default, becomes one line on stderr and exit code 2. `explain` may
    add to the message of an error in the flags.
    """

    def guarded(config: ConfigDict | None) -> None:
        try:
            return main(config)
        except ConfigError as error:
            _fail(str(error))

    app.run(
        guarded,
        argv=None if argv is None else list(argv),
        flags_parser=lambda argv: _parse(argv, default, explain, before_config),
    )


def parse(
    argv: Sequence[str],
    default: Callable[[], ConfigDict | None] = lambda: None,
    before_config: Callable[[], None] = lambda: None,
) -> ConfigDict | None:
    """The config of --config, or default(), locked, with its overrides applied; other flags are parsed into FLAGS.

    If anything is wrong: ConfigError, FileNotFoundError or absl's flags.Error, with a message of one line.
    """
    flags.FLAGS.set_gnu_getopt(True)  # parsing continues after the value in `--config.a.b 3 --workdir=w`
    program, *rest = flags.FLAGS(list(argv), known_only=True)
    path = flags.FLAGS.config
    before_config()
    config = default() if path is None else load_config(path)
    data = [flags.FLAGS.data, *(match[1] for match in map(_DATA.match, rest) if match)][-1]
    if data is not None and config is not None:
        rest = [_today(argument) for argument in rest if not _DATA.match(argument)]
        as_trained = {}
        if path is None:  # the model of a work directory has this shape and transform
            as_trained = {key: config[key] for key in ("transform", "shape") if key in config}
        shipped("own_data").with_data(config, data, _data_overrides(rest), measure=False)
        for key, value in as_trained.items():
            del config[key]  # a section read from JSON is of another class than one that was written
            config[key] = value
    elif config is not None and not any("heldout" in key for key in config.get("data") or {}):  # a function's own
        rest = [_today(argument) for argument in rest]
    if config is None and any(_OVERRIDE.match(arg) for arg in rest):
        raise ConfigError(f"{rest[0]} changes a config, but there is none: pass --config=FILE before it")
    overridden = apply_overrides(ConfigDict() if config is None else config, rest, program)
    if path is not None and data is not None:
        shipped("own_data").choose(overridden, [match[1] for match in map(_OVERRIDE.match, rest) if match])
    return None if config is None else overridden


def _data_overrides(arguments: Sequence[str]) -> list[str]:
    """The flags --config.data.KEY=VALUE and --config.shape=VALUE among the arguments; those in two parts are joined."""
    found = []
    for argument, following in pairwise([*arguments, "--"]):
        if _DATA_KEY.match(argument):
            two_parts = "=" not in argument and not re.match("-[a-z-]", following)
            found.append(f"{argument}={following}" if two_parts else argument)
    return found


def _today(argument: str) -> str:
    """What version 0.1 called --config.data.heldout is --config.data.test."""
    key, equals, value = argument.partition("=")
    return key.replace("heldout", "test") + equals + value if _DATA_KEY.match(key) else argument


def apply_overrides(config: ConfigDict, overrides: Sequence[str], program: str = "") -> ConfigDict:
    """The config after flags such as --config.sde.beta_max=15: changed in place, and locked.

    ConfigError for an unknown key (with the nearest one), an unknown flag or a stray argument.
    """
    for key in (match[1] for match in map(_OVERRIDE.match, overrides) if match):
        try:
            config_path.get_value(key, config)
        except (KeyError, AttributeError, IndexError, TypeError, ValueError) as error:
            raise ConfigError(nearest_key_message(config, key)) from error
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=list(overrides))
    try:
        left = values([program, *overrides])[1:]
    except flags.UnrecognizedFlagError as error:
        known = nearest(error.flagname, flags.FLAGS)
        raise ConfigError(f"unknown flag --{error.flagname}; {known}") from error
    except flags.IllegalFlagValueError as error:
        raise ConfigError(_illegal(str(error))) from error
    if left:
        raise ConfigError(f"unexpected argument {left[0]!r}")
    return config


def load_config(path: str) -> ConfigDict:
    """The config of FILE[:ARGUMENT]: get_config([ARGUMENT]) of a Python file, or of a shipped experiment by its name.

    `digits` is the shipped experiment, from any folder. `digits.py` and `configs/digits.py` are paths from the current
    folder. The file may import modules next to it. ConfigError naming the file, and the line where it fails itself.
    """
    file, *argument = path.split(":", 1)
    if not Path(file).is_file() and not _is_shipped(file):
        raise ConfigError(f"--config={path}: there is no file {file}{_instead(file)}")
    try:
        with _importable(Path(file).parent):
            config = _load_module(file).get_config(*argument)
    except Exception as error:
        what = _locked(error) or f"{type(error).__name__}: {error}"
        raise ConfigError(f"--config={path}: {_place(error, file)}{what}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config={path}: get_config() must return a ConfigDict, got {type(config).__name__}")
    return config


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in the folder can be imported, unless others have the same name."""
    place = str(folder.resolve())
    sys.path.append(place)
    try:
        yield
    finally:
        sys.path.remove(place)


def shipped(name: str) -> ModuleType:
    """A module of `configs`. That package imports this one, so it is imported here only when needed.

    ConfigError if another package of that name comes first on sys.path.
    """
    found = importlib.import_module(EXPERIMENTS).__file__
    if found is None or Path(found).resolve().parent != _folder().resolve():
        raise ConfigError(f"expected the package {EXPERIMENTS} in {_folder()}, got {found}: rename that one")
    return importlib.import_module(f"{EXPERIMENTS}.{name}")


def shipped_names() -> list[str]:
    """The names of the experiments that come with the library."""
    return sorted(file.stem for file in _folder().glob("*.py") if "def get_config(" in file.read_text())


def experiment_file(name: str) -> Path:
    """The file of a shipped experiment."""
    return _folder() / f"{name}.py"


def _folder() -> Path:
    """The library's own `configs`: a user's folder of that name is another one."""
    return Path(__file__).parents[1] / EXPERIMENTS


def _is_shipped(name: str) -> bool:
    return name.isidentifier() and name in shipped_names()


def _instead(file: str) -> str:
    """The end of the message for a file that does not exist: what to write instead."""
    stem = Path(file).stem
    if stem in shipped_names():
        return f"; the shipped experiment is --config={stem}"
    if stem in shipped("score_sde").NAMES:
        return f"; it is --config=score_sde:{stem}"
    if Path(file).name != file and Path(file).parent.name != EXPERIMENTS:
        return ""
    return f"; shipped are {', '.join(shipped_names())}"


def _load_module(file: str) -> ModuleType:
    """A file in the library's `configs` is imported by name, so that a checkpoint finds its classes again."""
    if _is_shipped(file):
        return shipped(file)
    path = Path(file)
    if path.resolve().parent == _folder().resolve():
        return shipped(path.stem)
    name = f"{path.stem} (config file)"  # shadows no package; dataclasses look their module up in sys.modules
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError("expected a Python file, with the ending .py")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    module_spec.loader.exec_module(module)
    return module


def _place(error: Exception, file: str) -> str:
    """`file:line: ` of the innermost line of the config file in the error's traceback; "" if there is none."""
    frames, path = traceback.extract_tb(error.__traceback__), Path(file).resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path]
    return f"{file}:{lines[-1]}: " if lines else ""


def _locked(error: Exception) -> str:
    """The message for a key that a section of a config does not have; "" for other errors."""
    key, near = _LOCKED.search(str(error)), _NEAR.search(str(error))
    if key is None:
        return ""
    return f"unknown config key {key[1]}" + (f"; nearest: {near[1]}" if near else "")


def _illegal(message: str) -> str:
    """`config.sampling.label=flower: expected a whole number`, of absl's message for a value of the wrong type."""
    found = _ILLEGAL.match(message)
    if found is None:
        return message
    kinds = [kind for text, kind in _NUMBERS.items() if text in found[2]]
    return f"{found[1]}: expected {kinds[0]}" if kinds else f"{found[1]}: {found[2]}"


def _parse(
    argv: Sequence[str],
    default: Callable[[], ConfigDict | None],
    explain: Callable[[str], str],
    before_config: Callable[[], None],
) -> ConfigDict | None:
    try:
        return parse(argv, default, before_config)
    except (flags.Error, ConfigError, FileNotFoundError) as error:
        _fail(f"{error}{explain(str(error))}")


def _fail(message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
