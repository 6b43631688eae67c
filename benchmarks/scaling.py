"""What does building a task and scoring a selection cost as rows, clusters, dimensions, classes and the budget grow?

``python -m benchmarks.scaling`` (``--quick``: the same fields from small sizes in under a minute)

Each size is varied alone around a base, on synthetic vectors that are written block by block to a temporary file and read
back block by block: no texts, and never all vectors in memory. Every point runs in a process of its own and is stored when
it is done; a second call goes on where the first was stopped. A point's block holds, beside where it comes from:

``point``: rows of the pool, clusters K, dimensions of the reduced and width of the given vectors, classes, budget.
``seconds``: ``fingerprint``, ``reduce``, ``cluster`` (both clusterings), ``assemble`` and their sum ``build``; ``sums``, what
every pick adds to the ridge's sums; ``write``, the temporary file.
``memory_mib``: by how much the peak of resident memory grew to build (``build``), and in all (``all``); what the task itself
holds (``stored``).
``scores_per_second``: Brier skill on 2,000 reward rows, ``batch``: 64 random complete selections a call; ``episode``: each
selection one pick from the last, which the caller's memory holds. The best of some rounds.

``clustering``: K-Means beside scikit-learn's: seconds, and inertia as a multiple of scikit-learn's default.
``encoding``: the packaged MiniLM beside a plain ``SentenceTransformer.encode``: texts a second of wall clock and of processor
time, the best of some rounds, and the cosine error, 1 - cos, of a text's vector.
``summary``: from the points that vary the rows alone: build seconds for each million rows, the exponent of build seconds in
the rows, and a score's cost at the most rows as a multiple of its cost at the fewest.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.records import RESULTS, provenance, read_record, store_block
from dsenv.building import build_task_from_vectors
from dsenv.clustering import cluster_kmeans
from dsenv.dataset import Ints, load_dataset
from dsenv.encoders import BATCH_ROWS, PACKAGED, SentenceEncoder, Vectors, minilm_folder
from dsenv.errors import InputError, ending_cleanly
from dsenv.picks import plan_picks
from dsenv.proxies import Memory
from dsenv.proxies.ridge import RidgeProxy
from dsenv.search import random_counts
from dsenv.seeding import generator
from dsenv.synthetic import synthetic_texts

Point = dict[str, float]

BASE: Point = {"rows": 100_000, "clusters": 64, "dimensions": 64, "width": 64, "classes": 5, "budget": 0.05}
VALUES: dict[str, tuple[float, ...]] = {
    "rows": (10_000, 100_000, 1_000_000, 10_000_000),
    "clusters": (16, 64, 256, 1_024),
    "dimensions": (32, 64, 128, 384),
    "width": (64, 384),
    "classes": (2, 5, 20, 150),
    "budget": (0.01, 0.05, 0.2, 0.5),
}
QUICK_BASE: Point = {"rows": 4_000, "clusters": 16, "dimensions": 16, "width": 16, "classes": 5, "budget": 0.05}
QUICK_VALUES: dict[str, tuple[float, ...]] = {
    "rows": (4_000, 40_000),
    "clusters": (64,),
    "dimensions": (32,),
    "width": (64,),
    "classes": (20,),
    "budget": (0.2,),
}
COMPARED = ("clustering", "encoding")
REWARD_ROWS = TEST_ROWS = 2_000
BATCH = 64
TEXTS = 512
WRITTEN_ROWS = 2**14
GROUPS = 4  # groups of vectors in a class
MIB = 2**20

log = logging.getLogger(__name__)


def points(base: Point, values: dict[str, tuple[float, ...]]) -> dict[str, list[Point]]:
    """Return the points that vary each size alone; given vectors are never narrower than the reduced ones."""
    found: dict[str, list[Point]] = {}
    for size, chosen in values.items():
        varied = [{**base, size: value} for value in chosen]
        found[size] = [{**point, "width": max(point["width"], point["dimensions"])} for point in varied]
    return found


def point_key(point: Point) -> str:
    """Return the name of a point's block in the record."""
    return " ".join(f"{name}={value:g}" if name == "budget" else f"{name}={int(value)}" for name, value in point.items())


