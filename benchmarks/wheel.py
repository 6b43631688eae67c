"""Check what would be published: ``python -m benchmarks.wheel dist``, a folder with one wheel and one source distribution.

Nothing but ``dsenv`` may reach site-packages; no results, texts or tests are in either; the licence is in both.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

from dsenv.errors import ending_cleanly

LARGEST_TASKS = 20e6
TASKS = 5
NEEDED = (
    "dsenv/py.typed",
    "dsenv/report/page.html",
    "dsenv/report/page.css",
    "dsenv/report/page.js",
    "dsenv/tasks/constants.json",
    "dsenv/tasks/leaderboard.json",
    "dsenv/policies/pretrained.safetensors",
    "dsenv/policies/questions.safetensors",
    "dsenv/policies/arithmetic/model.safetensors",
    "dsenv/policies/arithmetic/tokenizer.json",
)
# What dsenv may hold beside Python: the tasks' vectors, the policies' weights, the report's page.
OWN = re.compile(
    r"dsenv/(.+\.py|py\.typed|tasks/[a-z0-9]+-[0-9a-f]{12}\.npz|tasks/(constants|leaderboard)\.json"
    r"|policies/\w+\.safetensors|policies/arithmetic/\w+\.(json|safetensors)|report/page\.(html|css|js))"
)
BESIDE = {
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "SECURITY.md",
    "MANIFEST.in",
    "PKG-INFO",
    "pyproject.toml",
    "setup.cfg",
}


def wheel_sizes(wheel: Path) -> dict[str, int]:
    """Return the size of every file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


def sdist_sizes(sdist: Path) -> dict[str, int]:
    """Return the size of every file of a source distribution, by its path below the one folder there is."""
    with tarfile.open(sdist) as archive:
        return {entry.name.partition("/")[2]: entry.size for entry in archive.getmembers() if entry.isfile()}


def problems(sizes: dict[str, int]) -> list[str]:
    """Return what is wrong with the files of a wheel, one line each."""
    found = [f"{name} is not of dsenv" for name in sizes if not re.match(r"dsenv/|[^/]+\.dist-info/", name)]
    if not any(re.fullmatch(r"[^/]+\.dist-info/licenses/LICENSE", name) for name in sizes):
        found.append("the licence is missing")
    return found + _package_problems(sizes)


def sdist_problems(sizes: dict[str, int]) -> list[str]:
    """Return what is wrong with the files of a source distribution, one line each."""
    inside = {name for name in sizes if name.startswith(("dsenv/", "dsenv_gym.egg-info/"))}
    found = [f"{name} does not belong there" for name in sorted(set(sizes) - inside - BESIDE)]
    found += [f"{name} is missing" for name in sorted(BESIDE - set(sizes))]
    return found + _package_problems(sizes)


def _package_problems(sizes: dict[str, int]) -> list[str]:
    package = {name: size for name, size in sizes.items() if name.startswith("dsenv/")}
    found = [f"{name} is missing" for name in NEEDED if name not in package]
    found += [f"{name} is of no kind that is published" for name in package if not OWN.fullmatch(name)]
    tasks = [size for name, size in package.items() if name.endswith(".npz")]
    if len(tasks) != TASKS:
        found.append(f"{len(tasks)} task files, not {TASKS}")
    if sum(tasks) > LARGEST_TASKS:
        found.append(f"task files of {sum(tasks) / 1e6:.1f} MB; allowed are {LARGEST_TASKS / 1e6:.0f}")
    return found


def main() -> None:
    """Check the wheel and the source distribution of a folder."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    found = [f"{wheel.name}: {problem}" for problem in problems(wheel_sizes(wheel))]
    found += [f"{sdist.name}: {problem}" for problem in sdist_problems(sdist_sizes(sdist))]
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in (wheel, sdist))
    print("\n".join(found) or f"dsenv alone: {sizes}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    with ending_cleanly():
        main()
