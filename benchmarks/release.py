"""Is what would be published fit for it? The wheel and the source distribution, tried in empty environments.

``python -m benchmarks.release [--checks NAME ...] [--python PATH ...] [--json F]``

Each check is stored as passed, failed or untried (and why) when it is done; a second call does what is not passed yet, or was
passed by a wheel of other content. Environments are made below ``--work``, outside of the checkout, without ``DSENV_*`` and
``PYTHONPATH``, and removed after their check.

``distributions``: wheel and source distribution are built; ``twine check --strict``; their files are looked through
(``benchmarks.wheel``); a wheel built of the source distribution has the same files with the same content.
``citation``: ``CITATION.cff`` is valid. ``secrets``: no tracked file has a key or a password (``detect-secrets``).
``python 3.x``: the wheel alone in an empty environment of every Python that is found (or named by ``--python``): episodes, a
search, the command line (``benchmarks.release_uses``), golden rollouts. Where there is no such Python the check is untried,
and pip says whether the wheel and what it needs could be installed (``--dry-run``).
``extra NAME``: the wheel with one extra in an environment of its own, one short use of it; no CUDA may come with it.
``gymnasium x``: golden rollouts and the tests of the environments with each Gymnasium that is allowed.
``lowest``: the same with the lowest version of everything that the core allows.
``audit``: ``pip-audit`` knows no vulnerability of what ``all`` and ``tracking`` install. It is untried where it does not even
find one that is long known.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.records import RESULTS, provenance, read_record, store_block
from benchmarks.wheel import problems, sdist_problems, sdist_sizes, wheel_sizes
from dsenv.errors import InputError, ending_cleanly

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TORCH = "torch==2.13.0"  # first: pip's own choice for a machine without a GPU would bring CUDA
# Extra -> whether torch comes with it, and what is used; what an extra needs beside itself is its own.
EXTRAS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "build": (True, ("core", "build")),
    "minilm": (True, ("core", "minilm")),
    "finetune": (True, ("core", "finetune")),
    "agents": (True, ("core", "agents")),
    "ray": (False, ("core", "ray")),
    "render": (False, ("core", "render")),
    "tracking": (False, ("core", "tracking")),
    "all": (True, ("core", "build", "minilm", "finetune", "agents", "ray", "render")),
    "all,tracking": (True, ("tracking",)),
}
GYMNASIUMS = ("1.1.0", "1.1.1", "1.2.0", "1.2.3", "1.3.0", "1.4.0")
TESTS = ("test_registry.py", "test_vector_env.py", "test_wrappers.py", "test_env_proxies.py", "test_sb3.py")
# What these tests need beside the wheel and its extra agents.
FOR_TESTS = ("pytest>=8", "scikit-learn>=1.5", "faiss-cpu>=1.9", "matplotlib>=3.8")
ARITHMETIC = "DataSelectRLVR-Arithmetic-v0"
VULNERABLE = "jinja2==2.10"  # long known: a source that does not name it was not reached


class Untried(Exception):
    """A check cannot be made on this machine; the message says why."""


class Failed(Exception):
    """What is checked is not as it should be; the message says how."""


def run(command: Sequence[str | Path], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it prints.

    Raises:
        Failed: where it ends with an error; with the end of what it printed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=dict(environment or clean()),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(words[:6])} ended with the status {done.returncode}: {done.stdout.strip()[-1500:]}")
    return done.stdout


def clean() -> dict[str, str]:
    """Return this process's environment variables without those of the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DSENV_", "PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Place:
    """Where the checks are made.

    Attributes:
        work: a folder outside of the checkout.
        pythons: an interpreter of each version that there is, by ``3.x``.
    """

    work: Path
    pythons: Mapping[str, Path]

    @cached_property
    def source(self) -> Path:
        """A copy of what git tracks or would track, as it is now."""
        folder = self.work / "source"
        shutil.rmtree(folder, ignore_errors=True)
        for name in run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT).splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        return folder

    @cached_property
    def dist(self) -> Path:
        """A folder with the wheel and the source distribution of that copy."""
        folder = self.work / "dist"
        shutil.rmtree(folder, ignore_errors=True)
        run([self.tool("build"), "--outdir", folder, self.source])
        return folder

    @property
    def wheel(self) -> Path:
        """The wheel."""
        (found,) = self.dist.glob("*.whl")
        return found

    @property
    def sdist(self) -> Path:
        """The source distribution."""
        (found,) = self.dist.glob("*.tar.gz")
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the wheel's names and contents, whenever it was built."""
        return hashlib.sha256(json.dumps(contents(self.wheel)).encode()).hexdigest()

    @cached_property
    def tools(self) -> Path:
        """An environment with what checks."""
        made = self.environment("tools", sys.executable)
        install(
            made, "build", "twine", "pip-audit", "cffconvert", "detect-secrets", "setuptools<81"
        )  # cffconvert asks for pkg_resources
        return made

    def tool(self, name: str) -> Path:
        """Return the path of a program that checks."""
        path = self.work / "tools" / "bin" / {"build": "pyproject-build"}.get(name, name)
        return path if path.is_file() else self.tools / "bin" / path.name

    @cached_property
    def tested(self) -> Path:
        """An environment with the newest of everything, and what the environments' tests need."""
        return self.for_tests("tested", [])

    def for_tests(self, name: str, pins: Sequence[str]) -> Path:
        """Make an environment with what the environments' tests need, with certain versions."""
        made = self.environment(name, self.pythons.get("3.11", Path(sys.executable)))
        install(made, TORCH, *pins)
        install(made, f"dsenv-gym[agents] @ {self.wheel.as_uri()}", *FOR_TESTS, *pins)
        return made

    def environment(self, name: str, python: str | Path) -> Path:
        """Make an empty environment, in the place of an older one of this name."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        run([python, "-m", "venv", "--without-pip", folder])
        return folder


def install(environment: Path, *what: str | Path, options: Sequence[str] = ()) -> None:
    """Install into an environment, by the pip of this one."""
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet"]
    run([*pip, *options, *what])


def installed(environment: Path) -> dict[str, str]:
    """Return the version of every package in an environment, without local suffixes."""
    listed = run([sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "list", "--format", "json"])
    return {
        entry["name"]: entry["version"].partition("+")[0] for entry in json.loads(listed[listed.index("[") :].splitlines()[0])
    }


def use(place: Place, environment: Path, names: Sequence[str]) -> None:
    """Do short real uses in an empty folder, whose home is empty too."""
    with tempfile.TemporaryDirectory(dir=place.work) as folder:
        shutil.copy2(place.source / "benchmarks" / "release_uses.py", folder)
        command: list[str | Path] = [environment / "bin" / "python", "release_uses.py", *names]
        run(command, cwd=Path(folder), environment={**clean(), "HOME": folder})


def golden(place: Place, environment: Path, *options: str) -> None:
    """Compare the golden rollouts with what is installed."""
    with copied_tests(place) as folder:
        run([environment / "bin" / "python", "-m", "tests.golden", *options], cwd=Path(folder))


def copied_tests(place: Place) -> tempfile.TemporaryDirectory[str]:
    """Return a folder that holds the tests, the agents that they train and no dsenv."""
    folder = tempfile.TemporaryDirectory(dir=place.work)
    for name in ("tests", "agents"):
        shutil.copytree(place.source / name, Path(folder.name) / name)
    shutil.copy2(place.source / "pyproject.toml", folder.name)
    return folder


def contents(wheel: Path) -> dict[str, int]:
    """Return the CRC-32 of every file of a wheel but ``RECORD``, the list of the others, and ``WHEEL``, the builder's name."""
    with zipfile.ZipFile(wheel) as archive:
        found = {entry.filename: entry.CRC for entry in archive.infolist()}
    return {name: found[name] for name in sorted(found) if not name.endswith(("/RECORD", "/WHEEL"))}


