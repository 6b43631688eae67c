"""Do cheap changes of the ridge proxy rank selections more as the fine-tuned target does?

``python -m benchmarks.proxy_variants [--quick] [--json F]``

Every variant scores the stored selections of ``benchmarks.target_scores``. What is compared, and what the residual
variants are fitted on, is the target on its ``selection`` rows; fields ending in ``_test`` say the same of the test rows and
choose nothing. Scores are stored as soon as they are there, and a second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.fidelity import RESAMPLES, by_search, cell, correlation_difference, fidelity
from benchmarks.records import RESULTS, provenance, read_record, store_block
from benchmarks.target_scores import TASKS, load_pool, read_scores
from dsenv.dataset import Ints, Rows, TextDataset
from dsenv.encoders import Encoder, SentenceEncoder, TfidfEncoder, encode, minilm_folder
from dsenv.errors import InputError, ending_cleanly
from dsenv.metrics import Doubles, score
from dsenv.picks import PickPlan, plan_picks
from dsenv.proxies.lower_confidence import LowerConfidenceProxy
from dsenv.proxies.ridge import RidgeProxy, fit_ridge, score_weights
from dsenv.reduction import Part, reduce_vectors
from dsenv.search import random_counts
from dsenv.seeding import generator
from dsenv.selectors.agreement import agreement
from dsenv.selectors.head import fit_head, gradient_factors, probabilities
from dsenv.selectors.neighbours import neighbours
from dsenv.stats import Interval
from dsenv.task import REPORTED, SelectionTask
from dsenv.task_file import REWARD, TRAIN
from dsenv.training import Recipe, fit, load_target

PLAIN = "ridge"
SEEDS = (0, 1)  # of the warm-up rows and of the brief training on them
WARM_ROWS = 100
NEAREST = 10
AGREED = 0.5
LEAST_WEIGHT = 1e-3  # no selection weighs nothing
ROUNDING = 1e-9
PENALTY = 4.0  # of the residual's standardised features: a tenth of the 40 selections

log = logging.getLogger(__name__)

MakeEncoder = Callable[[Rows, int, int], Encoder]


def warmed_minilm(rows: Rows, classes: int, seed: int) -> Encoder:
    """Return all-MiniLM-L6-v2 after a brief training on labelled rows, as an encoder: pooled and normalised as before."""
    target = load_target(Recipe(), classes, seed)
    fit(target, rows, seed, f"warm up on {len(rows)} rows, seed {seed}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "warmed"
        shutil.copytree(minilm_folder(), folder)
        target.model.base_model.save_pretrained(folder)
        return SentenceEncoder(str(folder), batching="tokens")


def warmed_tfidf(rows: Rows, classes: int, seed: int) -> Encoder:
    """Return the stand-in of ``--quick``: TF-IDF that knows the words of the warm-up rows alone."""
    return TfidfEncoder(rows.texts, seed)


@dataclass(frozen=True, eq=False)
class Case:
    """One task with the selections to score.

    Attributes:
        texts: what the task was built from.
        task: the pool and the reward rows.
        plan: what a pick adds.
        counts: (n, K) the selections.
        target: (n,) what the target makes of them on ``selection`` rows; only the residual variants read it.
        warm_rows: pool rows of the brief training.
        warm_encoder: makes an encoder of these rows, the number of classes and a seed.
        cache: folder of the vectors.
        seconds: of warming and encoding, by seed.
    """

    texts: TextDataset
    task: SelectionTask
    plan: PickPlan
    counts: Ints
    target: Doubles
    warm_rows: int
    warm_encoder: MakeEncoder
    cache: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _warmed: dict[int, SelectionTask] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What Φ measures."""
        return REPORTED[self.task.reported]

    @cached_property
    def rows(self) -> list[Ints]:
        """The pool's row numbers of every selection."""
        return [self.plan.rows(counts) for counts in self.counts]

    @cached_property
    def ridge(self) -> Doubles:
        """(n,) the plain ridge's scores."""
        return RidgeProxy(self.task, self.plan, self.metric, memo=0).score(self.counts)

    @cached_property
    def agreement(self) -> Doubles:
        """The share of each pool row's nearest rows that have its label."""
        found, distances = neighbours(self.task.train.features[:, :-1], NEAREST)
        return agreement(found, 1 - distances, self.task.train_labels)[0]

    def drawn(self, seed: int) -> Ints:
        """Return the pool's row numbers of the warm-up."""
        size = min(self.warm_rows, len(self.task.train_labels))
        return generator(seed, "warm-up rows").choice(len(self.task.train_labels), size, replace=False)

    def warmed(self, seed: int) -> SelectionTask:
        """Return the task with vectors of the warmed encoder: the same rows, splits and clusters."""
        if seed not in self._warmed:
            started = time.perf_counter()
            rows = self.texts.train.take(self.task.train_rows[self.drawn(seed)])
            encoder = self.warm_encoder(rows, self.task.classes, seed)
            self._warmed[seed] = with_encoder(self.task, self.texts, encoder, self.cache)
            self.seconds[str(seed)] = time.perf_counter() - started
        return self._warmed[seed]


