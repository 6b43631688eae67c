"""The benchmarks: what they compute from scores by hand, what may read test rows, and the fields they promise."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import fidelity, scaling, target_scores, throughput
from benchmarks.records import RESULTS, provenance, read_record
from dsenv.errors import InputError
from dsenv.metrics import METRICS
from dsenv.picks import plan_picks
from dsenv.synthetic import synthetic_task

ORIGIN = {"command", "versions", "machine"}


def scored_block(seed=0, selections=12):
    rng = np.random.default_rng(seed)

    def scores():
        return {"selection": {"accuracy": rng.random()}, "test": {"accuracy": rng.random()}, "seconds": {"train": 1.0}}

    runs = {f"{number} seed={s}": scores() for number in range(selections) for s in (0, 1, 2)}
    return {"reported": "accuracy", "selections": [{}] * selections, "repeated": [0, 3, 6, 9, 11], "runs": runs}


def test_what_chooses_reads_the_selection_rows_alone():
    """Other test scores change the fields of the test rows, and nothing that may choose a proxy."""
    block = scored_block()
    other = copy.deepcopy(block)
    for run in other["runs"].values():
        run["test"]["accuracy"] = 1 - run["test"]["accuracy"]
    read = target_scores.read_scores
    assert np.array_equal(read(block), read(other)) and np.array_equal(read(block, "test"), 1 - read(other, "test"))
    proxy = np.random.default_rng(1).random(12)
    searched = np.arange(12) < 3
    ours, theirs = (fidelity.fidelity(proxy, read(b), read(b, "test"), searched) for b in (block, other))
    assert {key for key in ours if ours[key] != theirs[key]} == {"spearman_test", "regret_test"}
    assert fidelity.ceiling(block, "selection") == fidelity.ceiling(other, "selection")
    with pytest.raises(InputError, match="split"):
        read(block, "reward")


def test_fidelity_by_hand():
    truth = np.arange(10) / 10
    none = np.zeros(10, bool)
    found = fidelity.fidelity(truth * 2 + 1, truth, truth, none)
    assert found["spearman"]["value"] == pytest.approx(1) and found["regret"] == 0
    found = fidelity.fidelity(np.where(truth < 0.3, truth, -truth), truth, truth, truth < 0.3)
    assert found["unsearched"]["value"] == pytest.approx(-1) and found["spearman"]["value"] > -1
    found = fidelity.fidelity(-truth, truth, truth, none)
    assert found["spearman"]["value"] == pytest.approx(-1) and found["regret"] == pytest.approx(0.9)
    assert found["spearman"]["high"] == pytest.approx(-1)
    tied = fidelity.rank_correlation(truth, np.full(10, 0.4))
    assert (tied.value, tied.low, tied.high) == (0, -1, 1)
    noisy = fidelity.rank_correlation(np.random.default_rng(0).random(40), np.random.default_rng(1).random(40))
    assert noisy.low < noisy.value < noisy.high and noisy.low < 0 < noisy.high


def test_selections_are_spread_and_complete():
    task = synthetic_task()
    plan = plan_picks(task.clustering("stratified"))
    found = target_scores.spread_selections(task, plan, 40)
    assert len(found) == 40 and all(counts.sum() == plan.picks for _, counts in found)
    assert len({how.split()[0] for how, _ in found}) == 7
    again = target_scores.spread_selections(task, plan, 40)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(found, again, strict=True))


def test_walks_are_episodes():
    plan = plan_picks(synthetic_task().clustering("stratified"))
    steps = throughput.walk(plan, 3, np.random.default_rng(0))
    assert steps.shape == (plan.picks, 3, plan.clusters)
    assert (np.diff(steps, axis=0, prepend=0).sum(2) == 1).all() and (steps <= plan.capacity).all()


def test_a_record_says_how_it_was_made():
    found = provenance("benchmarks.throughput", {"quick": True, "full": False, "rows": 3})
    assert found["command"] == "python -m benchmarks.throughput --quick --rows 3"
    assert set(found) == ORIGIN and "scipy" in found["versions"]


def check_throughput(record):
    assert set(record) >= ORIGIN
    assert set(record["scores_per_second"]) == set(METRICS)
    assert set(record["steps_per_second"]) == {"single", "vector", "cartpole", "cholesky"}
    assert {
        "brier_vs_cholesky", "accuracy_vs_cholesky", "vector_vs_scores", "vector_vs_cartpole", "score_vs_ridge",
        "score_vs_logreg", "score_vs_finetune",
    } <= set(record["ratio"])  # fmt: skip
    assert all(value > 0 for value in record["ratio"].values())


def check_fidelity(record, proxies):
    for block in record.values():
        assert set(block) >= ORIGIN and set(block["proxies"]) == set(proxies)
        for found in block["proxies"].values():
            assert set(found["spearman"]) == {"value", "low", "high"} and -1 <= found["spearman"]["value"] <= 1
            assert found["regret"] >= 0 and found["seconds_per_score"] > 0


def test_committed_records():
    check_throughput(json.loads((RESULTS / "throughput.json").read_text()))
    check_fidelity(read_record(RESULTS / "fidelity.json"), fidelity.PROXIES)
    scaled = read_record(RESULTS / "scaling.json")
    keys = {scaling.point_key(point) for varied in scaling.points(scaling.BASE, scaling.VALUES).values() for point in varied}
    assert set(scaled) == keys | {"summary", *scaling.COMPARED}
    assert scaled["summary"]["rows"] == [10_000, 100_000, 1_000_000, 10_000_000]
    for block in read_record(RESULTS / "target_scores.json").values():
        assert len(block["runs"]) == len(block["selections"]) + 2 * len(block["repeated"])


def quick(name, path):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.slow
def test_quick_runs_give_the_same_fields(tmp_path):
    check_throughput(quick("throughput", tmp_path / "throughput.json"))
    check_fidelity(quick("fidelity", tmp_path / "fidelity.json"), fidelity.PROXIES)


def test_transfer_rows_are_paired_differences():
    from benchmarks.transfer import held_out_ids, transfer_rows

    assert held_out_ids()["googleplay"] == ["DataSelect-GooglePlay-v0", "DataSelect-GooglePlayNoisy-v0"]
    runs = [
        {
            "evaluations": 400,
            "proportional": 0.0,
            "class_mix_rows": 0.5 + seed,
            "pretrained": 0.6 + seed,
            "greedy": 0.2,
            "guided": 0.9,
        }
        for seed in range(4)
    ]
    found = {(row["agent"], row["against"]): row for row in transfer_rows("x", {"id": runs})}
    assert found["pretrained", "class_mix_rows"]["value"] == found["pretrained", "class_mix_rows"]["low"] == 0.1
    assert found["guided", "greedy"]["value"] == 0.7 and found["guided", "greedy"]["evaluations"] == 400
    assert found["pretrained", "proportional"]["low"] < found["pretrained", "proportional"]["value"]
    assert found["pretrained", "proportional"]["evaluations"] == 1 and found["pretrained", "proportional"]["seeds"] == 4