def check_distributions(place: Place) -> dict[str, Any]:
    """Build, and look through what was built."""
    wheel, sdist = wheel_sizes(place.wheel), sdist_sizes(place.sdist)
    if found := problems(wheel) + sdist_problems(sdist):
        raise Failed("; ".join(found))
    run([place.tool("twine"), "check", "--strict", place.wheel, place.sdist])
    again = place.work / "again"
    shutil.rmtree(again, ignore_errors=True)
    run([place.tool("build"), "--wheel", "--outdir", again, unpacked(place)])
    (second,) = again.glob("*.whl")
    if contents(second) != contents(place.wheel):
        raise Failed("a wheel built of the source distribution holds something else")
    sizes = {path.name: round(path.stat().st_size / 1e6, 1) for path in (place.wheel, place.sdist)}
    return {"megabytes": sizes, "files": {"wheel": len(wheel), "source": len(sdist)}}


def unpacked(place: Place) -> Path:
    """Return a folder with what the source distribution holds."""
    folder = place.work / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(place.sdist, folder, filter="data")
    (found,) = folder.iterdir()
    return found


def check_citation(place: Place) -> dict[str, Any]:
    """Validate ``CITATION.cff``."""
    run([place.tool("cffconvert"), "--validate"], cwd=ROOT)
    return {}


