"""How well does each proxy predict what a selection is worth on the fine-tuned target?

``python -m benchmarks.fidelity [--quick] [--json F]``

The same selections are scored by every proxy and by the target (``benchmarks.target_scores``, run first where scores are
missing). ``spearman``, ``better_half``, ``unsearched`` and ``regret`` are measured against the target's ``selection`` rows,
and may choose a proxy; the fields ending in ``_test`` say the same of the test rows, and choose nothing. The scores that
take long are stored, and a second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr

from benchmarks.records import RESULTS, provenance, read_record, store_block
from benchmarks.target_scores import TASKS, load_pool, read_scores
from benchmarks.target_scores import run as run_target
from dsenv.dataset import Ints, TextDataset
from dsenv.errors import ending_cleanly
from dsenv.files import atomic_write, cache_folder
from dsenv.metrics import Doubles
from dsenv.picks import PickPlan, plan_picks
from dsenv.proxies import Proxy
from dsenv.proxies.finetune import FinetuneProxy
from dsenv.proxies.probe import ProbeProxy
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.stored import StoredProxy
from dsenv.proxies.surrogate import SurrogateProxy
from dsenv.seeding import generator
from dsenv.stats import Interval
from dsenv.task import REPORTED, SelectionTask

RESAMPLES = 2_000
SECONDS = "seconds_per_score"
PICTURE = Path(__file__).parent.parent / "docs" / "fidelity.png"

log = logging.getLogger(__name__)

MakeProxy = Callable[[SelectionTask, PickPlan, TextDataset, int], Proxy]
PROXIES: dict[str, MakeProxy] = {
    "ridge": lambda task, plan, texts, evaluations: RidgeProxy(task, plan, REPORTED[task.reported], memo=0),
    "ridge, reported metric": lambda task, plan, texts, evaluations: RidgeProxy(task, plan, task.reported, memo=0),
    "ridge, log loss": lambda task, plan, texts, evaluations: RidgeProxy(task, plan, "neg_log_loss", memo=0),
    "surrogate mlp": lambda task, plan, texts, evaluations: SurrogateProxy.fit(
        RidgeProxy(task, plan, REPORTED[task.reported]), model="mlp", evaluations=evaluations
    ),
    "surrogate set transformer": lambda task, plan, texts, evaluations: SurrogateProxy.fit(
        RidgeProxy(task, plan, REPORTED[task.reported]), model="set_transformer", evaluations=evaluations
    ),
    "probe logistic": lambda task, plan, texts, evaluations: ProbeProxy(task, plan, REPORTED[task.reported]),
    "probe mlp": lambda task, plan, texts, evaluations: ProbeProxy(task, plan, REPORTED[task.reported], head="mlp"),
    "finetune, log loss": lambda task, plan, texts, evaluations: FinetuneProxy(task, plan, "neg_log_loss", texts),
}


def rank_correlation(proxy: Doubles, target: Doubles) -> Interval:
    """Return Spearman's correlation with a percentile interval over resampled selections; 0 [-1, 1] where all are tied."""
    if len(target) < 2 or not np.ptp(target) or not np.ptp(proxy):
        return Interval(0.0, -1.0, 1.0)
    drawn = resampled_correlations(proxy, target)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    return Interval(float(spearmanr(proxy, target).statistic), float(low), float(high))


def resampled_correlations(proxy: Doubles, target: Doubles) -> Doubles:
    """Return Spearman's correlation in every resample of the selections, the same for each proxy; NaN where all are tied."""
    again = generator(0, "fidelity").integers(0, len(target), (RESAMPLES, len(target)))
    ranks = [rankdata(values[again], axis=1) - (len(target) + 1) / 2 for values in (proxy, target)]
    spreads = np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    found = np.full(RESAMPLES, np.nan)
    found[spreads > 0] = (ranks[0] * ranks[1]).sum(1)[spreads > 0] / spreads[spreads > 0]
    return found


def correlation_difference(proxy: Doubles, other: Doubles, target: Doubles) -> Interval:
    """Return how much better than another a proxy ranks the target, with an interval over the same resamples of both."""
    value = rank_correlation(proxy, target).value - rank_correlation(other, target).value
    drawn = resampled_correlations(proxy, target) - resampled_correlations(other, target)
    if np.isnan(drawn).all():
        return Interval(value, -2.0, 2.0)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    return Interval(value, float(low), float(high))


