"""Pages that are written for a code host, as pages of the site.

A link is relative to the page's place in the repository. It becomes a link to the file's page, or to a copy of the file
under `files/`. Public names in backticks become links to their entries, and indented formulas are typeset.
"""

import posixpath
import re
from pathlib import Path
from textwrap import dedent

import notebook_pages
from api_pages import NAMES
from docstrings import CODE
from formulas import formula, is_formula
from public_names import ROOT

INCLUDED = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "measurements.md",
}
"""Files outside docs/ that are pages of the site."""
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2 *$", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ .*$", flags=re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)")
IN_LIST = re.compile(r"(?:^|\n)(?:[-*] |\d+\. )[^\n]*(?:\n(?: +\S[^\n]*)?)*\n\n$")
OUTPUT = re.compile(r'^<(?:pre|div) class="output.*$', flags=re.MULTILINE)
PLACE = re.compile(r"\0(\d+)\0")


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def pages() -> dict[str, str]:
    """File of the repository → page of the site, for all pages that are written by hand."""
    docs = {f"docs/{file.name}": file.name for file in sorted((ROOT / "docs").glob("*.md"))}
    return docs | {f"notebooks/{file.name}": f"notebooks/{file.stem}.md" for file in notebooks()} | INCLUDED


def text_of(source: str) -> str:
    if source.endswith(".ipynb"):
        return notebook_pages.to_page(ROOT / source)[0]
    return (ROOT / source).read_text(encoding="utf-8")


def prose_of(source: str) -> str:
    """The page without code blocks and outputs."""
    return OUTPUT.sub("", FENCE.sub("", text_of(source)))


def target_of(link: str, source: str) -> str | None:
    """The file of the repository that a link in `source` leads to; None for an anchor, an address or a missing file."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    return target if (ROOT / target).is_file() else None


def place_of(target: str) -> str:
    """The path on the site of a file of the repository. Source code is copied as text, which browsers show."""
    if target in pages():
        return pages()[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    shown = target.endswith((".png", ".svg", ".jpg", ".gif", ".txt", ".json", ".pdf"))
    return f"files/{target}" if shown else f"files/{target}.txt"


def copied_files() -> dict[str, str]:
    """File → path on the site, of those that a page links to and that are neither pages nor in docs/."""
    found: dict[str, str] = {}
    for source in pages():
        for _, link in LINK.findall(prose_of(source)):
            target = target_of(link, source)
            if target and place_of(target).startswith("files/"):
                found[target] = place_of(target)
    return found


def translated(markdown: str, source: str) -> str:
    """The Markdown of the page whose file is `source`, as MkDocs needs it."""
    done: list[str] = []

    def keep(text: str) -> str:
        done.append(text)
        return f"\0{len(done) - 1}\0"

    def block(match: re.Match[str]) -> str:
        text = dedent(match.group())
        typeset = is_formula(text) and not IN_LIST.search(match.string[: match.start()])
        return keep(f"{formula(text)}\n") if typeset else match.group()

    text = FENCE.sub(lambda match: keep(match.group()), OUTPUT.sub(lambda match: keep(match.group()), markdown))
    text = LINK.sub(lambda match: keep(f"{match.group(1)}({_link(match.group(2), source)})"), text)
    text = HEADING.sub(lambda match: keep(match.group()), text)
    text = INDENTED.sub(block, text)
    text = "".join(_name(piece) if k % 2 else piece for k, piece in enumerate(CODE.split(text)))
    while PLACE.search(text):
        text = PLACE.sub(lambda match: done[int(match.group(1))], text)
    return text


def _link(link: str, source: str) -> str:
    target = target_of(link, source)
    if target is None:
        return link
    start = posixpath.dirname(pages()[source]) or "."
    return posixpath.relpath(place_of(target), start) + "".join(link.partition("#")[1:])


def _name(code: str) -> str:
    target = NAMES.link(code.strip("`"))
    return f"[{code}][{target}]" if target else code