def with_encoder(task: SelectionTask, texts: TextDataset, encoder: Encoder, cache: Path | None) -> SelectionTask:
    """Return a task with another encoder's vectors of its training and reward rows, all else as it is.

    The vectors of the other rows are zeros: nothing here reads them.
    """
    reward = texts.validation.take(task.dataset_rows("reward"))
    vectors = encode(replace(texts, validation=reward, test=reward), encoder, train_rows=task.train_rows, cache_dir=cache)
    parts = [Part("train", vectors["train"]), Part("validation", vectors["validation"])]
    reduced, scale, _ = reduce_vectors(parts, task.train.features.shape[1] - 1)
    split = task.arrays["split"]
    stored = np.zeros((len(split), reduced.shape[1]), reduced.dtype)
    stored[split == TRAIN], stored[split == REWARD] = np.split(reduced, [len(vectors["train"])])
    return SelectionTask(
        {**task.arrays, "vectors": stored, "column_scale": scale}, {**task.metadata, "encoder": encoder.identity}
    )


def warmed_ridge(case: Case, seed: int) -> Doubles:
    """The ridge on vectors of a briefly trained encoder."""
    return RidgeProxy(case.warmed(seed), case.plan, case.metric, memo=0).score(case.counts)


def gradient_matching(case: Case, seed: int, warmed: bool = False) -> Doubles:
    """Cosine of a selection's and the reward rows' summed last-layer gradients, of a head fitted on the warm-up rows."""
    task, drawn = case.warmed(seed) if warmed else case.task, case.drawn(seed)
    train, reward = task.train.features[:, :-1], task.reward.features[:, :-1]
    head = fit_head(train[drawn], task.train_labels[drawn], task.classes)
    features, errors = gradient_factors(train, task.train_labels, head)
    reward_features, reward_errors = gradient_factors(reward, task.reward.labels, head)
    wanted = reward_features.T @ reward_errors
    return np.array([_cosine(features[rows].T @ errors[rows], wanted) for rows in case.rows])


def lower_confidence(case: Case) -> Doubles:
    """The mean over folds of the reward rows less a standard error."""
    return LowerConfidenceProxy(case.task, case.plan, case.metric).score(case.counts)


def weighted_ridge(case: Case) -> Doubles:
    """The ridge with rows weighed by how many of their nearest pool rows have their label."""
    task, weights = case.task, np.maximum(case.agreement, LEAST_WEIGHT)
    models = [
        fit_ridge(task.train_features(rows), task.train_labels[rows], task.classes, task.regularisation, weights[rows])
        for rows in case.rows
    ]
    return np.array([float(score_weights(task, model, task.reward, case.metric)) for model in models])


