"""Results replay, altered ones do not; baselines, statistics, selections."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest

from dsenv import stats
from dsenv.baselines import (
    class_mix_rows,
    clean_rows,
    full_offsets,
    full_weighted,
    model_of_rows,
    nearest_rows,
    random_rows,
    reward_of_rows,
    source_rows,
)
from dsenv.errors import InputError
from dsenv.evaluation import (
    ReplayError,
    Result,
    baseline_scores,
    evaluate,
    evaluate_counts,
    load_rows,
    replay,
    save_results,
    score_model,
)
from dsenv.selection import Selection
from dsenv.selectors.simple import mixed
from dsenv.synthetic import synthetic_task
from dsenv.task import load_bundled

ID = "DataSelect-Synthetic-v0"


def uniform_policy(observation, info):
    return int(np.flatnonzero(info["action_mask"])[len(observation) % 7])


class MaskedPredict:
    """Has SB3's predict with masks, and fails where they are not passed."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False, action_masks=None):
        assert action_masks is not None and action_masks.dtype == bool
        return np.int64(np.flatnonzero(action_masks)[0]), state


def test_results_replay_and_go_through_json(tmp_path):
    results = evaluate(uniform_policy, ID, agent="first open", seeds=[0, 1], evaluations=5)
    results += evaluate(MaskedPredict(), "DataSelect-Banking77-Small-v0", seeds=[0])
    path = tmp_path / "results.jsonl"
    save_results(results, path)
    for result, stored in zip(results, load_rows(path), strict=True):
        assert stored == result
        assert replay(stored).scores == result.scores
    assert results[0].regret is None and results[2].regret >= 0 and results[2].rows > 0
    assert sum(results[0].class_shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", 0.5),
        ("score", float("nan")),
        ("class_shares", (0.25, 0.25, 0.25, 0.25)),
        ("id", "DataSelect-None-v0"),
        ("task_digest", "0" * 64),
        ("rows", 1),
        ("counts", (1,) * 48),
        ("actions", (0,) * 64),
        ("actions", (0,) * 5),
        ("actions", (99,) * 64),
        ("scores", {}),
    ],
)
def test_an_altered_result_does_not_replay(field, value):
    result = evaluate(uniform_policy, ID)[0]
    with pytest.raises(ReplayError):
        replay(dataclasses.replace(result, **{field: value}))


def test_a_result_of_another_score_by_a_little_does_not_replay():
    result = evaluate(uniform_policy, ID)[0]
    scores = json.loads(json.dumps(result.scores))
    scores["test"]["accuracy"] += 1e-4
    with pytest.raises(ReplayError, match="test accuracy"):
        replay(dataclasses.replace(result, scores=scores))


def test_counts_of_a_search_become_a_result():
    env = gym.make(ID).unwrapped
    counts = env.plan.complete(np.zeros(48, np.int64))
    result = evaluate_counts(ID, counts, agent="proportional")
    assert result.counts == tuple(counts) and replay(result).score == pytest.approx(float(env.proxy.score(counts[None])[0]))
    with pytest.raises(InputError, match="not complete"):
        evaluate_counts(ID, counts * 0, agent="nothing")
    with pytest.raises(InputError, match="not a data selection environment"):
        evaluate(lambda observation, info: 0, "CartPole-v1")