def by_search(targets: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Return which of the target's selections a search with the ridge found: the best and the worst in its own eyes."""
    return np.array([chosen["how"].startswith(("greedy", "swap", "worst")) for chosen in targets["selections"]])


def fidelity(proxy: Doubles, selection: Doubles, test: Doubles, searched: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Compare a proxy's scores of n selections with the target's on ``selection`` rows and on ``test`` rows.

    ``unsearched`` leaves out the selections that a search with the ridge found: the best and the worst in its own eyes.
    """
    better = np.argsort(-selection, kind="stable")[: len(selection) // 2]
    favourite = int(np.argmax(proxy))
    return {
        "spearman": asdict(rank_correlation(proxy, selection)),
        "better_half": asdict(rank_correlation(proxy[better], selection[better])),
        "unsearched": asdict(rank_correlation(proxy[~searched], selection[~searched])),
        "regret": float(selection.max() - selection[favourite]),
        "spearman_test": asdict(rank_correlation(proxy, test)),
        "regret_test": float(test.max() - test[favourite]),
    }


def ceiling(block: dict[str, Any], split: str) -> dict[str, float]:
    """Say how well the target predicts itself: Spearman between training seeds, over the repeated selections.

    The mean over pairs of seeds, with the interval over resampled selections.
    """
    scores = np.array(
        [
            [block["runs"][f"{number} seed={seed}"][split][block["reported"]] for seed in (0, 1, 2)]
            for number in block["repeated"]
        ]
    )
    if not np.ptp(scores, axis=0).all():
        return {**asdict(Interval(0.0, -1.0, 1.0)), "spread": float(scores.std(1, ddof=1).mean())}
    rng = generator(0, "fidelity ceiling")

    def agreement(rows: np.ndarray) -> float:
        pairs = [(0, 1), (0, 2), (1, 2)]
        return float(np.nanmean([spearmanr(rows[:, a], rows[:, b]).statistic for a, b in pairs]))

    drawn: list[float] = []
    while len(drawn) < RESAMPLES // 4:
        again = scores[rng.integers(0, len(scores), len(scores))]
        if (np.ptp(again, axis=0) > 0).all():
            drawn.append(agreement(again))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {**asdict(Interval(agreement(scores), float(low), float(high))), "spread": float(scores.std(1, ddof=1).mean())}


def score(
    name: str, task: SelectionTask, plan: PickPlan, texts: TextDataset, counts: Ints, store: ScoreStore, evaluations: int
) -> dict[str, Any]:
    """Score every selection with one proxy: the scores, the seconds of making the proxy and of one score."""
    started = time.perf_counter()
    proxy = PROXIES[name](task, plan, texts, evaluations)
    made = time.perf_counter() - started
    if isinstance(proxy, FinetuneProxy):
        proxy = StoredProxy(proxy, store)
        log.info("%s: about %.0f minutes on two cores", name, len(counts) * 10 / 60)
    else:
        proxy.score(counts)  # tables are filled, libraries loaded
    started = time.perf_counter()
    scores = proxy.score(counts)
    seconds = (time.perf_counter() - started) / len(counts)
    if isinstance(proxy, StoredProxy) and proxy.hits:
        seconds = proxy.seconds_per_score
    found: dict[str, Any] = {"scores": scores.tolist(), "seconds_to_make": made, "seconds_per_score": seconds}
    if isinstance(proxy, SurrogateProxy):
        found |= {"hold_out_r2": proxy.hold_out_r2, "hold_out_spearman": proxy.hold_out_spearman}
    return found


def main() -> None:
    """Score what is not scored yet, then store and print what the proxies are worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="synthetic texts, few selections: the same fields in a minute")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS[:2]), choices=list(TASKS))
    parser.add_argument("--proxies", nargs="+", default=list(PROXIES), choices=list(PROXIES))
    parser.add_argument("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR)")
    parser.add_argument("--pool", type=int, default=10_000)
    parser.add_argument("--selections", type=int, default=40)
    parser.add_argument("--targets", type=Path, default=RESULTS / "target_scores.json", help="where the target's scores are")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/fidelity.json, nowhere with --quick")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as scratch:
        sizes = {"pool": given.pool, "count": given.selections, "repeated": 8, "size": 1_000, "path": given.targets}
        path, folder = given.json or RESULTS / "fidelity.json", cache_folder()
        if given.quick:
            given.tasks = ["synthetic-texts"]
            sizes = {"pool": 400, "count": 10, "repeated": 2, "size": 40, "path": Path(scratch) / "targets.json"}
            path, folder = given.json or Path(scratch) / "fidelity.json", Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with ScoreStore(folder / "fidelity.sqlite") as store:
            for name in given.tasks:
                _measure(name, given, sizes, path, store)
        record = read_record(path)
        print(table(record))
        if given.json is None and not given.quick:
            draw(record, read_record(given.targets), PICTURE)


