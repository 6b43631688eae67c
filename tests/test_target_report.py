"""The target benchmark's summary of files made here: means, pairing, Holm, headroom and tables known by hand."""

import copy
import json

import numpy as np
import pytest

from benchmarks.target_report import (
    COUNTERPARTS,
    PUBLISHED,
    WITHOUT_VECTORS,
    named_tables,
    place_name,
    summarise,
    tables,
    time_table,
)
from benchmarks.target_runs import METHODS, pack
from dsenv.errors import InputError
from dsenv.metrics import score
from dsenv.search import SEARCHES
from dsenv.selectors import SELECTORS
from dsenv.stats import holm, mean_interval

ROWS = 200
LABELS = np.arange(ROWS) % 3


def header(dataset="reviews", noise=0.0, source=None, metric="accuracy", **more):
    setting = {"dataset": dataset, "noise": noise, "target_source": source, "pool": 10_000, "encoder": "minilm-fast"}
    seconds = {"encode": 100.0, "cluster": 2.0, "texts": 15_000}
    return {"setting": setting, "metric": metric, "seconds": seconds, "test_labels": pack(LABELS), **more}


def run(method, seed, value, instance=0, target="head", epochs=3, budget=0.05, **more):
    """A run with a score that is given."""
    whole = method == "full"
    return {
        "target": target, "method": method, "seed": seed, "instance": instance, "budget": 1.0 if whole else budget,
        "epochs": epochs, "rows": 10_000 if whole else 450 + seed, "note": "", "task_digest": "0",
        "test": {"accuracy": value, "macro_f1": value / 2}, "class_shares": [0.4, 0.3, 0.3], "right_labels": None,
        "seconds": {"search": float(seed), "train": 10.0}, **more,
    }  # fmt: skip


def tuned(method, seed, right, epochs=3, **more):
    """A fine-tuned run whose first ``right`` test rows are predicted rightly, the others as the next class."""
    predicted = np.where(np.arange(ROWS) < right, LABELS, (LABELS + 1) % 3)
    scores = {m: float(score(m, np.eye(3)[predicted], LABELS, np.full(3, 1 / 3))) for m in ("accuracy", "macro_f1")}
    given = {"target": "minilm", "epochs": epochs, "instance": seed, "test": scores, "predictions": pack(predicted)}
    return {**run(method, seed, 0.0), "budget": 1.0 if method == "full" else 0.05, **given, **more}


def found(rows, **keys):
    rows = [row for row in rows if all(row[name] == value for name, value in keys.items())]
    assert len(rows) == 1, rows
    return rows[0]


def head_file(gain=0.1, seeds=4, **more):
    """Random rows score 0.5 + instance / 100 + seed / 1000 on the head, class mixes ``gain`` more, the full pool 0.7."""
    keys = [(instance, seed) for instance in range(3) for seed in range(seeds)]
    chance = {key: 0.5 + key[0] / 100 + key[1] / 1000 for key in keys}
    lines = [run("random", seed, chance[i, seed], i) for i, seed in keys]
    lines += [run("class_mix", seed, chance[i, seed] + gain, i) for i, seed in keys]
    return [header(**more), *lines[::-1], *full_runs(0.7)]


def full_runs(value):
    return [run("full", 0, value, instance, epochs=1) for instance in range(3)]


