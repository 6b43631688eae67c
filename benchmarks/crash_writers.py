"""What ``benchmarks.crash`` kills: programs that write files, what their files hold, and how a program tells what it wrote."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import dsenv.files
from benchmarks import leaderboard
from dsenv import cli, encoders
from dsenv.errors import InputError, require
from dsenv.evaluation import load_rows
from dsenv.finetuning import TargetResult
from dsenv.picks import plan_picks
from dsenv.proxies.entries import Entry
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.stored import StoredProxy
from dsenv.search import random_counts
from dsenv.seeding import generator
from dsenv.synthetic import synthetic_task, synthetic_texts
from dsenv.tables import write_table
from dsenv.task import SelectionTask

ROWS = {"many": 4_000, "some": 600, "few": 240}
RANGE_ROWS = 128  # texts whose vectors are one file: fewer than usual, so that a small table has many
STORE_PROCESSES = 3
STORE_SCORES = 800  # that each of them asks for; half of them the next one asks for too
MERGED_SCORES = 4_000  # of each of two stores
MINE = re.compile(r"\..+\.([0-9a-f]{8}\.tmp|lock)")  # what a killed writer may leave

BESIDE_STORES = (".db-wal", ".db-shm", ".db-journal")  # of SQLite
EVERYTHING = {"everything"}

Held = set[str]
Tell = Callable[..., None]


@dataclass(frozen=True)
class Writer:
    """A program that is killed.

    Attributes:
        name: of it.
        work: called in an empty folder, or in what a killed one left, with the folder of the inputs and a process's number.
        share: of the kills.
        imports: modules that it imports late; the process that is forked has them already.
        prepare: makes in a folder what the program reads.
        processes: that work in the folder at once.
        all_or_nothing: whether a killed one must have left nothing, or everything.
    """

    name: str
    work: Callable[[Path, int], None]
    share: float
    imports: tuple[str, ...] = ()
    prepare: Callable[[Path], object] | None = None
    processes: int = 1
    all_or_nothing: bool = False


def make_table(inputs: Path, name: str) -> list[str]:
    """Write an invented table, and return its texts."""
    dataset = synthetic_texts(ROWS[name], ROWS[name] // 4, seed=1)
    labels = [dataset.class_names[label] for label in dataset.train.labels]
    write_table({"text": dataset.train.texts, "label": labels}, inputs / f"{name}.csv")
    return dataset.train.texts


def make_encoder(inputs: Path) -> None:
    """Write a table, a tokenizer of its words, and a BERT of two layers that nobody has trained."""
    torch, transformers = require("torch", "finetune"), require("transformers", "finetune")
    texts, folder = make_table(inputs, "few"), inputs / "encoder"
    folder.mkdir()
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8")
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig(vocab_size=5 + len(words), **sizes)).save_pretrained(folder)


def make_stores(inputs: Path) -> None:
    """Write two stores."""
    for number in range(2):
        with ScoreStore(inputs / f"part{number}.db") as store:
            stored, rng = _stored(store), generator(number, "crash")
            stored.score(np.stack([random_counts(stored.plan, rng) for _ in range(MERGED_SCORES)]))


def build(inputs: Path, process: int, table: str, encoder: str) -> None:
    """Build a task; the folder's cache keeps the vectors."""
    encoders.RANGE_ROWS = RANGE_ROWS
    where = ("--cache-dir", "cache", "--out", "task.npz")
    _dsenv("build", inputs / f"{table}.csv", "--encoder", encoder, "--clusters", 32, *where)


def run_leaderboard(inputs: Path, process: int) -> None:
    """Run searches on two problems and summarise them."""
    problems = ("DataSelect-InfoTabs-Small-v0", "DataSelect-Synthetic-v0")
    given = ("--agents", "greedy", "swap", "annealing", "--evaluations", "64", "256", "--seeds", "4")
    leaderboard.main(["--ids", *problems, *given, "--json", "leaderboard.json"])


