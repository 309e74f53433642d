"""Docstrings as Markdown: formulas typeset, other blocks as they are, public names as links."""

import re
from collections.abc import Callable, Collection
from textwrap import dedent

from formulas import formula, is_formula
from public_names import public_names, source_of

CODE = re.compile(r"(`+[^`]*`+)")
Link = Callable[[str], str | None]
"""What is in backticks → the identifier that it links to, or None."""


def to_markdown(docstring: str, link: Link) -> str:
    """The docstring's paragraphs, lists, doctests and indented blocks, in that order of the text."""
    return "\n\n".join(_convert(part, link) for part in _parts(docstring))


def _parts(docstring: str) -> list[str]:
    """Pieces between blank lines; the pieces of one list, or of one doctest, stay together."""
    return [part.strip("\n") for part in re.split(r"\n\s*\n", docstring.strip("\n")) if part.strip()]


def _convert(part: str, link: Link) -> str:
    text = dedent(part)
    if text.startswith(">>> "):
        return f"```pycon\n{text}\n```"
    if part.startswith("    "):
        return formula(text) if is_formula(text) else f"```text\n{text}\n```"
    lines = prose(text, link).split("\n")
    spaced = [
        f"\n{line}" if line.startswith("- ") and before and not before.startswith(("- ", "  ")) else line
        for before, line in zip(["", *lines], lines, strict=False)
    ]
    return "\n".join(spaced)


def prose(text: str, link: Link) -> str:
    """Signs that Markdown would interpret are escaped outside of backticks; public names within them become links."""
    pieces = CODE.split(text)
    return "".join(_linked(piece, link) if k % 2 else _escaped(piece) for k, piece in enumerate(pieces))


def _escaped(text: str) -> str:
    return re.sub(r"([*$\[]|__)", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _linked(code: str, link: Link) -> str:
    target = link(code.strip("`"))
    return f"[{code}][{target}]" if target else code


class Names:
    """The identifiers of the site's entries, and what a word in backticks refers to.

    A full path, or a file of a module, refers to itself. A single word refers to a name of the same module, else of the
    same package, else to the only one of this name; a plain word, such as `mean`, never to another package's.
    """

    def __init__(self, modules: Collection[str]):
        self.modules = frozenset(modules)
        self.paths = {name.path: name.identifier for name in public_names()}
        self.paths |= {f"{name.module}.{name.name}": name.identifier for name in public_names()}
        self.by_word: dict[str, list] = {}
        for name in public_names():
            self.by_word.setdefault(name.name, []).append(name)

    def link(self, code: str, module: str = "", local: Collection[str] = ()) -> str | None:
        """The identifier, for a word in a docstring of `module`, where the words `local` mean something else."""
        word = code.removesuffix("()")
        file = word.removesuffix(".py").replace("/", ".")
        if word.endswith(".py") and file in self.modules:
            return file
        if "." in word or word in self.modules:
            return self.paths.get(word) or (word if word in self.modules else None)
        return None if word in local else self._of_word(word, module)

    def _of_word(self, word: str, module: str) -> str | None:
        found = self.by_word.get(word, [])
        same_module = [name for name in found if name.module == module]
        same_room = [name for name in found if name.module.split(".")[0] == module.split(".")[0]]
        anywhere = found if re.search(r"[A-Z_]", word) else []
        for names in (same_module, same_room, anywhere):
            if len(names) == 1:
                return names[0].identifier
        package = module if source_of(f"{module}.__init__") else module.rpartition(".")[0]
        sibling = f"{package}.{word}"
        return sibling if package and sibling in self.modules and not found else None