def test_rows_of_a_head():
    lines = head_file()
    for line in lines[1:]:
        line["selection"] = {"accuracy": line["test"]["accuracy"] + 0.01, "macro_f1": 0.0}
        line["right_labels"] = 0.6
    rows = summarise([lines])["rows"]
    assert [row["method"] for row in rows] == ["class_mix", "random", "full"]
    row = found(rows, method="random")
    values = [0.5 + instance / 100 + seed / 1000 for instance in range(3) for seed in range(4)]
    assert row["values"] == values  # by instance, then seed, whatever their order in the file
    assert row["mean"] == pytest.approx(0.5115) and row["low"] < 0.5115 < row["high"]
    # Instances vary most: means 0.5015, 0.5115, 0.5215, so Student's interval would be 0.5115 -+ 4.303 * 0.01 / 3 ** 0.5.
    assert row["low"] == pytest.approx(0.5115 - 0.0248, abs=0.004) and row["high"] == pytest.approx(0.5115 + 0.0248, abs=0.004)
    expected = {
        "dataset": "reviews", "noise": 0, "target_source": None, "pool": 10_000, "encoder": "minilm-fast", "target": "head",
        "budget": 0.05, "epochs": 3, "metric": "accuracy", "seeds": 4, "instances": 3, "rows": 452, "right_labels": 0.6,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected and row["selection"] == pytest.approx(0.5215)
    assert row["seconds"] == {"encode": 100, "cluster": 2, "search": 1.5, "train": 10}  # the head's features are the vectors
    tuned_row = found(summarise([[header(), tuned("random", 0, 100)]])["rows"], method="random")
    assert tuned_row["seconds"] == {"encode": 0, "cluster": 0, "search": 0, "train": 10}
    assert found(rows, method="class_mix")["seconds"] == {"encode": 100, "cluster": 2, "search": 1.5, "train": 10}
    full = found(rows, method="full")
    assert (full["mean"], full["low"], full["high"], full["rows"]) == (0.7, 0.7, 0.7, 10_000)
    assert summarise([head_file(metric="macro_f1")])["rows"][1]["mean"] == pytest.approx(0.5115 / 2)
    assert {row["selection"] for row in summarise([head_file()])["rows"]} == {None}


def test_differences_of_a_head_are_paired_by_instance_and_seed():
    summary = summarise([head_file()])
    row = found(summary["difference"], method="class_mix", against="random")
    assert (
        row["value"] == pytest.approx(0.1)
        and row["high"] - row["low"] < 1e-6
        and row["p"] == pytest.approx(2 / 2001, abs=1e-6)
    )
    assert row["pairs"] == 12 and row["budget"] == 0.05 and row["p_holm"] == row["p"]
    back = found(summary["difference"], method="random", against="class_mix")
    assert back["value"] == -row["value"]
    full = found(summary["difference"], method="full", against="random")  # one run an instance stands for all its seeds
    assert full["value"] == pytest.approx(0.7 - 0.5115) and full["pairs"] == 12 and full["budget"] == 0.05
    assert found(summary["difference"], method="random", against="full")["value"] == -full["value"]
    assert len(summary["difference"]) == 6
    recovered = {row["method"]: row["recovered"] for row in summary["rows"]}
    assert recovered == {"random": 0, "class_mix": pytest.approx(0.1 / (0.7 - 0.5115), abs=1e-5), "full": None}


def test_no_headroom_is_recovered_where_the_full_pool_is_not_clearly_better():
    lines = head_file()
    lines[-3:] = full_runs(0.5115)
    assert {row["recovered"] for row in summarise([lines])["rows"]} == {None}
    lines[-3:] = full_runs(0.4)
    assert {row["recovered"] for row in summarise([lines])["rows"]} == {None}
    assert {row["recovered"] for row in summarise([lines[:-3]])["rows"]} == {None}


def test_unequal_seeds_and_a_missing_method():
    lines = [line for line in head_file() if line.get("method") != "full"]
    lines = [line for line in lines if (line.get("method"), line.get("instance"), line.get("seed")) != ("class_mix", 2, 3)]
    summary = summarise([lines])
    assert {row["against"] for row in summary["difference"]} == {"random", "class_mix"}
    row = found(summary["difference"], method="class_mix", against="random")
    assert row["pairs"] == 11 and row["value"] == pytest.approx(0.1)  # of the means it would be 0.099
    assert found(summary["rows"], method="class_mix")["seeds"] == 4
    few = summarise([[header(), run("random", 0, 0.5), run("class_mix", 0, 0.6), run("class_mix", 1, 0.7)]])
    row = found(few["difference"], method="class_mix", against="random")
    assert (row["value"], row["pairs"], row["low"], row["p"], row["p_holm"]) == (0.1, 1, None, None, None)
    assert {row["low"] for row in few["rows"]} == {None}
    assert not summarise([[header(), run("random", 0, 0.5), run("class_mix", 1, 0.6)]])["difference"]
    assert summarise([]) == summarise([[], [header()]]) == {"rows": [], "difference": [], "published": PUBLISHED}


def test_holm_over_settings():
    rng = np.random.default_rng(0)
    files = []
    for number, gain in enumerate((0.0, 0.004, 0.008)):
        lines = head_file(gain, dataset=f"data{number}")
        for line in lines[1:]:
            line["test"]["accuracy"] += rng.normal(0, 0.01)
        files.append(lines)
    summary = summarise(files)
    rows = [row for row in summary["difference"] if (row["method"], row["against"]) == ("class_mix", "random")]
    assert len(rows) == 3 and [row["p_holm"] for row in rows] == pytest.approx(holm([row["p"] for row in rows]), abs=2e-6)
    assert any(row["p_holm"] > row["p"] for row in rows)
    other = [line for line in copy.deepcopy(files[0]) if line.get("instance", 0) == 0]
    for line in other[1:]:
        line["target"] = "minilm"
        line.pop("predictions", None)
    again = summarise([files[0] + other[1:], *files[1:]])["difference"]  # another target is another family
    assert [row for row in again if row["target"] == "head"] == summary["difference"]


def test_what_is_searched_once_is_paired_by_training_seed_and_pays_for_its_finalists():
    lines = [header()]
    for seed in range(4):
        lines += [tuned("random", seed, 120), tuned("two_stage", seed, 150, instance=0, finalist="a", contest="b")]
    decided = {"contest": "b", "seconds": {"search": 0.0, "train": 20.0}, "selection": 0.7}
    lines += [{**tuned("finalist", seed, 100, epochs=1), **decided} for seed in range(2)]
    summary = summarise([lines])
    assert {row["method"] for row in summary["rows"]} == {"random", "two_stage"}
    row = found(summary["difference"], method="two_stage", against="random")
    assert row["pairs"] == 4 and row["value"] == 0.15 and row["low"] > 0
    assert found(summary["rows"], method="two_stage")["seconds"]["search"] == pytest.approx(1.5 + 40)  # seeds 0 to 3, two runs


def test_fine_tuned_targets_are_compared_by_their_predictions():
    lines = [header(noise=0.4)]
    for seed in range(5):
        lines += [tuned("random", seed, 120 + seed), tuned("guided", seed, 150 + seed, right_labels=0.8)]
        lines += [tuned("full", seed, 170, epochs=1), tuned("full_equal_steps", seed, 130, epochs=1)]
    lines += [tuned("full", 0, 190, epochs=3), tuned("class_mix", 0, 140), tuned("class_mix", 7, 150)]
    summary = summarise([lines])
    row = found(summary["difference"], method="guided", against="random")
    gaps = np.random.default_rng(0).binomial(ROWS, 30 / ROWS, 20_000) / ROWS  # 30 rows are right for the one alone
    assert row["value"] == 0.15 and row["pairs"] == 5 and row["p"] == pytest.approx(2 / 2001, abs=1e-6)
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.01)
    steps = found(summary["difference"], method="full_equal_steps", against="random")  # one epoch against three
    assert steps["value"] == pytest.approx((130 - 122) / ROWS) and steps["epochs"] == 1
    assert found(summary["difference"], method="guided", against="full")["value"] == pytest.approx((152 - 170) / ROWS)
    once, thrice = (found(summary["difference"], method="full", against="random", epochs=epochs) for epochs in (1, 3))
    assert (once["value"], once["pairs"]) == (0.24, 5) and once["low"] > 0
    assert (thrice["value"], thrice["pairs"], thrice["low"]) == (0.35, 1, None)  # only the seed both have
    mixed = found(summary["difference"], method="guided", against="class_mix")
    assert (mixed["pairs"], mixed["value"], mixed["low"]) == (1, 0.05, None)
    guided = found(summary["rows"], method="guided")
    student = mean_interval([(150 + seed) / ROWS for seed in range(5)])
    assert [guided["mean"], guided["low"], guided["high"]] == pytest.approx([student.value, student.low, student.high])
    assert guided["recovered"] == pytest.approx(0.15 / 0.24, abs=1e-5) and guided["right_labels"] == 0.8
    assert found(summary["rows"], method="class_mix")["low"] is None  # two values
    assert [row["mean"] for row in summary["rows"] if row["method"] == "full"] == [0.85, 0.95]
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_predictions_have_to_give_the_stored_scores(metric):
    lines = [header(metric=metric)]
    for seed in range(3):
        lines += [tuned("random", seed, 120), tuned("guided", seed, 150)]
    row = found(summarise([lines])["difference"], method="guided")
    assert row["low"] < row["value"] < row["high"]
    without = [{k: v for k, v in lines[0].items() if k != "test_labels"}, *lines[1:]]
    bare = found(summarise([without])["difference"], method="guided")
    assert (bare["value"], bare["low"], bare["p"]) == (row["value"], None, None)
    with pytest.raises(InputError, match="test labels are of another dataset"):
        summarise([[{**lines[0], "test_labels": pack((LABELS + 1) % 3)}, *lines[1:]]])
    with pytest.raises(InputError, match=r"labels must be whole numbers in \[0, 3\)"):
        summarise([[{**lines[0], "test_labels": pack(LABELS + 1)}, *lines[1:]]])
    with pytest.raises(InputError, match="same seeds and rows"):
        summarise([[{**lines[0], "test_labels": pack(LABELS[:-1])}, *lines[1:]]])