def evaluate(inputs: Path, process: int) -> None:
    """Run a search with several seeds."""
    budgets = ("--evaluations", 64, "--evaluations", 256)
    _dsenv("evaluate", "swap", "--id", "DataSelect-InfoTabs-Small-v0", *budgets, "--seeds", 12, "--out", "results.jsonl")


def finetune(inputs: Path, process: int) -> None:
    """Fine-tune the tiny encoder, two seeds of six epochs."""
    how = ("--target", inputs / "encoder", "--epochs", 6, "--seeds", 2, "--batch-size", 8, "--max-length", 32)
    _dsenv("finetune", "all", inputs / "few.csv", *how, "--out", "target.json")


def fill_store(inputs: Path, process: int) -> None:
    """Ask one of several for scores that one file remembers."""
    with ScoreStore("scores.db") as store:
        stored = _stored(store)
        rng = generator(0, "crash")
        drawn = [random_counts(stored.plan, rng) for _ in range(STORE_SCORES * (STORE_PROCESSES + 1) // 2)]
        first = process * STORE_SCORES // 2
        for counts in drawn[first : first + STORE_SCORES]:
            stored.score(counts[None])


def merge_stores(inputs: Path, process: int) -> None:
    """Merge two stores into a new one."""
    _dsenv("store", "merge", "scores.db", inputs / "part0.db", inputs / "part1.db")


BUILDS = ("faiss", "sklearn.decomposition", "sklearn.feature_extraction.text")
WRITERS = (
    Writer("build tfidf", partial(build, table="many", encoder="tfidf"), 0.14, BUILDS, partial(make_table, name="many")),
    Writer("build minilm", partial(build, table="some", encoder="minilm-fast"), 0.06, (*BUILDS, "sentence_transformers"),
           partial(make_table, name="some")),
    Writer("leaderboard", run_leaderboard, 0.12),
    Writer("evaluate", evaluate, 0.10),
    Writer("finetune", finetune, 0.18, ("transformers.models.bert.modeling_bert",), make_encoder),
    Writer("store", fill_store, 0.30, processes=STORE_PROCESSES),
    Writer("store merge", merge_stores, 0.10, prepare=make_stores, all_or_nothing=True),
)  # fmt: skip


def held(folder: Path) -> Held:
    """Return what the files of a folder hold, a line for each thing that must not get lost; seconds are left out.

    Temporary folders, locks and what SQLite has beside a store are no results.

    Raises:
        DsenvError: for a file that cannot be read, or that nobody should have written.
        ValueError: for JSON or vectors that cannot be read.
    """
    found: Held = set()
    for path in folder.iterdir():
        if path.is_dir() and not MINE.fullmatch(path.name):
            found |= held(path)
        elif path.is_file() and not MINE.fullmatch(path.name) and not path.name.endswith(BESIDE_STORES):
            found |= held_by(path)
    return found


def held_by(path: Path) -> Held:
    """Return what one file holds. As in ``held``."""
    if path.parent.parent.name == "vectors":
        with np.load(path, allow_pickle=False) as arrays:
            vectors = arrays["vectors"]
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise InputError(f"{path.name} holds no vectors")
        return {f"vectors {path.name} {_digest(vectors.tobytes())}"}
    if path.suffix == ".npz":
        return {f"task {SelectionTask.load(path).digest}"}
    if path.suffix == ".jsonl" or path.name.endswith(".jsonl.partial"):
        return {f"row {_without_clock(json.loads(row.to_json()))}" for row in load_rows(path)}
    if path.suffix == ".checkpoint":
        return {f"{path.name.split('.')[-2]} step {step + 1}" for step in range(_steps_of_checkpoint(path))}
    if path.suffix == ".db":
        return _held_by_store(path)
    if path.name == "leaderboard.json":
        return {f"summary {_without_clock(row)}" for row in json.loads(path.read_text(encoding="utf-8"))["summary"]}
    if path.name == "target.json":
        return _held_by_target(path)
    raise InputError(f"{path.name} is a file that nobody should have written")


def _steps_of_checkpoint(path: Path) -> int:
    """Return after how many steps it was written; every tensor is read."""
    with require("safetensors", "finetune").safe_open(path, "numpy") as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            file.get_tensor(key)
        return int(json.loads(file.metadata()["facts"])["steps"])


def _held_by_target(path: Path) -> Held:
    """A finished seed holds all its steps, so that it may take the place of its checkpoint."""
    result = TargetResult.load(path)
    found = {f"target {result.rows_digest} {result.selection} {result.fingerprint}"}
    for run in result.runs:
        scored = {"accuracy": run.accuracy, "macro_f1": run.macro_f1, **asdict(run.fit)}
        found |= {f"seed{run.seed} step {step + 1}" for step in range(run.fit.steps)}
        found.add(f"seed{run.seed} scores {_without_clock(scored)}")
    return found


def _held_by_store(path: Path) -> Held:
    """Read a copy, so that the next writer finds the store as the killed one left it."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal", "-journal"):
            if (part := path.with_name(path.name + suffix)).exists():
                shutil.copy(part, folder)
        copy = Path(folder) / path.name
        with ScoreStore(copy) as store:
            if damaged := store.info().damaged:
                raise InputError(f"{path.name} has {damaged} damaged entries")
            store.export(Path(folder) / "scores.jsonl")
        with closing(sqlite3.connect(copy)) as connection:
            if (said := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                raise InputError(f"{path.name}: {said}")
        lines = (json.loads(line) for line in (Path(folder) / "scores.jsonl").read_text(encoding="utf-8").splitlines())
        return {_score_line(line) for line in lines if "score" in line}


def tell_writes(tell: Tell) -> None:
    """Let this process call ``tell("begins")`` before and ``tell("ends")`` after a write, and tell what the file holds."""
    atomic_write = dsenv.files.atomic_write

    @contextmanager
    def told_write(path: str | Path) -> Iterator[Path]:
        ours = Path(path).absolute().is_relative_to(Path.cwd())  # not the copy of a store that is looked into
        if ours:
            tell("begins")
        with atomic_write(path) as temporary:
            yield temporary
        if ours:
            tell("ends")
            tell("holds", held_by(Path(path)))

    for module in list(sys.modules.values()):
        if getattr(module, "atomic_write", None) is atomic_write:
            module.atomic_write = told_write  # type: ignore[attr-defined]

    put, merge = ScoreStore.put, ScoreStore.merge

    def told_put(store: ScoreStore, entries: Iterable[Entry]) -> None:
        kept = list(entries)
        tell("begins")
        put(store, kept)
        tell("ends", {_score_line(entry.to_json()) for entry in kept})

    def told_merge(store: ScoreStore, *others: str | Path) -> int:
        tell("begins")
        added = merge(store, *others)
        tell("ends", EVERYTHING)
        return added

    ScoreStore.put = told_put  # type: ignore[method-assign, assignment]
    ScoreStore.merge = told_merge  # type: ignore[method-assign, assignment]


def _stored(store: ScoreStore) -> StoredProxy:
    task = synthetic_task()
    return StoredProxy(RidgeProxy(task, plan_picks(task.clustering("stratified")), "brier_skill", memo=0), store)


def _dsenv(*words: object) -> None:
    logging.getLogger().handlers.clear()
    sys.argv = ["dsenv", *map(str, words)]
    cli.main()


def _score_line(line: dict[str, Any]) -> str:
    counts: Sequence[int] = line["counts"]
    return f"score {line['task'][:8]} {line['recipe'][:8]} {_digest(json.dumps(list(counts)).encode())} {line['score']:.9f}"


def _without_clock(values: dict[str, Any]) -> str:
    kept = {key: value for key, value in values.items() if key not in ("seconds", "command", "versions")}
    named = " ".join(str(values[key]) for key in ("id", "agent", "seed", "budget", "evaluations") if key in values)
    return f"{named} {_digest(json.dumps(kept, sort_keys=True).encode())}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
