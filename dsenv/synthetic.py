"""Synthetic data whose clusters differ in label noise, duplication and class mix: vectors, and texts.

Both come from a seed with numpy alone, so that an environment and the demo need no file and no download.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dsenv.archives import Arrays
from dsenv.clustering import Clustering
from dsenv.dataset import Ints, Rows, TextDataset
from dsenv.errors import InputError
from dsenv.seeding import generator
from dsenv.task import REGULARISATION, SelectionTask, add_clustering
from dsenv.task_file import CLUSTERINGS, FORMAT, REWARD, SELECTION, TEST, TRAIN

CLUSTERS = 48
CLASSES = 4
DIMENSIONS = 16
POOL_ROWS = 12_000
HELD_OUT_ROWS = 1_200


@lru_cache(maxsize=4)
def synthetic_task(seed: int = 0) -> SelectionTask:
    """Draw a task with known clusters.

    Each cluster has a centre near its class's centre and a hidden quality: a third are clean, a third carry 60% wrong
    labels, a third are near-duplicates of a few rows. Held-out rows come from clean copies of all clusters with
    balanced classes, so the pool is not the target and selection pays.

    Args:
        seed: of numpy's default generator.
    """
    rng = generator(seed, "synthetic vectors")
    class_of = np.arange(CLUSTERS) % CLASSES
    class_centres = rng.normal(0, 0.45, (CLASSES, DIMENSIONS))
    centres = class_centres[class_of] + rng.normal(0, 0.55, (CLUSTERS, DIMENSIONS))
    quality = rng.permutation(np.arange(CLUSTERS) % 3)
    sizes = rng.multinomial(POOL_ROWS - 20 * CLUSTERS, rng.dirichlet(np.full(CLUSTERS, 2.0))) + 20

    def draw(cluster: Ints) -> np.ndarray:
        return np.asarray(centres[cluster] + rng.normal(0, 1.0, (len(cluster), DIMENSIONS)))

    cluster = np.repeat(np.arange(CLUSTERS), sizes)
    train = draw(cluster)
    labels = class_of[cluster]
    for k in range(CLUSTERS):
        rows = np.flatnonzero(cluster == k)
        if quality[k] == 1:
            wrong = rows[rng.random(len(rows)) < 0.6]
            labels[wrong] = (labels[wrong] + rng.integers(1, CLASSES, len(wrong))) % CLASSES
        elif quality[k] == 2:
            train[rows] = train[rng.choice(rows[:6], len(rows))] + rng.normal(0, 0.05, (len(rows), DIMENSIONS))
    held_clusters = [rng.integers(0, CLUSTERS, HELD_OUT_ROWS) for _ in (REWARD, SELECTION, TEST)]
    vectors = np.concatenate([train, *[draw(held) for held in held_clusters]])
    vectors /= train[:, 0].std()
    scale = (np.abs(vectors[:POOL_ROWS]).max(0) / 127).astype(np.float32)
    arrays: Arrays = {
        "vectors": np.rint(vectors / scale).clip(-127, 127).astype(np.int8),
        "column_scale": scale,
        "labels": np.concatenate([labels, *[class_of[held] for held in held_clusters]]).astype(np.int16),
        "sources": np.full(len(vectors), -1, np.int16),
        "split": np.repeat(np.array([TRAIN, REWARD, SELECTION, TEST], np.int8), [POOL_ROWS, *[HELD_OUT_ROWS] * 3]),
        "train_rows": np.arange(POOL_ROWS, dtype=np.int32),
    }
    known = Clustering(cluster, np.empty(0, np.int64)).reordered(rng)
    for name in CLUSTERINGS:
        add_clustering(arrays, name, known)
    metadata = {
        "format": FORMAT,
        "name": "synthetic",
        "title": "synthetic vectors with known clusters: clean, wrongly labelled, duplicated",
        "sources": [],
        "licences": "Apache-2.0",
        "derivation": {},
        "class_names": [f"class {c}" for c in range(CLASSES)],
        "source_names": [],
        "fingerprint": f"synthetic vectors, seed {seed}",
        "rows": {"train": POOL_ROWS, "pool": POOL_ROWS, "validation": 2 * HELD_OUT_ROWS, "test": HELD_OUT_ROWS},
        "encoder": "none",
        "regularisation": REGULARISATION,
        "clusterings": list(CLUSTERINGS),
        "clusters": CLUSTERS,
        "reported": "accuracy",
        "seed": seed,
        "quality": ["clean", "wrong labels", "duplicates"],
        "quality_of_cluster": quality.tolist(),
    }
    return SelectionTask(arrays, metadata)


TOPICS = {
    "battery": ("the battery", "charging", "the power use", "standby time"),
    "login": ("signing in", "the password reset", "the account page", "the code by text message"),
    "video": ("the video player", "streaming", "the picture", "the sound"),
    "delivery": ("the courier", "the parcel", "the delivery window", "the tracking page"),
    "support": ("the help desk", "the support chat", "the person on the phone", "the refund team"),
    "design": ("the new layout", "the dark mode", "the menu", "the font"),
}
OPINIONS = {
    "positive": (
        "works wonderfully", "is a pleasure", "has never let me down", "got so much better", "is quick and friendly",
        "does exactly what I hoped", "deserves full marks", "saved my day",
    ),
    "neutral": (
        "is about average", "does its job, nothing more", "is fine on some days and slow on others", "could go either way",
        "is neither great nor bad", "is what you would expect at the price", "has changed a little", "is acceptable",
    ),
    "negative": (
        "keeps failing", "is a constant annoyance", "broke after the update", "wasted my whole evening", "is painfully slow",
        "never does what it says", "made me give up", "should be withdrawn",
    ),
}  # fmt: skip
OPENINGS = (
    "Honestly,",
    "After two weeks,",
    "To be fair,",
    "For the record,",
    "I think",
    "My family agrees:",
    "In short,",
    "So far,",
)
CLOSINGS = (
    "on my old phone",
    "since Monday",
    "for what I pay",
    "in our office",
    "during the trip",
    "at home",
    "most of the time",
    "again",
)


def synthetic_texts(rows: int = 3_000, held_out: int = 600, seed: int = 0) -> TextDataset:
    """Write short product reviews whose groups (topic x opinion) differ in noise, duplication and class mix.

    Held-out rows are clean with balanced classes. In the training pool, topics differ: two are clean, two have half of
    their labels wrong, two repeat a handful of sentences; neutral reviews are rare.

    Args:
        rows: training rows, at least 60.
        held_out: rows of validation and of test each, at least 30.
        seed: of numpy's default generator.

    Raises:
        InputError: for fewer rows.
    """
    if rows < 60 or held_out < 30:
        raise InputError(f"synthetic texts need at least 60 training and 30 held-out rows, not {rows} and {held_out}")
    rng = generator(seed, "synthetic texts")
    topics, opinions = list(TOPICS), list(OPINIONS)

    def sentence(topic: int, opinion: int) -> str:
        parts = (OPENINGS, TOPICS[topics[topic]], OPINIONS[opinions[opinion]], CLOSINGS)
        return " ".join(str(rng.choice(part)) for part in parts)

    def clean(count: int) -> Rows:
        topic, opinion = rng.integers(0, len(topics), count), rng.integers(0, len(opinions), count)
        texts = [sentence(t, o) for t, o in zip(topic, opinion, strict=True)]
        return Rows(texts, opinion.astype(np.int64), None, [topics[t] for t in topic])

    topic = rng.integers(0, len(topics), rows)
    opinion = rng.choice(len(opinions), rows, p=[0.6, 0.08, 0.32])
    opinion[: len(opinions)] = range(len(opinions))
    few = {(t, o): [sentence(t, o) for _ in range(3)] for t in (4, 5) for o in range(len(opinions))}
    texts = [
        str(rng.choice(few[t, o])) if (t, o) in few else sentence(t, o)
        for t, o in zip(topic.tolist(), opinion.tolist(), strict=True)
    ]
    wrong = np.flatnonzero(np.isin(topic, (2, 3)) & (rng.random(rows) < 0.5))
    labels = opinion.astype(np.int64)
    labels[wrong] = (labels[wrong] + rng.integers(1, len(opinions), len(wrong))) % len(opinions)
    train = Rows(texts, labels, None, [topics[t] for t in topic])
    meta = {"title": "synthetic product reviews", "sources": [], "licence": "Apache-2.0"}
    return TextDataset("synthetic_texts", train, clean(held_out), clean(held_out), tuple(opinions), meta)