def class_shares(case: Case) -> Doubles:
    """Return each selection's class shares, (n, C)."""
    labels = case.task.train_labels
    return np.array([np.bincount(labels[rows], minlength=case.task.classes) / len(rows) for rows in case.rows])


def composition(case: Case) -> Doubles:
    """Return the class shares, and the share of rows that at least half of their nearest rows agree with, (n, C + 1)."""
    agreed = case.agreement >= AGREED
    return np.column_stack([class_shares(case), [agreed[rows].mean() for rows in case.rows]])


def left_one_out(target: Doubles, free: Doubles, penalised: Doubles, penalty: float = PENALTY) -> Doubles:
    """Predict each target from the others: linear in 1 and ``free``, and in ``penalised`` features under a penalty.

    Minimises Σ (target - prediction)² + penalty ‖w‖² over the others, w of the standardised penalised features.

    Args:
        target: (n,).
        free: (n, p) features whose weights are free.
        penalised: (n, q) features whose weights are shrunk.
        penalty: from 0.

    Returns:
        (n,) predictions; no target enters its own.
    """
    spread = penalised.std(0)
    standardised = (penalised - penalised.mean(0)) / np.where(spread > 0, spread, 1)
    design = np.column_stack([np.ones(len(target)), free, standardised])
    shrunk = np.repeat([0.0, penalty], [design.shape[1] - penalised.shape[1], penalised.shape[1]])
    hat = design @ np.linalg.pinv(design.T @ design + np.diag(shrunk)) @ design.T
    own = np.diag(hat)
    return np.asarray((hat @ target - own * target) / np.maximum(1 - own, np.finfo(np.float64).eps))


def nothing(case: Case) -> Doubles:
    """Return no features, (n, 0)."""
    return np.empty((len(case.counts), 0))


def residual(case: Case, features: Callable[[Case], Doubles], ridge: bool = True) -> Doubles:
    """The target as a + b · ridge + a small model of features of the selection, each selection left out once."""
    return left_one_out(case.target, case.ridge[:, None] if ridge else nothing(case), features(case))


def _cosine(first: Doubles, second: Doubles) -> float:
    return float((first * second).sum() / max(np.linalg.norm(first) * np.linalg.norm(second), np.finfo(np.float64).tiny))


VARIANTS: dict[str, Callable[[Case], Doubles]] = {
    PLAIN: lambda case: case.ridge,
    **{f"ridge, warmed vectors, seed {seed}": partial(warmed_ridge, seed=seed) for seed in SEEDS},
    "ridge, warmed vectors, mean of the seeds": lambda case: np.mean([warmed_ridge(case, seed) for seed in SEEDS], axis=0),
    **{f"gradient matching, seed {seed}": partial(gradient_matching, seed=seed) for seed in SEEDS},
    **{
        f"gradient matching, warmed vectors, seed {seed}": partial(gradient_matching, seed=seed, warmed=True) for seed in SEEDS
    },
    "lower confidence": lower_confidence,
    "agreement-weighted ridge": weighted_ridge,
    "a + b ridge, left one out": partial(residual, features=nothing),
    "a + b ridge + composition, left one out": partial(residual, features=composition),
    "composition alone, left one out": partial(residual, features=composition, ridge=False),
    "class shares alone, left one out": partial(residual, features=class_shares, ridge=False),
}
OF_SHARES = tuple(VARIANTS)[-2:]  # little or nothing is left of them where the class shares are given


