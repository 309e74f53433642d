"""One HTML page from plain values: a title and sections of text, tables, charts, pictures, sounds and sliders.

The page is one file that loads nothing: pictures and sounds are data URIs. Every text is escaped where it is written,
in content and in attributes; in JSON for the script `<` is \\u003c. A Content-Security-Policy admits this module's
script and style by their SHA-256, and data URIs, and nothing else. So markup that an error let through would not run.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from io_lib.line_chart import Series, line_chart

STORED = '<script type="application/json" id="stored">'
ENLARGED = 540  # pixels


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Listing(NamedTuple):
    """Text as it is, in a font of equal widths."""

    text: str


class Table(NamedTuple):
    """Rows of cells under a head. Columns from the second on are aligned to the right if `numbers`."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False


class Chart(NamedTuple):
    """Curves over one axis (`io_lib.line_chart`)."""

    title: str
    series: Sequence[Series]
    xlabel: str
    ylabel: str


class Media(NamedTuple):
    """A picture or a sound: its type is image/… or audio/…. `path` is relative to the page, and linked."""

    title: str
    kind: str
    data: bytes
    path: str = ""


class Slider(NamedTuple):
    """Pictures of which one is shown, the last at first; a slider and a button move through them."""

    title: str
    frames: Sequence[Media]


class Links(NamedTuple):
    """A text, and the files that it is about by their paths relative to the page."""

    text: str
    paths: Sequence[str]


class Stored(NamedTuple):
    """A value of JSON's types that is not shown; `stored_in` reads it from the page."""

    value: object


class Fold(NamedTuple):
    """Parts under a title, which a click unfolds."""

    title: str
    parts: Sequence["Part"]


Part = Text | Listing | Table | Chart | Media | Slider | Links | Stored | Fold


class Section(NamedTuple):
    """A heading and its parts."""

    title: str
    parts: Sequence[Part]


