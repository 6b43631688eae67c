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
        strong: whether it stands out.
    """

    text: str
    note: str = ""
    tag: str = ""
    strong: bool = False


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

    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{attribute(caption)}"><table>',
        f"<caption>{plain(caption)}</caption>",
        "<thead><tr>" + "".join(f'<th scope="col"{side(i)}>{plain(name)}</th>' for i, name in enumerate(head)) + "</tr></thead>",
        "<tbody>",
    ]
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        strong = ' class="strong"' if any(cell.strong for cell in cells) else ""
        first = f'<th scope="row">{_content(cells[0])}</th>'
        lines.append(f"<tr{strong}>{first}" + "".join(f"<td{side(i)}>{_content(c)}</td>" for i, c in enumerate(cells[1:], 1)))
    return "\n".join([*lines, "</tbody></table></div>"])


def bars(rows: Sequence[tuple[str, float, str]], label: str) -> str:
    """Return values as horizontal bars from 0, the first one in the accent colour.

    Args:
        rows: name, value and what to print of it.
        label: what the values are.
    """
    low, high = min(0.0, *(value for _, value, _ in rows)), max(0.0, *(value for _, value, _ in rows))
    span = (high - low) or 1.0
    lines = [f'<dl class="bars" aria-label="{attribute(label)}">']
    for name, value, shown in rows:
        start, width = 100 * (min(value, 0) - low) / span, 100 * abs(value) / span
        lines.append(
            f'<div><dt>{isolated(name)}</dt><dd><span class="track"><span class="fill" '
            f'style="left:{start:.2f}%;width:{width:.2f}%"></span></span><span class="value">{plain(shown)}</span></dd></div>'
        )
    return "\n".join([*lines, "</dl>"])


def _content(cell: Cell) -> str:
    tag = f'<span class="tag">{plain(cell.tag)}</span> ' if cell.tag else ""
    note = f' <span class="note">{plain(cell.note)}</span>' if cell.note else ""
    return f"{tag}{isolated(cell.text)}{note}"
