"""The target benchmark: what runs, what is stored, and that a second call goes on where the first stopped."""

import json

import numpy as np
import pytest

from benchmarks.target import main, read_runs
from benchmarks.target_runs import Job, Setting, fit_head, load_material, pack, picks_of, run_job, unpack, yardstick
from dsenv.errors import InputError
from dsenv.task import load_bundled
from tests.test_finetuning import save_encoder

SETTING = ["--dataset", "synthetic-texts", "--pool", "500", "--encoder", "tfidf", "--label-noise", "0.4"]


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("DSENV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.target_runs.FINALISTS", 5)
    monkeypatch.setattr("benchmarks.target_runs.FINALIST_EVALUATIONS", 16)


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def test_head_runs_are_stored_and_not_repeated(runs, tmp_path, capsys):
    methods = ["random", "el2n_lowest", "herding", "finalist_by_head", "reward_rows", "full"]
    call = [*SETTING, "--runs", str(runs), "--seeds", "2", "--instances", "2"]
    main([*call, "--methods", *methods[:2]])
    (path,) = runs.glob("*.jsonl")
    assert path.name == "synthetic-texts_noise0.4_pool500_tfidf.jsonl"
    before = read_runs(path)
    assert len(before) == 1 + 2 * 4 and before[0]["seconds"]["texts"] == 900
    main([*call, "--methods", *methods])
    lines = read_runs(path)
    assert lines[: len(before)] == before and len(lines) == 1 + 4 * 5 + 2
    for line in lines[1:]:
        assert 0 < line["test"]["accuracy"] <= 1 and line["rows"] == (500 if line["method"] == "full" else 25)
        assert set(line["seconds"]) == {"search", "train"} and sum(line["class_shares"]) == pytest.approx(1, abs=1e-3)
        assert (line["right_labels"] is None) == (line["method"] == "reward_rows")
    right = {m: np.mean([line["right_labels"] or 0 for line in lines[1:] if line["method"] == m]) for m in methods}
    assert right["full"] == pytest.approx(0.6) and right["el2n_lowest"] > 0.8 and right["finalist_by_head"] > 0.7
    main([*call, "--summary", "--json", str(tmp_path / "target.json")])
    summary = json.loads((tmp_path / "target.json").read_text())
    assert {row["method"] for row in summary["rows"]} == set(methods)
    assert {row["against"] for row in summary["difference"]} == {"random", "full"}
    assert "finalist_by_head" in capsys.readouterr().out


def test_the_target_decides_between_finalists(runs, tmp_path, monkeypatch):
    save_encoder(tmp_path)
    target = ["--target", str(tmp_path), "--device", "cpu"]
    call = [*SETTING, *target, "--runs", str(runs), "--seeds", "3", "--methods", "random", "full", "two_stage"]
    monkeypatch.setattr("benchmarks.target_runs.Recipe", short)
    main(call)
    (path,) = runs.glob("*.jsonl")
    lines = read_runs(path)[1:]
    decided = [line for line in lines if line["method"] == "finalist"]
    assert [line["seed"] for line in decided] == [1000] * 5 + [1001] * 3 and all("test" not in line for line in decided)
    last = [line["finalist"] for line in decided if line["seed"] == 1001]
    means = {n: np.mean([line["selection"] for line in decided if line["finalist"] == n]) for n in last}
    winners = [line for line in lines if line["method"] == "two_stage"]
    assert len(winners) == 3 and {line["finalist"] for line in winners} == {max(last, key=lambda n: means[n])}
    assert len({line["note"] for line in winners}) == 1
    epochs = {(line["method"], line["epochs"]) for line in lines}
    assert epochs == {("random", 3), ("full", 1), ("finalist", 1), ("two_stage", 3)}
    held = read_runs(path)[0]["test_labels"]
    for line in lines:
        if "predictions" in line:
            assert (unpack(line["predictions"]) == unpack(held)).mean() == pytest.approx(line["test"]["accuracy"], abs=1e-6)
    main(call)
    assert read_runs(path)[1:] == lines


def short(**keywords):
    from dsenv.training import Recipe

    return Recipe(**{**keywords, "max_length": 16, "learning_rate": 3e-3})


