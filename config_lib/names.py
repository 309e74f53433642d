"""Names of classes and functions in a config: `module:qualname`, and from a name to its object.

A config may come with somebody else's checkpoint, so a name must not reach everything that Python can import. It names

1. an object that `spec` or `bind` received in this process (a class that the user's own config file defines), or one
   that `offer` received, or a class or function that the running script or notebook itself defines (`__main__`), or
2. a public class or function that one of the packages in TRUSTED itself defines. The search passes through classes,
   never through modules, and an object that a package imports from elsewhere does not count as its own.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from config_lib.old_names import current_name

# run_lib, run_modes, io_lib and the rest of flax are left out: they write and remove files, and no config needs them.
TRUSTED = ("sde_lib", "models", "data_lib", "eval_lib", "configs", "optax", "flax.linen", "diffrax")
MACHINERY = (  # modules of trusted packages that run files, start processes or write
    *("configs.own_data", "configs.spec", "data_lib.prepare", "data_lib.forms"),
    *("eval_lib.__main__", "eval_lib.inception_file", "eval_lib.statistics"),
)

_seen: dict[str, Callable] = {}
_offered: dict[str, Callable] = {}


class ConfigError(TypeError, ValueError):
    """A config that cannot be used. The message says what was expected, what was got, and where in the config."""


def name_of(target: Callable) -> str:
    """`package:qualname` of a class or function; recorded, so that `resolve` finds the object in this process.

    The package is the shortest that exports the object: `sde_lib:VP`, whichever file defines VP. For an object of a
    user's config file it is the file's name without .py. ConfigError if a name could not find the object again.
    """
    _require_nameable(target)
    module, path = target.__module__, target.__qualname__
    if inspect.ismethod(target) and isinstance(target.__self__, type):
        # A class method, perhaps inherited: name the class it is bound to.
        module, path = target.__self__.__module__, f"{target.__self__.__qualname__}.{target.__name__}"
    if trusted(module):
        name = f"{_shortest_package(module, path)}:{path}"
    else:  # the name of a config file's module is only the loader's: take the file's
        file = getattr(sys.modules.get(module), "__file__", None)
        name = f"{Path(file).stem if file else module}:{path}"
    _seen[name] = target
    return name


def offer(target: Callable) -> None:
    """Names of the user's own, in configs of any module, that end in this class's or function's name mean it."""
    _require_nameable(target)
    _offered[target.__qualname__] = target


def resolve(name: Any, where: str) -> Callable:
    """The class or function of that name. ConfigError, naming the place `where`, if there is none or it is barred."""
    if not isinstance(name, str) or name.count(":") != 1:
        raise ConfigError(f"{where}: expected 'module:name', got {name!r}")
    module, path = name.split(":")
    if not trusted(module) and path in _offered:
        return _offered[path]
    if module in _script() and (found := _of_this_script(path)) is not None:  # also if it was defined again
        return found
    if name in _seen:
        return _seen[name]
    name = current_name(name)
    module, path = name.split(":")
    if module == "__main__":
        raise ConfigError(
            f"{where} is `{name}`, defined in another script or notebook: define {path} here before this call, or pass "
            f"it, as in run_lib.load(directory, classes=[{path}])"
        )
    if not trusted(module):
        outside = "defined outside the installed packages: pass --config=FILE with the file that defines it"
        raise ConfigError(f"{where} is `{name}`, {outside}")
    if any(part.startswith("_") or not part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise ConfigError(f"{where} is `{name}`: private names are not allowed in a config")
    return _walk(module, path, f"{where} is `{name}`")


def nearest(word: str, candidates: Iterable[str]) -> str:
    """`nearest: x`, or `valid: ` and all candidates if none is similar."""
    candidates = sorted(candidates)
    found = difflib.get_close_matches(word, candidates, n=1, cutoff=0.5)
    return f"nearest: {found[0]}" if found else f"valid: {', '.join(candidates) or 'none'}"


def _script() -> tuple[str, ...]:
    """The names of the running script's module in configs: of a notebook `__main__`, of a file also its own."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return ("__main__", Path(file).stem) if file else ("__main__",)


def _of_this_script(path: str) -> Callable | None:
    """The class or function that the running script or notebook itself defines under this name."""
    found = getattr(sys.modules.get("__main__"), path, None)
    return found if callable(found) and getattr(found, "__module__", "") == "__main__" else None


def _walk(module: str, path: str, where: str) -> Callable:
    """The object at `path` in a module, through classes only."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{where}: cannot import it ({error})") from error
    *classes, last = path.split(".")
    for part in classes:
        found = getattr(found, part, None)
        if not isinstance(found, type) or not trusted(found.__module__):
            raise ConfigError(f"{where}: {part} is not a class of {module}")
    found = getattr(found, last, None)
    if not callable(found) or not trusted(getattr(found, "__module__", None) or ""):
        raise ConfigError(f"{where}: {module} defines no class or function of that name")
    return found


def trusted(module: str) -> bool:
    """Whether a config may name what this module defines."""
    return module not in MACHINERY and any(module == root or module.startswith(root + ".") for root in TRUSTED)


def _require_nameable(target: Any) -> None:
    """A name must find the same object again: no instance, lambda, partial, or function defined in a function."""
    bound_to_instance = inspect.ismethod(target) and not isinstance(target.__self__, type)
    if not callable(target) or not hasattr(target, "__qualname__") or bound_to_instance:
        raise ConfigError(f"expected a class or a function, got {type(target).__name__} {target!r}")
    if "<" in target.__qualname__:
        raise ConfigError(f"{target.__qualname__}: define it at the top level of its file, with a name of its own")


def _shortest_package(module: str, path: str) -> str:
    """The shortest trusted package that exports what `module` defines: optax._src.alias → optax."""
    parts, name = module.split("."), path.split(".")[0]
    target = getattr(sys.modules[module], name, None)
    for count in range(1, len(parts) + 1):
        package = ".".join(parts[:count])
        private = any(part.startswith("_") for part in parts[:count])
        if not private and trusted(package) and getattr(sys.modules.get(package), name, None) is target:
            return package
    raise ConfigError(f"{module}:{path} is private: no public package exports it")
