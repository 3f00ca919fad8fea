"""A page of text, tables and drawings, in one HTML file.

All that comes from a user goes through `text`, which escapes it; `Markup` is what has been through.
A browser is told to load and run nothing, so that even a mistake in that stays harmless.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NewType
from urllib.parse import quote

Markup = NewType("Markup", str)  # HTML that may stand in a page as it is

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --ink: #1c2430; --quiet: #5b6675;
  --line: #d9dee6; --faint: #f4f6f9; --c0: #2563a8; --c1: #b0561f; --c2: #2a7d4f; --c3: #7a4bb0;
  --c4: #a8326e; --c5: #59626e; --bad: #b3261e; --warn: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --back: #14181e; --ink: #e4e8ee; --quiet: #9aa5b4;
  --line: #323a45; --faint: #1d232b; --c0: #6aa9ee; --c1: #e79a5f; --c2: #6cc495; --c3: #b795ea;
  --c4: #ea83b5; --c5: #a5afbc; --bad: #ff8a80; --warn: #f0b84d } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
p { margin: .5rem 0; max-width: 46rem } .quiet { color: var(--quiet) }
pre { background: var(--faint); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, monospace }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .92rem }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere }
th { font-weight: 600; color: var(--quiet); overflow-wrap: normal }
td:first-child { overflow-wrap: break-word; min-width: 6.5rem }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap }
td.bar { min-width: 8rem; width: 40% } td.bar i { display: block; height: .8rem; margin-top: .3rem;
  background: var(--c0); border-radius: 3px }
.cards { display: flex; flex-wrap: wrap; gap: .8rem }
.card { flex: 1 1 8rem; max-width: 20rem; border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem .9rem }
.card b { display: block; font-size: 1.7rem; line-height: 1.25 }
.card.best { border-color: var(--c0); background: var(--faint) }
.card span { color: var(--quiet) }
.drawings { display: grid; gap: 1rem 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
figure { margin: 0; max-width: 36rem } figcaption { font-size: .9rem; font-weight: 600;
  margin-top: .6rem }
figure svg { display: block; width: 100%; height: auto }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem;
  color: var(--quiet) }
.legend i { display: inline-block; width: 1rem; height: .25rem; margin-right: .35rem;
  vertical-align: middle; border-radius: 2px }
svg text { font: 12px system-ui, sans-serif; fill: var(--quiet) }
svg .axis { stroke: var(--line); fill: none } svg .guide { stroke: var(--quiet); fill: none;
  stroke-dasharray: 4 4 }
.matrix td { text-align: center; min-width: 2.2rem; border: 1px solid var(--back);
  overflow-wrap: normal }
.matrix td.strong { color: #fff } .matrix th { border: 0; text-align: center }
.matrix th.top { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-height: 9rem; overflow: hidden; padding: .3rem .1rem }
.error { color: var(--bad); font-weight: 600 } .warning { color: var(--warn); font-weight: 600 }
.note { color: var(--quiet) } a { color: var(--c0) }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Markup]


@dataclass(frozen=True)
class Bar:
    """A cell of a table that is drawn as a bar, as long as a share from 0 to 1."""

    share: float


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file, named from the page's folder down."""

    content: str
    file: str


Cell = str | int | float | Bar | Link


def text(content: str) -> Markup:
    """Returns any text, escaped."""
    return Markup(html.escape(content, quote=True))


def page(title: str, sections: Iterable[Section], *, lead: Markup | None = None) -> str:
    """Returns a whole page; `lead` stands under the title."""
    body = "".join(
        f"<section><h2>{text(section.title)}</h2>{''.join(section.parts)}</section>"
        for section in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{text(title)}</h1>{lead or ''}{body}</body></html>\n"
    )


def paragraph(content: str, *, is_quiet: bool = False) -> Markup:
    """Returns a paragraph of plain text."""
    kind = ' class="quiet"' if is_quiet else ""
    return Markup(f"<p{kind}>{text(content)}</p>")


def preformatted(content: str) -> Markup:
    """Returns a text in which every character has the same width, such as a command."""
    return Markup(f"<pre>{text(content)}</pre>")


def cards(figures: Iterable[tuple[str, str]], *, best: str | None = None) -> Markup:
    """Returns (name, figure) as cards, side by side; that of the name `best` stands out."""
    shown = "".join(
        f'<div class="{"card best" if name == best else "card"}"><b>{text(figure)}</b>'
        f"<span>{text(name)}</span></div>"
        for name, figure in figures
    )
    return Markup(f'<div class="cards">{shown}</div>')


def table(
    header: Sequence[str], rows: Iterable[Sequence[Cell]], *, kinds: Sequence[str] = ()
) -> Markup:
    """Returns a table; whole numbers and figures stand to the right.

    Args:
        header: names of the columns; none: no header.
        rows: of as many cells each.
        kinds: of each row a class of the style that its first cell has, such as `error`.
    """
    body = []
    is_number: list[bool] = [False] * len(header)
    for number, row in enumerate(rows):
        kind = kinds[number] if kinds else ""
        body.append(
            f"<tr>{''.join(_cell(cell, '' if place else kind) for place, cell in enumerate(row))}"
            "</tr>"
        )
        if number == 0:
            is_number = [isinstance(cell, int | float) for cell in row]
    top = "".join(
        f'<th class="{"number" if right else "text"}">{text(name)}</th>'
        for name, right in zip(header, is_number, strict=False)
    )
    head = f"<tr>{top}</tr>" if header else ""
    return Markup(f'<div class="wide"><table>{head}{"".join(body)}</table></div>')


def figure(title: str, drawing: Markup, legend: Markup | None = None) -> Markup:
    """Returns a drawing under its title."""
    return Markup(f"<figure><figcaption>{text(title)}</figcaption>{legend or ''}{drawing}</figure>")


def side_by_side(drawings: Iterable[Markup]) -> Markup:
    """Returns drawings beside each other, or below each other where the window is narrow."""
    return Markup(f'<div class="drawings">{"".join(drawings)}</div>')


def readable(number: float) -> str:
    """Returns a number as people write it: 12,345 or 0.1235."""
    if isinstance(number, int) or abs(number) >= 10_000:
        return f"{number:,.0f}"
    return f"{number:.4g}"


def _cell(cell: Cell, kind: str) -> str:
    if isinstance(cell, Bar):
        width = 100 * min(1.0, max(0.0, cell.share))
        return f'<td class="bar"><i style="width:{width:.1f}%"></i></td>'
    if isinstance(cell, Link):
        assert not PurePosixPath(cell.file).is_absolute(), "a page leads to what stands beside it"
        target = f"./{quote(cell.file)}"  # so that no name is taken for that of a protocol
        return f'<td class="{kind or "text"}"><a href="{target}">{text(cell.content)}</a></td>'
    if isinstance(cell, int | float):
        return f'<td class="number">{readable(cell)}</td>'
    return f'<td class="{kind or "text"}">{text(cell)}</td>'
