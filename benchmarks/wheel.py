"""Check what the wheel holds: ``python -m benchmarks.wheel dist``. Nothing but ``dsenv`` may reach site-packages."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from dsenv.errors import ending_cleanly

LARGEST_TASKS = 20e6
NEEDED = (
    "dsenv/py.typed",
    "dsenv/report/page.html",
    "dsenv/report/page.css",
    "dsenv/report/page.js",
    "dsenv/tasks/constants.json",
    "dsenv/tasks/leaderboard.json",
    "dsenv/policies/pretrained.safetensors",
    "dsenv/policies/arithmetic/model.safetensors",
    "dsenv/policies/arithmetic/tokenizer.json",
)


def problems(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel, one line each."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    outside = {entry.filename.split("/")[0] for entry in entries if not entry.filename.startswith("dsenv/")}
    if any(not name.endswith(".dist-info") for name in outside):
        found.append(f"top-level names beside dsenv: {sorted(outside)}")
    names = {entry.filename for entry in entries}
    found += [f"{name} is missing" for name in NEEDED if name not in names]
    tasks = [entry for entry in entries if entry.filename.startswith("dsenv/tasks/") and entry.filename.endswith(".npz")]
    if len(tasks) != 5:
        found.append(f"{len(tasks)} task files, not 5")
    if sum(entry.file_size for entry in tasks) > LARGEST_TASKS:
        found.append(f"task files of {sum(entry.file_size for entry in tasks) / 1e6:.1f} MB; allowed are 20")
    return found


def main() -> None:
    """Check the one wheel of a folder."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    found = problems(wheel)
    print("\n".join(found) or f"{wheel.name}: dsenv alone, {wheel.stat().st_size / 1e6:.1f} MB")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    with ending_cleanly():
        main()
