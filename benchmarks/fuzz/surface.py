"""A surface takes input from outside; what it may answer is a documented error, soon, with little memory."""

from __future__ import annotations

import base64
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis.strategies import SearchStrategy

from dsenv.errors import DsenvError

HANG_SECONDS = 20.0
MEMORY_BYTES = 2**31  # beyond what the process has when it begins
SHOWN_BYTES = 2000
PACKAGE = "/dsenv/"


class HangError(Exception):
    """An input took longer than HANG_SECONDS."""


@dataclass(frozen=True)
class Surface:
    """Something that reads input of anybody.

    Attributes:
        name: of the surface.
        run: takes one input; it may raise ``DsenvError``, and nothing else.
        inputs: draws inputs; None where they are mutations of ``seeds``.
        seeds: genuine files.
    """

    name: str
    run: Callable[[Any], None]
    inputs: SearchStrategy[Any] | None = None
    seeds: Callable[[], list[bytes]] | None = None


@dataclass
class Tally:
    """What came of the inputs.

    Attributes:
        tried: inputs.
        refused: of them, with a documented error.
        findings: undocumented errors by where they came from: how many, the error, the first input.
    """

    tried: int = 0
    refused: int = 0
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def attempt(self, surface: Surface, value: Any) -> None:
        """Try one input."""
        self.tried += 1
        try:
            with _hurried():
                surface.run(value)
        except DsenvError:
            self.refused += 1
        except Exception as error:  # noqa: BLE001 - what is looked for
            self.find(error, value)

    def find(self, error: BaseException, value: Any) -> None:
        """Keep an undocumented error."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        shown = value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace")
        first = {
            "error": f"{type(error).__name__}: {error}"[:300],
            "count": 0,
            "input": base64.b64encode(shown[:SHOWN_BYTES]).decode(),
        }
        self.findings.setdefault(f"{type(error).__name__} at {place}", first)["count"] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the tally, JSON-able."""
        return asdict(self)


def limit_memory() -> None:
    """Let this process ask for MEMORY_BYTES more than it has; beyond, its allocations fail."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def draw(surface: Surface, tally: Tally, examples: int, seed: int) -> None:
    """Try inputs that Hypothesis draws: values, or edits of genuine files."""
    if surface.inputs is not None:
        quick = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        @with_seed(seed)
        @quick
        @given(surface.inputs)
        def one(value: Any) -> None:
            tally.attempt(surface, value)

        one()
        return
    assert surface.seeds is not None
    for data in edits(surface.seeds(), examples, seed):
        tally.attempt(surface, data)


def edits(genuine: list[bytes], number: int, seed: int) -> Iterator[bytes]:
    """Yield mutations of files: bytes changed, taken out, doubled, cut off, or a part of another file in their place."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        data = bytearray(genuine[rng.integers(len(genuine))])
        for _ in range(rng.integers(1, 4)):
            place, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 17))
            what = rng.integers(5)
            if what == 0:
                data[place : place + 1] = rng.bytes(1)
            elif what == 1:
                del data[place : place + length]
            elif what == 2:
                data[place:place] = data[place : place + length]
            elif what == 3:
                del data[place:]
            else:
                other = genuine[rng.integers(len(genuine))]
                start = int(rng.integers(len(other)))
                data[place : place + length] = other[start : start + length]
        yield bytes(data)


def draw_until(surface: Surface, tally: Tally, seconds: float, seed: int, kept: Callable[[], None]) -> None:
    """Try inputs until a time is over; ``kept`` is called now and then."""
    until, chunk = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        draw(surface, tally, 200, seed * 1_000_003 + chunk)
        chunk += 1
        kept()


@contextmanager
def _hurried() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def watch_time() -> None:
    """Let an input that takes too long end with HangError."""

    def late(number: int, frame: FrameType | None) -> None:
        raise HangError(f"no answer in {HANG_SECONDS:.0f} seconds")

    signal.signal(signal.SIGALRM, late)
