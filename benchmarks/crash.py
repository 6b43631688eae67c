"""Programs that write files are killed at random moments: is anything half-written or lost, and do they go on?

``python -m benchmarks.crash [--kills 200] [--seed 0] [--writers evaluate store] [--json F]``

The programs of ``benchmarks.crash_writers`` (building a task, the leaderboard, evaluating, fine-tuning, a store that several
processes fill, merging stores) run undisturbed once. Then each runs in new folders again and again: one to four times it is
killed with SIGKILL and started with the same command, and at last it is left to end. Half of the moments are uniform over the
work that is left, half are within the time that a write takes, after the beginning of a random write. The processes are forked
from one that has imported everything, so that no kill hits an import; its only other thread is pyarrow's allocator's, which
allows for forks.

A program tells after every write what it wrote: ``acknowledged``. After every kill everything in the folder is read: ``lost``
counts what had been told and is not there, ``half_written`` files that cannot be read or should not be there, or a merge that
is there in part. ``stuck`` counts starts that ended with an error, ``same`` the runs that hold at their end exactly what the
undisturbed run holds: the task's digest and its vectors, result rows (without seconds, versions, commands), scores and rows of
the target, scores of the store. ``leftovers`` are temporary folders and locks that killed programs left. The status is 1 where
anything is lost, half-written or stuck, or a run is not the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field, fields
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.crash_writers import EVERYTHING, MINE, WRITERS, Held, Writer, held, tell_writes
from benchmarks.records import RESULTS, provenance
from dsenv.errors import DsenvError, check_whole, ending_cleanly, one_of
from dsenv.files import atomic_write
from dsenv.progress import QUIET, progress

MOST_KILLS = 4  # of one run
STUCK_SECONDS = 300.0


@dataclass
class Attempt:
    """One start of a writer.

    Attributes:
        killed: whether it was killed before it had ended.
        told: what it had told to be written.
        writes: writes that it began.
        in_write: whether a process was within a write when it was killed.
        seconds: from when it was ready to its end.
        write_seconds: of each write that it ended.
        failed: processes that ended with an error.
    """

    killed: bool = False
    told: Held = field(default_factory=set)
    writes: int = 0
    in_write: bool = False
    seconds: float = 0.0
    write_seconds: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True)
class Moment:
    """When to kill: seconds after the ``write``-th write began; after the beginning of the work where that is 0."""

    write: int
    seconds: float


@dataclass
class Count:
    """What happened to one writer; the fields are those of the record."""

    kills: int = 0
    kills_in_a_write: int = 0
    acknowledged: int = 0
    lost: int = 0
    half_written: int = 0
    stuck: int = 0
    runs: int = 0
    same: int = 0
    leftovers: int = 0

    @property
    def wrong(self) -> int:
        """How often something happened that must not."""
        return self.lost + self.half_written + self.stuck + self.runs - self.same


class Crashes:
    """One writer, killed and started again.

    Args:
        writer: the program.
        scratch: folder for its inputs and runs.
        rng: draws the moments.
    """

    def __init__(self, writer: Writer, scratch: Path, rng: random.Random) -> None:
        self.writer, self.scratch, self.rng = writer, scratch, rng
        self.count = Count()
        self.log = scratch / "log"
        self.inputs = self._folder("inputs")
        if writer.prepare is not None:
            making = multiprocessing.get_context("forkserver").Process(target=writer.prepare, args=(self.inputs,))
            making.start()
            making.join()
        folder = self._folder("undisturbed")
        self.undisturbed = attempt(writer, self.inputs, folder, self.log)
        if self.undisturbed.failed:
            raise DsenvError(f"{writer.name} fails undisturbed: {self.log.read_text(encoding='utf-8')[-2000:]}")
        self.expected = held(folder)

    def seconds(self, kills: int) -> float:
        """Estimate how long so many kills take."""
        return self.undisturbed.seconds * kills * (0.5 + 2 / (1 + MOST_KILLS)) + 0.2 * kills

    def run(self, kills: int) -> None:
        """Kill the writer so many times, in as many runs as that takes."""
        with progress(f"{self.writer.name}, kills", kills) as advance:
            while self.count.kills < kills:
                folder, known = self._folder(f"run{self.count.runs}"), set[str]()
                planned = min(self.rng.randint(1, MOST_KILLS), kills - self.count.kills)
                for left in range(planned, -1, -1):
                    killed, known = self._start(folder, known, self._moment(known) if left else None)
                    advance(killed)
                    if not killed:
                        break
                self.count.runs += 1
                self.count.same += known == self.expected
                self.count.leftovers += sum(MINE.fullmatch(path.name) is not None for path in folder.rglob("*"))

    def _start(self, folder: Path, known: Held, moment: Moment | None) -> tuple[bool, Held]:
        """Start the writer once, kill it or not; return whether it was killed, and what is there then."""
        found = attempt(self.writer, self.inputs, folder, self.log, moment, self.rng)
        told = self.expected if found.told == EVERYTHING else found.told
        there = self._held(folder)
        self.count.kills += found.killed
        self.count.kills_in_a_write += found.killed and found.in_write
        self.count.acknowledged += len(told - known)
        self.count.lost += len((known | told) - there)
        self.count.half_written += self.writer.all_or_nothing and found.killed and len(there) not in (0, len(self.expected))
        if found.failed:
            self.count.stuck += 1
            print(f"{self.writer.name} ended with an error: {self.log.read_text(encoding='utf-8')[-2000:]}", file=sys.stderr)
        return found.killed, there

    def _held(self, folder: Path) -> Held:
        try:
            return held(folder)
        except (DsenvError, ValueError) as error:
            self.count.half_written += 1
            print(f"{self.writer.name}: {error}", file=sys.stderr)
            return set()

    def _moment(self, known: Held) -> Moment:
        left = 1 - len(known) / len(self.expected)
        times = sorted(self.undisturbed.write_seconds)
        if not times or self.rng.random() < 0.5:
            return Moment(0, self.rng.uniform(0, self.undisturbed.seconds * max(left, 0.1)))
        write = self.rng.randint(1, max(1, round(self.undisturbed.writes * left)))
        return Moment(write, self.rng.uniform(0, times[len(times) // 2]))

    def _folder(self, name: str) -> Path:
        folder = self.scratch / name
        folder.mkdir(parents=True)
        return folder


def attempt(
    writer: Writer, inputs: Path, folder: Path, log: Path, moment: Moment | None = None, rng: random.Random | None = None
) -> Attempt:
    """Start a writer in a folder and wait for its end; kill it at a moment: all of its processes, or by chance one."""
    context = multiprocessing.get_context("forkserver")
    children: dict[Connection, Any] = {}
    for process in range(writer.processes):
        receiver, sender = context.Pipe(duplex=False)
        given = (writer, inputs, folder, log, process, sender)
        children[receiver] = context.Process(target=work, args=given, daemon=True)  # ends with this program
        children[receiver].start()
        sender.close()
    found = Attempt()
    listening, victims, done = list(children), set[Connection](), set[Connection]()
    begun: dict[Connection, float] = {}  # the write that a process is in
    started, kill_at, stuck_at = 0.0, math.inf, time.monotonic() + STUCK_SECONDS
    while listening:
        for pipe in wait(listening, min(1.0, max(0.0, min(kill_at, stuck_at) - time.monotonic()))):
            assert isinstance(pipe, Connection)
            try:
                what, when, told = pipe.recv()
            except (EOFError, OSError):  # it ended, in the midst of a message perhaps
                listening.remove(pipe)
                continue
            if what == "ready" and not started:
                started = when
                kill_at = when + moment.seconds if moment and not moment.write else math.inf
            elif what == "begins":
                begun[pipe] = when
                found.writes += 1
                if moment and moment.write == found.writes:
                    kill_at = when + moment.seconds
            elif what == "ends":
                found.write_seconds.append(when - begun.pop(pipe))
            elif what == "done":
                done.add(pipe)
                found.seconds = when - started
            found.told |= told or set()
        now = time.monotonic()
        if now > min(kill_at, stuck_at):
            if now > stuck_at:
                found.failed += 1
            victims = set(children) if now > stuck_at or rng is None or rng.random() < 0.5 else {rng.choice(list(children))}
            kill_at = stuck_at = math.inf
            for pipe in victims:
                if children[pipe].exitcode is None:
                    with suppress(ProcessLookupError):  # it has just ended by itself
                        os.killpg(children[pipe].pid, signal.SIGKILL)
    for pipe, child in children.items():
        child.join()
        found.failed += child.exitcode != (-signal.SIGKILL if pipe in victims - done else 0) and pipe not in victims & done
    found.killed = bool(victims - done)
    found.in_write = bool(victims & set(begun))
    return found


def work(writer: Writer, inputs: Path, folder: Path, log: Path, process: int, sender: Connection) -> None:
    """Be one process of a writer: the head of a process group, in the run's folder, telling what it writes."""
    os.setsid()
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(told, 1)
    os.dup2(told, 2)
    os.chdir(folder)
    os.environ[QUIET] = "1"

    def tell(what: str, written: Held | None = None) -> None:
        sender.send((what, time.monotonic(), written))

    tell_writes(tell)
    tell("ready")
    try:
        writer.work(inputs, process)
    except SystemExit as ended:
        if ended.code:
            raise
    tell("done")


