"""Progress of long work: a bar on a terminal, a log line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
LOG_EVERY_SECONDS = 10.0


def track(items: Iterable[T], what: str, *, total: float | None = None, weight: float = 1) -> Iterator[T]:
    """Yield ``items`` while showing how far the work is and how long the rest will take.

    Args:
        items: what is worked on, one after the other.
        what: a few words for the bar or the log line.
        total: units of work in all; default: the number of items times ``weight``.
        weight: units of work in one item (rows in a batch, say).
    """
    from rich.console import Console
    from rich.progress import track as rich_track

    if total is None:
        total = len(items) * weight if isinstance(items, Sized) else None
    console = Console(stderr=True)
    if console.is_terminal:
        count = None if total is None else total / weight
        yield from rich_track(items, what, total=count, console=console, transient=True)
        return
    started = told = time.monotonic()
    done = 0.0
    for item in items:
        yield item
        done += weight
        now = time.monotonic()
        if now - told > LOG_EVERY_SECONDS:
            told = now
            rate = done / (now - started)
            left = "" if total is None else f" of {total:.0f}, about {max(total - done, 0) / rate:.0f} s left"
            log.info("%s: %.0f%s (%.1f a second)", what, done, left, rate)