def test_files_that_cannot_be_summarised():
    lines = head_file()
    with pytest.raises(InputError, match="reviews: two runs of full, instance 2, seed 0"):
        summarise([[*lines, lines[-1]]])
    with pytest.raises(InputError, match="two files of runs are of one setting"):
        summarise([lines, lines])
    with pytest.raises(InputError, match="first line of a file of runs describes its setting; setting, metric is not there"):
        summarise([lines[1:]])


def test_tables():
    noisy, plain = head_file(noise=0.4), head_file(0.02, dataset="b", source="s", metric="macro_f1")
    for line in noisy[1:]:
        line["right_labels"] = 0.6
    noisy += [tuned("guided", 0, 150), tuned("random", 0, 120), tuned("full", 0, 170, epochs=1), tuned("full", 0, 180)]
    summary = summarise([noisy, plain])
    found = named_tables(summary)
    names = [
        "target dataset=reviews noise=0.4 target=head", "target dataset=reviews noise=0.4 target=minilm",
        "target dataset=b target_source=s target=head", "target head", "target claims",
    ]  # fmt: skip
    assert list(found) == names
    assert found[names[0]].splitlines() == [
        "| method | rows | right labels | accuracy | minus random | minus class_mix | minus full | encode + cluster s "
        "| search s | train s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| full | 10000 | 0.60 | 0.700 [0.700, 0.700] | "
        + f"{gap(summary, names[0], 'full', 'random')} | {gap(summary, names[0], 'full', 'class_mix')} |  | 102 | 0 | 10 |",
        f"| class_mix | 452 | 0.60 | {interval(summary, names[0], 'class_mix')} | +0.100 [+0.100, +0.100] |  | "
        + f"{gap(summary, names[0], 'class_mix', 'full')} | 102 | 2 | 10 |",
        f"| random | 452 | 0.60 | {interval(summary, names[0], 'random')} |  | -0.100 [-0.100, -0.100] | "
        + f"{gap(summary, names[0], 'random', 'full')} | 102 | 2 | 10 |",
    ]  # fmt: skip
    assert [line.split(" | ")[0] for line in found[names[1]].splitlines()[2:]] == [
        "| full, 3 epochs", "| full, 1 epoch", "| guided", "| random"
    ]  # fmt: skip
    assert "| guided | 450 | 0.750 | +0.150 |  | -0.100 | 102 | 0 | 10 |" in found[names[1]]
    assert "right labels" not in found[names[2]] and "| macro-F1 |" in found[names[2]]
    assert found["target head"].splitlines() == [
        "| method | reviews noise=0.4 | b s |", "|---|---|---|",
        "| full | 0.700 | 0.350 |", "| class_mix | 0.612 | 0.266 |", "| random | 0.511 | 0.256 |",
    ]  # fmt: skip
    claim = next(line for line in found["target claims"].splitlines() if "2509.25850" in line)
    assert claim.endswith("| guided |  |  |")  # one pair has no interval, so it is no measurement
    more = [*noisy, *(tuned(name, seed, 120 + 30 * (name == "guided")) for name in ("guided", "random") for seed in (1, 2))]
    row = next(line for line in named_tables(summarise([more]))["target claims"].splitlines() if "2509.25850" in line)
    assert "| guided | reviews noise=0.4 accuracy: +0.150 [+0." in row and row.endswith(" |  |")
    assert all(f"{name}\n\n{block}" in tables(summary) for name, block in found.items())
    assert named_tables({}) == {} and tables(summarise([])) == ""


