"""Does the same seed give the same numbers in another process, with more threads, in batches, with an older Gymnasium?

``python -m benchmarks.determinism [--quick] [--json F]``

Every quantity is computed anew in a process of its own for every change, and compared with what one process with one
thread gave, to the last bit. ``batches``: one by one and many at once, in vector environments too; ``workers``: two processes
of a ``PooledProxy``. What is not identical is shown by its largest absolute difference; of whole numbers (rows,
counts, digests) by how many differ. ``--quick``: those quantities alone that need numpy and Gymnasium.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import dsenv
from benchmarks.records import RESULTS, provenance
from dsenv.building import build_task_from_vectors
from dsenv.clustering import cluster_kmeans, cluster_stratified
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError, ending_cleanly
from dsenv.files import atomic_write
from dsenv.metrics import METRICS
from dsenv.proxies import Memory, Proxy
from dsenv.proxies.pool import PooledProxy
from dsenv.proxies.ridge import RidgeProxy
from dsenv.registration import IDS
from dsenv.search import SEARCHES, random_counts, search
from dsenv.seeding import generator
from dsenv.selectors import SELECTORS, Pool, choose_rows
from dsenv.synthetic import synthetic_texts
from dsenv.task import SelectionTask

Values = dict[str, npt.NDArray[Any]]  # by "quantity: what of it: which"
Pairs = dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]  # by the same

ROOT = Path(__file__).parent.parent
SEARCHED = ("DataSelect-Synthetic-v0", "DataSelect-InfoTabs-v0")
CLUSTERED = "DataSelect-GooglePlay-v0"
WIDE = 128
NEED_MODELS = ("less", "trak", "ask_llm", "ufo", "data_whisperer")
OLDEST_GYMNASIUM = "1.1.0"
BATCHES = "batches"
STARTS = ("fork", "spawn", "forkserver")
BASE: dict[str, str] = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
CHANGES: dict[str, dict[str, str]] = {
    "process": {"PYTHONHASHSEED": "1"},
    **{start: {} for start in STARTS},
    "two threads": {"OMP_NUM_THREADS": "2"},
    f"Gymnasium {OLDEST_GYMNASIUM}": {},
}


def episodes(quick: bool) -> Values:
    """Random episodes of every id, and of one whose episodes draw their reward rows."""
    found: Values = {}
    for id in [SEARCHED[0]] if quick else IDS:
        found |= _played("episodes", id, gym.make(id))
    found |= _played("episodes", "drawn reward rows", gym.make(SEARCHED[0], reward_rows=0.5, observation="dict"))
    return found


def simulator(quick: bool) -> Values:
    """A random episode of the simulated policy in training."""
    return _played("RLVR simulator", "", gym.make("DataSelectRLVR-Simulator-v0", budget=4096))


def searches(quick: bool) -> Values:
    """Every search, on two ids."""
    found: Values = {}
    for id in SEARCHED[: 1 if quick else 2]:
        proxy = _env(id).proxy
        for name in SEARCHES:
            stage = search(proxy, name, evaluations=100 if quick else 512, seed=3)
            found[f"searches: counts: {name} {id}"] = stage.counts
            found[f"searches: Φ: {name} {id}"] = np.array([stage.score])
    return found


def ridge(quick: bool) -> Values:
    """Scores of random selections, by every metric, and with more dimensions than tasks have by default."""
    envs = {"": _env(SEARCHED[0] if quick else SEARCHED[1])}
    if not quick:
        envs[f", {WIDE} dimensions"] = DataSelectEnv(_wide_task())
    return {
        f"ridge {precision}{width}: Φ: {metric}": RidgeProxy(env.task, env.plan, metric, precision=precision, memo=0).score(
            _random(env, 64)
        )
        for width, env in envs.items()
        for precision in ("float64", "float32")
        for metric in METRICS
    }


def _wide_task() -> SelectionTask:
    rng = generator(3, "wide vectors")
    labels = {split: np.arange(rows) % 3 for split, rows in (("train", 6_000), ("validation", 2_000), ("test", 30))}
    vectors = {split: rng.normal(size=(len(ids), WIDE)) + ids[:, None] / 3 for split, ids in labels.items()}
    return build_task_from_vectors(vectors, labels, name="wide", dimensions=WIDE)


def selectors(quick: bool) -> Values:
    """Rows of every selector that needs no model, on a bundled pool and on one of texts."""
    pools = {"texts": _text_pool(quick)}
    if not quick:
        pools["infotabs"] = Pool.from_task(_env(SEARCHED[1]).task)
    return {
        f"selectors: rows: {name} {where}": choose_rows(pool, name, len(pool) // 20, seed=3)
        for where, pool in pools.items()
        for name in SELECTORS
        if name not in NEED_MODELS and not (name == "dsir" and pool.rows is None)
    }


def clusters(quick: bool) -> Values:
    """Both kinds of clusters of a bundled pool, with seeds of which some have rows between two clusters."""
    task = _env(CLUSTERED).task
    rows = task.train.features[:, :-1]
    found: Values = {}
    for seed in (0, 1, 5):
        found[f"clusters: rows: K-Means {seed}"] = cluster_kmeans(rows, 64, seed).cluster
        found[f"clusters: rows: stratified {seed}"] = cluster_stratified(rows, task.train_labels, 64, seed).cluster
    return found


def tfidf(quick: bool) -> Values:
    """A task built from texts with TF-IDF: vectors, what the task keeps of them, its digest."""
    return _built("tfidf", 600 if quick else 3_000)


def minilm(quick: bool) -> Values:
    """The same with all-MiniLM-L6-v2."""
    return _built("minilm", 300)


def probes(quick: bool) -> Values:
    """Heads that are trained for every score, a surrogate, and a language model that is fine-tuned for every score."""
    from dsenv.proxies.finetune import FinetuneProxy
    from dsenv.proxies.probe import ProbeProxy
    from dsenv.proxies.surrogate import SurrogateProxy

    env = _env(SEARCHED[1])
    counts = _random(env, 8)
    found = {
        f"probe {head}: Φ: ": ProbeProxy(env.task, env.plan, "brier_skill", head=head).score(counts)
        for head in ("logistic", "mlp")
    }
    learned = SurrogateProxy.fit(RidgeProxy(env.task, env.plan, "brier_skill"), model="mlp", evaluations=256)
    found["surrogate: Φ: "] = learned.score(counts)
    texts = synthetic_texts(400, 60)
    with tempfile.TemporaryDirectory() as cache:
        own = DataSelectEnv(dsenv.build_task(texts, encoder="tfidf", clusters=12, cache_dir=cache), budget=0.3)
    tuned = FinetuneProxy(own.task, own.plan, "neg_log_loss", texts)
    found["proxy finetune: Φ: "] = tuned.score(_random(own, 2))
    return found


def trained_agents(quick: bool) -> Values:
    """Stable-Baselines3 agents after a few updates: weights, and the picks of the greedy rollout."""
    import importlib

    from agents.training import train
    from dsenv.evaluation import rollout

    found: Values = {}
    for name in ("dqn", "ppo", "maskable_ppo"):
        trained = train(importlib.import_module(f"agents.{name}").make_model, SEARCHED[0], seed=3, evaluations=64)
        parameters = trained.model.policy.state_dict().values()
        found[f"agents: weights: {name}"] = np.concatenate([p.detach().numpy().ravel() for p in parameters])
        found[f"agents: picks: {name}"] = np.array(rollout(trained.model, gym.make(SEARCHED[0], **trained.keywords), seed=3))
    return found


def policy_training(quick: bool) -> Values:
    """The embedded policy after a few rounds of GRPO on arithmetic questions."""
    from dsenv.rlvr.controllers import make_controller
    from dsenv.rlvr.env import load_questions, make_training
    from dsenv.rlvr.grpo import GRPO
    from dsenv.rlvr.runs import train
    from dsenv.rlvr.training import Settings

    found: Values = {}
    for name in ("uniform", "thompson"):
        training = make_training(load_questions("arithmetic"), "arithmetic", Settings(), seed=3)
        assert isinstance(training, GRPO)
        points = train(training, make_controller(name, training), rollouts=2048)
        weights = [p.detach().numpy().ravel() for p in training.policy.model.parameters()]
        found[f"RLVR training: weights: {name}"] = np.concatenate(weights)
        found[f"RLVR training: pass rates: {name}"] = np.array([point.test for point in points])
        found[f"RLVR training: rollouts and steps: {name}"] = np.array([[p.rollouts, p.gradient_passes] for p in points])
    return found


def target(quick: bool) -> Values:
    """all-MiniLM-L6-v2 after an epoch on 96 rows: probabilities and classes of test rows."""
    from dsenv.training import Recipe, fit, load_target, predict

    texts = synthetic_texts(96, 120)
    model = load_target(Recipe(epochs=1), len(texts.class_names), 3)
    fit(model, texts.train, 3)
    probabilities = predict(model, texts.test)
    return {"target: probabilities: ": probabilities, "target: classes: ": probabilities.argmax(1)}


LIGHT: dict[str, Callable[[bool], Values]] = {
    "episodes": episodes,
    "simulator": simulator,
    "searches": searches,
    "ridge": ridge,
}
HEAVY: dict[str, Callable[[bool], Values]] = {
    "selectors": selectors,
    "clusters": clusters,
    "tfidf": tfidf,
    "minilm": minilm,
    "probes": probes,
    "agents": trained_agents,
    "policy training": policy_training,
    "target": target,
}


def batches(quick: bool) -> dict[str, Pairs]:
    """Return pairs that batches, predecessors and workers should not change, by the name of the change."""
    env = _env(SEARCHED[0] if quick else SEARCHED[1])
    counts = _random(env, 64)
    order = generator(0, "order").permutation(64)
    found: dict[str, Pairs] = {"batches": {}, "workers": {}}
    for precision in ("float64", "float32"):
        for metric in METRICS:
            proxy = RidgeProxy(env.task, env.plan, metric, precision=precision, memo=0)
            singles, memory = np.concatenate([proxy.score(row[None]) for row in counts]), Memory()
            carried = np.concatenate([proxy.score(row[None], memory=memory) for row in counts[order]])
            for how, other in (("at once", proxy.score(counts)), ("one from the last", carried[np.argsort(order)])):
                found["batches"][f"ridge {precision}: Φ: {metric} {how}"] = singles, other
    found["batches"] |= _vectorised(SEARCHED[0] if quick else SEARCHED[1])
    pooled: list[tuple[str, Proxy]] = [("ridge float64: Φ: ", RidgeProxy(env.task, env.plan, env.metric, memo=0))]
    if not quick:
        from dsenv.proxies.probe import ProbeProxy

        pooled += [
            (f"probe {head}: Φ: ", ProbeProxy(env.task, env.plan, env.metric, head=head)) for head in ("logistic", "mlp")
        ]
        for name, probe in pooled[1:]:
            found["batches"][name] = np.concatenate([probe.score(row[None]) for row in counts[:8]]), probe.score(counts[:8])
        found["batches"] |= _batched_texts()
    for name, alone in pooled:
        with PooledProxy(alone, "process", workers=2) as pool:
            found["workers"][name] = alone.score(counts[:16]), pool.score(counts[:16])
    return found


def _batched_texts() -> Pairs:
    """Texts one by one and all at once: by encoders, and by a fine-tuned target's predictions."""
    from dsenv.encoders import PACKAGED, SentenceEncoder
    from dsenv.training import Recipe, load_target, predict

    rows = synthetic_texts(96, 60).test
    found: Pairs = {}
    for name, settings in PACKAGED.items():
        encoder = SentenceEncoder("minilm", **settings)
        singles = np.concatenate([encoder.encode([text]) for text in rows.texts])
        found[f"task from texts, {name}: vectors: "] = singles, encoder.encode(rows.texts)
    model = load_target(Recipe(), 3, 3)
    singles = np.concatenate([predict(model, rows.take([row])) for row in range(len(rows))])
    found["target: probabilities: "] = singles, predict(model, rows)
    return found


