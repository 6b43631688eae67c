"""The command line: the whole way from a folder to a fine-tuned target, and one-line errors."""

import contextlib
import io
import json
import subprocess
import sys
from unittest.mock import patch

import gymnasium as gym
import pytest
import sb3_contrib

from dsenv import __version__
from dsenv.cli import main
from dsenv.evaluation import load_rows, replay
from dsenv.run_folder import RunFolder
from dsenv.selection import Selection
from dsenv.tables import read_table, write_table
from dsenv.task import SelectionTask
from tests.conftest import tiny_columns, tiny_splits
from tests.test_dataset import write_folder
from tests.test_finetuning import save_encoder


def dsenv(*arguments, cwd, ok=True):
    """Run a command here, where torch is imported already; return what it prints, or with ``ok=False`` its errors."""
    told, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(errors),
        patch.object(sys, "argv", ["dsenv", *map(str, arguments)]),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert (ended.value.code == 0) == ok, errors.getvalue() + told.getvalue()
    return told.getvalue() if ok else errors.getvalue()


def fresh(*arguments, cwd, ok=True):
    """The same in a process of its own, for what imports the user's modules or is interrupted."""
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
    two_stage = ("finalists", "task.npz", "--budget", 0.2, "--count", 4, "--evaluations", 50, "--out", "finalist.json")
    assert "48 of 240 rows, finalist: " in dsenv(*two_stage, cwd=tmp_path)
    by_target = ("reviews", "--target", "bert", "--max-length", 32, "--scores", "scores.json")
    dsenv(*two_stage, *by_target, cwd=tmp_path)
    assert len(json.loads((tmp_path / "scores.json").read_text())["scores"]) == 4 + 2
    assert json.loads((tmp_path / "target.json").read_text())["rows"] == 48
    assert "240 rows" in dsenv(
        "finetune", "all", "reviews", "--target", "bert", "--epochs", 1, "--max-length", 32, cwd=tmp_path
    )


def test_evaluate_and_replay(tmp_path):
    search = (
        "evaluate",
        "greedy",
        "--id",
        "DataSelect-Synthetic-v0",
        "--evaluations",
        300,
        "--evaluations",
        100,
        "--seeds",
        2,
    )
    assert "seed 1, 100 evaluations" in dsenv(*search, cwd=tmp_path)
    assert "4 results replayed" in dsenv("replay", "results.jsonl", cwd=tmp_path)
    lines = (tmp_path / "results.jsonl").read_text()
    failure = '{"id":"DataSelect-Synthetic-v0","agent":"x","seed":0,"failed":"RuntimeError: no"}'
    (tmp_path / "results.jsonl").write_text(lines + failure + "\n")
    assert "1 failed runs have none" in dsenv("replay", "results.jsonl", cwd=tmp_path)
    assert "failed" in dsenv("leaderboard", "results.jsonl", cwd=tmp_path)
    (tmp_path / "results.jsonl").write_text(lines.replace('"rows":', '"rows":1'))
    assert "the result says" in dsenv("replay", "results.jsonl", cwd=tmp_path, ok=False)


def test_policies_are_evaluated(tmp_path):
    """A function of one's own from the current folder, and a trained model, which is loaded only when it is trusted."""
    policy = "import numpy as np\n\ndef first(observation, info):\n    return int(np.flatnonzero(info['action_mask'])[0])\n"
    (tmp_path / "mine.py").write_text(policy)
    own = ("evaluate", "mine:first", "--policy", "--id", "DataSelect-Synthetic-v0", "--seeds", 2, "--unit", "cluster")
    fresh(*own, "--evaluations", 7, "--name", "first", cwd=tmp_path)
    for seed, result in enumerate(load_rows(tmp_path / "results.jsonl")):
        assert result.keywords == {"instance": seed, "unit": "cluster", "reward": "final"}
        assert (result.agent, result.evaluations, replay(result).counts) == ("first", 7, result.counts)
    env = gym.make("DataSelect-Synthetic-v0", unit="cluster")
    sb3_contrib.MaskablePPO("MlpPolicy", env, seed=0, device="cpu").save(tmp_path / "model.zip")
    zip = ("evaluate", "model.zip", "--id", "DataSelect-Synthetic-v0", "--seeds", 1, "--unit", "cluster", "--out", "zip.jsonl")
    assert "--trust-sb3-zip" in fresh(*zip, cwd=tmp_path, ok=False)
    assert not (tmp_path / "zip.jsonl").exists()
    fresh(*zip, "--trust-sb3-zip", cwd=tmp_path)
    assert replay(load_rows(tmp_path / "zip.jsonl")[0]).agent == "model.zip"


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


