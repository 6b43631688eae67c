"""What was compared in a file, what did not agree, and what could not be recounted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 1e-6  # of scores; their last digits are those of another way to solve the same equations
ROUNDED = 1.1e-6  # of what was written with six digits


@dataclass
class Findings:
    """One file's.

    Attributes:
        kind: what the file is.
        rows: that were looked at.
        checks: how many comparisons there were, by what was compared.
        failures: what does not agree.
        left: what could not be recounted, and why.
        largest: difference of two numbers that were compared to the tolerance of scores.
    """

    kind: str = "unknown"
    rows: int = 0
    checks: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    largest: float = 0.0

    def equal(self, what: str, where: str, said: Any, found: Any) -> bool:
        """Compare exactly."""
        return self.holds(what, where, bool(said == found), f"{_short(said)}, recounted {_short(found)}")

    def close(self, what: str, where: str, said: Any, found: float | None, tolerance: float = TOLERANCE) -> bool:
        """Compare numbers; nothing is close to nothing alone."""
        if said is None or found is None:
            return self.equal(what, where, said, found)
        near = isinstance(said, (int, float)) and math.isfinite(said) and abs(said - found) <= tolerance
        if near and tolerance == TOLERANCE:
            self.largest = max(self.largest, abs(said - found))
        return self.holds(what, where, near, f"{said}, recounted {found}")

    def holds(self, what: str, where: str, true: bool, otherwise: str) -> bool:
        """Note a condition."""
        self.checks[what] += 1
        if not true:
            self.failures.append(f"{where}: {what}: {otherwise}")
        return true

    def leave(self, text: str) -> None:
        """Note once what could not be recounted."""
        if text not in self.left:
            self.left.append(text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