def _measure(name: str, given: argparse.Namespace, sizes: dict[str, Any], path: Path, store: ScoreStore) -> None:
    targets = run_target(name, data_dir=given.data_dir, **sizes)
    selection, test = (read_scores(targets, split) for split in ("selection", "test"))
    counts = np.array([chosen["counts"] for chosen in targets["selections"]])
    texts, task = load_pool(name, sizes["pool"], given.data_dir)
    plan = plan_picks(task.clustering("stratified"))
    key = f"{name} pool={sizes['pool']}"
    options = {"tasks": name, "pool": sizes["pool"], "selections": len(counts)}
    block = read_record(path).get(key) or {**provenance("benchmarks.fidelity", options), "proxies": {}}
    block |= {"task_digest": task.digest, "reported": task.reported, "selections": len(counts)}
    block["target"] = {"selection": ceiling(targets, "selection"), "test": ceiling(targets, "test")}
    seconds = [sum(found["seconds"].values()) for found in targets["runs"].values()]
    block["target"]["seconds_per_score"] = float(np.mean(seconds))
    searched = by_search(targets)
    block["unsearched"] = int((~searched).sum())
    block["proxies"] = {name: found for name, found in block["proxies"].items() if name in PROXIES}
    for proxy in given.proxies:
        log.info("%s: %s", name, proxy)
        found = score(proxy, task, plan, texts, counts, store, 128 if given.quick else 1024)
        block["proxies"][proxy] = {**found, **fidelity(np.array(found["scores"]), selection, test, searched)}
        store_block(path, key, block)


def cell(found: dict[str, float]) -> str:
    """Return an estimate with its interval."""
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def table(record: dict[str, Any]) -> str:
    """Return the record as a Markdown table."""
    columns = [
        "task",
        "proxy",
        "Spearman",
        "better half",
        "unsearched",
        "regret",
        "Spearman, test",
        "regret, test",
        "seconds a score",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]

    for key, block in record.items():
        task = key.partition(" ")[0]
        for name, found in block["proxies"].items():
            cells = [task, name, *(cell(found[what]) for what in ("spearman", "better_half", "unsearched"))]
            cells.append(f"{found['regret']:.3f}")
            cells += [cell(found["spearman_test"]), f"{found['regret_test']:.3f}", f"{found['seconds_per_score']:.2g}"]
            lines.append(f"| {' | '.join(cells)} |")
        target = block["target"]
        cells = [task, "the target, another training seed", cell(target["selection"]), "", "", "", cell(target["test"]), ""]
        lines.append(f"| {' | '.join([*cells, format(target['seconds_per_score'], '.2g')])} |")
    return "\n".join(lines)


def short_table(record: dict[str, Any]) -> str:
    """Return Spearman's correlation on the target's selection rows, over all selections and over the unsearched."""
    blocks = {key.partition(" ")[0]: block for key, block in record.items()}
    columns = ["proxy", *(f"{task}{part}" for task in blocks for part in (", all", ", unsearched")), "seconds a score"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in PROXIES:
        found = [block["proxies"][name] for block in blocks.values()]
        cells = [cell(one[what]) for one in found for what in ("spearman", "unsearched")]
        lines.append(f"| {' | '.join([name, *cells, f'{np.mean([one[SECONDS] for one in found]):.2g}'])} |")
    target = [block["target"] for block in blocks.values()]
    cells = [text for one in target for text in (cell(one["selection"]), "")]
    seconds = f"{np.mean([one[SECONDS] for one in target]):.2g}"
    return "\n".join([*lines, f"| {' | '.join(['the target, another training seed', *cells, seconds])} |"])


def draw(record: dict[str, Any], targets: dict[str, Any], path: Path) -> None:
    """Draw each proxy's scores against the target's: one row of pictures a task."""
    from matplotlib.figure import Figure

    names = [name for name in PROXIES if all(name in block["proxies"] for block in record.values())]
    figure = Figure(figsize=(2.1 * len(names), 2.4 * len(record)), layout="constrained")
    axes = figure.subplots(len(record), len(names), squeeze=False)
    for row, (key, block) in zip(axes, record.items(), strict=True):
        truth = read_scores(targets[key])
        for axis, name in zip(row, names, strict=True):
            found = block["proxies"][name]
            axis.scatter(found["scores"], truth, s=10, color="#2a6f97")
            axis.set_title(f"{name}\nρ = {found['spearman']['value']:.2f}", fontsize=8)
            axis.tick_params(labelsize=6)
        row[0].set_ylabel(f"{key.partition(' ')[0]}\ntarget {block['reported']}", fontsize=8)
    figure.supxlabel("score by the proxy (one dot: one selection of 5% of the pool)", fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    with ending_cleanly():
        main()