def test_a_later_contest_replaces_an_earlier_one_and_each_target_pays_for_its_own():
    lines = [header()]
    for target in ("minilm", "other"):
        lines += [run("finalist", 1000, 0.5, contest="a", target=target, epochs=1, finalist=str(i)) for i in range(4)]
        lines += [tuned("two_stage", seed, 120, contest="old", target=target) for seed in range(3)]
        lines += [tuned("two_stage", seed, 150, contest="a", target=target) for seed in range(2)]
    for row in summarise([lines])["rows"]:
        assert row["values"] == [0.75, 0.75] and row["seconds"]["search"] == 0.5 + 4 * 10


def test_a_head_is_as_its_instances_are_however_many_seeds_each_has():
    keys = [(0, seed) for seed in range(5)] + [(1, 0), (2, 0)]
    lines = [header(), *(run("random", seed, 0.5, i) for i, seed in keys)]
    lines += [run("guided", seed, 0.8 if i == 0 else 0.5, i) for i, seed in keys]
    summary = summarise([lines])
    assert found(summary["rows"], method="guided")["mean"] == pytest.approx(0.6)
    assert found(summary["difference"], method="guided")["value"] == pytest.approx(0.1)


def test_goals_and_what_was_reached():
    noisy, clean = ([header(noise=noise)] for noise in (0.4, 0.0))
    right = {"random": 100, "class_mix": 110, "two_stage": 150, "full": 160}
    for method, count in right.items():
        for lines, loss in ((noisy, 0), (clean, 40 if method == "two_stage" else 0)):
            decided = {"contest": "c"} if method == "two_stage" else {}
            epochs = 1 if method == "full" else 3
            lines += [tuned(method, seed, count - loss + seed, epochs, **decided) for seed in range(3)]
    table = named_tables(summarise([noisy, clean]))["target goals"].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    goals = [(cell[0], cell[2], cell[3].split()[0], *cell[5:]) for cell in cells]
    assert goals == [
        ("reviews noise=0.4", "random", "+0.250", "interval above 0", "yes", ""),
        ("reviews noise=0.4", "class mix", "+0.200", "interval above 0", "yes", ""),
        ("reviews noise=0.4", "full", "-0.050", "at least 0", "no", "0.83"),
        ("reviews", "random", "+0.050", "", "", ""),
        ("reviews", "class mix", "+0.000", "at least -0.005", "yes", ""),
        ("reviews", "full", "-0.250", "", "", "0.17"),
    ]
    assert all(0 < float(cell[4]) < 0.05 for cell in cells[:3])
    assert "target goals" not in named_tables(summarise([[header(), tuned("random", 0, 100)]]))