def _vectorised(id: str) -> Pairs:
    """Four episodes in one environment after the other, and in one vector environment."""
    vector = gym.make_vec(id, 4)
    actions = generator(0, "actions").integers(0, vector.single_action_space.n, (64, 4))  # type: ignore[attr-defined]
    observation, _ = vector.reset(seed=0)
    seen, paid = [observation], []
    for row in actions:
        observation, reward, *_ = vector.step(row)
        seen.append(observation)
        paid.append(reward)
    vector.close()
    singles = [_trace(gym.make(id), column.tolist(), seed) for seed, column in enumerate(actions.T)]
    return {
        "episodes: observations: vector environment": (np.stack([one[0] for one in singles], 1), np.stack(seen)),
        "episodes: rewards: vector environment": (np.stack([one[1] for one in singles], 1), np.stack(paid)),
    }


def _trace(env: gym.Env[Any, Any], actions: Sequence[int], seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the flat observations and the rewards of given actions, as far as the episode goes."""
    observation, _ = env.reset(seed=seed)
    seen, paid, over = [_flat(observation)], [], False
    for action in actions:
        observation, reward, over, _, _ = env.step(action)
        seen.append(_flat(observation))
        paid.append(float(reward))
        if over:
            break
    return np.stack(seen), np.array(paid)


def _played(quantity: str, which: str, env: gym.Env[Any, Any]) -> Values:
    space = env.action_space
    assert isinstance(space, gym.spaces.Discrete)
    actions = generator(3, "actions").integers(0, int(space.n), 64).tolist()
    observations, rewards = _trace(env, actions, 3)
    env.close()
    return {f"{quantity}: observations: {which}": observations, f"{quantity}: rewards: {which}": rewards}


def _flat(observation: Any) -> npt.NDArray[Any]:
    if isinstance(observation, dict):
        return np.concatenate([np.ravel(observation[key]).astype(np.float64) for key in sorted(observation)])
    return np.asarray(observation)


def _env(id: str) -> DataSelectEnv:
    env = gym.make(id).unwrapped
    assert isinstance(env, DataSelectEnv)
    return env


def _random(env: DataSelectEnv, count: int) -> npt.NDArray[np.int64]:
    rng = generator(3, "selections")
    return np.stack([random_counts(env.plan, rng) for _ in range(count)])


def _text_pool(quick: bool) -> Pool:
    texts = synthetic_texts(600 if quick else 2_000, 120)
    with tempfile.TemporaryDirectory() as cache:
        return Pool.from_task(dsenv.build_task(texts, encoder="tfidf", cache_dir=cache), texts)


def _built(encoder: str, rows: int) -> Values:
    from dsenv.encoders import encode

    texts = synthetic_texts(rows, 120)
    with tempfile.TemporaryDirectory() as cache:
        vectors = encode(texts, encoder, cache_dir=cache)
        task = dsenv.build_task(texts, encoder=encoder, cache_dir=cache)
    name = f"task from texts, {encoder}"
    found: Values = {f"{name}: vectors: {split}": rows for split, rows in vectors.items()}
    kinds = {"vectors": "reduced vectors", "column_scale": "scales"}
    for key, array in task.arrays.items():
        what = kinds.get(key, "clusters" if key.startswith("cluster_") else "other arrays")
        found[f"{name}: {what}: {key}"] = array
    found[f"{name}: digest: "] = np.frombuffer(bytes.fromhex(task.digest), np.uint8)
    return found


def compare(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> dict[str, Any]:
    """Return whether two arrays are identical to the last bit, else how many numbers differ, and by how much at most."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return {"identical": False, "numbers": int(first.size), "differ": int(first.size), "largest": None}
    other = first.tobytes() != second.tobytes()
    gaps = np.abs(first.astype(np.float64) - second.astype(np.float64))
    return {
        "identical": not other,
        "numbers": int(first.size),
        "differ": int((first != second).sum()),
        "largest": float(gaps.max()) if np.issubdtype(first.dtype, np.floating) and gaps.size else None,
    }


def summarise(pairs: Pairs) -> dict[str, dict[str, Any]]:
    """Return comparisons by quantity and what of it: together for all that are of the same name."""
    found: dict[str, dict[str, Any]] = {}
    for name, (first, second) in pairs.items():
        quantity, what, which = name.split(": ", 2)
        one = compare(first, second)
        whole = found.setdefault(
            f"{quantity}: {what}", {"identical": True, "numbers": 0, "differ": 0, "largest": None, "where": []}
        )
        whole["identical"] &= one["identical"]
        for key in ("numbers", "differ"):
            whole[key] += one[key]
        if one["largest"] is not None:
            whole["largest"] = max(one["largest"], whole["largest"] or 0.0)
        if not one["identical"]:
            whole["where"].append(which)
    return found


def measure(names: Sequence[str], quick: bool) -> Values:
    """Compute quantities by their names."""
    found: Values = {}
    for name in names:
        found |= {**LIGHT, **HEAVY}[name](quick)
    return found


def child(names: Sequence[str], quick: bool, start: str | None, out: Path) -> None:
    """Compute quantities, or what batches change, here, or in a process that is started from here after an episode."""
    if list(names) == [BATCHES]:
        pairs = [
            (f"{side} {change} {name}", pair[side])
            for change, found in batches(quick).items()
            for name, pair in found.items()
            for side in (0, 1)
        ]
        listed: dict[str, Any] = {f"{number} {name}": array for number, (name, array) in enumerate(pairs)}
        np.savez(out, allow_pickle=False, **listed)
        return
    if start is None:
        numbered: dict[str, Any] = {f"{n} {name}": array for n, (name, array) in enumerate(measure(names, quick).items())}
        np.savez(out, allow_pickle=False, **numbered)
        return
    _played("first", "", gym.make(SEARCHED[0]))
    context: Any = multiprocessing.get_context(start)
    process = context.Process(target=child, args=(names, quick, None, out))
    process.start()
    process.join()
    if process.exitcode:
        raise InputError(f"a process started by {start} ended with the status {process.exitcode}")


def computed(names: Sequence[str], quick: bool, change: str | None, gymnasium: Path | None = None) -> Values:
    """Compute quantities in a process under a change.

    Raises:
        InputError: where the process fails, or has another Gymnasium than was asked for.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "values.npz"
        path = [str(ROOT), *([str(gymnasium)] if change and change.startswith("Gymnasium") else [])]
        settings = {**os.environ, **BASE, **CHANGES.get(change or "", {}), "PYTHONPATH": os.pathsep.join(path[::-1])}
        asked = [sys.executable, "-m", "benchmarks.determinism", "--child", str(out), "--quantities", *names]
        asked += ["--quick"] * quick + (["--start", change] if change in STARTS else [])
        done = subprocess.run(asked, env=settings, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode or not out.is_file():
            raise InputError(f"{change or 'the first process'} failed: {done.stderr[-1500:]}")
        said = done.stdout.split()[-1]
        if len(path) == 2 and said != OLDEST_GYMNASIUM:
            raise InputError(f"the process had Gymnasium {said}, not {OLDEST_GYMNASIUM}")
        with np.load(out, allow_pickle=False) as stored:
            return {name.partition(" ")[2]: stored[name] for name in stored.files}


def install_gymnasium(folder: Path) -> None:
    """Install the oldest Gymnasium that the package allows into a folder of its own.

    Raises:
        InputError: where pip cannot.
    """
    asked = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(folder),
        f"gymnasium=={OLDEST_GYMNASIUM}",
    ]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"gymnasium {OLDEST_GYMNASIUM} cannot be installed (leave it out with --changes): {done.stderr[-500:]}"
        )


def run(names: Sequence[str], changes: Sequence[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Return comparisons by change, quantities inside."""
    started = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{what}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    found: dict[str, dict[str, Any]] = {}
    base = computed(names, quick, None)
    tell("one process, one thread")
    with tempfile.TemporaryDirectory() as folder:
        for change in changes:
            if change.startswith("Gymnasium"):
                install_gymnasium(Path(folder))
            other = computed(names, quick, change, Path(folder))
            if base.keys() != other.keys():
                raise InputError(f"{change}: other quantities: {sorted(base.keys() ^ other.keys())}")
            found[change] = summarise({name: (base[name], other[name]) for name in base})
            tell(change)
    sides = computed([BATCHES], quick, None)
    for change in ("batches", "workers"):
        pairs = {
            name.split(" ", 2)[2]: (array, sides[f"1{name[1:]}"])
            for name, array in sides.items()
            if name.startswith(f"0 {change} ")
        }
        found[change] = summarise(pairs)
    tell("batches and workers")
    return found


def table(record: dict[str, Any]) -> str:
    """Return the record as a Markdown table: quantities by changes."""
    changes = list(record["changes"])
    names = dict.fromkeys(name for change in changes for name in record["changes"][change])
    lines = [f"| | {' | '.join(changes)} |", "|---" * (len(changes) + 1) + "|"]
    for name in names:
        lines.append(f"| {name} | {' | '.join(_cell(record['changes'][change].get(name)) for change in changes)} |")
    return "\n".join(lines)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["identical"]:
        return "="
    if found["largest"] is not None:
        return f"{found['largest']:.0e}"
    return f"{found['differ']:,} of {found['numbers']:,}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="quantities that need numpy and Gymnasium alone, in less than a minute"
    )
    parser.add_argument("--quantities", nargs="+", choices=[*LIGHT, *HEAVY, BATCHES], help="default: all")
    parser.add_argument("--changes", nargs="*", choices=list(CHANGES), help="default: all; Gymnasium is installed with pip")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/determinism.json, nowhere with a part of it")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", choices=STARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    names = given.quantities or ([*LIGHT] if given.quick else [*LIGHT, *HEAVY])
    if given.child:
        child(names, given.quick, given.start, given.child)
        print(gym.__version__)
        return
    changes = list(CHANGES) if given.changes is None else given.changes
    print("about half a minute" if given.quick else "about ten minutes on two idle cores", file=sys.stderr)
    part = given.quick or given.quantities or given.changes is not None
    record = {**provenance("benchmarks.determinism", {}), "base": BASE, "changes": run(names, changes, given.quick)}
    path = given.json or (None if part else RESULTS / "determinism.json")
    if path is not None:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    with ending_cleanly():
        main()
