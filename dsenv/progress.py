"""Progress of long work: a bar on a terminal, a log line every ten seconds elsewhere; nothing where ``DSENV_QUIET`` is set."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 10.0
QUIET = "DSENV_QUIET"

Advance = Callable[[float], None]
_shown: list[str] = []  # what is shown now: work inside of it is part of it


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Advance]:
    """Yield a function that is told units of work as they are done; show how far that is and how long the rest will take.

    Inside work that is shown already nothing is.

    Args:
        what: a few words for the bar or the log line.
        total: units of work in all, where that is known.
    """
    if os.environ.get(QUIET) or _shown:
        yield lambda units: None
        return
    _shown.append(what)
    try:
        with _bar_or_lines(what, total) as advance:
            yield advance
    finally:
        _shown.clear()


@contextmanager
def _bar_or_lines(what: str, total: float | None) -> Iterator[Advance]:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(show_speed=True),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task(what, total=total)
            yield lambda units: shown.advance(task, units)
        return
    started = told = time.monotonic()
    done = 0.0

    def advance(units: float) -> None:
        nonlocal done, told
        done += units
        now = time.monotonic()
        if now - told > LOG_EVERY_SECONDS:
            told = now
            done = done if total is None else min(done, total)
            rate = done / (now - started)
            left = "" if total is None else f" of {total:.0f}, about {max(total - done, 0) / rate:.0f} s left"
            log.info("%s: %.0f%s (%.1f a second)", what, done, left, rate)

    yield advance


def track(items: Iterable[T], what: str, *, total: float | None = None, weight: float = 1) -> Iterator[T]:
    """Yield ``items`` while showing how far the work is and how long the rest will take.

    Args:
        items: what is worked on, one after the other.
        what: a few words for the bar or the log line.
        total: units of work in all; default: the number of items times ``weight``.
        weight: units of work in one item (rows in a batch, say).
    """
    if total is None:
        total = len(items) * weight if isinstance(items, Sized) else None
    with progress(what, total) as advance:
        for item in items:
            yield item
            advance(weight)
