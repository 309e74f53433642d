"""The pages of the reference: one per module of the core, one per package; their names come from `public_names`."""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from docstrings import Names, prose
from public_names import (
    PACKAGES,
    ROOT,
    Name,
    defined_in,
    docstring_of_module,
    modules_of,
    moved_names,
    old_names,
    public_names,
    source_of,
    subpackages_of,
)

CORE = ("sde", "parameterization", "losses", "sampling", "score_model", "noise", "node")
"""The order of the core's pages; a module that is not listed comes after them."""
INNER = ("processes", "solvers", "training", "likelihood", "guidance", "posterior", "particles", "check", "exact")
TITLES = {
    "run_lib": "Runs",
    "sde_lib": "All names of sde_lib",
    "sde_lib.sde": "SDEs",
    "sde_lib.losses": "Losses, weights, times",
    "sde_lib.sampling": "Samplers and grids",
    "sde_lib.score_model": "ScoreModel",
    "sde_lib.noise": "Noise and keys",
    "sde_lib.node": "PyTreeNode",
    "sde_lib.posterior": "Posterior sampling",
    "sde_lib.check": "Checks",
    "sde_lib.exact": "Exact scores",
    "models": "Networks",
    "data_lib": "Data",
    "eval_lib": "Evaluation",
    "config_lib": "Mechanism of configs",
    "io_lib": "Files of a run",
    "published_lib": "Published checkpoints",
    "configs": "Shipped configs",
}


class Page(NamedTuple):
    """A page of the reference: its title, its path on the site, its Markdown."""

    title: str
    path: str
    text: str


def title_of(module: str) -> str:
    return TITLES.get(module) or module.rpartition(".")[2].replace("_", " ").capitalize()


def _sorted(modules: tuple[str, ...], order: tuple[str, ...]) -> list[str]:
    """The modules in the given order, those that it lacks after it."""
    words = {module.rpartition(".")[2]: module for module in modules}
    return [words[word] for word in order if word in words] + [words[w] for w in words if w not in order]


def sections() -> dict[str, list[str]]:
    """Group of the navigation → the module or package of each of its pages; those of "" are in no group."""
    rooms = [package for package in PACKAGES if package not in ("run_lib", "sde_lib")]
    return {
        "": ["run_lib"],
        "The core": ["sde_lib", *_sorted(modules_of("sde_lib"), CORE)],
        "SDEs, solvers, training": _sorted(subpackages_of("sde_lib"), INNER),
        "Networks, data, files": [*rooms, "configs"],
    }


def modules_on(page: str) -> list[str]:
    """The modules whose docstring and names a page has: a package's own, and those directly in it."""
    if page == "sde_lib":
        return [page]  # each of its modules has a page
    inner = [module for module in modules_of(page) if docstring_of_module(module)]
    return [page, *sorted(inner, key=lambda module: not module.endswith(".base"))]


@functools.cache
def documented_modules() -> frozenset[str]:
    """All modules that have a heading on some page."""
    return frozenset(module for pages in sections().values() for page in pages for module in modules_on(page))


NAMES = Names(documented_modules())


def home_of(name: Name) -> str:
    """The module under whose heading a name is listed: its own, except that the modes are listed under `run_lib`."""
    return "run_lib" if name.path.startswith("run_lib.") else name.module


def page_text(page: str) -> str:
    """The page's modules, each with its docstring and then its names in the order of the source."""
    parts = [f"# {title_of(page)}"]
    for module in modules_on(page):
        parts.append(_module(module, is_page=module == page))
        parts += [_entry(name) for name in public_names() if home_of(name) == module and page != "configs"]
    if page == "sde_lib":
        parts.append(_table(name for name in public_names() if name.path.count(".") == 1))
    return "\n\n".join(parts) + "\n"


def _table(names: Iterable[Name]) -> str:
    """The names of sde_lib, each with the first paragraph of its docstring."""
    rows = [
        f"| [`{name.name}`][{name.identifier}] | {_first(name)} |" for name in names if name.path.startswith("sde_lib.")
    ]
    return "| `from sde_lib import` | is |\n|---|---|\n" + "\n".join(sorted(rows, key=str.casefold))


def _first(name: Name) -> str:
    paragraph = " ".join((name.docstring or "").split("\n\n")[0].split())
    return prose(paragraph, lambda code: None).replace("|", "\\|")


def _options(**options: object) -> str:
    return "".join(f"\n        {key}: {str(value).lower()}" for key, value in options.items())


def _module(module: str, *, is_page: bool) -> str:
    shown = {"members": False, "heading_level": 2, "show_root_toc_entry": not is_page}
    return f"::: {module}\n    options:{_options(**shown)}"


def _entry(name: Name) -> str:
    return f"::: {name.identifier}\n    options:{_options(heading_level=3)}"


def old_names_text() -> str:
    """The names of version 0.1 that still work, in one table."""
    modules = [m for package in PACKAGES for m in (package, *subpackages_of(package), *modules_of(package))]
    renamed = {f"{module}.{old}": new for module in modules for old, new in old_names(module).items()}
    moved = {f"run_lib.{old}": new for old, new in moved_names().items()}
    rows = [f"| `{old}` | {_reference(new)} |" for old, new in (renamed | moved).items()]
    lead = "These names of version 0.1 can still be imported. Use the new ones: they are the same objects."
    return f"# Names of version 0.1\n\n{lead}\n\n| name in 0.1 | now |\n|---|---|\n" + "\n".join(rows) + "\n"


def _reference(path: str) -> str:
    module, _, name = path.rpartition(".")
    target = NAMES.paths.get(f"{defined_in(module, name)}.{name}")
    return f"[`{path}`][{target}]" if target else f"`{path}`"


def reference_pages() -> dict[str, list[Page]]:
    """Group → its pages."""
    pages = {
        group: [Page(title_of(page), f"api/{page}.md", page_text(page)) for page in modules]
        for group, modules in sections().items()
    }
    pages["Networks, data, files"].append(Page("Names of version 0.1", "api/old_names.md", old_names_text()))
    return pages


def entries() -> set[str]:
    """The identifiers of all entries on the pages."""
    texts = (page.text for pages in reference_pages().values() for page in pages)
    return {found for text in texts for found in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)}


__all__ = ["NAMES", "ROOT", "Page", "documented_modules", "entries", "reference_pages", "source_of"]