def estimate(point: Point, quick: bool = False) -> float:
    """Return about how many seconds a point takes on one core, most of the fixed ones to import and to score."""
    rows, clusters, width = point["rows"], point["clusters"], point["width"]
    fitted = min(rows, 2**17)
    products = 2 * point["dimensions"] * clusters * (50 * fitted + rows) + 2 * width * rows * (width + 2 * point["dimensions"])
    return (4 if quick else 12) + products / 2e10 + rows * (width / 64) * 1e-5


class FileRows:
    """Float32 vectors in a file, read a slice at a time: unlike a memory-mapped file's, its pages are not the process's.

    Args:
        path: of the raw vectors.
        shape: (n, d).
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self.path, self.shape = path, shape

    def __getitem__(self, rows: slice) -> Vectors:
        """Return the vectors of a slice without a step."""
        start, stop, _ = rows.indices(self.shape[0])
        width = self.shape[1]
        read = np.fromfile(self.path, np.float32, (stop - start) * width, offset=4 * start * width)
        return read.reshape(-1, width)


def draw_blocks(rows: int, width: int, classes: int, seed: int) -> Iterator[tuple[Vectors, npt.NDArray[np.int16]]]:
    """Yield vectors and class ids block by block: some groups a class, of unequal classes, the variance falling by column."""
    rng = generator(seed, "scaling")
    centres = rng.normal(0, 1, (classes * GROUPS, width)).astype(np.float32)
    shares = np.arange(1, classes + 1) ** -0.5
    falling = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    for start in range(0, rows, WRITTEN_ROWS):
        count = min(WRITTEN_ROWS, rows - start)
        labels = rng.choice(classes, count, p=shares / shares.sum())
        vectors = rng.standard_normal((count, width), np.float32)
        vectors += centres[labels * GROUPS + rng.integers(0, GROUPS, count)]
        vectors *= falling
        yield vectors, labels.astype(np.int16)


def write_vectors(path: Path, rows: int, width: int, classes: int) -> npt.NDArray[np.int16]:
    """Write the training vectors to a file, and return their class ids.

    Raises:
        InputError: where the disk has too little room.
    """
    needed, free = 4 * rows * width, shutil.disk_usage(path.parent).free
    if needed * 1.1 > free:
        raise InputError(f"{path.parent} has {free / 2**30:.1f} GiB free; {needed / 2**30:.1f} GiB are needed: set TMPDIR")
    labels = np.empty(rows, np.int16)
    start = 0
    with path.open("wb") as file:
        for vectors, ids in draw_blocks(rows, width, classes, 0):
            vectors.tofile(file)
            labels[start : start + len(ids)] = ids
            start += len(ids)
    return labels


class Stages(logging.Handler):
    """Keeps the seconds of each stage that building logs."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take the arguments of the record: name, stage, seconds."""
        if isinstance(record.args, tuple) and len(record.args) == 3:
            _, stage, seconds = record.args
            assert isinstance(stage, str) and isinstance(seconds, float)
            self.seconds[stage] = seconds


