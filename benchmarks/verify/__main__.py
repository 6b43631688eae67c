"""Recount what is committed, with code that shares nothing with the package: selections, results, their summaries.

``python -m benchmarks.verify [FILES...] [--json F]``

Without files: everything in ``benchmarks/results``, and the task files and constants that the package brings; all rows, no
sample, in about three minutes on one core. A file's kind is told by what it holds; a summary is recounted from the runs beside
it. Scores may differ by 1e-6, what was written with six digits by 1.1e-6, the rest not at all. Ends with status 1 where
anything disagrees. What could not be recounted is named, with the reason.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.verify.kinds import RECORD, RESULTS, ROOT, by_file, by_kind, committed, entry, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Recount, print, store; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="*", type=Path, help="selections, results, summaries, task files; default: all committed"
    )
    parser.add_argument("--json", type=Path, help=f"default: benchmarks/results/{RECORD}, nowhere with files")
    parser.add_argument("--task", help="of a selection whose task the package does not bring: a file *.npz, or *.npz:variant")
    parser.add_argument("--metric", help="of a selection, where it is not its task's own")
    parser.add_argument(
        "--clustering", choices=["stratified", "kmeans"], help="of a selection that is not by stratified clusters"
    )
    parser.add_argument("--unit", choices=["rows", "cluster"], help="of a selection that is not by rows")
    parser.add_argument("--budget", type=float, help="of a selection that is not of 0.05 of the rows")
    parser.add_argument("--picks", type=int, help="of a selection that has not the usual number of picks")
    given = parser.parse_args(arguments)
    paths, files = given.files or committed(), {}
    started = time.perf_counter()
    for number, path in enumerate(paths, 1):
        found = verify(path, given)
        inside = path.resolve().is_relative_to(ROOT)
        name = str(path.resolve().relative_to(ROOT)) if inside else str(path)
        files[name] = entry(found)
        spent = time.perf_counter() - started
        print(
            f"{number}/{len(paths)} {name}: {found.rows} rows, {len(found.failures)} disagree; {spent:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    print(by_file(files), by_kind(files), sep="\n\n")
    failed = {name: one for name, one in files.items() if one["failed"]}
    for name, one in failed.items():
        print(f"\n{name}: {one['failed']} disagree")
        for text in one["failures"]:
            print(f"  {text}")
    target = given.json or (None if given.files else RESULTS / RECORD)
    if target is not None:
        _store(target, files, time.perf_counter() - started)
    comparisons = sum(one["comparisons"] for one in files.values())
    print(f"\n{comparisons:,} comparisons in {len(files)} files, {len(failed)} of them with disagreements")
    return 1 if failed else 0


def _store(path: Path, files: dict[str, Any], seconds: float) -> None:
    from benchmarks.records import provenance, store_block  # import the package: only after everything is recounted

    for key, block in {**provenance("benchmarks.verify", {}), "seconds": round(seconds, 1), "files": files}.items():
        store_block(path, key, block)


if __name__ == "__main__":
    sys.exit(main())