def check_secrets(place: Place) -> dict[str, Any]:
    """Look for keys and passwords; long random strings are digests here, and are let be."""
    entropy = [f"--disable-plugin={name}HighEntropyString" for name in ("Hex", "Base64")]
    found = json.loads(run([place.tool("detect-secrets"), "scan", *entropy], cwd=ROOT))["results"]
    if found:
        raise Failed("; ".join(f"{name}: {', '.join(sorted({one['type'] for one in ones}))}" for name, ones in found.items()))
    return {"files": len(run(["git", "ls-files"], cwd=ROOT).splitlines())}


def check_python(version: str, place: Place) -> dict[str, Any]:
    """The core alone on one Python."""
    if version not in place.pythons:
        where = tempfile.mkdtemp(dir=place.work)
        asked = ["--dry-run", "--python-version", version, "--only-binary=:all:", "--target", where]
        run([sys.executable, "-m", "pip", "install", "--quiet", *asked, place.wheel])
        raise Untried(f"no Python {version} on this machine; pip finds a wheel of everything that the core needs")
    environment = place.environment("core", place.pythons[version])
    install(environment, place.wheel)
    use(place, environment, ["core"])
    golden(place, environment, "--core")
    full = run([environment / "bin" / "python", "-c", "import platform; print(platform.python_version())"]).strip()
    return {"python": full, "installed": installed(environment)}


def check_extra(extra: str, place: Place) -> dict[str, Any]:
    """One extra in an environment of its own."""
    torch, uses = EXTRAS[extra]
    environment = place.environment("extra", place.pythons.get("3.11", Path(sys.executable)))
    if torch:
        install(environment, TORCH)
    install(environment, f"dsenv-gym[{extra}] @ {place.wheel.as_uri()}")
    found = installed(environment)
    if cuda := [name for name in found if name.startswith(("nvidia-", "triton"))]:
        raise Failed(f"CUDA came with it: {', '.join(cuda)}")
    if ("torch" in found) != torch:
        raise Failed(f"torch {'did not come' if torch else 'came'} with it")
    use(place, environment, uses)
    return {"uses": list(uses), "packages": len(found), "installed": found}


def check_gymnasium(version: str, place: Place) -> dict[str, Any]:
    """Golden rollouts and the environments' tests with one Gymnasium; the environment is made once for all of them."""
    install(place.tested, f"gymnasium=={version}")
    return tested(place, place.tested)


def check_lowest(place: Place) -> dict[str, Any]:
    """The same with the lowest version of everything that the core asks for, together."""
    return tested(place, place.for_tests("lowest", lowest()))


