"""From runs to the leaderboard: rows that replay, summaries known by hand, runs that stop and go on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from agents import template
from benchmarks import leaderboard as program
from benchmarks.records import RESULTS
from dsenv import stats
from dsenv.errors import InputError
from dsenv.evaluation import (
    Failure,
    ReplayError,
    Result,
    choose_on_selection,
    evaluate_counts,
    find_agent,
    load_rows,
    replay,
    run_agent,
    save_results,
)
from dsenv.leaderboard import (
    CONSTANTS,
    PROBLEMS,
    SMALL,
    environment_of,
    instances_of,
    iqm_interval,
    load_constants,
    load_leaderboard,
    paired_difference,
    probability_of_improvement,
    problem_of,
    summarise,
)
from dsenv.registration import IDS
from dsenv.search import SEARCHES
from tests.test_cli import dsenv

ID = "DataSelect-Synthetic-v0"
OTHER = "DataSelect-InfoTabs-v0"
CHEAP = (*SMALL, ID)


def picks_first(evaluator, rng):
    counts = np.zeros(evaluator.plan.clusters, np.int64)
    evaluator.score(evaluator.plan.complete(counts)[None])


def breaks(evaluator, rng):
    raise RuntimeError("out of ideas")


def row(agent, seed, score, id=ID, budget=256, test=0.5, seconds=2.0):
    scores = {split: {"accuracy": 0.7, "macro_f1": 0.6, "brier_skill": test} for split in ("reward", "selection", "test")}
    return Result(
        id=id, keywords={"instance": seed}, task_digest="", agent=agent, seed=seed, actions=(), counts=(), rows=1, score=score,
        scores=scores, class_shares=(), evaluations=budget - 1, budget=budget, metric="brier_skill", reported="accuracy",
        seconds=seconds,
    )  # fmt: skip


def constants_of(*problems, headroom=True, zero=0.0, one=1.0):
    ends = {"zero": {"reward": zero, "test": zero}, "one": {"reward": one, "test": one}}
    instances = {str(instance): ends for instance in range(10)}
    return {problem: {"headroom": headroom, "random_std": 0.1, "instances": instances} for problem in problems}


def found(rows, **wanted):
    matching = [one for one in rows if all(one[name] == value for name, value in wanted.items())]
    assert len(matching) == 1, (wanted, rows)
    return matching[0]


def without_clock(results):
    return [dataclasses.replace(result, seconds=0.0, command="") for result in results]


def test_every_id_is_a_problem():
    assert set(IDS) < set(PROBLEMS) and len(PROBLEMS) == len(IDS) + 2
    id, keywords = environment_of("DataSelect-GooglePlay-v0 paper", 3)
    assert (id, keywords) == ("DataSelect-GooglePlay-v0", {"unit": "cluster", "clustering": "kmeans", "instance": 3})
    assert environment_of(SMALL[0], 3) == (SMALL[0], {}) and len(SMALL) == 5
    assert list(instances_of(ID, 3)) == [0, 1, 2] and list(instances_of(SMALL[0], 3)) == [0]
    for problem in PROBLEMS:
        id, keywords = environment_of(problem, 4)
        assert problem_of(Failure(id, {**keywords, "reward": "final"}, "x", 4, 1, "")) == problem
    assert problem_of(Failure(ID, {"budget": 0.1}, "x", 0, 1, "")) == f"{ID} budget=0.1"
    with pytest.raises(InputError, match="Did you mean 'DataSelect-Synthetic-v0'"):
        environment_of("DataSelect-Sinthetic-v0", 0)


def test_a_summary_by_hand():
    constants = {**constants_of(ID, zero=0.2, one=0.6), **constants_of(OTHER, headroom=False)}
    scores = [0.2, 0.4, 0.4, 0.6]
    results = [row("swap", seed, score) for seed, score in enumerate(scores)] + [row("swap", 0, 0.5, id=OTHER)]
    summary = summarise(results, constants)["summary"]
    one = found(summary, id=ID)
    assert one["iqm"] == pytest.approx(0.5) and one["low"] < 0.5 < one["high"] and one["score"] == pytest.approx(0.4)
    assert (one["seeds"], one["evaluations"], one["selection"], one["test"]) == (4, 256, 0.7, 0.7)
    assert one["seconds"] == 2 and one["regret"] is None and "failed" not in one
    assert found(summary, id="headroom")["iqm"] == one["iqm"]
    assert found(summary, id=OTHER)["iqm"] == 0.5
    assert not [other for other in summary if other["id"] == "small"]


def test_headroom_rests_on_seeds_that_every_problem_has():
    constants = constants_of(ID, OTHER)
    results = [row("swap", seed, 0.1) for seed in range(4)] + [row("swap", seed, 0.3, id=OTHER) for seed in (1, 2)]
    results += [row("greedy", 0, 0.1)]
    summary = summarise(results, constants)["summary"]
    head = found(summary, id="headroom")
    assert head["agent"] == "swap" and head["seeds"] == 2 and head["iqm"] == pytest.approx(0.2)


def test_failed_runs_are_shown():
    failure = Failure(ID, {"instance": 1}, "swap", 1, 256, "RuntimeError: out of ideas")
    summary = summarise([row("swap", 0, 0.5), failure, dataclasses.replace(failure, agent="new")], constants_of(ID))["summary"]
    for id in (ID, "headroom"):
        mixed, broken = found(summary, id=id, agent="swap"), found(summary, id=id, agent="new")
        assert (mixed["seeds"], mixed["failed"], mixed["error"]) == (1, 1, failure.failed)
        assert (broken["seeds"], broken["failed"], broken["iqm"], broken["test"]) == (0, 1, None, None)
    again = summarise([failure, row("swap", 1, 0.5)], constants_of(ID))["summary"]
    assert "failed" not in found(again, id=ID)


def test_a_problem_without_constants_has_no_normalised_score():
    results = [row("swap", 0, 0.5), row("swap", 11, 0.5)]
    assert found(summarise(results[:1], {})["summary"], id=ID)["iqm"] is None
    known = found(summarise(results, constants_of(ID))["summary"], id=ID)  # of instance 11 nothing is known
    assert known["iqm"] == 0.5 and known["seeds"] == 1
    flat = summarise(results[:1], constants_of(ID, zero=1.0))
    assert found(flat["summary"], id=ID)["iqm"] is None and not flat["difference"]


def test_differences_are_paired_and_improvement_is_not():
    constants = constants_of(ID, OTHER)
    hard = np.linspace(0, 1, 10)
    results = []
    for id in (ID, OTHER):
        results += [row("swap", seed, hard[seed], id=id, test=0.3) for seed in range(10)]
        results += [row("new", seed, hard[seed] + 0.1, id=id, test=0.1) for seed in range(10)]
    tables = summarise(results, constants)
    reward = found(tables["difference"], agent="new", against="swap", split="reward")
    assert (reward["value"], reward["low"], reward["high"]) == pytest.approx((0.1, 0.1, 0.1)) and reward["seeds"] == 10
    test = found(tables["difference"], agent="new", against="swap", split="test")
    assert test["value"] == pytest.approx(-0.2)
    assert len(tables["difference"]) == 2 and len(tables["improvement"]) == 1
    better = tables["improvement"][0]
    # hard has steps of 1/9 > 0.1: the new agent wins where its seed is not below the other's.
    assert better["value"] == pytest.approx(55 / 100) and better["low"] < 0.55 < better["high"]


def test_intervals_agree_with_the_slow_ones():
    rng = np.random.default_rng(0)
    strata = [rng.normal(size=10), rng.normal(1, 2, size=7), rng.normal(size=1)]
    fast, slow = iqm_interval(strata), stats.bootstrap(strata)
    assert fast.value == pytest.approx(slow.value)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.05)
    assert paired_difference(strata, strata) == stats.Interval(0, 0, 0)
    assert probability_of_improvement(strata, strata).value == pytest.approx(0.5)
    assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0])]).value == 0.75
    assert probability_of_improvement([np.array([2.0, 2.0])], [np.array([1.0])]) == stats.Interval(1, 1, 1)


def test_constants_are_checked(tmp_path):
    path = tmp_path / "constants.json"
    with pytest.raises(InputError, match="not a readable file of constants"):
        load_constants(path)
    good = {"problems": constants_of(ID)}
    path.write_text(json.dumps(good))
    assert load_constants(path) == good["problems"]
    broken = json.loads(json.dumps(good))
    broken["problems"][ID]["instances"]["3"]["one"]["test"] = None
    for wrong, says in (
        ([], "not a readable file"), ({"problems": {ID: {}}}, "headroom"), (broken, "Expected `float`, got `null`"),
        ({"problems": {ID: {"headroom": 1, "instances": {}}}}, "Expected `bool`, got `int`"),
    ):  # fmt: skip
        path.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=says):
            load_constants(path)


def test_bundled_constants_hold_every_problem():
    assert set(json.loads(CONSTANTS.read_text())["problems"]) == set(PROBLEMS)
    for problem, block in load_constants().items():
        assert sorted(map(int, block["instances"])) == list(instances_of(problem, 10))
        assert all(ends["one"]["reward"] > ends["zero"]["reward"] for ends in block["instances"].values())


@pytest.mark.parametrize("name", ["best_of", "greedy", "swap"])
def test_a_run_to_a_large_budget_holds_the_small_ones(name):
    rows = run_agent(SEARCHES[name], ID, name=name, seed=1, evaluations=[200, 64], instance=1)
    assert [result.budget for result in rows] == [64, 200]
    for result in rows:
        alone = run_agent(SEARCHES[name], ID, name=name, seed=1, evaluations=[result.budget], instance=1)
        assert without_clock(alone) == without_clock([result])
        assert result.evaluations <= result.budget and result.metric in result.scores["test"]


def test_rows_hold_the_metric_of_the_problem_and_replay():
    id = "DataSelect-GooglePlay-Small-v0"
    result = run_agent(picks_first, id, name="first", evaluations=[3])[0]
    assert (result.metric, result.reported, result.evaluations) == ("balanced_brier_skill", "macro_f1", 1)
    assert result.scores["reward"]["balanced_brier_skill"] == pytest.approx(result.score, abs=1e-8)
    assert replay(Result.from_json(result.to_json())).scores == result.scores
    older = json.loads(result.to_json())
    for name in ("budget", "metric", "reported"):
        del older[name]
    for scores in older["scores"].values():
        del scores["balanced_brier_skill"]
    replay(Result.from_json(json.dumps(older)))
    counts = list(result.counts)
    taken, free = counts.index(1), counts.index(0)
    counts[taken], counts[free] = 0, 1
    altered = json.loads(json.dumps(result.scores))
    altered["test"]["balanced_brier_skill"] += 1e-4
    for change in ({"counts": tuple(counts)}, {"scores": altered}, {"score": result.score + 1e-4}, {"metric": "accuracy"}):
        with pytest.raises(ReplayError):
            replay(dataclasses.replace(result, **change))


def test_the_selection_rows_choose_among_finalists():
    import gymnasium as gym

    env = gym.make(ID).unwrapped
    rng = np.random.default_rng(0)
    finalists = [
        evaluate_counts(ID, env.plan.complete(rng.multinomial(30, np.full(48, 1 / 48)) % 3), agent="x") for _ in range(5)
    ]
    counts = [np.array(result.counts) for result in finalists]
    best = max(range(5), key=lambda place: finalists[place].scores["selection"]["brier_skill"])
    assert choose_on_selection(env.task, env.plan, "brier_skill", counts) is counts[best]
    plain = run_agent(SEARCHES["best_of"], ID, name="a", evaluations=[60])[0]
    chosen = run_agent(SEARCHES["best_of"], ID, name="b", evaluations=[60], variant="selection")[0]
    assert chosen.scores["selection"]["brier_skill"] > plain.scores["selection"]["brier_skill"] and chosen.score < plain.score


def test_a_variant_draws_reward_rows():
    seen = []

    def looks(evaluator, rng):
        seen.append(evaluator.keywords)
        picks_first(evaluator, rng)

    result = run_agent(looks, ID, name="x@reward_rows", evaluations=[2], variant="reward_rows", instance=2)[0]
    assert seen == [{"instance": 2, "reward_rows": 0.5}] and result.keywords == {"instance": 2}


def test_agents_are_found_by_name(tmp_path, monkeypatch):
    assert find_agent("swap@selection") == (SEARCHES["swap"], "selection")
    assert find_agent("tests.test_leaderboard:picks_first")[0].__name__ == "picks_first"
    assert find_agent("known", {"known": lambda: picks_first}) == (picks_first, None)
    monkeypatch.chdir(tmp_path)
    Path("my_own_agent.py").write_text("def solve(evaluator, rng):\n    pass\n")
    assert find_agent("my_own_agent:solve")[0].__name__ == "solve"
    for wrong, says in (
        ("swop", "Did you mean 'swap'"), ("swap@selektion", "Did you mean 'selection'"), (":solve", "cannot be imported"),
        ("my_own_agent:slove", "Did you mean 'solve'"), ("no_such:solve", "cannot be imported"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            find_agent(wrong)
    with pytest.raises(InputError, match="at least one"):
        run_agent(picks_first, ID, name="x", evaluations=[])
    with pytest.raises(InputError, match="DataSelect-Nope"):
        run_agent(picks_first, "DataSelect-Nope-v0", name="x", evaluations=[1])


def run_program(tmp_path, *more):
    arguments = ("--ids", ID, SMALL[3], "--quick", "--json", str(tmp_path / "leaderboard.json"), *more)
    program.main(arguments)
    return json.loads((tmp_path / "leaderboard.json").read_text()), program.stored_rows(tmp_path / "leaderboard")


def test_a_stopped_benchmark_goes_on_and_runs_nothing_twice(tmp_path, monkeypatch, capsys):
    done = []
    run_job = program.run_job
    monkeypatch.setattr(program, "run_job", lambda job, evaluations: (done.append(job), run_job(job, evaluations))[1])
    monkeypatch.setattr(program, "provenance", lambda module, options: {"command": module})
    small = ("--agents", "greedy", "best_of", "--evaluations", "20", "40")
    record, rows = run_program(tmp_path, *small)
    assert len(done) == 8 and [job[2] for job in done] == [0] * 4 + [1] * 4  # seeds outermost
    assert len(rows) == 16 and {result.budget for result in rows} == {20, 40}
    assert {result.keywords.get("instance") for result in rows if result.id == ID} == {0, 1}
    run_program(tmp_path, *small)
    run_program(tmp_path, "--agents", "greedy", "--evaluations", "30")
    assert len(done) == 12
    (tmp_path / "leaderboard.json").write_text(json.dumps({**record, "transfer": {"kept": True}}))
    record, rows = run_program(tmp_path, "--agents", "greedy", "--evaluations", "20", "60")
    assert len(done) == 16 and record["transfer"] == {"kept": True}
    assert {r.budget for r in rows if r.agent == "greedy"} == {20, 30, 40, 60}
    record, _ = run_program(tmp_path, "--summary", "--plot", str(tmp_path / "plot.png"))
    assert len(done) == 16 and (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert set(record) == {"command", "transfer", "summary", "difference", "improvement", "variants"}
    progress = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert not list((tmp_path / "leaderboard").glob(".*"))
    assert "8/8" in progress and not any(word.startswith("12/") for word in progress)


def test_a_failed_run_is_stored_and_tried_again(tmp_path, monkeypatch, capsys):
    name = "tests.test_leaderboard:breaks"
    record, rows = run_program(tmp_path, "--agents", name, "--evaluations", "5", "9", "--seeds", "1")
    assert len(rows) == 4 and all(one.failed == "RuntimeError: out of ideas" for one in rows)
    assert found(record["summary"], id=ID, evaluations=9)["failed"] == 1 and "out of ideas" in capsys.readouterr().out
    monkeypatch.setattr("tests.test_leaderboard.breaks", picks_first)
    record, rows = run_program(tmp_path, "--agents", name, "--evaluations", "5", "--seeds", "1")
    assert "failed" not in found(record["summary"], id=ID, evaluations=5)
    monkeypatch.undo()
    _, rows = run_program(tmp_path, "--agents", name, "--evaluations", "5", "9", "--seeds", "1")
    kept = [one for one in rows if one.id == ID]
    assert [isinstance(one, Failure) for one in kept] == [False, True]


def test_names_are_checked_before_anything_runs(tmp_path):
    for wrong in (("--agents", "swop"), ("--ids", "DataSelect-Nope-v0"), ("--seeds", "0"), ("--evaluations", "0")):
        with pytest.raises(InputError):
            program.main(("--json", str(tmp_path / "leaderboard.json"), *wrong))
    assert list(tmp_path.iterdir()) == []


OWN_AGENT = """
import numpy as np
def solve(evaluator, rng):
    for start in rng.integers(2, size=(20, evaluator.plan.clusters)) * (np.arange(evaluator.plan.clusters) < 3):
        evaluator.score(evaluator.plan.complete(start)[None])
