"""What kind a file is, how each kind is recounted, and the tables of what was found."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.verify import boards, chosen, proxies, questions, rates, targets
from benchmarks.verify.findings import Findings
from benchmarks.verify.tasks import TASKS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RECORD = "verify.json"
OWN = "measured"
SHOWN = 20  # failures of a file

Line = dict[str, Any]
# Each kind of JSON file: the keys that tell it, and how it is recounted.
WHOLE: dict[str, tuple[set[str], Callable[[Findings, Path, Any], None]]] = {
    "leaderboard": ({"summary", "difference", "improvement", "variants"}, boards.check_leaderboard),
    "constants": ({"problems"}, lambda found, path, record: boards.check_constants(found, record)),
    "target summary": ({"rows", "difference", "published"}, targets.check_summary),
    "rlvr summary": ({"controllers", "level", "savings"}, questions.check_record),
    "throughput": (
        {"scores_per_second", "others_per_second"},
        lambda found, path, record: rates.check_throughput(found, record),
    ),
    "crashes": ({"writers", "total"}, lambda found, path, record: rates.check_crashes(found, record)),
    "scaling": ({"summary", "clustering", "encoding"}, lambda found, path, record: rates.check_scaling(found, record)),
}
# The same, told by the first of the file's blocks.
BLOCKS: dict[str, tuple[set[str], Callable[[Findings, Path, Any], None]]] = {
    "fidelity": ({"proxies", "target"}, proxies.check_fidelity),
    "proxy variants": ({"variants", "warm_rows"}, proxies.check_variants),
    "target scores": ({"selections", "runs"}, lambda found, path, record: targets.check_target_scores(found, record)),
    "end to end": ({"options", "runs"}, lambda found, path, record: targets.check_end_to_end(found, record)),
    "learning": ({"runs"}, lambda found, path, record: rates.check_learning(found, record)),
}


def verify(path: Path, options: argparse.Namespace | None = None) -> Findings:
    """Return what is found in a file; one that cannot be read fails."""
    found = Findings()
    chosen.forget()
    try:
        if path.suffix == ".npz":
            found.kind = "task"
            chosen.check_task(found, path)
        elif path.suffix == ".jsonl":
            _verify_lines(
                found, path.name, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            )
        elif path.suffix == ".json":
            _verify_record(found, path, json.loads(path.read_text(encoding="utf-8")), options)
        else:
            found.leave(f"{path.name}: a kind of file that is not known here")
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration, zipfile.BadZipFile) as error:
        found.failures.append(f"cannot be read: {type(error).__name__}: {error}")
    return found


def _verify_lines(found: Findings, name: str, lines: Sequence[Line]) -> None:
    if lines and {"actions", "failed"} & set(lines[0]):
        found.kind, found.rows = "results", len(lines)
        names = [
            json.dumps([line[k] for k in ("id", "keywords", "agent", "seed", "budget")], sort_keys=True) for line in lines
        ]
        found.equal("no row twice", "all lines", len(set(names)), len(names))
        by_instance = sorted(enumerate(lines, 1), key=lambda one: str(one[1]["keywords"].get("instance", 0)))  # kept in memory
        for number, line in by_instance:
            where = f"line {number} {line['agent']} seed {line['seed']} budget {line['budget']}"
            if "failed" in line:
                found.leave("failed runs: there is no selection")
                continue
            try:
                chosen.check_result(found, where, line)
            except (KeyError, ValueError, TypeError, IndexError, OSError) as error:
                found.failures.append(f"{where}: cannot be recounted: {type(error).__name__}: {error}")
    elif lines and "setting" in lines[0]:
        found.kind = "target runs"
        targets.check_runs(found, lines)
    elif lines and {"controller", "points"} <= set(lines[0]):
        found.kind = "rlvr runs"
        questions.check_training(found, lines)
    else:
        found.leave(f"{name}: lines of a kind that is not known here")


def _verify_record(found: Findings, path: Path, record: Line, options: argparse.Namespace | None) -> None:
    if {"rows", "method", "task_digest"} <= set(record):
        found.kind = "selection"
        given = vars(options) if options else {}
        plan = {name: given[name] for name in chosen.PLAN if given.get(name) is not None}
        chosen.check_selection(found, record, given.get("task"), given.get("metric"), plan)
        return
    name, first = next(((key, block) for key, block in record.items() if isinstance(block, dict)), ("", {}))
    for told, kinds in ((set(record), WHOLE), ({*first, name.partition("-")[0]}, BLOCKS)):
        for kind, (keys, check) in kinds.items():
            if keys <= told:
                found.kind = kind
                check(found, path, record)
                return
    if any({"command", "versions", "machine"} <= set(block) for block in (record, first)):
        found.kind = OWN
        found.leave(f"{path.name}: what its command measured, from which nothing follows")
    else:
        found.leave(f"{path.name}: a record of a kind that is not known here")


def committed() -> list[Path]:
    """Return every file that is committed to be checked."""
    files = [path for path in sorted(RESULTS.rglob("*")) if path.is_file() and path.name != RECORD]
    return [*files, *sorted(TASKS.glob("*"))]


def by_kind(files: dict[str, Line]) -> str:
    """Return a Markdown table: what was checked of each kind of file, and what could not be."""
    lines = ["| what | files | rows | comparisons | disagree | recounted | not recounted |", "|---" * 7 + "|"]
    for kind in dict.fromkeys(one["kind"] for one in files.values()):
        mine = [one for one in files.values() if one["kind"] == kind]
        checks = dict.fromkeys(name.partition(":")[0] for one in mine for name in one["checks"])
        left = dict.fromkeys(text for one in mine for text in one["left"])
        numbers = [len(mine), *(sum(one[name] for one in mine) for name in ("rows", "comparisons", "failed"))]
        lines.append(f"| {' | '.join([kind, *(f'{n:,}' for n in numbers), ', '.join(checks), '; '.join(left)])} |")
    return "\n".join(lines)


def by_file(files: dict[str, Line]) -> str:
    """Return a Markdown table: one line a file."""
    lines = ["| file | what | rows | comparisons | disagree | largest difference of scores |", "|---" * 6 + "|"]
    for name, one in files.items():
        numbers = [f"{one[key]:,}" for key in ("rows", "comparisons", "failed")]
        numbers.append(f"{one['largest']:.1e}" if one["largest"] else "")
        lines.append(f"| {' | '.join([name, one['kind'], *numbers])} |")
    return "\n".join(lines)


def table(record: Line) -> str:
    """Return the committed record's table by kind."""
    return by_kind(record["files"])


def entry(found: Findings) -> Line:
    """Return what is recorded of a file."""
    fields = {**asdict(found), "checks": dict(found.checks), "failures": found.failures[:SHOWN]}
    return {**fields, "comparisons": found.checks.total(), "failed": len(found.failures)}
