"""The independent verifier: what is genuine passes, whatever is tampered with is found, and it shares no code."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import benchmarks.verify
import dsenv
from benchmarks.verify.__main__ import main
from benchmarks.verify.kinds import OWN, RECORD, RESULTS, committed, table, verify
from benchmarks.verify.tasks import TASKS, Picks, Problem, default_picks, read_task, synthetic
from dsenv.dataset import TextDataset
from dsenv.evaluation import evaluate, evaluate_counts, save_results
from dsenv.picks import plan_picks
from dsenv.proxies.table import tabulate
from dsenv.synthetic import synthetic_task
from dsenv.task import SelectionTask, load_bundled
from tests.test_own_data import instructions

SYNTHETIC = "DataSelect-Synthetic-v0"


def play_first(observation, info):
    return int(info["action_mask"].argmax())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two ids and the tabulated one, an instance, whole clusters: results as they are written."""
    rows = [
        *evaluate(play_first, SYNTHETIC, agent="first"),
        *evaluate(play_first, SYNTHETIC, agent="first", instance=3, metric="accuracy"),
        *evaluate(play_first, SYNTHETIC, agent="first", unit="cluster", clustering="kmeans", budget=0.1),
        *evaluate(play_first, "DataSelect-InfoTabs-v0", agent="first", instance=2),
        evaluate_counts("DataSelect-InfoTabs-Small-v0", np.eye(20, dtype=int)[:4].sum(0), agent="four", allowed=9),
    ]
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    save_results(rows, path)
    return path


@pytest.fixture(scope="module")
def own(tiny_task, own_task_file, tmp_path_factory):
    """A selection by picks of an own task, and the arguments that verify it."""
    found = dsenv.select(tiny_task, method="swap", budget=0.2, evaluations=40)
    path = found.save(tmp_path_factory.mktemp("selection") / "selection.json")
    return path, ["--task", own_task_file, "--budget", "0.2"]


def rewritten(path, folder, change):
    """A copy of a JSON file with a change made to its content."""
    record = json.loads(path.read_text())
    change(record)
    copy = folder / path.name
    copy.write_text(json.dumps(record))
    return copy