def shares(writers: Sequence[Writer], kills: int) -> list[int]:
    """Split the kills between the writers, at least one each."""
    whole = sum(writer.share for writer in writers)
    ends = [round(kills * sum(writer.share for writer in writers[:number]) / whole) for number in range(len(writers) + 1)]
    return [max(1, end - start) for start, end in pairwise(ends)]


def measure(kills: int, seed: int, names: Sequence[str]) -> dict[str, Count]:
    """Kill the writers of some names; print the estimate of the time, and how it goes."""
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})  # for the processes that are killed
    writers = [writer for writer in WRITERS if writer.name in names]
    imports = [
        "benchmarks.crash_writers",
        "dsenv.building",
        "pydantic",
        *(module for writer in writers for module in writer.imports),
    ]
    multiprocessing.get_context("forkserver").set_forkserver_preload(imports)
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        crashes = [Crashes(writer, Path(folder, writer.name), random.Random(f"{seed} {writer.name}")) for writer in writers]
        planned = shares(writers, kills)
        seconds = sum(one.seconds(count) for one, count in zip(crashes, planned, strict=True))
        print(f"{sum(planned)} kills, about {seconds / 60:.1f} minutes", flush=True)
        for one, count in zip(crashes, planned, strict=True):
            one.run(count)
            counts[one.writer.name] = one.count
            print(f"{one.writer.name}: {one.count}", flush=True)
    return counts


def main() -> None:
    """Kill, look, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writers", nargs="+", default=[writer.name for writer in WRITERS], help="names; default: all")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/crash.json, nowhere with --writers")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_whole("kills", given.kills, 1)
    for name in given.writers:
        one_of("writer", name, [writer.name for writer in WRITERS])
    counts = measure(given.kills, given.seed, given.writers)
    total = Count(*(sum(values) for values in zip(*map(astuple, counts.values()), strict=True)))
    record = {
        **provenance("benchmarks.crash", {"kills": given.kills, "seed": given.seed}),
        "writers": {name: asdict(count) for name, count in counts.items()},
        "total": asdict(total),
    }
    whole = len(counts) == len(WRITERS)
    path = given.json or (RESULTS / "crash.json" if whole else None)
    if path is not None:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))
    if total.wrong:
        raise SystemExit(1)


def table(record: dict[str, Any]) -> str:
    """Return the counts of a record as a Markdown table."""
    names = [each.name for each in fields(Count)]
    lines = [f"| writer | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for writer, counts in {**record["writers"], "**all**": record["total"]}.items():
        lines.append(f"| {writer} | {' | '.join(f'{counts[name]:,}' for name in names)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with ending_cleanly():
        main()