def tested(place: Place, environment: Path) -> dict[str, Any]:
    """Compare the golden rollouts and run the environments' tests; return the tests' last line, and the core's versions."""
    golden(place, environment, "--core")
    # The golden rollout of the embedded policy needs transformers, whose own lower bounds are higher than the core's.
    chosen = ["-k", f"not test_golden_rollout[{ARITHMETIC}]", "-W", "default"]
    with copied_tests(place) as folder:
        command: list[str | Path] = [environment / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
        said = run([*command, *(f"tests/{name}" for name in TESTS)], cwd=Path(folder))
    found = installed(environment)
    names = [Requirement(line).name for line in core_requirements()]
    return {"tests": said.strip().splitlines()[-1].strip("= "), "installed": {name: found[name] for name in names}}


def core_requirements() -> list[str]:
    """Return what the core asks for, as ``pyproject.toml`` says it."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"])


def lowest() -> list[str]:
    """Return the lowest version of everything that the core asks for, as pins."""
    found = []
    for line in core_requirements():
        requirement = Requirement(line)
        (least,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
        found.append(f"{requirement.name}=={least}")
    return found


def check_audit(place: Place) -> dict[str, Any]:
    """Ask for known vulnerabilities of what ``all`` and ``tracking`` brought."""
    record = read_record(place.work / "installed.json")
    if not record:
        raise Untried("run the check 'extra all,tracking' first: it says what is installed")
    with tempfile.TemporaryDirectory(dir=place.work) as folder:
        asked = Path(folder) / "requirements.txt"
        options: list[str | Path] = [
            "--no-deps",
            "--disable-pip",
            "--format",
            "json",
            "--progress-spinner",
            "off",
            "-r",
            asked,
        ]
        asked.write_text(VULNERABLE + "\n")
        if not _vulnerabilities([place.tool("pip-audit"), *options]):
            raise Untried(f"PyPI's list of vulnerabilities is not reached: it knows none of {VULNERABLE}")
        pins = [f"{name}=={version}" for name, version in record.items() if name != "dsenv-gym"]
        asked.write_text("\n".join(pins) + "\n")
        if found := _vulnerabilities([place.tool("pip-audit"), *options]):
            raise Failed("; ".join(found))
    return {"packages": len(pins)}


def _vulnerabilities(command: Sequence[str | Path]) -> list[str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=clean())
    found = re.search(r"\{.*\}", done.stdout, re.DOTALL)
    if not found:
        raise Untried(f"pip-audit says: {done.stderr.strip()[-200:]}")
    entries = json.loads(found[0])["dependencies"]
    return [f"{entry['name']} {entry['version']}: {one['id']}" for entry in entries for one in entry.get("vulns", [])]


CHECKS: dict[str, tuple[Callable[[Place], dict[str, Any]], float]] = {  # and about how many minutes it takes
    "distributions": (check_distributions, 1.5),
    "citation": (check_citation, 0.1),
    "secrets": (check_secrets, 0.5),
    **{f"python {version}": (partial(check_python, version), 1) for version in PYTHONS},
    **{f"extra {extra}": (partial(check_extra, extra), 2) for extra in EXTRAS},
    **{f"gymnasium {version}": (partial(check_gymnasium, version), 2) for version in GYMNASIUMS},
    "lowest": (check_lowest, 5),
    "audit": (check_audit, 0.5),
}


def find_pythons(named: Sequence[Path]) -> dict[str, Path]:
    """Return an interpreter of each version: the named ones, this one, those on the path, those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = [Path(there) for version in PYTHONS if (there := shutil.which(f"python{version}"))]
    below = [path for version in PYTHONS for path in sorted(pyenv.glob(f"{version}.*/bin/python"))]
    found: dict[str, Path] = {}
    for path in (*named, Path(sys.executable), *below, *on_path):
        ask = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([str(path), "-c", ask], capture_output=True, text=True, check=False)
        if said.returncode and path in named:
            raise InputError(f"{str(path)!r} is no Python: {said.stderr.strip()}")
        if not said.returncode:
            found.setdefault(said.stdout.strip(), path)
    return found


def attempt(check: Callable[[Place], dict[str, Any]], place: Place) -> dict[str, Any]:
    """Make a check; return ``status``, ``why``, ``seconds`` and what it found."""
    started = time.perf_counter()
    try:
        found = {"status": "passed", **check(place)}
    except Untried as error:
        found = {"status": "untried", "why": str(error)}
    except Failed as error:
        found = {"status": "failed", "why": str(error).replace(str(place.work), "WORK").replace(str(ROOT), ".")}
    return {**found, "seconds": round(time.perf_counter() - started), "wheel": place.digest}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the checks that are not passed yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", nargs="+", default=[*CHECKS], choices=[*CHECKS], metavar="NAME")
    parser.add_argument("--python", nargs="+", type=Path, default=[], help="interpreters, where they are not on the path")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dsenv-release")
    parser.add_argument("--json", type=Path, default=RESULTS / "release.json")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    place = Place(given.work.resolve(), find_pythons(given.python))
    stored = read_record(given.json)
    passed = {name for name, block in stored.items() if block["status"] == "passed" and block["wheel"] == place.digest}
    left = [name for name in given.checks if name not in passed]
    minutes = sum(CHECKS[name][1] for name in left)
    print(
        f"wheel {place.digest[:12]}: {len(left)} of {len(given.checks)} checks to go, about {minutes:.0f} minutes", flush=True
    )
    for number, name in enumerate(left, 1):
        print(f"[{number}/{len(left)}] {name}", flush=True)
        block = attempt(CHECKS[name][0], place)
        if name == "extra all,tracking" and block["status"] == "passed":
            (place.work / "installed.json").write_text(json.dumps(block["installed"]))
        for folder in ("core", "extra", "lowest"):
            shutil.rmtree(place.work / folder, ignore_errors=True)
        store_block(given.json, name, {**provenance("benchmarks.release", {"checks": repr(name)}), **block})
        print(f"    {block['status']} after {block['seconds']} s{': ' + block['why'] if 'why' in block else ''}", flush=True)
    shutil.rmtree(place.work / "tested", ignore_errors=True)
    record = read_record(given.json)
    by_status: dict[str, list[str]] = {}
    for name in given.checks:
        by_status.setdefault(record[name]["status"], []).append(name)
    print("\n".join(f"{status}: {', '.join(names)}" for status, names in sorted(by_status.items())))
    sys.exit(1 if "failed" in by_status else 0)


if __name__ == "__main__":
    with ending_cleanly():
        main()