def peak_mib() -> float:
    """Return the most memory this process has had resident, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def measure_point(point: Point, quick: bool) -> dict[str, Any]:
    """Build one task, make the ridge's sums and score selections; return a block's own fields."""
    import faiss  # noqa: F401  what an import adds to memory is no row's
    import scipy.linalg  # noqa: F401
    import sklearn.decomposition  # noqa: F401

    rows, width, classes = int(point["rows"]), int(point["width"]), int(point["classes"])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = Path(folder) / "vectors.f32"
        labels = {"train": write_vectors(path, rows, width, classes)}
        vectors: dict[str, Any] = {"train": FileRows(path, (rows, width))}
        held_out = {"validation": 2 * REWARD_ROWS, "test": TEST_ROWS}
        for seed, (split, count) in enumerate(held_out.items(), 1):
            vectors[split], labels[split] = _drawn(count, width, classes, seed)
        written = time.perf_counter() - started
        stages = Stages()
        building = logging.getLogger("dsenv.building")
        building.addHandler(stages)
        building.setLevel(logging.INFO)
        before = peak_mib()
        task = build_task_from_vectors(
            vectors, labels, name="scaling", clusters=int(point["clusters"]), dimensions=int(point["dimensions"])
        )
        built = peak_mib()
        building.removeHandler(stages)
    seconds = {name: round(value, 4) for name, value in stages.seconds.items()}
    plan = plan_picks(task.clustering("stratified"), budget=point["budget"])
    started = time.perf_counter()
    proxy = RidgeProxy(task, plan, "brier_skill", memo=0)
    proxy.score(np.diag(np.minimum(plan.capacity, plan.picks)))  # sums are made when a score first needs them
    sums = time.perf_counter() - started
    rounds, least = (2, 0.05) if quick else (5, 0.5)
    rng = generator(0, "scaling scores")
    chosen = np.stack([random_counts(plan, rng) for _ in range(BATCH)])
    batch = best_rate(lambda: len(proxy.score(chosen)), rounds, least)
    orders = [_order(counts, rng) for counts in chosen[:8]]
    episode = best_rate(lambda: sum(_play(proxy, order) for order in orders), rounds, least)
    return {
        "point": point,
        "seconds": {
            **seconds,
            "build": round(sum(stages.seconds.values()), 4),
            "sums": round(sums, 4),
            "write": round(written, 4),
        },
        "memory_mib": {
            "build": round(built - before, 1),
            "all": round(peak_mib() - before, 1),
            "stored": round(sum(array.nbytes for array in task.arrays.values()) / MIB, 1),
        },
        "scores_per_second": {"batch": round(batch, 1), "episode": round(episode, 1)},
        "plan": {"clusters": plan.clusters, "picks": plan.picks, "rows_per_pick": plan.rows_per_pick},
        "task_digest": task.digest,
    }


def _drawn(rows: int, width: int, classes: int, seed: int) -> tuple[Vectors, npt.NDArray[np.int16]]:
    blocks = list(draw_blocks(rows, width, classes, seed))
    return np.concatenate([vectors for vectors, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def _order(counts: Ints, rng: np.random.Generator) -> Ints:
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))


def _play(proxy: RidgeProxy, order: Ints) -> int:
    counts, memory = np.zeros((1, proxy.plan.clusters), np.int64), Memory()
    for cluster in order:
        counts[0, cluster] += 1
        proxy.score(counts, memory=memory)
    return len(order)


def best_rate(work: Callable[[], int], rounds: int, least: float) -> float:
    """Return how many pieces a second ``work`` does, in the best of some rounds of at least so many seconds."""
    work()
    best = 0.0
    for _ in range(rounds):
        done, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < least:
            done += work()
        best = max(best, done / passed)
    return best


def inertia(vectors: Vectors, cluster: Ints) -> float:
    """Return the sum of squared distances to the means of the clusters."""
    clusters = int(cluster.max()) + 1
    sums = np.zeros((clusters, vectors.shape[1]))
    np.add.at(sums, cluster, vectors)
    sizes = np.bincount(cluster, minlength=clusters)
    squares = float((vectors.astype(np.float64) ** 2).sum())
    return squares - float(((sums**2).sum(1) / np.maximum(sizes, 1)).sum())


def measure_clustering(quick: bool) -> dict[str, Any]:
    """K-Means beside scikit-learn's on the same rows, one initialisation each."""
    from sklearn.cluster import KMeans

    base = QUICK_BASE if quick else BASE
    clusters = int(base["clusters"])
    vectors, _ = _drawn(int(base["rows"]), int(base["width"]), int(base["classes"]), 0)
    found: dict[str, Any] = {"rows": len(vectors), "width": vectors.shape[1], "clusters": clusters}

    def timed(name: str, cluster: Callable[[], Ints]) -> None:
        started = time.perf_counter()
        ids = cluster()
        found[name] = {"seconds": round(time.perf_counter() - started, 3), "inertia": inertia(vectors, ids)}

    def theirs(**settings: Any) -> Ints:
        fitted = KMeans(clusters, n_init=1, random_state=0, **settings).fit(vectors)
        return np.asarray(fitted.labels_, np.int64)

    cluster_kmeans(vectors[:1_000], clusters, 0)  # load the library first
    timed("dsenv", lambda: cluster_kmeans(vectors, clusters, 0).cluster)
    timed("scikit-learn", theirs)
    timed("scikit-learn, 50 iterations from random rows", lambda: theirs(init="random", max_iter=50, tol=0))
    for name in ("dsenv", "scikit-learn, 50 iterations from random rows"):
        found[name]["inertia_ratio"] = round(found[name]["inertia"] / found["scikit-learn"]["inertia"], 5)
    found["speedup"] = round(found["scikit-learn"]["seconds"] / found["dsenv"]["seconds"], 2)
    return found


