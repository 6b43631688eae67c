"""What every committed record says of how it was made, and reading and writing it piece by piece."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsenv.files import atomic_write, locked
from dsenv.stats import mean_interval

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "dsenv-gym", "numpy", "scipy", "gymnasium", "scikit-learn", "faiss-cpu", "sentence-transformers", "transformers", "torch",
    "stable-baselines3", "sb3-contrib",
)  # fmt: skip


def provenance(module: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the command (data folders left out), versions and machine: CPU model, cores, memory in GiB."""
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in options.items()
        if value is not False
    ]
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}
    return {
        "command": " ".join([f"python -m {module}", *words]),
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gib": _memory(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
    }


def read_record(path: Path) -> dict[str, Any]:
    """Return what is stored, or an empty record."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def store_block(path: Path, key: str, block: dict[str, Any]) -> None:
    """Replace one block of the stored record, atomically; other blocks stay as they are in the file now."""
    with locked(path), atomic_write(path) as temporary:
        record = {**read_record(path), key: block}
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def mean_cell(values: Sequence[float]) -> str:
    """Return a mean, with half of its 95% interval where there are several seeds."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    found = mean_interval(values)
    return f"{found.value:.3f} ± {found.high - found.value:.3f}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if sys.platform == "linux" and info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
