"""The licences of everything that ``pip`` installs with dsenv: ``python -m benchmarks.licences`` writes ``docs/licences.md``.

It reads the metadata of what is installed here (all extras: ``make docs`` installs them), core and extras with all that they
bring in turn. A licence is permissive where its SPDX expression, or what stands for one, names permissive ones alone. What
lies inside of wheels under another licence (libraries of compilers) is found by the names of its files.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dsenv.errors import InputError, ending_cleanly
from dsenv.files import atomic_write

PAGE = Path(__file__).parent.parent / "docs" / "licences.md"
DISTRIBUTION = "dsenv-gym"
EXTRAS = ("build", "minilm", "finetune", "agents", "ray", "render", "tracking")
# Words of a licence's name, as expressions, classifiers and free texts have them; the first that is found names it.
NAMES = (
    (r"Apache", "Apache-2.0"),
    (r"BSD[- ]3|3-Clause|New BSD|Modified BSD|Neither the name", "BSD-3-Clause"),
    (r"BSD[- ]2|2-Clause", "BSD-2-Clause"),
    (r"BSD", "BSD"),
    (r"MIT[- ]CMU|HPND", "MIT-CMU"),
    (r"\bMIT\b", "MIT"),
    (r"Mozilla|MPL", "MPL-2.0"),
    (r"Lesser General|LGPL", "LGPL"),
    (r"General Public|GPL", "GPL"),
    (r"Python Software Foundation|PSF", "PSF-2.0"),
    (r"ISC", "ISC"),
    (r"Unlicense", "Unlicense"),
)  # fmt: skip
PERMISSIVE = re.compile(
    r"Apache-2\.0|BSD(-\d-Clause)?|0BSD|MIT|MIT-CMU|MIT-0|PSF-2\.0|Python-2\.0(\.1)?|CNRI-Python|ISC|Zlib|zlib-acknowledgement"
    r"|Unlicense|CC0-1\.0|BSL-1\.0|HPND|NCSA|libtiff|FTL|blessing|X11|bzip2-1\.0\.6"
)

BUNDLED = {
    "libgfortran": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libgomp": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libquadmath": "LGPL-2.1-or-later",
    "autocommand": "LGPL-3.0",
}

HEAD = """# Licences

dsenv is under Apache-2.0; what it needs is installed beside it by `pip`. This page is made by `python -m benchmarks.licences`
from the metadata of one installation: all extras, on Linux without a GPU. Other machines bring other versions, and more: torch
for CUDA brings NVIDIA's own, proprietary libraries. *Needed by*: the core, or the extras that bring a package.

The bundled tasks are no packages: what their sources allow is in the [datasheet](datasheet.md).
"""


@dataclass(frozen=True)
class Package:
    """An installed package.

    Attributes:
        name: as it is published.
        version: installed.
        licence: SPDX expression or name, as far as the metadata say.
        needed_by: ``core`` or extras.
        bundled: names of ``BUNDLED`` that lie in it.
    """

    name: str
    version: str
    licence: str
    needed_by: tuple[str, ...]
    bundled: tuple[str, ...]

    @property
    def permissive(self) -> bool:
        """Whether nothing but permissive licences is named, or there is a choice of one."""
        return is_permissive(self.licence)


def is_permissive(licence: str) -> bool:
    """Return whether an SPDX expression can be met by permissive licences alone."""
    without_exceptions = re.sub(r"\s+WITH\s+\S+", "", licence)
    either = re.split(r"\s+OR\s+", without_exceptions.replace("(", "").replace(")", ""))
    if "(" in licence:  # a choice inside of an expression: every licence must do
        either = [" AND ".join(either)]
    return any(all(PERMISSIVE.fullmatch(part) for part in re.split(r"\s+AND\s+", choice)) for choice in either)


def licence_of(metadata: Message) -> str:
    """Return the SPDX expression, else the classifiers' or the licence field's name, else ``not stated``."""
    if expression := metadata["License-Expression"]:
        return str(expression)
    lines = metadata.get_all("Classifier") or []
    classifiers = [line.rpartition(" :: ")[2] for line in lines if line.startswith("License ::")]
    field = str(metadata["License"] or "").strip()
    named = classifiers if classifiers and (classifiers != ["BSD License"] or not field) else [field]  # which BSD, it may say
    found = [next((name for words, name in NAMES if re.search(words, text)), text[:60]) for text in named]
    return " AND ".join(dict.fromkeys(filter(None, found))) or "not stated"


def bundled_in(files: Iterable[str]) -> tuple[str, ...]:
    """Return which of ``BUNDLED`` lie among a package's files."""
    parts = {re.split(r"[-.]", part)[0] for file in files for part in file.split("/")}
    return tuple(name for name in BUNDLED if name in parts)


def packages() -> list[Package]:
    """Return what core and extras need, by name.

    Raises:
        InputError: where a package that an extra needs is not installed here.
    """
    needed: dict[str, list[str]] = {}
    for part in ("", *EXTRAS):
        for name in closure(DISTRIBUTION, part):
            needed.setdefault(name, []).append(part or "core")
    found = []
    for name, parts in sorted(needed.items()):
        installed = cast("Message", importlib.metadata.metadata(name))
        inside = bundled_in(str(file) for file in importlib.metadata.files(name) or [])
        needed_by = ("core",) if "core" in parts else tuple(parts)
        version = installed["Version"].partition("+")[0]
        found.append(Package(installed["Name"], version, licence_of(installed), needed_by, inside))
    return found


def closure(name: str, extra: str) -> set[str]:
    """Return the canonical names of all that a package needs with an extra, itself left out.

    Raises:
        InputError: where one of them is not installed here.
    """
    seen: set[tuple[str, str]] = set()
    left: list[tuple[str, str]] = [(canonicalize_name(name), extra)]
    while left:
        package, extra = left.pop()
        if (package, extra) not in seen:
            seen.add((package, extra))
            left += requirements(package, extra)
    return {package for package, _ in seen} - {canonicalize_name(name)}


def requirements(package: str, extra: str) -> Iterator[tuple[str, str]]:
    """Yield (canonical name, extra) of what a package asks for on this machine."""
    try:
        asked = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{package!r} is not installed here: make docs installs every extra") from error
    for line in asked:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in ("", *requirement.extras):
                yield canonicalize_name(requirement.name), wanted


def page(found: Sequence[Package]) -> str:
    """Return the page as Markdown."""
    others = [package for package in found if not package.permissive]
    lines = [HEAD, "## Not permissive, or not stated", ""]
    lines += [f"- **{package.name}** ({', '.join(package.needed_by)}): {package.licence}" for package in others] or ["None."]
    lines += ["", "## Other licences inside of packages", ""]
    inside = {name: [package.name for package in found if name in package.bundled] for name in BUNDLED}
    lines += [f"- {name} ({BUNDLED[name]}): {', '.join(names)}" for name, names in inside.items() if names]
    lines += ["", "## All", "", "| package | version | licence | needed by |", "|---|---|---|---|"]
    lines += [f"| {p.name} | {p.version} | {p.licence} | {', '.join(p.needed_by)} |" for p in found]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    found = packages()
    with atomic_write(given.out) as temporary:
        temporary.write_text(page(found), encoding="utf-8")
    others = [package.name for package in found if not package.permissive]
    print(f"{len(found)} packages in {given.out.name}; not permissive or not stated: {', '.join(others) or 'none'}")


if __name__ == "__main__":
    with ending_cleanly():
        main()
