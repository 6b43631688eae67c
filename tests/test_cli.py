"""The command line: the whole way from a folder to a fine-tuned target, and one-line errors."""

import json
import subprocess
import sys

import pytest

from dsenv.selection import Selection
from dsenv.task import SelectionTask
from tests.conftest import tiny_splits
from tests.test_dataset import write_folder
from tests.test_finetuning import save_encoder


def dsenv(*arguments, cwd, ok=True):
    done = subprocess.run(
        [sys.executable, "-m", "dsenv.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode == 0) == ok, done.stderr + done.stdout
    return done.stdout if ok else done.stderr


def test_from_a_folder_to_a_target(tmp_path):
    write_folder(tmp_path / "reviews", tiny_splits(), "csv")
    (tmp_path / "bert").mkdir()
    save_encoder(tmp_path / "bert")
    build = ("build", "reviews", "--encoder", "tfidf", "--clusters", 8, "--cache-dir", "cache", "--out", "task.npz")
    first = dsenv(*build, cwd=tmp_path)
    digest = SelectionTask.load(tmp_path / "task.npz").digest
    again = dsenv(*build, "--compare", "task.npz", cwd=tmp_path)
    assert digest in first.replace("\n", "") and "same_digest: True" in again and "same_cluster_kmeans: 1.0" in again
    dsenv("select", "task.npz", "--method", "greedy", "--budget", 0.2, "--evaluations", 100, cwd=tmp_path)
    assert len(Selection.load(tmp_path / "selection.json").rows) == 48
    tune = (
        "finetune",
        "selection.json",
        "reviews",
        "--target",
        "bert",
        "--epochs",
        1,
        "--max-length",
        32,
        "--out",
        "target.json",
    )
    assert "test accuracy" in dsenv(*tune, cwd=tmp_path)
    assert json.loads((tmp_path / "target.json").read_text())["rows"] == 48
    assert "240 rows" in dsenv(
        "finetune", "all", "reviews", "--target", "bert", "--epochs", 1, "--max-length", 32, cwd=tmp_path
    )


def test_evaluate_and_replay(tmp_path):
    search = ("evaluate", "DataSelect-Synthetic-v0", "--method", "greedy", "--evaluations", 300, "--seeds", 2)
    assert "seed 1" in dsenv(*search, cwd=tmp_path)
    assert "2 results replayed" in dsenv("replay", "results.jsonl", cwd=tmp_path)
    lines = (tmp_path / "results.jsonl").read_text().replace('"rows": ', '"rows": 1')
    (tmp_path / "results.jsonl").write_text(lines)
    assert "the result says" in dsenv("replay", "results.jsonl", cwd=tmp_path, ok=False)


def test_tasks_shows_sources_and_licences(tmp_path):
    shown = " ".join(dsenv("tasks", cwd=tmp_path).split())
    for expected in (
        "googleplay:noisy",
        "hateunion:target",
        "banking77:small",
        "CC BY 4.0",
        "PolyAI-LDN/task-specific-datasets",
    ):
        assert expected.replace(" ", "") in shown.replace(" ", "").replace("│", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("select", "googleplai"), "Did you mean 'googleplay'"),
        (("select", "none.npz"), "no task file"),
        (("select", "synthetic", "--budget", "0"), "above 0 up to 1"),
        (("build", "nowhere"), "no dataset 'nowhere'"),
        (("evaluate", "DataSelect-Nope-v0"), "DataSelect-Nope"),
        (("finetune", "none.json", "nowhere"), "not a readable selection"),
        (("replay", "none.jsonl"), "cannot be read"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(arguments, says, tmp_path):
    shown = dsenv(*arguments, cwd=tmp_path, ok=False)
    assert says in shown.replace("\n", " ") and "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []
