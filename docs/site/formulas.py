"""Formulas of docstrings, which are indented blocks of Unicode text, as HTML; LaTeX as MathML.

A block is a formula if a line ends with an equation number, or if every line has a relation and mathematical signs.
Diagrams, tables and commands stay as they are written.
"""

import html
import re
from itertools import pairwise

from latex2mathml.converter import convert

NUMBER = re.compile(r"(?:^|\s{2,})(\(\d+\)|order \d)\s*$")
DRAWING = re.compile(r"[─│┌┐└┘├┤┬┴►◄]")
RELATION = re.compile(r"[=∝≈≤≥←~↦]")
SIGNS = re.compile(r"[α-ωΑ-Ω∇∫√½∂²³₀‖∞−∈^]|\w_\w")
COMMAND = re.compile(r"^\s*(?:python |score-sde |>>>|config\.|\w+ = \w+\(.*\"|.*\b\w{2,}=[\w(])", re.MULTILINE)
LETTER = "A-Za-zα-ωΑ-Ωςℓ\u0300-\u036f"
BRACES = r"\{(?:[^{}]|\{[^{}]*\})*\}"
LATEX_IN_TITLE = re.compile(r"\\\((.*?)\\\)")
TAG = re.compile(r"\\tag\{([^{}]*)\}")
FUNCTION = re.compile(r"(<mi>(?:log|exp|sin|cos|tan|tanh|max|min|det|tr)</mi>)(?!<mo[^>]*>(?:\(|&#x00028;))")
TOKEN = re.compile(
    rf"(?P<code>`[^`]+`|\"[^\"]*\")|_(?P<sub>{BRACES}|[{LETTER}0-9]+'*)|\^(?P<sup>{BRACES}|[−-]?[{LETTER}0-9½]+)"
    rf"|(?P<differential>(?<![{LETTER}])[d∂](?=[{LETTER}](?![{LETTER}])))|(?P<word>[{LETTER}][{LETTER}0-9]*)"
    r"|(?P<gap> {2,})"
)


def is_formula(block: str) -> bool:
    if DRAWING.search(block) or COMMAND.search(block):
        return False
    lines = [line for line in re.sub(r"\n +", " ", block).splitlines() if line.strip()]
    signs = sum(bool(SIGNS.search(line)) for line in lines)
    numbered = any(NUMBER.search(line) for line in block.splitlines())
    return numbered or (all(RELATION.search(line) for line in lines) and 3 * signs >= 2 * len(lines))


def formula(block: str) -> str:
    """The block as one element: rows of cells with the equation number at the right."""
    lines = [line.rstrip() for line in block.splitlines() if line.strip()]
    found = [NUMBER.search(line) for line in lines]
    numbers = [match.group(1) if match else "" for match in found]
    bodies = [line[: match.start()].rstrip() if match else line for line, match in zip(lines, found, strict=True)]
    starts = columns(bodies)
    rows = []
    for body, number in zip(bodies, numbers, strict=True):
        parts = [body[a:b].rstrip() for a, b in pairwise([*starts, len(body) + max(starts) + 1])]
        cells = "".join(f"<td>{_cell(part)}</td>" for part in parts)
        rows.append(f'<tr>{cells}<td class="equation-number">{number}</td></tr>')
    return f'<table class="formula"><tbody>{"".join(rows)}</tbody></table>'


def columns(lines: list[str]) -> list[int]:
    """The positions at which cells start: two lines or more have text there, and no line has text just before it."""
    width = max(map(len, lines), default=0)
    starts = [0]
    for p in range(3, width):
        begun = [line for line in lines if len(line) > p and line[p] != " " and line[:p].strip()]
        free = all(len(line) <= p - 2 or line[p - 2 : p].strip() == "" for line in lines)
        if free and len(begun) >= 2:
            starts.append(p)
    return starts


def _cell(text: str) -> str:
    indent = len(text) - len(text.lstrip())
    space = f'<span style="padding-left:{indent * 0.45:.2f}em"></span>' if indent else ""
    return space + typeset(text.strip())


def typeset(text: str) -> str:
    """Scripts, and letters in italics; words, names of functions and numbers stay upright."""
    out, position = [], 0
    for match in TOKEN.finditer(text):
        out.append(html.escape(text[position : match.start()], quote=False))
        out.append(_token(match, text))
        position = match.end()
    return "".join(out) + html.escape(text[position:], quote=False)


def _token(match: re.Match[str], text: str) -> str:
    kind, found = match.lastgroup, match.group(match.lastgroup or 0)
    if kind == "code":
        return f"<code>{html.escape(found.strip('`'), quote=False)}</code>"
    if kind in ("sub", "sup"):
        if kind == "sub" and len(found) > 2 and re.search(rf"[{LETTER}]{{3}}$", text[: match.start()]):
            return f"_{found}"  # a name, such as step_size
        inner = found[1:-1] if found.startswith("{") else found
        indices = kind == "sub" and re.fullmatch(r"[ijkmnstu]{2}", inner) and inner != "in"  # such as ts and ij
        return f"<{kind}>{f'<i>{inner}</i>' if indices else typeset(inner)}</{kind}>"
    if kind == "gap" and RELATION.match(text, match.end()):
        return " "  # which aligned the relations
    if kind == "gap":
        return '<span class="quad"></span>' if len(found) > 2 else "&ensp;"
    if kind == "word" and not _is_variable(found, text[match.end() :]):
        return html.escape(found)
    return f"<i>{found}</i>"


def _is_variable(word: str, rest: str) -> bool:
    """One letter, with accents and digits; not the article before a word."""
    letters = [c for c in word if c.isalpha()]
    return len(letters) == 1 and not (word in ("a", "A") and re.match(r" [a-z]{2}", rest))


def mathml(page: str) -> str:
    r"""The page's HTML with \(…\) and \[…\], as `pymdownx.arithmatex` marks them, replaced by MathML."""
    page = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', _inline, page, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', _display, page, flags=re.DOTALL)


def mathml_in_titles(page: str) -> str:
    """The same for the titles in the navigation and the table of contents; as text in the title of the tab."""

    def entry(match: re.Match[str]) -> str:
        return match.group(1) + LATEX_IN_TITLE.sub(_inline, match.group(2)) + match.group(3)

    page = re.sub(r'(<span class="md-ellipsis">)(.*?)(</span>)', entry, page, flags=re.DOTALL)
    page = re.sub(r'(<div class="md-ellipsis">)(.*?)(</div>)', entry, page, flags=re.DOTALL)
    return re.sub(r"<title>.*?</title>", lambda match: LATEX_IN_TITLE.sub(r"\1", match.group()), page, flags=re.DOTALL)


def _inline(match: re.Match[str]) -> str:
    return _spaced(convert(html.unescape(match.group(1))))


def _display(match: re.Match[str]) -> str:
    r"""With the number of \tag at the right."""
    latex = html.unescape(match.group(1))
    tag = TAG.search(latex)
    number = f'<span class="equation-number">({tag.group(1)})</span>' if tag else ""
    return f'<div class="equation">{_spaced(convert(TAG.sub("", latex), display="block"))}{number}</div>'


def _spaced(formula: str) -> str:
    """Thin spaces around the names of functions: `convert` leaves none."""
    return FUNCTION.sub(r'<mspace width="0.17em"/>\1<mspace width="0.17em"/>', formula)