def measure_encoding(quick: bool, data_dir: str | None) -> dict[str, Any]:
    """The packaged MiniLM's encoders beside a plain ``SentenceTransformer.encode`` on the same different texts."""
    from sentence_transformers import SentenceTransformer

    count, rounds = (64, 1) if quick else (TEXTS, 3)
    real = data_dir or os.environ.get("DSENV_DATA_DIR")
    rows = load_dataset("googleplay", data_dir).train if real else synthetic_texts(10 * count, 200).train
    texts = list(dict.fromkeys(rows.texts))[:count]
    plain = SentenceTransformer(str(minilm_folder()), local_files_only=True)
    ways: dict[str, Callable[[], Any]] = {
        "sentence-transformers": lambda: plain.encode(texts, batch_size=BATCH_ROWS, show_progress_bar=False)
    }
    for name, settings in PACKAGED.items():
        encoder = SentenceEncoder("minilm", **settings)
        ways[name] = lambda encoder=encoder: encoder.encode(texts)  # type: ignore[misc]
    found: dict[str, Any] = {name: {"texts_per_second": 0.0, "texts_per_processor_second": 0.0} for name in ways}
    vectors = {}
    for _ in range(rounds):  # in turns, so that what else the machine does falls on all of them
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            vectors[name] = np.asarray(way(), np.float64)
            rates = count / (time.perf_counter() - wall), count / (time.process_time() - processor)
            for key, rate in zip(found[name], rates, strict=True):
                found[name][key] = max(found[name][key], round(rate, 1))
    reference = vectors["sentence-transformers"]
    for name, mine in vectors.items():
        lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(reference, axis=1)
        error = np.abs(1 - (mine * reference).sum(1) / lengths)  # rounding can make a cosine exceed 1
        found[name]["cosine_error"] = {"largest": float(error.max()), "mean": float(error.mean())}
        found[name]["largest_difference"] = float(np.abs(mine - reference).max())
    return {"texts": len(texts), "from": "googleplay" if real else "synthetic texts", "batch_rows": BATCH_ROWS, **found}


def summary(record: dict[str, Any], along: list[Point]) -> dict[str, Any]:
    """Return how building and scoring grow with the rows, from the points that are stored."""
    blocks = [record[point_key(point)] for point in along if point_key(point) in record]
    if not blocks:
        return {}
    rows = [int(block["point"]["rows"]) for block in blocks]
    build = [block["seconds"]["build"] for block in blocks]
    found: dict[str, Any] = {
        "rows": rows,
        "build_seconds_per_million_rows": [round(s / n * 1e6, 3) for s, n in zip(build, rows, strict=True)],
        "memory_bytes_per_row": [
            round(block["memory_mib"]["build"] * MIB / n, 1) for block, n in zip(blocks, rows, strict=True)
        ],
    }
    if len(blocks) > 1:
        rates = [block["scores_per_second"] for block in blocks]
        found["build_exponent"] = round(float(np.polyfit(np.log(rows), np.log(build), 1)[0]), 3)
        found["score_cost_ratio"] = {
            "of_rows": [rows[-1], rows[0]],
            **{kind: round(rates[0][kind] / rates[-1][kind], 3) for kind in rates[0]},
        }
    return found


