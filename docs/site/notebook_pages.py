"""Notebooks as Markdown pages with their stored outputs. Nothing is executed.

A Markdown cell stays as it is, a code cell becomes a code block. A cell with a tag of `LEFT_OUT` is not shown. The end
of the page links the notebook itself. Of an output, the first form is shown that is known: an image, HTML, text.
LaTeX between dollar signs becomes MathML, as on every page (`formulas`).
"""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/svg+xml": "svg"}
LEFT_OUT = {"install", "remove-cell"}
TERMINAL_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BREAKS = re.compile(r"\n\s*")
CARRIAGE = re.compile(r"[^\n]*\r(?!\n)")
"""What a progress bar wrote before it returned to the start of its line."""


def title_of(notebook: Path) -> str:
    """The first heading, else the file's name."""
    for cell in read(notebook)["cells"]:
        heading = re.search(r"^# +(.+)$", _text(cell["source"]), flags=re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return heading.group(1).strip()
    return notebook.stem


def read(notebook: Path) -> dict[str, Any]:
    return json.loads(notebook.read_text(encoding="utf-8"))


def to_page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """(Markdown, name → content of the files that it shows or links: images, and the notebook)."""
    content, files = read(notebook), {notebook.name: notebook.read_bytes()}
    language = content.get("metadata", {}).get("language_info", {}).get("name", "python")
    parts = [] if title_of(notebook) != notebook.stem else [f"# {notebook.stem}"]
    for index, cell in enumerate(content["cells"]):
        if LEFT_OUT & set(cell.get("metadata", {}).get("tags", [])):
            continue
        source = _text(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(_with_attachments(source, cell.get("attachments", {})))
        elif cell["cell_type"] == "code":
            if source:
                parts.append(f"{_fence(source)}{language}\n{source}\n{_fence(source)}")
            for place, output in enumerate(cell.get("outputs", [])):
                parts.append(_output(output, f"{notebook.stem}_{index}_{place}", files))
    parts.append(f'<div class="output"><a href="{notebook.name}" download>This page as a notebook</a></div>')
    return "\n\n".join(part for part in parts if part) + "\n", files


def _fence(source: str) -> str:
    return "`" * max(3, 1 + max(map(len, re.findall(r"`+", source)), default=0))


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _with_attachments(source: str, attachments: dict[str, dict[str, str]]) -> str:
    for name, forms in attachments.items():
        kind, data = next(iter(forms.items()))
        source = source.replace(f"attachment:{name}", f"data:{kind};base64,{_text(data)}")
    return source


def _output(output: dict[str, Any], name: str, files: dict[str, bytes]) -> str:
    """HTML of one stored output; if it is an image, that is added to `files`."""
    kind = output["output_type"]
    if kind == "stream":
        return _pre(_text(output["text"]), output.get("name", "stdout"))
    if kind == "error":
        return _pre("\n".join(output["traceback"]), "error")
    data = output.get("data", {})
    for form, suffix in IMAGES.items():
        if form in data:
            image = _text(data[form])
            files[f"{name}.{suffix}"] = image.encode() if suffix == "svg" else base64.b64decode(image)
            return f'<figure class="output" markdown="span">![output]({name}.{suffix})</figure>'
    if "text/html" in data:
        return _html(_text(data["text/html"]))
    if "text/latex" in data:
        return _text(data["text/latex"])
    return _pre(_text(data.get("text/plain", "")), "value")  # the theme has styles for "result"


def _pre(text: str, kind: str) -> str:
    text = CARRIAGE.sub("", TERMINAL_COLORS.sub("", text)).rstrip()
    escaped = html.escape(text, quote=False).replace("\n", "&#10;")  # one line: no blank line may end the element
    return f'<pre class="output {kind}"><code>{escaped}</code></pre>' if text else ""


def _html(text: str) -> str:
    """Without blank lines, which would end the block, and without scripts and styles."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL | re.IGNORECASE)
    return f'<div class="output">{BREAKS.sub(" ", text)}</div>'