def partial_correlation(proxy: Doubles, target: Doubles, given: Doubles) -> Interval:
    """Return Spearman's partial correlation of a proxy (n,) with the target (n,), given other columns (n, q).

    The correlation of what a linear model of the given columns' ranks leaves of both ranks, with the interval over the
    resamples that every correlation here has; 0 [-1, 1] where nothing is left.
    """
    columns = np.column_stack([proxy, target, given])
    again = generator(0, "fidelity").integers(0, len(target), (RESAMPLES, len(target)))
    value, drawn = float(_left_correlations(columns[None])[0]), _left_correlations(columns[again])
    if np.isnan(value) or np.isnan(drawn).all():
        return Interval(0.0, -1.0, 1.0)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _left_correlations(columns: Doubles) -> Doubles:
    """Correlate what the other columns' ranks leave of the first two's, (m, n, 2 + q) -> (m,); NaN where that is nothing."""
    ranks = rankdata(columns, axis=1) - (columns.shape[1] + 1) / 2
    pair, given = ranks[:, :, :2], ranks[:, :, 2:]
    left = pair - given @ (np.linalg.pinv(given, rcond=ROUNDING) @ pair)
    sizes = np.linalg.norm(left, axis=1)
    something = (sizes > ROUNDING * np.maximum(np.linalg.norm(pair, axis=1), 1)).all(1)
    found = np.full(len(columns), np.nan)
    found[something] = (left[something, :, 0] * left[something, :, 1]).sum(1) / sizes[something].prod(1)
    return found


def compare(proxy: Doubles, plain: Doubles, targets: dict[str, Any], shares: Doubles) -> dict[str, Any]:
    """Compare a variant's scores with the target's, and with the plain ridge's agreement over the same resamples.

    Args:
        proxy: (n,) scores of the variant.
        plain: (n,) scores of the ridge.
        targets: the task's block of the target's record.
        shares: (n, C) of the selections; ``given_shares`` says what agreement is left beside them.
    """
    selection, test = read_scores(targets), read_scores(targets, "test")
    chosen = ~by_search(targets)
    return {
        **fidelity(proxy, selection, test, ~chosen),
        "difference": asdict(correlation_difference(proxy, plain, selection)),
        "difference_unsearched": asdict(correlation_difference(proxy[chosen], plain[chosen], selection[chosen])),
        "given_shares": asdict(partial_correlation(proxy, selection, shares)),
    }


def measure(case: Case, targets: dict[str, Any], key: str, options: dict[str, Any], path: Path) -> None:
    """Score the selections with every variant that is not stored yet, and compare them all.

    Raises:
        InputError: where the target's scores, or the stored variants, are of another build.
    """
    wanted = {
        "task_digest": case.task.digest,
        "target_digest": target_digest(targets),
        "warm_rows": case.warm_rows,
        "selections": len(case.counts),
    }
    if targets["task_digest"] != case.task.digest:
        raise InputError(f"the target's scores of {key!r} are of task {targets['task_digest']}, this is {case.task.digest}")
    block = read_record(path).get(key) or {**provenance("benchmarks.proxy_variants", options), **wanted}
    for name, value in wanted.items():
        if block[name] != value:
            raise InputError(f"{path.name} holds {key!r} with {name} {block[name]}, not {value}: give another --json")
    block.setdefault("warm_seconds", {})
    block["variants"] = {name: block.get("variants", {}).get(name, {}) for name in VARIANTS}
    for name, found in block["variants"].items():
        if "scores" not in found:
            log.info("%s: %s", key, name)
            found["scores"] = VARIANTS[name](case).tolist()
            block["warm_seconds"] = {**case.seconds, **block["warm_seconds"]}
            store_block(path, key, {**block, "variants": {n: v for n, v in block["variants"].items() if v}})
    plain, shares = np.array(block["variants"][PLAIN]["scores"]), class_shares(case)
    for found in block["variants"].values():
        found |= compare(np.array(found["scores"]), plain, targets, shares)
    store_block(path, key, block)


def target_digest(targets: dict[str, Any]) -> str:
    """Return a digest of what the residual variants are fitted on: the selections and the target's scores of them."""
    fitted = [targets["selections"], read_scores(targets).tolist()]
    return hashlib.sha256(json.dumps(fitted, sort_keys=True).encode()).hexdigest()[:16]


