"""Texts of any origin to HTML: escaped, kept apart from their surroundings in direction, control characters made visible."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_DIRECTIONS = {ord(mark): None for mark in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says, not escaped.
        note: said after it, smaller.
        tag: a mark before it.
        look: name of the row's style: ``strong`` stands out, ``baseline`` and ``bundled`` stand back.
    """

    text: str
    note: str = ""
    tag: str = ""
    look: str = ""


def clean(text: object) -> str:
    """Return a text that any HTML file can hold: control characters as their pictures, halves of surrogate pairs as ``?``."""
    return str(text).translate(_CONTROLS).encode("utf-8", "replace").decode()


def plain(text: object) -> str:
    """Escape a text that we wrote ourselves."""
    return html.escape(clean(text))


def isolated(text: object) -> str:
    """Escape somebody else's text, and keep its direction of writing to itself."""
    return f"<bdi>{plain(text)}</bdi>"


def attribute(text: object) -> str:
    """Escape somebody else's text for an attribute, where no element can keep its direction to itself."""
    return html.escape(clean(text).translate(_DIRECTIONS).replace("\n", " "))


def shortened(text: str, length: int) -> str:
    """Return a text in one line of at most ``length`` characters."""
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def embedded(data: Any) -> str:
    """Return JSON that no ``</script>``, comment or line separator can break out of a script element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str | Cell]], numbers_from: int = 1) -> str:
    """Return a table in a box that scrolls by itself.

    Args:
        caption: what the table shows.
        head: names of the columns.
        rows: texts, not escaped; the first cell of each names the row.
        numbers_from: column from which cells are numbers, set flush right.
    """

    def side(place: int) -> str:
        return ' class="number"' if place >= numbers_from else ""

    filled = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    columns = "".join(f'<th scope="col"{side(i)}>{plain(name)}</th>' for i, name in enumerate(head))
    short = "" if any(row[0].tag for row in filled) else ' class="short"'
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{attribute(caption)}"><table>',
        f"<caption><span>{plain(caption)}</span></caption>",
        f"<thead><tr>{columns}</tr></thead>",
        "<tbody>",
    ]
    for cells in filled:
        look = f' class="{cells[0].look}"' if cells[0].look else ""
        first = f'<th scope="row"{short}>{_content(cells[0])}</th>'
        lines.append(f"<tr{look}>{first}" + "".join(f"<td{side(i)}>{_content(c)}</td>" for i, c in enumerate(cells[1:], 1)))
    return "\n".join([*lines, "</tbody></table></div>"])


@dataclass(frozen=True)
class Bar:
    """A value as a bar, and the ends of its interval where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def bars(rows: Sequence[Bar], label: str) -> str:
    """Return values as horizontal bars from 0, the first one in the accent colour; ``label`` says what they are."""
    ends = [0.0, *(end for bar in rows for end in (bar.value, bar.low, bar.high) if end is not None)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return 100 * (value - low) / span

    lines = [f'<dl class="bars" aria-label="{attribute(label)}">']
    for bar in rows:
        drawn = track(place(min(bar.value, 0)), 100 * abs(bar.value) / span)
        if bar.low is not None and bar.high is not None:
            wide = place(bar.high) - place(bar.low)
            drawn += f'<span class="range" style="left:{place(bar.low):.2f}%;width:{wide:.2f}%"></span>'
        if low < 0:
            drawn += f'<span class="zero" style="left:{place(0):.2f}%"></span>'
        lines.append(
            f'<div><dt>{isolated(bar.name)}</dt><dd><span class="box">{drawn}</span>'
            f'<span class="value">{bar.value:.3f}</span></dd></div>'
        )
    return "\n".join([*lines, "</dl>"])


def track(start: float, width: float) -> str:
    """Return a bar in its track; both in per cent."""
    return f'<span class="track"><span class="fill" style="left:{start:.2f}%;width:{width:.2f}%"></span></span>'


def code(text: str) -> str:
    """Return a command whose lines break between words alone, as long as there is room for a word."""
    words = " ".join(f'<span class="word">{plain(word)}</span>' for word in text.split(" "))
    return f'<code dir="ltr"><bdi>{words}</bdi></code>'


def _content(cell: Cell) -> str:
    tag = f'<span class="tag">{plain(cell.tag)}</span> ' if cell.tag else ""
    note = f' <span class="note">{plain(cell.note)}</span>' if cell.note else ""
    return f"{tag}{isolated(cell.text)}{note}"
