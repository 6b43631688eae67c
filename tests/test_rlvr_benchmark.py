"""The RLVR benchmark: what reaching a level took, what is censored, which stored runs count, and a quick run."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks import rlvr
from benchmarks.rlvr import Plan, at, crossing, difficulty_table, identity, same, short_table, stored, summarise, table

PLAN = Plan(rollouts=400, every=100, settings={"batch": 10, "group": 10, "steps": 1})


def made(name, seed, rates, rollouts=100, cost=2.0):
    points = [
        {
            "rounds": i, "rollouts": i * rollouts, "steps": i, "gradient_passes": 10 * i, "seconds": cost * i, "test": rate,
            "by_cluster": [0.1, rate, 0.9, None], "signal": 0.5, "correlation": None if name == "uniform" else 0.5,
        }
        for i, rate in enumerate(rates)
    ]  # fmt: skip
    return {**identity(PLAN, name, seed), "points": points}


@pytest.fixture
def runs():
    uniform = [made("uniform", seed, [0.2, 0.3, 0.3, 0.4, 0.5]) for seed in range(3)]
    dots = [made("dots", seed, [0.2, 0.4, 0.6, 0.6, 0.6], cost=3.0) for seed in range(2)]
    return {"uniform": uniform, "dots": [*dots, made("dots", 2, [0.2, 0.3, 0.3, 0.3, 0.45], cost=3.0)]}


def test_a_level_is_crossed_between_two_points(runs):
    assert crossing(runs["dots"][0], 0.5) == (
        {"rollouts": 150.0, "steps": 1.5, "seconds": 4.5, "gradient_passes": 15.0}, True
    )  # fmt: skip
    assert crossing(runs["dots"][0], 0.2)[0]["rollouts"] == 0
    spent, reached = crossing(runs["dots"][2], 0.5)
    assert not reached and spent["rollouts"] == 400 and spent["seconds"] == 12
    assert at(runs["dots"][0], "rollouts", 250)["rollouts"] == 200 and at(runs["dots"][0], "steps", 9)["steps"] == 4


def test_the_summary(runs):
    record = summarise(runs, PLAN)
    assert record["level"] == 0.5
    uniform, dots = record["controllers"]["uniform"], record["controllers"]["dots"]
    assert (uniform["rollouts"]["value"], uniform["rollouts"]["reached"]) == (400, 3)
    assert (dots["rollouts"]["value"], dots["rollouts"]["reached"], dots["runs"]) == (pytest.approx(700 / 3), 2, 3)
    assert dots["pass_rate"]["value"] == pytest.approx((0.6 + 0.6 + 0.45) / 3) and dots["correlation"] == 0.5
    saved = record["savings"]["dots"]
    assert saved["rollouts"]["value"] == pytest.approx(1 - 700 / 1200)
    assert saved["rollouts"]["low"] == 0 and saved["rollouts"]["high"] == pytest.approx(1 - 150 / 400)
    assert saved["seconds"]["value"] == pytest.approx(1 - 7 / 8)
    assert record["savings"]["uniform"]["rollouts"]["value"] == 0
    assert record["by_difficulty"]["clusters"] == {"below .2": 1, ".2 to .8": 1, "above .8": 1}
    assert record["by_difficulty"]["dots"][".2 to .8"] == dots["pass_rate"]["value"]
    assert uniform["choosing"] == 0
    assert record["curves"]["dots"]["value"] == pytest.approx([0.2, 1.1 / 3, 0.5, 0.5, 1.65 / 3])
    json.dumps(record)


def test_the_tables_mark_what_is_censored(runs):
    lines = table(summarise(runs, PLAN)).splitlines()
    assert lines[2].startswith("| uniform | 0.500 [0.500, 0.500]") and "≥" not in lines[2] and "3 of 3" in lines[2]
    assert lines[3].count("≥") == 4 and lines[3].count("≤") == 2 and "2 of 3" in lines[3]
    early, late = runs["dots"][:2], made("uniform", 2, [0.2, 0.3, 0.3, 0.3, 0.49])
    lines = table(summarise({**runs, "uniform": [*runs["uniform"][:2], late], "thompson": early}, PLAN)).splitlines()
    assert lines[2].count("≥") == 4 and lines[3].count("? ") == 2 and lines[4].count("≥") == 2 and "? " not in lines[4]
    short = short_table(summarise({**runs, "thompson": runs["dots"][:2]}, PLAN)).splitlines()
    assert [line.split(" | ")[0] for line in short[2:]] == ["| uniform", "| thompson"] and short[3].count("|") == 7
    assert len({line.count("|") for line in lines}) == 1
    assert difficulty_table(summarise(runs, PLAN)).splitlines()[2] == "| start | 0.100 | 0.200 | 0.900 |"


def test_what_went_into_choosing_and_curves_of_runs_with_other_points(runs):
    """A round that is charged twice its rollouts spends half of them on choosing; curves are read at even marks."""
    costly = [made("learnalign", seed, [0.2, 0.4, 0.6], rollouts=200) for seed in range(3)]
    record = summarise({**runs, "learnalign": costly}, PLAN)
    assert record["controllers"]["learnalign"]["choosing"] == 0.5
    curve = record["curves"]["learnalign"]
    assert curve["value"] == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6]) and curve["rollouts"] == [0, 100, 200, 300, 400]


def test_one_seed_has_no_interval(runs):
    record = summarise({name: found[:1] for name, found in runs.items()}, PLAN)
    assert record["controllers"]["dots"]["rollouts"] == {"value": 150, "low": None, "high": None, "reached": 1}
    assert "[" not in table(record).splitlines()[2].split("|")[2]


def test_only_runs_of_the_same_plan_and_options_count(runs, tmp_path, monkeypatch):
    path = tmp_path / "dots.jsonl"
    path.write_text("".join(json.dumps(found) + "\n" for found in runs["dots"]))
    found = stored(tmp_path, "dots")
    assert len(found) == 3 and all(same(one, PLAN) for one in found) and stored(tmp_path, "uniform") == []
    assert not same(found[0], replace(PLAN, rollouts=500))
    changed = replace(rlvr.VARIANTS["dots"], options={**rlvr.DOTS, "reference": 17})
    monkeypatch.setitem(rlvr.VARIANTS, "dots", changed)
    assert not same(found[0], PLAN)


def test_the_plan_is_json_and_its_budget_is_whole_rounds():
    plan = Plan()
    assert json.loads(json.dumps(asdict(plan))) == asdict(plan)
    assert plan.rollouts % (plan.settings["batch"] * plan.settings["group"] * plan.settings["steps"]) == 0
    assert plan.steps * plan.settings["batch"] * plan.settings["group"] == plan.rollouts


@pytest.mark.slow
def test_a_quick_run_is_stored_and_not_run_again(tmp_path):
    command = [sys.executable, "-m", "benchmarks.rlvr", "--quick", "--controllers", "dots_replay", "--seeds", "2"]
    command += ["--json", str(tmp_path / "quick.json"), "--jobs", "2"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "4 runs to do" in first.stdout and "| dots_replay |" in first.stdout
    record = json.loads((tmp_path / "quick.json").read_text())
    assert set(record["controllers"]) == {"uniform", "dots_replay"} and (tmp_path / "quick.png").is_file()
    assert np.isfinite(record["level"]) and record["controllers"]["uniform"]["runs"] == 2
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 runs to do, 4 stored" in again.stdout
    assert not list(tmp_path.glob("quick/.*"))


@pytest.mark.slow
def test_gsm8k_with_the_tiny_real_llama_says_that_nothing_is_solved(data_dir, stories, tmp_path):
    command = [sys.executable, "-m", "benchmarks.rlvr", "--questions", "gsm8k", "--policy", str(stories[1]), "--seeds", "1"]
    command += ["--controllers", "uniform", "--rollouts", "32", "--batch", "4", "--group", "2", "--max-new-tokens", "8"]
    command += ["--max-prompt-tokens", "150", "--json", str(tmp_path / "gsm8k.json"), "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "The policy answers no test question" in done.stdout
    assert json.loads((tmp_path / "gsm8k.json").read_text())["level"] == 0
