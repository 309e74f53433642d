"""The site's build, as hooks of MkDocs: the reference, the notebooks, and files of the repository as pages."""

import re
from pathlib import Path

import links
import notebook_pages
from api_pages import reference_pages
from formulas import mathml, mathml_in_titles
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from public_names import ROOT

LATEX = re.compile(r"\$([^$]+)\$")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the sections of the navigation that are generated."""
    reference: list = []
    for group, pages in reference_pages().items():
        listed = [{page.title: page.path} for page in pages]
        reference += [{group: listed}] if group else listed
    lessons = [{_title(file): f"notebooks/{file.stem}.md"} for file in links.notebooks()]
    generated = {"Reference": reference, "Notebooks": lessons}
    nav: list = []
    for title, pages in (entry for section in config.nav or [] for entry in section.items()):
        listed = [*pages, *generated[title]] if title in generated else pages
        nav += [{title: listed}] if listed else []
    config.nav = nav
    return config


def _title(notebook: Path) -> str:
    return LATEX.sub(r"\\(\1\\)", notebook_pages.title_of(notebook))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not files of docs/, and the files that pages link to."""
    added: dict[str, str | bytes] = {}
    for pages in reference_pages().values():
        added |= {page.path: page.text for page in pages}
    added |= {path: links.text_of(source) for source, path in links.INCLUDED.items()}
    for notebook in links.notebooks():
        text, shown = notebook_pages.to_page(notebook)
        added |= {f"notebooks/{notebook.stem}.md": text}
        added |= {f"notebooks/{name}": content for name, content in shown.items()}
    added |= {place: (ROOT / target).read_bytes() for target, place in links.copied_files().items()}
    for path, content in added.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]
    sources = {path: source for source, path in links.pages().items()}
    source = sources.get(page.file.src_uri)
    return links.translated(markdown, source) if source else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return mathml(html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    return mathml_in_titles(output)
