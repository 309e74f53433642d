"""The documentation site: every public name and page is on it, links resolve, and it loads nothing from elsewhere."""

import ast
import base64
import html.parser
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ROOMS = ("run_lib", "sde_lib", "models", "data_lib", "eval_lib", "config_lib", "io_lib", "published_lib", "configs")
INITS = [ROOT / "run_lib.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("__init__.py")))]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def site():
    """The modules that build the site."""
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        names = ("public_names", "api_pages", "links", "notebook_pages", "formulas", "docstrings")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(ROOT / "docs" / "site"))


def exported():
    """(place, name) of everything that an `__init__` exports, found without the code of the site."""
    for file in INITS:
        place = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        text = file.read_text()
        yield from ((place, name) for name in re.findall(r"import (\w+) as \1$", text, flags=re.MULTILINE))
        yield from ((place, name) for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", text, flags=re.MULTILINE))


def test_every_public_name_has_an_entry(site):
    entries, missing = site.api_pages.entries(), []
    known = {(name.module, name.name): name.identifier for name in site.public_names.public_names()}
    for place, name in exported():
        module = site.public_names.defined_in(place, name)
        if known.get((module, name)) not in entries:
            missing.append(f"{place}.{name}")
    assert not missing
    assert len(set(exported())) > 300


def test_a_name_is_listed_once_under_the_shortest_package(site):
    names = site.public_names.public_names()
    assert len({(name.module, name.name) for name in names}) == len(names) == len({name.path for name in names})
    paths = {name.path for name in names}
    assert {"sde_lib.VP", "sde_lib.check_sde", "sde_lib.solvers.Euler", "run_lib.load", "models.DiT"} <= paths
    assert not paths & {"sde_lib.processes.VP", "sde_lib.check.check_sde", "sde_lib.Karras", "data_lib.Waits"}
    old = site.api_pages.old_names_text()
    assert "| `sde_lib.Karras` | [`sde_lib.EDMPreconditioning`]" in old and "`run_lib.is_first`" in old


def test_every_public_name_has_a_docstring(site):
    assert not [name.path for name in site.public_names.public_names() if not name.docstring]


def test_every_module_with_numbered_equations_is_on_a_page(site):
    shown, entries = site.api_pages.documented_modules(), site.api_pages.entries()
    for room in ROOMS:
        for file in [ROOT / f"{room}.py"] if room == "run_lib" else (ROOT / room).rglob("*.py"):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
            if re.search(r" {2,}\(1\)$", docstring, flags=re.MULTILINE):
                assert module in shown and module in entries, module


def test_every_page_is_in_the_navigation(site):
    def leaves(item):
        if isinstance(item, str):
            return [item]
        return [leaf for part in (item.values() if isinstance(item, dict) else item) for leaf in leaves(part)]

    nav = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    written = [file.name for file in (ROOT / "docs").glob("*.md")]
    assert sorted(nav) == sorted([*written, *site.links.INCLUDED.values()])


def slugs(text):
    from markdown.extensions.toc import slugify

    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    plain = (re.sub(r"\]\([^)]*\)|[`*\[\]]", "", heading) for heading in headings)
    return {slugify(heading, "-") for heading in plain}


def test_links_between_pages_and_to_files_resolve(site):
    links, broken, count = site.links, [], 0
    for source in links.pages():
        for _, link in links.LINK.findall(links.prose_of(source)):
            if re.match(r"[a-z]+:", link) or (source.endswith(".ipynb") and "/" not in link and link.endswith(".png")):
                continue  # an address; a stored output
            path, _, anchor = link.partition("#")
            target = links.target_of(link, source) if path else source
            count += 1
            if target is None or (anchor and anchor not in slugs(links.text_of(target))):
                broken.append(f"{source}: {link}")
    assert not broken
    assert count > 50


def test_links_of_a_code_host_become_links_of_the_site(site):
    page = "[a](../CONTRIBUTING.md#setup), [b](../sde_lib/sde.py), [c](samplers.md), `VP`, `x`, `VP(beta_min=1)`\n"
    assert site.links.translated(page, "docs/plugs.md") == (
        "[a](contributing.md#setup), [b](files/sde_lib/sde.py.txt), [c](samplers.md), [`VP`][sde_lib.VP], `x`, "
        "`VP(beta_min=1)`\n"
    )
    assert site.links.translated("![](docs/digits.png) [](docs/runs.md)", "README.md") == "![](digits.png) [](runs.md)"
    assert site.links.translated("```\n`VP` [a](runs.md)\n```", "docs/plugs.md") == "```\n`VP` [a](runs.md)\n```"


def test_formulas_of_docstrings_are_typeset(site):
    formula, is_formula = site.formulas.formula, site.formulas.is_formula
    drift = "g²(t) = dσ²/dt − σ_ts²,   x_t = e^{−τ²h} step_size        (6)"
    assert is_formula(drift)
    assert formula(drift) == (
        '<table class="formula"><tbody><tr><td><i>g</i>²(<i>t</i>) = <i>d</i><i>σ</i>²/<i>d</i><i>t</i> − '
        '<i>σ</i><sub><i>ts</i></sub>²,<span class="quad"></span><i>x</i><sub><i>t</i></sub> = '
        '<i>e</i><sup>−<i>τ</i>²<i>h</i></sup> step_size</td><td class="equation-number">(6)</td></tr></tbody></table>'
    )
    rows = formula("Euler     x = 1    (1)\nHeun      x_s = 2  (2)")
    assert rows.count("<td>") == 4  # a column of labels, and one of formulas
    assert not is_formula("x ── conv ──► y      (1)")
    assert not is_formula("python main.py --mode=sample --workdir=DIR")
    text = site.docstrings.to_markdown(
        "A [B, *shape] `VP`, x < 1.\n\n    α = 1/σ\n\n>>> 1 + 1\n2", site.api_pages.NAMES.link
    )
    assert text.startswith("A \\[B, \\*shape] [`VP`][sde_lib.VP], x &lt; 1.\n\n<table") and text.endswith("2\n```")


def notebook(*cells):
    """Cells are Markdown, or (source, outputs); the first is one that installs the project."""
    written = [
        {"cell_type": "markdown", "metadata": {}, "source": [cell]}
        if isinstance(cell, str)
        else {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": cell[0], "outputs": cell[1]}
        for cell in cells
    ]
    install = {"cell_type": "code", "metadata": {"tags": ["install"]}, "source": "!pip install .", "outputs": []}
    return json.dumps({"cells": [install, *written], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def write_notebooks(folder):
    folder.mkdir(parents=True)
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": " 10%\r100%\n<a>\n\n`VP` [b](c.md) $d$\n"},
        {"output_type": "display_data", "data": {"image/png": PIXEL, "text/plain": "<Figure>"}, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/html": "<table>\n\n<tr><td>7</td></tr></table>"}},
    ]
    first = notebook(
        "# The SDE $x_t$\n\nSee [samplers](../docs/samplers.md), [the score](02_score.ipynb), `VP`.\n",
        "With $\\alpha(t)$:\n\n$$\n\\nabla \\log p_t(x) = -\\frac{\\varepsilon}{\\sigma} \\tag{3}\n$$\n",
        ("print('$not latex$')", outputs),
    )
    (folder / "01_sde.ipynb").write_text(first)
    (folder / "02_score.ipynb").write_text(notebook("# The score\n\nBack to [the SDE](01_sde.ipynb).", ("1 + 1", [])))


def test_notebooks_become_pages_with_their_stored_outputs(site, tmp_path):
    write_notebooks(tmp_path / "notebooks")
    page, files = site.notebook_pages.to_page(tmp_path / "notebooks" / "01_sde.ipynb")
    assert site.notebook_pages.title_of(tmp_path / "notebooks" / "02_score.ipynb") == "The score"
    assert "```python\nprint('$not latex$')\n```" in page
    assert '<pre class="output stdout"><code>100%&#10;&lt;a&gt;&#10;&#10;`VP` [b](c.md) $d$</code></pre>' in page
    assert '<div class="output"><table> <tr><td>7</td></tr></table></div>' in page
    assert "pip install" not in page and page.endswith("This page as a notebook</a></div>\n")
    assert files.keys() == {"01_sde_3_1.png", "01_sde.ipynb"} and "(01_sde_3_1.png)" in page
    assert files["01_sde_3_1.png"] == base64.b64decode(PIXEL)


def test_latex_becomes_mathml(site):
    inline = site.formulas.mathml(r'<p><span class="arithmatex">\(x_t &lt; 1\)</span></p>')
    assert "<msub><mi>x</mi><mi>t</mi></msub>" in inline and "arithmatex" not in inline
    display = site.formulas.mathml('<div class="arithmatex">\\[\n\\log p \\tag{3}\n\\]</div>')
    assert 'display="block"' in display and display.endswith('<span class="equation-number">(3)</span></div>')
    title = site.formulas.mathml_in_titles(r'<title>A \(x\)</title><span class="md-ellipsis">A \(x\)</span>\(x\)')
    assert title.startswith('<title>A x</title><span class="md-ellipsis">A <math') and title.endswith(r"\(x\)")


class Links(html.parser.HTMLParser):
    """A page's anchors, its links, and the assets that it loads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.assets = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag in ("script", "img", "link", "iframe", "source") and attributes.get("rel") not in (
            "canonical",
            "prev",
            "next",
        ):
            self.assets += [attributes[key] for key in ("src", "href", "srcset") if attributes.get(key)]
        elif tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_is_whole(site, tmp_path):
    """In a copy of the repository, with two notebooks added."""
    for name in ("docs", "benchmarks", "run_modes", *ROOMS[1:]):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (file for file in ROOT.iterdir() if file.is_file()):
        shutil.copy(file, tmp_path)
    write_notebooks(tmp_path / "notebooks")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # Material's, about itself
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    built = tmp_path / "build" / "site"

    compressed = (built / "objects.inv").read_bytes().split(b"\n", 4)[4]
    inventory = {line.split(" ")[0] for line in zlib.decompress(compressed).decode().splitlines()}
    assert not {name.identifier for name in site.public_names.public_names()} - inventory

    pages = {file: Links(file.read_text()) for file in built.rglob("*.html")}
    broken = []
    for file, page in pages.items():
        assert not [asset for asset in page.assets if re.match(r"(?:https?:)?//", asset)]
        local = [link for link in [*page.links, *page.assets] if not re.match(r"[a-z]+:|/", link)]
        for link in local if file.name != "404.html" else ():
            path, _, anchor = link.partition("#")
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{file.relative_to(built)}: {link}")
    assert not broken

    lesson = (built / "notebooks" / "01_sde.html").read_text()
    assert (
        lesson.count("<math") >= 4
        and "\\alpha" not in lesson
        and "$not latex$" in lesson
        and "`VP` [b](c.md) $d$" in lesson
    )
    assert (built / "notebooks" / "01_sde_3_1.png").is_file()
    core = (built / "api" / "sde_lib.sde.html").read_text()
    assert '<td class="equation-number">(7)</td>' in core and "t_min" in core
    assert "var __index" in (built / "search" / "search_index.js").read_text()  # for the search from file://