def test_reward_rows_are_trained_on_themselves():
    setting = Setting("synthetic-texts", 0.4, None, 500, "tfidf")
    material = load_material(setting)
    task, validation = material.task, material.vectors["validation"]
    reward = task.dataset_rows("reward")
    assert len(reward) == 200
    found = run_job(Job(setting, "head", "reward_rows", 0, 0, budget=0.4))
    held_out = {"test": material.vectors["test"]}
    by_hand = fit_head(validation[reward], task.reward.labels, task.classes, held_out, found["c"])["test"]
    accuracy = (by_hand.argmax(1) == task.test.labels).mean()
    assert found["rows"] == 200 and found["test"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert found["class_shares"] == pytest.approx(np.bincount(task.reward.labels) / 200, abs=1e-4)


def test_what_choosing_is_held_against():
    noisy = load_material(Setting("synthetic-texts", 0.4, None, 500, "tfidf"))
    rows = {
        name: yardstick(name, noisy.task, 25, 0, noisy.right) for name in ("clean_rows", "nearest_rows", "full_equal_steps")
    }
    assert noisy.right[rows["clean_rows"]].all() and not noisy.right.all()
    assert {name: len(set(found)) for name, found in rows.items()} == {
        "clean_rows": 25, "nearest_rows": 25, "full_equal_steps": 75
    }  # fmt: skip
    assert not np.array_equal(rows["clean_rows"], yardstick("clean_rows", noisy.task, 25, 1, noisy.right))
    target = load_bundled("hateunion:target")
    drawn = yardstick("source_rows", target, 500, 0, None)
    assert (target.train.sources[drawn] == target.reward.sources[0]).all() and len(set(drawn)) == 500
    with pytest.raises(InputError, match="clean_rows: no label of this setting was flipped"):
        yardstick("clean_rows", target, 25, 0, None)


def test_picks_spend_the_budget():
    task = load_material(Setting("synthetic-texts", 0, None, 1000, "tfidf")).task
    spent = {budget: picks_of(task, budget) for budget in (0.01, 0.05, 0.0625, 0.25)}
    assert spent == {0.01: 10, 0.05: 50, 0.0625: 31, 0.25: 50}  # 62 rows are 31 picks of 2
    assert picks_of(load_bundled("banking77"), 0.05) == 112  # of 4 rows: 77 classes take at least 77 picks


def test_runs_of_another_setting_or_with_other_options_are_not_taken_for_these(runs, monkeypatch):
    assert Setting("googleplay", encoder="minilm").name != Setting("googleplay").name
    job = Job(Setting("googleplay"), "minilm", "guided", 0, 0)
    assert job.key["options"]["evaluations"] == 4096 and job.key["options"]["learning_rate"] == 1e-4
    monkeypatch.setattr("benchmarks.target_runs.EVALUATIONS", 64)
    assert job.key["options"]["evaluations"] == 64
    head = [Job(Setting("googleplay"), "head", "random", 0, instance).draw for instance in range(3)]
    assert head == [0, 1000, 2000] and Job(Setting("googleplay"), "minilm", "random", 2, 2).draw == 2
    main([*SETTING, "--runs", str(runs), "--methods", "random", "--seeds", "1", "--instances", "1"])
    (path,) = runs.glob("*.jsonl")
    path.write_text(path.read_text().replace('"noise": 0.4', '"noise": 0.3', 1))
    with pytest.raises(InputError, match="holds runs of .*0.3.*, not of .*0.4"):
        main([*SETTING, "--runs", str(runs), "--methods", "random", "--seeds", "2", "--instances", "1"])


def test_settings_have_the_metric_they_are_reported_in():
    assert Setting("googleplay", 0.4).metric == "accuracy" and Setting("googleplay").metric == "macro_f1"
    assert Setting("hateunion", 0, "hatexplain2020").metric == "macro_f1" and Setting("banking77").metric == "accuracy"
    assert Setting("hateunion", 0, "hatexplain2020").name == "hateunion_hatexplain2020_pool10000"
    assert unpack(pack(np.arange(77))).tolist() == list(range(77))
    with pytest.raises(InputError, match="class id 256"):
        pack(np.array([256]))


def test_bad_input(runs):
    with pytest.raises(InputError, match="unknown method 'guide'. Did you mean 'guided'"):
        main([*SETTING, "--runs", str(runs), "--methods", "guide"])
    setting = Setting("synthetic-texts", 0, None, 500, "tfidf")
    with pytest.raises(InputError, match="finalist absent is not among those proposed here"):
        run_job(Job(setting, "head", "two_stage", 0, 0, finalist="absent"))
    with pytest.raises(InputError, match="budget"):
        run_job(Job(setting, "head", "random", 0, 0, budget=0.001))
    with pytest.raises(InputError, match="2 rows of a pool of 500 rows and 3 classes: allowed are 3"):
        run_job(Job(setting, "head", "random", 0, 0, budget=0.004))