def test_broken_result_files(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        load_rows(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="not a result"):
        load_rows(tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match="not a result"):
        Result.from_json("[1")


def test_row_baselines():
    task = load_bundled("googleplay:noisy")
    rng = np.random.default_rng(0)
    for a in (0.0, 0.5, 1.0):
        rows = mixed(task.train.labels, 3, 1000, a, rng)
        assert len(set(rows.tolist())) == 1000
        expected = (1 - a) * task.class_shares + a / 3
        assert np.bincount(task.train.labels[rows]) / 1000 == pytest.approx(expected, abs=1e-3)
    capped = mixed(load_bundled("googleplay").train.labels, 3, 30_000, 1.0, rng)
    assert len(set(capped.tolist())) == 30_000
    assert len(set(random_rows(task, 500, rng).tolist())) == 500
    best = class_mix_rows(task, 500, "brier_skill", np.random.default_rng(1))
    same_draws = np.random.default_rng(1)
    assert reward_of_rows(task, best, "brier_skill") == max(
        reward_of_rows(task, mixed(task.train.labels, 3, 500, float(a), same_draws), "brier_skill")
        for a in np.linspace(0, 1, 11)
    )
    clean = load_bundled("googleplay").train.labels == task.train.labels
    assert clean[clean_rows(task, 800, clean, rng)].all()
    assert score_model(task, model_of_rows(task, clean_rows(task, 1984, clean, rng)))["test"]["accuracy"] > 0.83
    for wrong in (0, len(task.train) + 1):
        with pytest.raises(InputError, match="allowed are 1 to"):
            random_rows(task, wrong, rng)


def test_source_and_nearest_rows():
    task = load_bundled("hateunion:target")
    wanted = task.reward.sources[0]
    rows = source_rows(task, 2000, np.random.default_rng(0))
    assert (task.train.sources[rows] == wanted).all()
    near = nearest_rows(task, 500)
    assert (task.train.sources[near] == wanted).mean() > 1.5 * (task.train.sources == wanted).mean()
    with pytest.raises(InputError, match="has no sources"):
        source_rows(synthetic_task(), 10, np.random.default_rng(0))


def test_full_data_baselines_help_where_they_should():
    task = load_bundled("googleplay")
    plain = score_model(task, model_of_rows(task), ["reward"])["reward"]["macro_f1"]
    assert score_model(task, full_offsets(task, "macro_f1"), ["reward"])["reward"]["macro_f1"] > plain
    assert score_model(task, full_weighted(task), ["reward"])["reward"]["macro_f1"] > plain
    scores = baseline_scores(load_bundled("banking77"), 448, "brier_skill", [0, 1])
    assert set(scores) == {"random_rows", "class_mix_rows", "full", "full_class_weights", "full_offsets"}
    assert len(scores["random_rows"]) == 2 and len(scores["full"]) == 1


def test_reference_scores_are_recomputed():
    """The frozen scores of a bundled file are what the code computes now (random rows of two seeds lie within 4 sigma)."""
    task = load_bundled("banking77")
    reference = task.facts["reference"]
    scores = baseline_scores(task, reference["rows"], reference["metric"], [0, 1])
    assert scores["full"][0]["test"]["accuracy"] == pytest.approx(reference["full"]["test"]["accuracy"]["mean"], abs=1e-5)
    frozen = reference["random_rows"]["test"]["accuracy"]
    assert all(abs(run["test"]["accuracy"] - frozen["mean"]) < 4 * frozen["std"] for run in scores["random_rows"])


def test_statistics_by_hand():
    assert stats.iqm([1, 2, 3, 4]) == 2.5 and stats.iqm([0, 0, 10, 10, 10, 10, 100, 100]) == 10
    assert stats.iqm([1, 2, 6]) == pytest.approx((0.25 * 1 + 1 * 2 + 0.25 * 6) / 1.5)
    found = stats.mean_interval([1.0, 2.0, 3.0])
    assert found.value == 2 and found.high == pytest.approx(2 + 4.303 / 3**0.5, abs=1e-3)
    strata = [[0.0] * 5, [1.0] * 5]
    assert stats.bootstrap(strata, stats.mean) == stats.Interval(0.5, 0.5, 0.5)  # nothing varies inside a stratum
    wide = stats.bootstrap([np.random.default_rng(0).normal(size=50)], stats.mean)
    assert wide.low < wide.value < wide.high and wide == stats.bootstrap(
        [np.random.default_rng(0).normal(size=50)], stats.mean
    )
    assert stats.normalised_score(0.5, 0.25, 0.75) == 0.5
    assert stats.regret(1.0, 1.0 + 1e-12) == 0 and stats.regret(0.5, 1.0) == 0.5
    for wrong in ([], [float("nan")]):
        with pytest.raises(InputError):
            stats.iqm(wrong)
    with pytest.raises(InputError):
        stats.mean_interval([1.0])
    with pytest.raises(InputError):
        stats.normalised_score(1, 2, 2)


def test_a_mean_has_students_interval():
    found = stats.mean_interval([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.303
    assert found.value == 2 and found.high - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-3)


def test_selections(tiny, tiny_task, tmp_path):
    rows = np.array([5, 3, 100])
    selection = Selection.from_rows(tiny_task, rows, "by hand", seed=2)
    path = selection.save(tmp_path / "s.json")
    assert Selection.load(path) == selection
    assert selection.to_dataset(tiny).train.texts == [tiny.train.texts[i] for i in (5, 3, 100)]
    with pytest.raises(InputError, match="was made from task 'tiny'"):
        selection.to_dataset(tiny.with_label_noise(0.1))
    for wrong in ("[]", "{", '{"rows": [-1]}', '{"rows": [1], "colour": "red"}', '{"method": "x"}'):
        path.write_text(wrong)
        with pytest.raises(InputError, match="not a readable selection"):
            Selection.load(path)
    with pytest.raises(InputError, match="not a readable selection"):
        Selection.load(tmp_path / "none.json")
