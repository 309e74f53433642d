"""Refuses to mix this project with another that has modules of the same names, as score_sde has.

1. `check_packages`: run_lib is ours, but a package of ours would be imported from another place, such as the current
   folder.
2. `install`: run_lib itself would be another project's. The wheel has a .pth file that calls it when Python starts.

Both end in an ImportError of one line. An installed copy of this module may serve a checkout, so `check_packages` keeps
its signature. Python starts with this module, so it imports only what Python has imported by then.
"""

import os
import sys

PACKAGES = (
    *("sde_lib", "models", "config_lib", "configs", "data_lib"),
    *("eval_lib", "io_lib", "published_lib", "run_modes"),
)


def check_packages(folder: str | os.PathLike) -> None:
    """ImportError unless each of our packages is imported from this folder, or would be; nothing is imported."""
    for name in PACKAGES:
        found = _place_of(name)
        if found is not None and not _same(found, os.path.join(folder, name)):
            raise ImportError(
                f"score-sde-jax in {folder} would import its package `{name}` from {found}: run Python in another "
                "folder or with -P, rename that one, or take it off PYTHONPATH"
            )


def install() -> None:
    """Puts `OwnRunLib` before Python's finders."""
    if OwnRunLib not in sys.meta_path:
        sys.meta_path.insert(0, OwnRunLib)


class OwnRunLib:
    """A finder of modules that finds none. It raises where `run_lib` would be imported from another project."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "run_lib":
            _require_own_run_lib()
        return None


def _require_own_run_lib() -> None:
    """A checkout of this project is our own too: it has run_modes/ next to run_lib.py."""
    from importlib.machinery import PathFinder

    ours, spec = os.path.dirname(os.path.abspath(__file__)), PathFinder.find_spec("run_lib")
    if spec is None or spec.origin is None or not os.path.isfile(os.path.join(ours, "run_lib.py")):
        return
    found = os.path.dirname(os.path.abspath(spec.origin))
    if not _same(found, ours) and not os.path.isfile(os.path.join(found, "run_modes", "command_line.py")):
        raise ImportError(
            f"`import run_lib` would import {spec.origin}, not score-sde-jax in {ours}: run Python in another folder "
            "or with -P; to use the other project, take an environment without score-sde-jax"
        )


def _place_of(package: str) -> str | None:
    """The folder of a package, or the file of a module, imported or not; None if there is none."""
    from importlib.util import find_spec

    module = sys.modules.get(package)
    spec = find_spec(package) if module is None and package not in sys.modules else getattr(module, "__spec__", None)
    if spec is None:
        return getattr(module, "__file__", None)
    is_package = spec.submodule_search_locations is not None
    folders = [*(spec.submodule_search_locations or ())]
    return folders[0] if is_package and folders else spec.origin


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
