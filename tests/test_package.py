"""What the package promises of itself: import order, light import, core dependencies alone, offline."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The order in which the data walks through the house: a module imports only modules above it.
ORDER = (
    "registration", "errors", "files", "reading", "archives", "progress", "tracking", "seeding", "stats", "tables",
    "splits", "labels", "dataset", "blocks", "encoders", "clustering", "task_file", "task", "reduction", "building",
    "picks", "metrics", "selection", "checkpoints", "training", "causal", "llama2c", "proxies", "proxies.outputs",
    "proxies.scoring", "proxies.ridge", "proxies.lower_confidence", "proxies.ridge_torch", "proxies.table",
    "proxies.trained", "proxies.probe", "proxies.finetune", "features", "proxies.reward_models", "proxies.surrogate",
    "proxies.entries", "proxies.store", "proxies.stored", "proxies.pool", "synthetic", "rendering", "episodes", "env",
    "vector_env", "wrappers", "sb3", "policy", "search.evaluator", "search.moves", "search.simple", "search.greedy",
    "search.swap", "search.annealing", "search.cross_entropy", "search.bandit", "search.climb", "search.pairwise",
    "search.gains", "search.guided", "search", "selectors.pool", "selectors.checks", "selectors.neighbours",
    "selectors.head", "selectors.keep", "selectors.gumbel", "selectors.per_class", "selectors.simple",
    "selectors.k_center", "selectors.facility_location", "selectors.herding", "selectors.density",
    "selectors.semdedup", "selectors.d2_pruning", "selectors.dsir", "selectors.el2n", "selectors.forgetting",
    "selectors.s2l", "selectors.pvi", "selectors.influence", "selectors.knn_shapley", "selectors.agreement",
    "selectors.craig", "selectors.gradmatch", "selectors.glister", "selectors.gradients", "selectors.less",
    "selectors.trak", "selectors.prompts", "selectors.ask_llm", "selectors.ufo", "selectors.data_whisperer",
    "selectors", "finalists", "baselines", "evaluation", "leaderboard", "finetuning", "run_folder", "report.markup",
    "report.run_facts", "report.cluster_map", "report.curve", "report.sections", "report", "rlvr", "rlvr.checkers",
    "rlvr.questions", "rlvr.arithmetic", "rlvr.gsm8k", "rlvr.policy", "rlvr.replay", "rlvr.loss", "rlvr.history",
    "rlvr.training", "rlvr.weights", "rlvr.grpo", "rlvr.simulator", "rlvr.difficulty", "rlvr.controllers.controller",
    "rlvr.controllers.uniform", "rlvr.controllers.difficulty", "rlvr.controllers.dots", "rlvr.controllers.subset",
    "rlvr.controllers.learnalign", "rlvr.controllers.cropi", "rlvr.controllers.ufo", "rlvr.controllers.pass_rates",
    "rlvr.controllers.by_cluster", "rlvr.controllers.bandits", "rlvr.controllers.lfr", "rlvr.controllers.likelihood",
    "rlvr.controllers.agent", "rlvr.controllers", "rlvr.snapshots", "rlvr.runs", "rlvr.env", "cli",
)  # fmt: skip
EXEMPT = {"__init__"}  # resolves names lazily
TEST_READERS = {
    "task_file",
    "task",
    "building",
    "splits",
    "dataset",
    "synthetic",
    "evaluation",
    "leaderboard",
    "finetuning",
    "report.run_facts",
    "report.sections",
    "rlvr.questions",
    "rlvr.arithmetic",
    "rlvr.gsm8k",
    "rlvr.runs",
}  # make or hold test rows, or score them last


def modules():
    for path in sorted((ROOT / "dsenv").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "dsenv").with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsenv."):
            yield node.module.removeprefix("dsenv.")
        plain = isinstance(node, ast.Import) and any(alias.name.startswith("dsenv") for alias in node.names)
        assert not plain and getattr(node, "module", None) != "dsenv", "write: from dsenv.module import name"
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative import"


def test_every_module_has_its_place():
    assert {name for name, _ in modules()} - EXEMPT == set(ORDER)


def test_import_order():
    for name, tree in modules():
        if name in EXEMPT:
            continue
        for used in imports(tree):
            lazily_made = name == "proxies" and used.startswith("proxies.")
            assert lazily_made or ORDER.index(used) < ORDER.index(name), f"{name} imports {used}"


def test_only_the_final_result_reads_test_rows():
    for name, tree in modules():
        found = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "test"]
        strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value == "test"]
        if name not in TEST_READERS | {"cli"}:
            assert not found and not strings, f"{name} reads test rows"


def test_import_is_light():
    code = (
        "import sys, dsenv\n"
        "heavy = {'torch', 'sklearn', 'pandas', 'transformers', 'faiss', 'datasets', 'matplotlib', 'typer', 'rich', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_environments_need_the_core_alone():
    """With every optional package refused, a bundled environment plays an episode and a search runs."""
    code = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    names = {"torch", "sklearn", "pandas", "transformers", "faiss", "datasets", "pyarrow", "matplotlib", "stable_baselines3",
             "sentence_transformers", "peft", "ray"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"refused: {name}")
sys.meta_path.insert(0, Refuse())
import gymnasium, dsenv
env = gymnasium.make("DataSelect-GooglePlay-v0")
env.reset(seed=0)
for k in range(64):
    over = env.step(k % 60)[2]
assert over
assert len(dsenv.select("googleplay", method="proportional").rows) > 1900
from dsenv.errors import MissingExtraError
try:
    dsenv.build_task(dsenv.synthetic_texts(rows=60, held_out=30))
except MissingExtraError as error:
    assert "dsenv-gym[" in str(error)
else:
    raise SystemExit("built without the extra")
env = gymnasium.make("DataSelect-Synthetic-v0", render_mode="rgb_array")
env.reset()
try:
    env.render()
except MissingExtraError as error:
    assert "dsenv-gym[render]" in str(error)
else:
    raise SystemExit("drawn without the extra")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_resolve():
    import dsenv

    for name in dsenv.__all__:
        assert getattr(dsenv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        _ = dsenv.selekt
    submodules = {path.stem for path in (ROOT / "dsenv").iterdir()}
    assert not submodules & set(dsenv.__all__)


def test_readme_is_short_and_the_pages_say_what_is_committed():
    from benchmarks import learning
    from benchmarks.records import RESULTS, read_record
    from benchmarks.tables import PAGES, rendered

    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    learned = [f"learning {id}" for id in learning.IDS]
    measured = {
        "fidelity",
        "fidelity short",
        "proxy variants",
        "throughput",
        "scaling",
        "rlvr",
        "rlvr short",
        "rlvr third",
        "rlvr difficulty",
        "determinism",
        "verify",
        "fuzz",
        "crash",
        "soak",
    }
    others = {name for name in rendered() if not name.startswith(("leaderboard", "target"))}
    assert others == {"ids", *learned, "end_to_end noise=0.0", "end_to_end noise=0.4", *measured}
    for block in read_record(RESULTS / "learning.json").values():
        assert set(block["runs"]) == {*learning.SEARCHED, *learning.AGENTS}
        assert all(len(seeds) == 5 for seeds in block["runs"].values())
    for block in read_record(RESULTS / "end_to_end.json").values():
        assert {name: len(seeds) for name, seeds in block["runs"].items()} == {
            "random rows": 3, "class-mix rows": 3, "swap": 3, "maskable_ppo": 3, "full pool": 1
        }  # fmt: skip
    pages = "".join(page.read_text() for page in PAGES)
    for name, block in rendered().items():
        assert block in pages, f"no page has the table {name} as it is now: run python -m benchmarks.tables"


def test_the_leaderboard_is_complete_and_bundled():
    """The searches and the learned agent stand on every id with ten seeds to 4,096 evaluations; the package shows the same."""
    from benchmarks.records import RESULTS, read_record
    from dsenv.leaderboard import PROBLEMS, SUMMARY, TABLES

    assert SUMMARY.read_text() == (RESULTS / "leaderboard.json").read_text()
    record = read_record(SUMMARY)
    assert all(record[name] for name in (*TABLES, "transfer"))
    seeds = {(row["id"], row["agent"], row["evaluations"]): row["seeds"] for row in record["summary"]}
    searches = ("best_of", "greedy", "stochastic_greedy", "swap", "annealing", "cross_entropy", "bandit", "pairwise")
    for problem in (*PROBLEMS, "headroom"):
        for agent in (*searches, "guided", "pretrained"):
            assert all(seeds[problem, agent, budget] == 10 for budget in (256, 1024, 4096))
    assert not any(row.get("failed") for row in record["summary"])


def test_the_rlvr_record_is_complete():
    """Every controller with five seeds, and the fields that others read."""
    from benchmarks.records import RESULTS, read_record
    from benchmarks.rlvr import NAMED, VARIANTS, Plan, same, stored

    record = read_record(RESULTS / "rlvr.json")
    assert set(record["controllers"]) == set(VARIANTS) >= {"uniform", "difficulty", "dots", "dots_replay", "uniform_replay"}
    assert set(VARIANTS) >= {"learnalign", "learnalign_staged", "cropi", "ufo", "ucb", "thompson", "lfr", "ppo", NAMED}
    for name, row in record["controllers"].items():
        assert row["runs"] == 5
        for field in ("pass_rate", "rollouts", "steps", "seconds"):
            assert set(row[field]) == {"value", "low", "high", "reached"} and row[field]["low"] <= row[field]["value"]
        assert [run["seed"] for run in stored(RESULTS / "rlvr", name) if same(run, Plan())] == [0, 1, 2, 3, 4]


def test_versions_agree():
    import importlib.metadata

    import dsenv

    assert importlib.metadata.version("dsenv-gym") == dsenv.__version__
    assert f"## {dsenv.__version__}" in (ROOT / "CHANGELOG.md").read_text()