def test_the_version_is_shown(tmp_path):
    assert dsenv("--version", cwd=tmp_path).strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("select", "googleplai"), "Did you mean 'googleplay'"),
        (("select", "none.npz"), "not a readable task file"),
        (("select", "synthetic", "--budget", "0"), "above 0 up to 1"),
        (("build", "nowhere"), "no dataset 'nowhere'"),
        (("evaluate", "swap", "--id", "DataSelect-Nope-v0"), "DataSelect-Nope"),
        (("evaluate", "swop", "--id", "DataSelect-Synthetic-v0"), "Did you mean 'swap'"),
        (("evaluate", "none:solve", "--id", "DataSelect-Synthetic-v0"), "cannot be imported"),
        (("evaluate", "os.path:isdir", "--id", "DataSelect-Synthetic-v0"), "an agent takes (evaluator, rng)"),
        (("evaluate", "x.zip", "--id", "DataSelect-Synthetic-v0", "--algorithm", "pppo"), "Did you mean 'ppo'"),
        (("leaderboard", "none.jsonl"), "there is no such file"),
        (("finetune", "none.json", "nowhere"), "not a readable selection"),
        (("replay", "none.jsonl"), "there is no such file"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(arguments, says, tmp_path):
    shown = dsenv(*arguments, cwd=tmp_path, ok=False)
    assert says in shown.replace("\n", " ") and "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def write_reviews(folder):
    columns = tiny_columns(240, 3)
    write_table({"id": list(range(240)), "review": columns["text"], "stars": columns["label"]}, folder / "my.csv")
    return columns


def test_from_a_table_to_a_report(tmp_path):
    columns = write_reviews(tmp_path)
    (tmp_path / "bert").mkdir()
    save_encoder(tmp_path / "bert")
    mine = ("my.csv", "--text", "review", "--label", "stars")
    build = ("--encoder", "tfidf", "--cache-dir", "cache", "--budget", 0.1, "--run", "run")
    told = dsenv(
        "select", *mine, *build, "--evaluations", 100, "--track", "tensorboard:tb", "--out", "chosen.csv", cwd=tmp_path
    )
    assert "19 of 192 rows, brier_skill" in told and any((tmp_path / "tb").rglob("events.*"))
    chosen = read_table(tmp_path / "chosen.csv")
    numbers = [int(row) for row in chosen["row"]]
    assert chosen["review"] == [columns["text"][row] for row in numbers] and chosen["id"] == chosen["row"]
    dsenv("select", *mine, *build, "--method", "random", "--out", "random.json", cwd=tmp_path)
    run = RunFolder(tmp_path / "run")
    assert list(run.selections) == ["swap-0", "random-0"]
    assert list(run.selections["swap-0"].rows) == numbers and run.selections["swap-0"].history
    tune = (*mine, "--target", "bert", "--epochs", 1, "--max-length", 32, "--run", "run")
    assert "19 rows, test accuracy" in dsenv("finetune", "random.json", *tune, cwd=tmp_path)
    assert "192 rows, test accuracy" in dsenv("finetune", "all", *tune, cwd=tmp_path)
    assert list(run.targets) == ["random-0-bert", "all-rows-bert"]
    page = dsenv("report", "run", "--dataset", *mine, cwd=tmp_path)
    assert "run/report.html" in page and (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert [line.split()[1] for line in run.commands] == ["select", "select", "finetune", "finetune"]
    dsenv("select", *mine, *build, "--method", "random", "--seed", 1, "--out", "second.json", cwd=tmp_path)
    assert list(RunFolder(tmp_path / "run").selections) == ["swap-0", "random-0", "random-1"]
    dsenv("build", *mine, "--encoder", "tfidf", "--cache-dir", "cache", "--out", "task.npz", cwd=tmp_path)
    shifted = {name: [values[-1], *values[:-1]] for name, values in read_table(tmp_path / "my.csv").items()}
    write_table(shifted, tmp_path / "shifted.csv")
    others = ("--dataset", "shifted.csv", *mine[1:], "--out", "wrong.csv")
    assert "was not built from dataset 'shifted'" in dsenv("select", "task.npz", *others, cwd=tmp_path, ok=False)
    assert not (tmp_path / "wrong.csv").exists()
    other = dsenv("select", "synthetic", "--run", "run", cwd=tmp_path, ok=False)
    assert "holds another task" in other and len(RunFolder(tmp_path / "run").selections) == 3


def test_instruction_data_from_a_table(tmp_path, llama):
    rows = [(f"what is {i} and {i % 7}", f"it is {i % 7}" if i % 3 else "who knows") for i in range(200)]
    write_table({"ask": [a for a, _ in rows], "answer": [b for _, b in rows]}, tmp_path / "my.jsonl")
    mine = ("my.jsonl", "--text", "ask", "--response", "answer")
    build = ("--encoder", "tfidf", "--cache-dir", "cache", "--evaluations", 60)
    dsenv("select", *mine, *build, cwd=tmp_path)
    told = dsenv("finetune", "selection.json", *mine, "--target", llama, "--epochs", 1, cwd=tmp_path)
    assert "8 rows, test loss" in told and "nats a token" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("select", "my.csv", "--label", "stars"),
            "no column 'text'. Name the text column (text=, --text); found: 'id', 'review', 'stars'",
        ),
        (("select", "my.csv", "--text", "review", "--label", "note"), "no column 'note'"),
        (("select", "my.csv", "--text", "review", "--label", "stars", "--out", "x.txt"), "allowed are a selection *.json"),
        (("select", "none.csv"), "there is no such file"),
        (("select", "synthetic", "--out", "x.csv"), "a task has no texts"),
        (("select", "my.xlsx"), "is no task (a file *.npz, a bundled name) and no table: *.parquet, *.csv"),
        (("select", "my.csv", "--method", "swaap"), "Did you mean 'swap'"),
        (("select", "my.csv", "--budget", 5), "budget 5.0 is not a share"),
        (("select", "my.csv", "--track", "x:y"), "tensorboard:FOLDER"),
        (("select", "my.csv", "--text", "Review", "--label", "stars"), "Did you mean 'review'?"),
        (("select", "my.csv", "--text", "review", "--label", "stars", "--encoder", "tfdif"), "Did you mean 'tfidf'?"),
        (("finetune", "my.csv", "my.csv"), "is a table: give the selection"),
        (("select", "my.csv", "--dataset", "my.csv"), "has the rows itself"),
        (
            ("finetune", "all", "my.csv", "--text", "review", "--label", "id"),
            "column 'id' of 'my' has 240 different labels in 240 rows: is it an id?",
        ),
        (("finetune", "all", "my.csv", "--text", "review", "--label", "stars", "--track", "x"), "tensorboard:FOLDER"),
        (("report", "nowhere"), "is no run"),
    ],
)
def test_bad_tables_and_options_are_one_line(tmp_path, arguments, says):
    write_reviews(tmp_path)
    told = dsenv(*arguments, cwd=tmp_path, ok=False)
    assert says in told and told.startswith("error: ") and len(told.splitlines()) == 1