def stand_in_targets(task: SelectionTask, plan: PickPlan, count: int) -> dict[str, Any]:
    """Return a block as of ``benchmarks.target_scores``, of uniform picks and a logistic head: for ``--quick``."""
    rng = generator(0, "stand-in selections")
    chosen = [random_counts(plan, rng) for _ in range(count)]
    runs = {}
    for number, counts in enumerate(chosen):
        rows = plan.rows(counts)
        head = fit_head(task.train_features(rows)[:, :-1], task.train_labels[rows], task.classes)
        runs[f"{number} seed=0"] = {
            name: {
                task.reported: float(
                    score(task.reported, probabilities(split.features[:, :-1], head), split.labels, task.class_shares)
                )
            }
            for name, split in (("selection", task.selection), ("test", task.test))
        }
    listed = [{"how": "uniform", "counts": counts.tolist()} for counts in chosen]
    return {"task_digest": task.digest, "reported": task.reported, "selections": listed, "runs": runs}


def table(record: dict[str, Any]) -> str:
    """Return Spearman's correlation with the target of every variant, and how much that is above the plain ridge's."""
    columns = ["task", "variant", "Spearman", "above the ridge", "unsearched", "above the ridge"]
    columns += ["given class shares", "Spearman, test"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for key, block in record.items():
        for name in VARIANTS:
            found = block["variants"][name]
            gaps = [_signed(found[what]) if name != PLAIN else "" for what in ("difference", "difference_unsearched")]
            given = "" if name in OF_SHARES else cell(found["given_shares"])
            cells = [cell(found["spearman"]), gaps[0], cell(found["unsearched"]), gaps[1], given, cell(found["spearman_test"])]
            lines.append(f"| {' | '.join([key.partition(' ')[0], name, *cells])} |")
    return "\n".join(lines)


def _signed(found: dict[str, float]) -> str:
    return f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Score what is not scored yet, then store and print what the variants are worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="synthetic texts and a stand-in of the target, in seconds")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS[:2]), choices=list(TASKS))
    parser.add_argument("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR)")
    parser.add_argument("--pool", type=int, default=10_000)
    parser.add_argument("--warm-rows", type=int, default=WARM_ROWS, help="pool rows of the brief training")
    parser.add_argument("--targets", type=Path, default=RESULTS / "target_scores.json", help="where the target's scores are")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/proxy_variants.json, nowhere with --quick")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as scratch:
        path = given.json or (Path(scratch) if given.quick else RESULTS) / "proxy_variants.json"
        if given.quick:
            _quick(path, Path(scratch))
        else:
            for name in given.tasks:
                _stored(name, given, path)
        print(table(read_record(path)))


def _quick(path: Path, cache: Path) -> None:
    pool, warm_rows = 400, 40
    texts, task = load_pool("synthetic-texts", pool)
    plan = plan_picks(task.clustering("stratified"))
    targets = stand_in_targets(task, plan, 10)
    case = _case(texts, task, plan, targets, warm_rows, warmed_tfidf, cache)
    measure(case, targets, f"synthetic-texts pool={pool}", {"quick": True}, path)


def _stored(name: str, given: argparse.Namespace, path: Path) -> None:
    key = f"{name} pool={given.pool}"
    record = read_record(given.targets)
    if key not in record:
        raise InputError(f"{given.targets} has no scores of {key!r}; run benchmarks.target_scores; found: {', '.join(record)}")
    texts, task = load_pool(name, given.pool, given.data_dir)
    plan = plan_picks(task.clustering("stratified"))
    case = _case(texts, task, plan, record[key], given.warm_rows, warmed_minilm, None)
    measure(case, record[key], key, {"tasks": name, "pool": given.pool, "warm_rows": given.warm_rows}, path)


def _case(
    texts: TextDataset,
    task: SelectionTask,
    plan: PickPlan,
    targets: dict[str, Any],
    warm_rows: int,
    warm_encoder: MakeEncoder,
    cache: Path | None,
) -> Case:
    counts = np.array([chosen["counts"] for chosen in targets["selections"]])
    return Case(texts, task, plan, counts, read_scores(targets), warm_rows, warm_encoder, cache)


if __name__ == "__main__":
    with ending_cleanly():
        main()