def test_it_shares_no_code():
    """Nothing is imported but the standard library, numpy, scipy and itself; recounting loads no module of the package."""
    allowed = {"numpy", "scipy", "benchmarks", "__future__", *sys.stdlib_module_names}
    for path in Path(benchmarks.verify.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert all(name.split(".")[0] in allowed for name in names), names
            inside = [name for name in names if name.startswith("benchmarks")]
            assert all(name.startswith("benchmarks.verify") or name == "benchmarks.records" for name in inside), inside
    code = (
        "import sys\nfrom benchmarks.verify.kinds import RESULTS, verify\n"
        "found = verify(RESULTS / 'learning.json')\nassert found.checks['scores'] and not found.failures\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('dsenv', 'agents', 'gymnasium')])\n"
        "print([name for name in sys.modules if name.startswith('benchmarks.') and 'verify' not in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_genuine_results_pass(results, capsys):
    assert main([str(results)]) == 0
    assert "| results | 5 |" in capsys.readouterr().out
    found = verify(results)
    assert found.checks["scores"] >= 45 and found.checks["regret"] == 1 and not found.failures and not found.left
    assert found.largest < 1e-8


def shift(line, split, metric):
    line["scores"][split][metric] += 1e-4


def one_more_row(line):
    line["rows"] += 1


def wrong_counts(line):
    line["counts"][line["counts"].index(max(line["counts"]))] -= 1


def other_share(line):
    line["class_shares"][0] += 1e-4


def other_action(line):
    line["actions"][0] = len(line["counts"]) - 1


def another_instance(line):
    line["keywords"]["instance"] = 1 + line["keywords"].get("instance", 0)


TAMPERED = {
    "rows": one_more_row,
    "counts": wrong_counts,
    "class shares": other_share,
    "Φ": lambda line: line.update(score=line["score"] + 1e-4),
    "scores": lambda line: shift(line, "test", "brier_skill"),
    "scores ": lambda line: shift(line, "selection", "macro_f1"),
    "scores  ": lambda line: shift(line, "reward", "accuracy"),
    "scores   ": another_instance,
    "task digest": lambda line: line.update(task_digest="0" * 64),
    "counts ": other_action,
    "cannot be recounted": lambda line: line["actions"].append(1000),
    "actions of an episode": lambda line: line["actions"].append(0),
    "evaluations": lambda line: line.update(budget=1, evaluations=2),
    "metric": lambda line: line.update(metric="macro_f1"),
    "reported metric": lambda line: line.update(reported="macro_f1"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampered_results_are_found(what, results, tmp_path):
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    TAMPERED[what](lines[0])
    altered = tmp_path / "altered.jsonl"
    altered.write_text("\n".join(map(json.dumps, lines)))
    failures = verify(altered).failures
    assert any(what.strip() in text for text in failures) and all(text.startswith("line 1 ") for text in failures)
    assert main([str(altered)]) == 1


def test_a_wrong_regret_and_a_row_that_stands_twice_are_found(results, tmp_path):
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    lines[4]["regret"] += 1e-4
    altered = tmp_path / "altered.jsonl"
    altered.write_text("\n".join(map(json.dumps, [*lines, lines[0]])))
    assert {text.split(": ")[1] for text in verify(altered).failures} == {"regret", "no row twice"}


def test_genuine_selections_pass(own, tmp_path, capsys):
    path, arguments = own
    assert main([str(path), *arguments]) == 0
    bundled = dsenv.select("infotabs", method="greedy", evaluations=64, instance=1).save(tmp_path / "bundled.json")
    assert verify(bundled).checks["Φ"] == 1 and not verify(bundled).failures
    drawn = dsenv.select("infotabs", method="class_balanced").save(tmp_path / "drawn.json")
    assert not verify(drawn).failures and len(verify(drawn).left) == 2
    capsys.readouterr()


def test_a_selection_of_responses_passes(tmp_path, capsys):
    task = dsenv.build_task(TextDataset.from_table(instructions()), encoder="tfidf", clusters=8, cache_dir=tmp_path)
    file = task.save(tmp_path / "task.npz")
    path = dsenv.select(task, method="swap", budget=0.2, evaluations=30).save(tmp_path / "selection.json")
    assert main([str(path), "--task", str(file), "--budget", "0.2"]) == 0
    altered = rewritten(path, tmp_path, lambda line: line.update(score=line["score"] + 1e-4))
    assert main([str(altered), "--task", str(file), "--budget", "0.2"]) == 1
    capsys.readouterr()


def add_row(line):
    task = SelectionTask.load(line.pop("file"))
    line["rows"].append(next(row for row in task.row_ids.tolist() if row not in line["rows"]))


def another_split(line):
    line["rows"][0] = 10_000  # no training row has that id


SELECTIONS = {
    "rows of the counts": add_row,
    "row budget": lambda line: [add_row({"rows": line["rows"], "file": line["file"]}) for _ in range(4)],
    "duplicate rows": lambda line: line["rows"].__setitem__(0, line["rows"][1]),
    "rows of the training split": another_split,
    "capacity of clusters": lambda line: line["counts"].__setitem__(0, 1000),
    "rows of the counts ": lambda line: line["counts"].reverse(),
    "Φ": lambda line: line.update(score=line["score"] + 1e-4),
    "task digest": lambda line: line.update(task_digest="0" * 64),
    "fingerprint": lambda line: line.update(fingerprint="0" * 64),
    "derivation": lambda line: line.update(derivation={"label_noise": 0.4}),
    "rising history": lambda line: line.update(history=[[1, 0.5], [2, 0.4]]),
    "rows of the pool": lambda line: line.update(pool=9),
}


@pytest.mark.parametrize("what", SELECTIONS)
def test_tampered_selections_are_found(what, own, tmp_path, capsys):
    path, arguments = own
    altered = rewritten(path, tmp_path, lambda line: SELECTIONS[what]({**line, "file": arguments[1]}) or None)
    line = json.loads(path.read_text())
    line["file"] = arguments[1]
    SELECTIONS[what](line)
    line.pop("file", None)
    altered.write_text(json.dumps(line))
    assert main([str(altered), *arguments]) == 1
    assert f": {what.strip()}: " in capsys.readouterr().out


def test_task_files(tiny_task, tmp_path):
    """A genuine file with a table passes; a changed entry, and bytes that no digest fits to, are found."""
    small = tiny_task.with_variant("small", {}, {"clusterings": ["kmeans"], "tabulated_picks": 2}).at_variant("small")
    scores = tabulate(small, plan_picks(small.clustering("kmeans"), unit="cluster", budget=0.2))

    def write(tables):
        arrays = {**small.arrays, "small:tables": tables}
        return SelectionTask(arrays, small.metadata).save(tmp_path / "small.npz")

    found = verify(write(scores))
    assert found.checks["entries of the table"] == scores.size and not found.failures
    scores[2, 7] += 1e-4
    assert [text.split(": ")[1] for text in verify(write(scores)).failures] == ["entries of the table"]
    data = read_task(write(scores))
    np.savez(tmp_path / "altered.npz", **data.arrays, metadata=_text(data.metadata), digest=_bytes(data.said))
    assert not verify(tmp_path / "altered.npz").failures[1:]
    data.arrays["labels"][0] += 1
    np.savez(tmp_path / "labels.npz", **data.arrays, metadata=_text(data.metadata), digest=_bytes(data.said))
    assert any("task digest" in text for text in verify(tmp_path / "labels.npz").failures)
    (tmp_path / "short.npz").write_bytes((tmp_path / "labels.npz").read_bytes()[:2000])
    assert verify(tmp_path / "short.npz").failures[0].startswith("cannot be read: ")


def _text(metadata):
    return np.frombuffer(json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode(), np.uint8)


def _bytes(digest):
    return np.frombuffer(bytes.fromhex(digest), np.uint8)


@pytest.mark.parametrize(("name", "variant", "instance"), [("googleplay", "noisy", 0), ("hateunion", "target", 2)])
def test_rows_are_those_of_the_package(name, variant, instance):
    """Clusters, places, cuts and features of a variant and an instance, and the picks of budgets, rule by rule."""
    theirs = load_bundled(f"{name}:{variant}").at_instance(instance)
    ours = Problem(read_task(next(TASKS.glob(f"{name}-*.npz"))), variant, instance)
    for split in ("train", "reward", "selection", "test"):
        assert np.array_equal(getattr(ours, split).features, getattr(theirs, split).features)
        assert np.array_equal(getattr(ours, split).labels, getattr(theirs, split).labels)
    for clustering in theirs.facts["clusterings"]:
        known = theirs.clustering(clustering)
        assert all(map(np.array_equal, ours.clusters(clustering), (known.cluster, known.position)))
    plan, picks = plan_picks(theirs.clustering("stratified")), Picks(ours)
    assert plan.complete(np.zeros(plan.clusters, int)).tolist() == picks.proportional()
    assert plan.capacity.tolist() == picks.capacity


def test_default_picks_are_those_of_the_package(tiny_task):
    clustering = tiny_task.clustering("stratified")
    rows = len(clustering.cluster)
    for budget in np.arange(1, rows + 1) / rows:
        plan, most = plan_picks(clustering, budget=float(budget)), int(budget * rows + 1e-9)
        assert (plan.picks, plan.rows_per_pick) == (default_picks(most), most // default_picks(most))
    assert synthetic().digest == synthetic_task().digest


def shifted(record, *keys):
    """Change one number of a record by a little."""
    for key in keys[:-1]:
        record = record[key]
    record[keys[-1]] += 2.3e-3


NOISY = "googleplay-noisy pool=10000"
AGENTS = "DataSelect-GooglePlayNoisy-v0 evaluations=4096"
SUMMARIES = {
    "fidelity": {
        "correlation": (NOISY, "proxies", "ridge", "spearman", "low"),
        "regret": (NOISY, "proxies", "probe mlp", "regret"),
        "agreement of seeds": (NOISY, "target", "test", "value"),
    },
    "proxy_variants": {
        "difference": (NOISY, "variants", "lower confidence", "difference", "high"),
        "better half": (NOISY, "variants", "lower confidence", "better_half", "low"),
    },
    "target_scores": {"whole right answers": (NOISY, "runs", "3 seed=0", "test", "accuracy")},
    "learning": {
        "Φ": (AGENTS, "runs", "dqn", "0", "score"),
        "scores": (AGENTS, "runs", "ppo", "1", "scores", "test", "accuracy"),
    },
    "target_time": {"mean": ("rows", 0, "mean"), "values of the runs": ("rows", 1, "values", 0)},
    "rlvr_third": {
        "rollouts": ("controllers", "likelihood", "rollouts", "low"),
        "savings": ("savings", "thompson", "steps", "high"),
        "level": ("level",),
        "curve": ("curves", "uniform", "value", 5),
        "pass rates by difficulty": ("by_difficulty", "thompson", "above .8"),
    },
    "throughput": {"ratios": ("float64", "ratio", "score_vs_finetune")},
    "scaling": {
        "exponent": ("summary", "build_exponent"),
        "cost ratio": ("summary", "score_cost_ratio", "batch"),
        "sum of the stages": ("rows=100000 clusters=16 dimensions=64 width=64 classes=5 budget=0.05", "seconds", "build"),
    },
    "end_to_end": {
        "class shares": (
            "dataset=googleplay pool=10000 label_noise=0.0 budget=0.05 agent=maskable_ppo target=minilm", "runs", "swap", "0",
            "class_shares", 0,
        ),
    },
}  # fmt: skip


HEAVY = ("proxy_variants", "fidelity")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in SUMMARIES])
def test_tampered_summaries_are_found(name, tmp_path):
    """Single numbers of a committed record that are off by a little are found, and nothing else."""
    for beside in (name, "target_scores.json", "fidelity.json"):
        if (RESULTS / beside).is_dir():
            shutil.copytree(RESULTS / beside, tmp_path / beside)
        elif (RESULTS / beside).exists():
            shutil.copy(RESULTS / beside, tmp_path)
    altered = rewritten(
        RESULTS / f"{name}.json", tmp_path, lambda record: [shifted(record, *k) for k in SUMMARIES[name].values()]
    )
    assert {text.split(": ")[1] for text in verify(altered).failures} == set(SUMMARIES[name])


TRAINED = "rlvr_third/thompson.jsonl"
FINE_TUNED = "target_time/googleplay_noise0.4_pool10000.jsonl"
RUNS = {
    "charged rollouts": (TRAINED, lambda line: line["costs"].update(choosing_passes=64)),
    "points rise": (TRAINED, lambda line: line["points"][3].update(rollouts=9)),
    "whole right answers": (TRAINED, lambda line: line["points"][3].update(by_cluster=[0.3] * 56)),
    "test scores of the predictions": (FINE_TUNED, lambda line: shifted(line, "test", "accuracy")),
    "row budget": (FINE_TUNED, lambda line: line.update(rows=501)),
    "rows seen in training": (FINE_TUNED, lambda line: line["fit"].update(rows_seen=9)),
}


@pytest.mark.parametrize("what", RUNS)
def test_tampered_runs_are_found(what, tmp_path):
    name, change = RUNS[what]
    lines = [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]
    change(lines[1])
    altered = tmp_path / "altered.jsonl"
    altered.write_text("\n".join(map(json.dumps, lines)))
    assert not verify(RESULTS / name).failures
    assert any(f": {what}: " in text for text in verify(altered).failures)


def test_what_is_not_known_is_named(tmp_path, capsys):
    for name, text in (("a.json", '{"b": {"c": 1}}'), ("b.jsonl", '{"d": 1}\n'), ("c.png", "picture")):
        (tmp_path / name).write_text(text)
        found = verify(tmp_path / name)
        assert found.kind == "unknown" and name in found.left[0] and not found.checks
    (tmp_path / "d.json").write_text('{"command": "python -m this", "machine": {}, "versions": {}, "seconds": 3}')
    assert verify(tmp_path / "d.json").kind == OWN and verify(tmp_path / "d.json").left
    assert main([str(tmp_path / name) for name in ("a.json", "c.png")]) == 0
    assert f"| {tmp_path / 'a.json'} | unknown |" in capsys.readouterr().out
    assert verify(tmp_path / "missing.json").failures


@pytest.mark.slow
def test_everything_committed_is_recounted(tmp_path):
    """No file disagrees, and the committed record is of these files."""
    assert main(["--json", str(tmp_path / RECORD)]) == 0
    record, stored = (json.loads(path.read_text()) for path in (tmp_path / RECORD, RESULTS / RECORD))
    assert len(record["files"]) == len(committed())
    assert table(record) == table(stored), "run python -m benchmarks.verify"