def table(record: dict[str, Any]) -> str:
    """Return the record as Markdown: one line a point, then clustering and encoding."""
    columns = [
        "varied",
        "reduce s",
        "cluster s",
        "build s",
        "memory to build, MiB",
        "sums s",
        "scores /s, unrelated",
        "one by one",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for size, varied in points(BASE, VALUES).items():
        for point in varied:
            block = record.get(point_key(point))
            if block is None or (size != "rows" and point == BASE):
                continue
            seconds, rates = block["seconds"], block["scores_per_second"]
            cells = [
                f"{size} = {int(point[size]):,}" if point[size] >= 1 else f"{size} = {point[size]:g}",
                *(f"{seconds[stage]:.2g}" for stage in ("reduce", "cluster", "build")),
            ]
            cells += [f"{block['memory_mib']['build']:,.0f}", f"{seconds['sums']:.2g}"]
            cells += [f"{rates[kind]:,.0f}" for kind in ("batch", "episode")]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| K-Means, 100,000 rows, K = 64 | seconds | inertia, as a multiple |", "|---|---|---|"]
    found = record["clustering"]
    for name in ("dsenv", "scikit-learn", "scikit-learn, 50 iterations from random rows"):
        lines.append(f"| {name} | {found[name]['seconds']:.2f} | {found[name].get('inertia_ratio', 1):.4f} |")
    lines += ["", "| encoder | texts /s | mean cosine error | largest |", "|---|---|---|---|"]
    found = record["encoding"]
    for name in ("sentence-transformers", "minilm", "minilm-fast", "minilm-int8"):
        error = found[name]["cosine_error"]
        lines.append(f"| {name} | {found[name]['texts_per_second']:.0f} | {error['mean']:.1g} | {error['largest']:.1g} |")
    return "\n".join(lines)


def in_child(work: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a process of its own, so that its peak of memory is its own.

    Raises:
        RuntimeError: where it fails; what it wrote stands above.
    """
    command = [sys.executable, "-m", "benchmarks.scaling", "--child", json.dumps(work)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=RESULTS.parent.parent)
    if done.returncode:
        raise RuntimeError(f"{work} ended with the status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(work: dict[str, Any]) -> dict[str, Any]:
    """Do one measurement: ``{"kind": "point" | "clustering" | "encoding", "quick": ..., ...}``."""
    if work["kind"] == "point":
        return measure_point(work["point"], work["quick"])
    if work["kind"] == "clustering":
        return measure_clustering(work["quick"])
    return measure_encoding(work["quick"], work["data_dir"])


def run(parts: Sequence[str], *, quick: bool, most_rows: int, path: Path, data_dir: str | None = None) -> None:
    """Measure what is not stored yet; each block is stored when it is done."""
    sizes = points(QUICK_BASE, QUICK_VALUES) if quick else points(BASE, VALUES)
    work: dict[str, tuple[dict[str, Any], float]] = {}
    for size, varied in sizes.items():
        for point in varied if size in parts else []:
            if point["rows"] <= most_rows:
                work[point_key(point)] = {"kind": "point", "point": point}, estimate(point, quick)
    for kind in COMPARED:
        if kind in parts:
            work[kind] = {"kind": kind, "data_dir": data_dir}, 15 if quick else 100
    left = {key: item for key, item in work.items() if key not in read_record(path)}
    seconds = sum(about for _, about in left.values())
    most = max((item["point"] for item, _ in left.values() if "point" in item), key=lambda p: p["rows"], default=None)
    disk = 4 * most["rows"] * most["width"] / 2**30 if most else 0
    print(
        f"{len(left)} of {len(work)} measurements to go: about {seconds / 60:.1f} minutes on one core, {disk:.1f} GiB of disk"
    )
    options = {"quick": True} if quick else {"most_rows": most_rows}
    for key, (item, _) in left.items():
        started = time.perf_counter()
        found = in_child({**item, "quick": quick})
        origin = provenance("benchmarks.scaling", options)
        store_block(path, key, {**origin, **found})
        print(f"{key}: {time.perf_counter() - started:.0f} s")
        if item["kind"] == "point":
            store_block(path, "summary", summary(read_record(path), sizes["rows"]))
    print(json.dumps(read_record(path).get("summary", {}), indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not stored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, everything anew, into a temporary file")
    parser.add_argument("--parts", nargs="+", default=[*VALUES, *COMPARED], choices=[*VALUES, *COMPARED])
    parser.add_argument("--most-rows", type=int, default=int(max(VALUES["rows"])), help="leave larger points out")
    parser.add_argument("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR; none: synthetic texts)")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/scaling.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(child(json.loads(given.child))))
        return
    path = given.json or (
        Path(tempfile.gettempdir()) / "dsenv-scaling-quick.json" if given.quick else RESULTS / "scaling.json"
    )
    if given.quick:
        path.unlink(missing_ok=True)
        print(f"writing {path}")
    run(given.parts, quick=given.quick, most_rows=given.most_rows, path=path, data_dir=given.data_dir)


if __name__ == "__main__":
    with ending_cleanly():
        main()