"""


def test_the_command_line_gives_the_rows_of_the_leaderboard(tmp_path, monkeypatch):
    (tmp_path / "leaderboard_agent.py").write_text(OWN_AGENT)
    monkeypatch.chdir(tmp_path)
    name = "leaderboard_agent:solve"
    _, rows = run_program(tmp_path, "--agents", name, "--evaluations", "2", "5", "--seeds", "2")
    given = ("evaluate", name, "--id", ID, "--id", SMALL[3], "--evaluations", 5, "--evaluations", 2, "--seeds", 2)
    dsenv(*given, "--out", "own.jsonl", cwd=tmp_path)
    own = load_rows(tmp_path / "own.jsonl")
    assert len(own) == 8 and sorted(map(repr, without_clock(own))) == sorted(map(repr, without_clock(rows)))
    shown = dsenv("leaderboard", "own.jsonl", "leaderboard.json", cwd=tmp_path)
    assert name in shown and ID in shown


def test_tables_of_several_files(tmp_path):
    save_results([row("new", 0, 0.5)], tmp_path / "own.jsonl")
    committed = summarise([row("swap", 0, 0.25)], constants_of(ID))
    (tmp_path / "committed.json").write_text(json.dumps(committed))
    both = load_leaderboard([tmp_path / "committed.json", tmp_path / "own.jsonl"], constants_of(ID))
    assert [(one["agent"], one["iqm"]) for one in both["summary"] if one["id"] == ID] == [("new", 0.5), ("swap", 0.25)]
    (tmp_path / "committed.json").write_text("{}")
    with pytest.raises(InputError, match="not a readable leaderboard"):
        load_leaderboard([tmp_path / "committed.json"], {})


def test_the_template_is_short_and_better_than_chance():
    assert len(Path(template.__file__).read_text().splitlines()) < 80
    learned = run_agent(template.solve, ID, name="template", evaluations=[400])[0]
    chance = run_agent(SEARCHES["best_of"], ID, name="best_of", evaluations=[400])[0]
    assert learned.score > chance.score and learned.evaluations == 400


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 100), marks=pytest.mark.slow)])
@pytest.mark.parametrize("problem", CHEAP)
def test_committed_rows_replay(problem, seeds):
    path = program.rows_file(RESULTS / "leaderboard", problem)
    rows = [one for one in load_rows(path) if isinstance(one, Result) and one.seed in seeds] if path.is_file() else []
    if not rows:
        pytest.skip(f"no rows of {problem} with these seeds are committed")
    distinct = {(one.id, json.dumps(one.keywords), one.counts): one for one in rows}
    for one in distinct.values():
        replay(one)
    for one in rows:
        same = distinct[one.id, json.dumps(one.keywords), one.counts]
        assert one.score == pytest.approx(same.score, abs=1e-6) and one.task_digest == same.task_digest
        assert all(one.scores[split] == pytest.approx(same.scores[split], abs=1e-6) for split in same.scores)