def run_page(title: str, subtitle: str, figures: Sequence[tuple[str, str]], sections: Sequence[Section]) -> bytes:
    """The page in UTF-8. `figures`, pairs of a name and a value, are shown large below the title.

    Sections without parts are left out.
    """
    sections = [section for section in sections if section.parts]
    ids = [f"s{i}" for i in range(len(sections))]
    links = "".join(f'<a href="#{i}">{escape(one.title)}</a>' for i, one in zip(ids, sections, strict=True))
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
    body = "".join(
        f'<section id="{i}"><h2>{escape(one.title)}</h2>{"".join(map(html_of, one.parts))}</section>'
        for i, one in zip(ids, sections, strict=True)
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p>
{f'<dl class="figures">{tiles}</dl>' if tiles else ""}
<nav>{links}</nav></header>
<main>{body}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
    return page.encode("utf-8", "replace")  # names of files may hold bytes that are not text


def html_of(part: Part) -> str:
    """The HTML of one part."""
    return HTML[type(part)](part)


def of_text(part: Text) -> str:
    """A paragraph."""
    return f"<p>{escape(part.text)}</p>"


def of_listing(part: Listing) -> str:
    """Text whose lines and spaces are shown as they are."""
    return f"<pre>{escape(part.text)}</pre>"


def of_table(part: Table) -> str:
    """A table; its head is left out if all of its cells are empty."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in part.head)
    head = f"<thead><tr>{cells}</tr></thead>" if any(part.head) else ""
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in part.rows)
    kind = "numbers" if part.numbers else "wide"
    return f'<div class="{kind}"><table>{head}<tbody>{rows}</tbody></table></div>'


def of_chart(part: Chart) -> str:
    """Curves over a common axis, with a key."""
    svg = line_chart(part.series, part.xlabel, part.ylabel)
    keys = {
        one.name: f"{'dot' if one.style == 'points' else 'line'} c{one.color % 4}" for one in part.series if one.name
    }
    key = "".join(f'<span class="key {kind}">{escape(name)}</span>' for name, kind in keys.items())
    return f'<figure class="chart"><figcaption>{escape(part.title)} {key}</figcaption>{svg}</figure>' if svg else ""


def of_media(part: Media) -> str:
    """A picture or a sound."""
    if part.kind.startswith("audio/"):
        shown = f'<audio controls preload="metadata" src="{data_uri(part)}"></audio>'
    else:
        shown = picture(part)
    return f"<figure><figcaption>{linked(part.title, part.path)}</figcaption>{shown}</figure>"


def of_slider(part: Slider) -> str:
    """Pictures of which a slider shows one, at first the last."""
    frames, last = part.frames, len(part.frames) - 1
    if last < 0:
        return ""
    others = [{"title": one.title, "src": data_uri(one)} for one in frames[:-1]]  # the last one is in the image
    data = safe_json([*others, {"title": frames[last].title}])
    controls = (
        f'<div class="controls"><button type="button" aria-label="Play">▶</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="{escape(part.title)}">'
        f"<output>{escape(frames[last].title)}</output></div>"
    )
    store = f'<script type="application/json">{data}</script>'
    shown = f"<figcaption>{escape(part.title)}</figcaption>{picture(frames[last])}"
    return f'<figure class="slider">{shown}{controls}{store}</figure>'


def of_links(part: Links) -> str:
    """A sentence, and links to files next to the page."""
    return f'<p class="note">{escape(part.text)} {", ".join(linked(path, path) for path in part.paths)}</p>'


def of_stored(part: Stored) -> str:
    """A value that a later page reads again; nothing is shown."""
    return f"{STORED}{safe_json(part.value)}</script>"


def stored_in(page: bytes) -> object:
    """The value that the page stores, None if it stores none. No text of a page holds the markup that is looked for."""
    _, start, rest = page.decode("utf-8", "replace").partition(STORED)
    return json.loads(rest.partition("</script>")[0]) if start else None


def of_fold(part: Fold) -> str:
    """Parts below a title, folded at first."""
    inner = "".join(map(html_of, part.parts))
    return f"<details><summary>{escape(part.title)}</summary>{inner}</details>"


HTML = {
    **{Text: of_text, Listing: of_listing, Table: of_table, Chart: of_chart},
    **{Media: of_media, Slider: of_slider, Links: of_links, Stored: of_stored, Fold: of_fold},
}


def escape(text: str) -> str:
    """For content and for attributes in double quotes."""
    return html.escape(str(text), quote=True)


def safe_json(value: object) -> str:
    """JSON that cannot end the element it is in."""
    text = json.dumps(value)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def linked(title: str, path: str) -> str:
    """The title as a link to a path relative to the page; a path cannot become another scheme."""
    if not path:
        return escape(title)
    return f'<a href="./{escape(quote(path, errors="surrogateescape"))}">{escape(title)}</a>'


def picture(media: Media) -> str:
    """An image; a small PNG is enlarged by a whole number to at most ENLARGED pixels, with sharp pixels."""
    png = media.data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(media.data[i : i + 4]) if png else 0 for i in (16, 20))
    scale = ENLARGED // max(width, height, 1)
    large = f' class="sharp" width="{width * scale}"' if png and scale > 1 else ""
    return f'<img src="{data_uri(media)}" alt="{escape(media.title)}"{large}>'


def data_uri(media: Media) -> str:
    """The content itself as an address."""
    return f"data:{escape(media.kind)};base64,{base64.b64encode(media.data).decode()}"


STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1c2430; --soft: #5c6675; --line: #dfe3e8;
  --accent: #2563eb; --c0: #2563eb; --c1: #d9622b; --c2: #16856b; --c3: #8a4bbf; }
@media (prefers-color-scheme: dark) {
  :root { --back: #12161c; --card: #1a2029; --text: #e4e8ee; --soft: #98a3b3; --line: #2e3743;
    --accent: #7aa7ff; --c0: #7aa7ff; --c1: #f4935f; --c2: #4fc7a6; --c3: #c596ee; } }
* { box-sizing: border-box; }
body { margin: 0; overflow-wrap: anywhere; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
header, main { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; }
header p { margin: 6px 0 0; color: var(--soft); }
h2 { margin: 0 0 14px; font-size: 1.15rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 20px 0; font-size: .92rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin: 20px 0 0; }
.figures div, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.figures div { padding: 10px 16px 12px; }
dt { color: var(--soft); font-size: .84rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
section { margin: 0 0 20px; padding: 18px 20px 20px; display: grid; gap: 14px 24px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
section > * { min-width: 0; }
h2, p, .wide, details, pre { grid-column: 1 / -1; margin-top: 0; margin-bottom: 0; }
td:first-child { overflow-wrap: break-word; }
.wide, .numbers { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; width: 100%; }
th, td { padding: 5px 18px 5px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
td { font-variant-numeric: tabular-nums; }
.numbers :is(th, td):not(:first-child) { text-align: right; }
.numbers :is(td:not(:first-child), th:nth-child(2)) { white-space: nowrap; }
:is(th, td):last-child { padding-right: 0; }
pre { font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  background: var(--back); border-radius: 8px; padding: 12px 14px; max-height: 30rem; overflow: auto; }
summary { cursor: pointer; color: var(--accent); }
details > :not(summary) { margin-top: 12px; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .92rem; margin-bottom: 8px; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: #fff; }
.sharp { image-rendering: pixelated; }
audio { width: 100%; }
.controls { display: flex; align-items: center; gap: 12px; max-width: 500px; margin-top: 10px; }
.controls input { flex: 1; min-width: 0; accent-color: var(--accent); }
.controls output { min-width: 6.5em; text-align: right; font-variant-numeric: tabular-nums; }
.controls button { border: 1px solid var(--line); border-radius: 6px; background: var(--back); color: var(--text);
  width: 2.2em; height: 2.2em; font: inherit; line-height: 1; cursor: pointer; }
.note { color: var(--soft); font-size: .9rem; }
.chart { max-width: 620px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: var(--soft); }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; } .faint { opacity: .35; stroke-width: 1; }
.bar { stroke-width: 1.5; }
.c0 { --own: var(--c0); } .c1 { --own: var(--c1); } .c2 { --own: var(--c2); } .c3 { --own: var(--c3); }
polyline, .bar { stroke: var(--own); } .dot { fill: var(--own); }
.key { margin-left: 12px; white-space: nowrap; color: var(--text); }
.key::before { content: ""; display: inline-block; background: var(--own); width: 16px; height: 3px;
  margin-right: 6px; vertical-align: middle; border-radius: 3px; }
.key.dot::before { width: 8px; height: 8px; border-radius: 50%; }
"""

SCRIPT = """
for (const figure of document.querySelectorAll(".slider")) {
  const frames = JSON.parse(figure.querySelector("script").textContent);
  const [image, range, output, button] = ["img", "input", "output", "button"].map((name) => figure.querySelector(name));
  frames[frames.length - 1].src = image.src;
  let timer = null;
  const show = () => {
    const frame = frames[range.value];
    image.src = frame.src;
    image.alt = output.textContent = frame.title;
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "\\u25b6";
    button.setAttribute("aria-label", "Play");
  };
  range.value = frames.length - 1;  // a reloaded page remembers another
  range.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (+range.value === frames.length - 1) range.value = 0;
    show();
    button.textContent = "\\u275a\\u275a";
    button.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      range.value = +range.value + 1;
      show();
      if (+range.value === frames.length - 1) stop();
    }, Math.max(150, Math.min(800, 6000 / frames.length)));
  });
}
"""


def fingerprint(text: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {fingerprint(SCRIPT)}; style-src {fingerprint(STYLE)}; "
    "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
)