def test_interrupted_and_quiet(tmp_path):
    """Ctrl-C ends with a sentence and the status 130; the same command goes on; --quiet says nothing on the way."""
    (tmp_path / "slow.py").write_text(
        "import os, signal, pathlib\n"
        "def solve(evaluator, rng):\n"
        "    evaluator.score(evaluator.plan.complete(0 * evaluator.plan.capacity)[None])\n"
        "    seen = pathlib.Path('seen'); seen.write_text(seen.read_text() + 'x' if seen.exists() else 'x')\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a job in the background has not
        "    if len(seen.read_text()) == 2: os.kill(os.getpid(), signal.SIGINT)\n",
        encoding="utf-8",
    )
    run = ("--quiet", "evaluate", "slow:solve", "--id", "DataSelect-Synthetic-v0", "--evaluations", 8, "--seeds", 3)
    told = fresh(*run, cwd=tmp_path, ok=False)
    assert told.startswith("stopped; ") and "Traceback" not in told
    assert len(load_rows(tmp_path / "results.jsonl.partial")) == 1 and not (tmp_path / "results.jsonl").exists()
    fresh(*run, cwd=tmp_path)
    assert [row.seed for row in load_rows(tmp_path / "results.jsonl")] == [0, 1, 2]
    assert (tmp_path / "seen").read_text() == "xxxx" and not (tmp_path / "results.jsonl.partial").exists()


def test_agents_are_evaluated_on_the_task_of_a_run(tmp_path):
    dsenv("select", "googleplay:noisy", "--evaluations", 16, "--budget", 0.01, "--run", "run", cwd=tmp_path)
    run = RunFolder(tmp_path / "run")
    assert run.task.name == "googleplay:noisy" and run.task_name.endswith("task.npz:noisy")
    evaluate = ("evaluate", "--run", "run", "--evaluations", 8, "--budget", 0.01)
    for agent, seeds in (("best_of", 2), ("swap", 1), ("best_of", 1)):
        dsenv(*evaluate, agent, "--seeds", seeds, cwd=tmp_path)
    assert [(row.agent, row.seed) for row in run.results] == [("best_of", 1), ("swap", 0), ("best_of", 0)]
    assert "all as they say" in dsenv("replay", "run/results.jsonl", cwd=tmp_path)
    dsenv("report", "run", cwd=tmp_path)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "best_of" in page and "googleplay:noisy" in page
    for wrong in (("--out", "x.jsonl"), ("--id", "DataSelect-Synthetic-v0")):
        assert "evaluate takes problems" in dsenv(*evaluate, "swap", *wrong, cwd=tmp_path, ok=False)
