"""Feeds every reader with hostile and broken input: ``python -m benchmarks.fuzz --seconds 1500``.

Every surface has a process of its own. Files are mutated by atheris (libFuzzer), guided by the lines of dsenv that they
reach, and as many are small edits of genuine files; values (signed task files, columns, keywords, actions, command lines)
are drawn by Hypothesis. A finding is anything but a documented error: another exception, no answer in 20 seconds, more than
2 GiB, a process that died.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.fuzz.surface import HANG_SECONDS, MEMORY_BYTES, SHOWN_BYTES
from benchmarks.fuzz.surfaces import all_surfaces
from benchmarks.records import provenance, read_record
from dsenv.errors import ending_cleanly, one_of
from dsenv.files import atomic_write

SLACK_SECONDS = 120.0  # for imports, and a last input that hangs
MEMORY_FOLDER = Path("/dev/shm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print a row a surface, and return 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1500.0, help="all surfaces together, on one core")
    parser.add_argument("--surface", action="append", help="one of the surfaces; may be given several times (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="surfaces at a time")
    parser.add_argument("--json", type=Path, help="write what was tried and found; with --surface, the others' stay")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None) as folder:
        (Path(folder) / "listed").mkdir()
        surfaces = {surface.name: surface.seeds is not None for surface in all_surfaces(Path(folder) / "listed")}
        names = [one_of("surface", name, surfaces) for name in given.surface or surfaces]
        share = given.seconds / len(names)
        minutes = given.seconds / given.jobs / 60
        print(f"{len(names)} surfaces, {share:.0f} s each, {given.jobs} at a time: about {minutes:.0f} minutes", flush=True)

        def one(name: str) -> dict[str, Any]:
            found = _fuzz(name, Path(folder) / str(names.index(name)), share, given.seed, guided=surfaces[name])
            print(
                f"{name:20} {found['tried']:>9} tried, {found['refused']:>9} refused, {len(found['findings'])} findings",
                flush=True,
            )
            for place, finding in found["findings"].items():
                print(f"    {place}, {finding['count']} times: {finding['error']}", flush=True)
            return found

        with ThreadPoolExecutor(given.jobs) as pool:
            tallies = dict(zip(names, pool.map(one, names), strict=True))
    stored = read_record(given.json) if given.json and given.surface else {}
    tallies = {**stored.get("surfaces", {}), **tallies}
    record = {
        **provenance("benchmarks.fuzz", {"seconds": given.seconds, "seed": given.seed, "jobs": given.jobs}),
        **stored,
        "limits": {"seconds": HANG_SECONDS, "bytes": MEMORY_BYTES},
        "inputs": sum(tally["tried"] for tally in tallies.values()),
        "refused": sum(tally["refused"] for tally in tallies.values()),
        "findings": sum(len(tally["findings"]) for tally in tallies.values()),
        "surfaces": tallies,
    }
    print(f"{record['inputs']} inputs, {record['refused']} refused with a documented error, {record['findings']} findings")
    if given.json:
        with atomic_write(given.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if record["findings"] else 0


def table(record: dict[str, Any]) -> str:
    """Return one row a surface, as Markdown."""
    lines = ["| surface | drawn by | inputs | refused | findings |", "|---|---|---|---|---|"]
    for name, tally in record["surfaces"].items():
        cells = [name, tally["engine"], f"{tally['tried']:,}", f"{tally['refused']:,}", str(len(tally["findings"]))]
        lines.append(f"| {' | '.join(cells)} |")
    total = [f"{record['inputs']:,}", f"{record['refused']:,}", str(record["findings"])]
    return "\n".join([*lines, f"| **all** | | {' | '.join(total)} |"])


def _fuzz(name: str, folder: Path, seconds: float, seed: int, *, guided: bool) -> dict[str, Any]:
    """Run a surface in a process of its own and return its tally."""
    folder.mkdir()
    words = [
        sys.executable,
        "-m",
        "benchmarks.fuzz.child",
        name,
        str(folder),
        str(seconds),
        str(seed),
        *(["guided"] if guided else []),
    ]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "DSENV_QUIET": "1"}
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(words, stdout=log, stderr=log, env=quiet)
        try:
            status = child.wait(seconds + SLACK_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
    path = folder / "tally.json"
    tally: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"tried": 0, "refused": 0, "findings": {}}
    )
    if status:
        last = max((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_mtime)
        told = (folder / "log").read_text(encoding="utf-8", errors="replace")[-600:]
        ended = signal.Signals(-status).name if status < 0 else f"status {status}"
        data = base64.b64encode(last.read_bytes()[:SHOWN_BYTES]).decode()
        tally["findings"]["process"] = {"error": f"ended with {ended}: {told}", "count": 1, "input": data}
    return {"engine": "atheris" if guided else "hypothesis", "seconds": round(seconds), "seed": seed, **tally}


if __name__ == "__main__":
    with ending_cleanly():
        sys.exit(main())