def test_seconds_are_compared_with_a_full_pool_of_as_many_epochs():
    lines = [header(), tuned("full", 0, 160, 1), tuned("full", 0, 160), tuned("guided", 0, 150)]
    lines[2]["seconds"] = {"search": 0.0, "train": 560.0}
    assert time_table(summarise([lines])).splitlines()[2:] == [
        "| full | 1 | 0 | 0 | 10 | 10 | 1.00 |",
        "| guided | 3 | 102 | 0 | 10 | 112 | 0.20 |",
        "| full | 3 | 0 | 0 | 560 | 560 | 1.00 |",
    ]


def test_every_budget_has_its_table_with_the_full_pool():
    lines = head_file()
    lines += [run("random", seed, 0.6, budget=0.1) for seed in range(3)]
    summary = summarise([lines])
    assert [(row["budget"], row["against"]) for row in summary["difference"] if row["method"] == "full"] == [
        (0.05, "random"), (0.1, "random"), (0.05, "class_mix")
    ]  # fmt: skip
    found = named_tables(summary)
    large = found["target dataset=reviews budget=0.1 target=head"]
    assert (
        "| full | 10000 | 0.700 [0.700, 0.700] | +0.100 [+0.100, +0.100] |  |  |" in large
        and "class_mix |" not in large.splitlines()[2]
    )
    assert found["target head"].startswith("| method | reviews |\n")
    assert found["target head budgets"].startswith("| method | reviews | reviews budget=0.1 |")
    alone = summarise([[header(), run("full", 0, 0.7, epochs=1)]])
    assert list(named_tables(alone)) == ["target dataset=reviews budget=1 target=head", "target head", "target claims"]


def gap(summary, name, method, against):
    row = found(of_table(summary["difference"], name), method=method, against=against)
    return f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def interval(summary, name, method):
    row = found(of_table(summary["rows"], name), method=method)
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def of_table(rows, name):
    places = ("dataset", "noise", "target_source", "pool", "encoder", "target")
    return [row for row in rows if f"target {place_name({key: row[key] for key in places})}" == name]


def test_what_is_published_is_marked_and_our_counterparts_exist():
    assert all(set(claim) == {"system", "setting", "claim", "source", "kind"} for claim in PUBLISHED)
    reported = {claim["system"] for claim in PUBLISHED if "reported" in claim["setting"] + claim["claim"]}
    assert reported == {"LearnAlign", "LESS", "DELT"} and len({claim["system"] for claim in PUBLISHED}) == len(PUBLISHED)
    assert set(COUNTERPARTS) <= {claim["system"] for claim in PUBLISHED}
    known = {*SELECTORS, *SEARCHES, *METHODS, "full"}
    assert set(COUNTERPARTS.values()) <= known and set(WITHOUT_VECTORS) <= known
