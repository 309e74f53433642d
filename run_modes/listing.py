"""--mode=list: the modes with their flags, and the shipped experiments."""

import ast
import textwrap
from collections.abc import Callable, Iterable

from config_lib.command_line import experiment_file, shipped_names


def listing(modes: Iterable[tuple[str, str, tuple[str, ...]]], say: Callable[[str], None] = print) -> None:
    """Prints the modes, given as (name, summary, flags), and the experiments with the first sentence of their files."""
    say("Modes: --mode=NAME, with --workdir=DIR and, for a new run, --config=NAME or FILE")
    for name, summary, flags in modes:
        say(entry(name, summary))
        if flags:
            say(entry("", " ".join(f"--{flag}" for flag in flags)))
    say("\nExperiments: --config=NAME; change any value with --config.section.key=value")
    for name in shipped_names():
        docstring = ast.get_docstring(ast.parse(experiment_file(name).read_text())) or ""
        say(entry(name, docstring.split("\n\n")[0].replace("\n", " ")))


def entry(name: str, text: str, width: int = 100) -> str:
    """A name and its text, wrapped, in two columns."""
    return textwrap.fill(text, width, initial_indent=f"  {name:18s}", subsequent_indent=" " * 20)
