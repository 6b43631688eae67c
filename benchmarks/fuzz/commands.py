"""Names of datasets, and words behind ``dsenv``."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.fuzz import samples
from benchmarks.fuzz.drawing import WEIRD_TEXTS
from benchmarks.fuzz.surface import Surface
from dsenv.cli import app
from dsenv.dataset import find_folder


def command_surfaces(folder: Path) -> list[Surface]:
    """Return the surfaces; commands are run in the folder."""
    return [
        Surface("names of folders", _Folders(folder / "names").run, WEIRD_TEXTS | _paths()),
        Surface("command line", _CommandLine(folder / "cli").run, _CommandLine.words()),
    ]


def _paths() -> st.SearchStrategy[str]:
    parts = st.sampled_from(["..", ".", "inside", "/", "etc", "~", "\0", "a" * 300, "", "inside/..", "owner"])
    return st.lists(parts, min_size=1, max_size=4).map("/".join)


class _Folders:
    """Names of datasets: whatever they are, nothing outside the data folder is read."""

    def __init__(self, folder: Path) -> None:
        (folder / "data" / "inside").mkdir(parents=True)
        (folder / "outside").mkdir()
        self.data = folder / "data"

    def run(self, name: str) -> None:
        here = Path.cwd()
        try:
            os.chdir(self.data.parent / "outside")  # a folder that exists by itself may be named by its own path
            found = find_folder(name, self.data)
            if found is not None and not Path(name).is_dir() and not found.resolve().is_relative_to(self.data.resolve()):
                raise AssertionError(f"{found} is not below the data folder")
        finally:
            os.chdir(here)


class _CommandLine:
    """Words behind ``dsenv``, in a folder with genuine and broken files."""

    FILES = (
        "task.npz", "table.csv", "table.jsonl", "selection.json", "results.jsonl", "scores.sqlite", "scores.jsonl",
        "run", "nothing.csv", "broken.npz", "broken.json",
    )  # fmt: skip
    COMMANDS = ("tasks", "build", "select", "finalists", "evaluate", "replay", "leaderboard", "finetune", "report", "store")
    OPTIONS = (
        "--out", "--method", "--budget", "--metric", "--unit", "--clustering", "--text", "--label", "--response",
        "--split-seed", "--encoder", "--reported", "--clusters", "--max-rows", "--label-noise", "--target-source",
        "--seed", "--dataset", "--run", "--track", "--id", "--policy", "--algorithm", "--name", "--all", "--target",
        "--order", "--device", "--compare", "--quiet", "--help", "--model",
    )  # fmt: skip
    VALUES = (
        "synthetic", "googleplay:nope", "swap", "herding", "random_rows", "greedy", "0.05", "nan", "-1", "0", "1e999",
        "tfidf", "accuracy", "rows", "cluster", "kmeans", "label", "text", "DataSelect-Synthetic-v0", "info", "merge",
        "export", "all", "table.csv:x", "task.npz:rolled", "\udcff\udcfe", "cpu", "tensorboard:logs", "given", "full",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        samples.task().save(folder / "task.npz")
        samples.table(folder / "table.csv")
        samples.table(folder / "table.jsonl")
        samples.selection().save(folder / "selection.json")
        (folder / "results.jsonl").write_text(samples.result().to_json() + "\n", encoding="utf-8")
        samples.store(folder / "scores.sqlite")
        (folder / "broken.npz").write_bytes((folder / "task.npz").read_bytes()[:900])
        (folder / "broken.json").write_text('{"rows": [', encoding="utf-8")
        (folder / "run").mkdir()

    @classmethod
    def words(cls) -> st.SearchStrategy[list[str]]:
        value = st.one_of(
            st.sampled_from(cls.FILES),
            st.sampled_from(cls.VALUES),
            st.text(st.characters(exclude_characters="\0:/"), max_size=6),
            st.integers(-5, 70).map(str),
        )
        option = st.tuples(st.sampled_from(cls.OPTIONS), value)
        rest = st.lists(st.one_of(option, st.tuples(value)), max_size=5)
        few = st.sampled_from([["--evaluations", "8"], ["--evaluations", "2", "--evaluations", "8"]])
        return st.builds(
            lambda command, parts, tail: [
                command,
                *(word for part in parts for word in part),
                *(tail if command in ("select", "evaluate", "finalists") else []),
                *(["--encoder", "tfidf"] if command in ("build", "select") else []),
            ],
            st.sampled_from(cls.COMMANDS),
            rest,
            few,
        )

    def run(self, words: list[str]) -> None:
        here, runner = Path.cwd(), CliRunner()
        try:
            os.chdir(self.folder)
            found = runner.invoke(app, words)
        finally:
            os.chdir(here)
        if found.exception is not None and not isinstance(found.exception, (OSError, SystemExit)):
            raise found.exception
