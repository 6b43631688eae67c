"""Selectors by geometry, graph and n-grams: their formulas against oracles and hand cases, and the protocol they share."""

import math

import numpy as np
import pytest

from dsenv.dataset import Rows
from dsenv.errors import InputError
from dsenv.selectors import neighbours as neighbours_module
from dsenv.selectors.agreement import agreement, knn_agreement
from dsenv.selectors.d2_pruning import d2_pruning, label_difficulty, pass_forward, pick_in_reverse
from dsenv.selectors.density import density, kernel_sums, nearest_bandwidth
from dsenv.selectors.dsir import dsir, hashed_counts, joined, log_ratios
from dsenv.selectors.facility_location import facility_location, greedy_facility_location
from dsenv.selectors.gumbel import gumbel_top
from dsenv.selectors.herding import herd, herding
from dsenv.selectors.k_center import cover, k_center
from dsenv.selectors.knn_shapley import knn_shapley, ordered_shapley, shapley_values
from dsenv.selectors.neighbours import distance_blocks, neighbours, normalised
from dsenv.selectors.pool import Pool
from dsenv.selectors.semdedup import earlier_cosines, semdedup, survivors

DRAWN = [density, semdedup, dsir]
FIXED = [k_center, facility_location, herding, d2_pruning, knn_agreement, knn_shapley]
N = 60


def draw(seed=0):
    return np.random.default_rng(seed)


def column(*numbers):
    return np.array(numbers, np.float64)[:, None]


def random_pool(n=N, seed=1):
    """Three overlapping classes in five dimensions, with texts of a few words."""
    rng = draw(seed)
    labels, reward_labels = rng.integers(0, 3, n), rng.integers(0, 3, 20)
    centres = rng.normal(size=(3, 5))
    texts, reward_texts = ([" ".join(rng.choice(list("abcdefgh"), 6)) for _ in range(size)] for size in (n, 20))
    return Pool(
        vectors=(centres[labels] + rng.normal(size=(n, 5))).astype(np.float32),
        labels=labels,
        classes=3,
        reward_vectors=(centres[reward_labels] + rng.normal(size=(20, 5))).astype(np.float32),
        reward_labels=reward_labels,
        rows=Rows(texts, labels),
        reward_rows=Rows(reward_texts, reward_labels),
    )


def plain_pool(vectors, labels):
    return Pool(np.asarray(vectors, np.float32), np.array(labels), 2, np.ones((1, len(vectors[0]))), np.array([0]))


def answer(selector, pool, count, seed=0, **options):
    return selector(pool, count, draw(seed), **options).tolist()


@pytest.mark.parametrize("selector", FIXED)
def test_fewer_rows_are_the_first_of_more(selector):
    pool = random_pool()
    assert answer(selector, pool, 5) == answer(selector, pool, 30)[:5]


@pytest.mark.parametrize("selector", DRAWN + FIXED)
def test_a_pool_of_one_row_and_a_pool_of_duplicates_run_out_in_order(selector):
    one, same = random_pool(1), random_pool(6)
    same = Pool(
        np.ones((6, 5)), same.labels, 3, same.reward_vectors, same.reward_labels, rows=same.rows, reward_rows=same.rows
    )
    assert answer(selector, one, 1) == [0]
    assert sorted(answer(selector, same, 6)) == list(range(6))


@pytest.mark.parametrize("selector", [*DRAWN, *FIXED])
def test_rows_of_zeros_are_chosen_too(selector):
    pool = random_pool(8)
    pool.vectors[2:5] = 0
    assert sorted(answer(selector, pool, 8)) == list(range(8))


@pytest.mark.parametrize(
    ("selector", "options", "named"),
    [
        (k_center, {"first": N}, "first row 60: allowed are 0 to 59"),
        (k_center, {"first": -1}, "first row -1"),
        (facility_location, {"represented": 0}, "represented 0"),
        (herding, {"target": "test"}, "target 'test'.*pool, reward"),
        (density, {"bandwidth": 0.0}, "bandwidth 0.0.*above 0"),
        (density, {"bandwidth": math.nan}, "bandwidth nan"),
        (semdedup, {"clusters": 0}, "clusters 0"),
        (semdedup, {"clusters": N + 1}, "61 clusters of 60 rows"),
        (semdedup, {"epsilon": 2.5}, "epsilon 2.5.*from 0 to 2"),
        (d2_pruning, {"nearest": 0}, "nearest 0"),
        (d2_pruning, {"forward": -1.0}, "forward -1.0"),
        (d2_pruning, {"reverse": "far"}, "reverse 'far'"),
        (d2_pruning, {"scores": np.zeros(3)}, "60 finite numbers"),
        (d2_pruning, {"scores": np.full(N, np.nan)}, "60 finite numbers"),
        (dsir, {"buckets": 0}, "buckets 0"),
        (dsir, {"smoothing": 0.0}, "smoothing 0.0"),
        (knn_agreement, {"nearest": True}, "nearest True"),
        (knn_shapley, {"nearest": 0}, "nearest 0"),
        (knn_shapley, {"metric": "l1"}, "metric 'l1'.*cosine, euclid"),
    ],
)
def test_bad_options_are_named(selector, options, named):
    with pytest.raises(InputError, match=named):
        selector(random_pool(), 5, draw(), **options)


def test_neighbours_leave_out_the_row_itself_also_among_duplicates():
    vectors = np.array([[1, 0]] * 20 + [[0, 1]], np.float32)
    for metric in ("cosine", "euclid"):
        rows, distances = neighbours(vectors, 3, metric)
        assert not (rows == np.arange(21)[:, None]).any()
        np.testing.assert_allclose(distances[:20], 0, atol=1e-12)
        assert all(len(set(line)) == 3 for line in rows.tolist())


def test_neighbours_are_exact_by_both_metrics(monkeypatch):
    monkeypatch.setattr(neighbours_module, "BLOCK_CELLS", 100)  # several blocks
    vectors = draw(3).normal(size=(40, 4)) + 100  # an offset that single precision would feel
    for metric in ("cosine", "euclid"):
        every = np.concatenate([distances for _, distances in distance_blocks(vectors, vectors, metric)])
        np.fill_diagonal(every, np.inf)
        rows, distances = neighbours(vectors, 5, metric)
        assert rows.tolist() == np.argsort(every, axis=1)[:, :5].tolist()
        np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :5], atol=1e-6)


def test_neighbours_of_few_rows_and_of_a_row_of_zeros():
    rows, distances = neighbours(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), 10)
    assert rows.tolist() == [[1, 2], [0, 2], [0, 1]]
    np.testing.assert_allclose(distances, 1)  # a cosine of 0 to the zeros, and between right angles
    np.testing.assert_allclose(normalised(np.array([[0.0, 0.0], [3.0, 4.0]])), [[0, 0], [0.6, 0.8]])


def test_k_center_by_its_oracle():
    order, radii = cover(column(0, 1, 10, 4), 0, 3)
    assert order.tolist() == [0, 2, 3]
    np.testing.assert_allclose(radii, [10, 4, 1], atol=1e-6)


def test_k_center_begins_at_the_mean_and_ends_with_duplicates():
    # The mean of 0, 1, 10, 4, 1 is 3.2: first 4 (row 3), then 10 (row 2, at 6), 0 (row 0, at 4), 1 (row 1, at 1), and the
    # second 1, a duplicate, last.
    assert answer(k_center, plain_pool(column(0, 1, 10, 4, 1), [0] * 5), 5) == [3, 2, 0, 1, 4]
    assert answer(k_center, plain_pool(column(0, 1, 10, 4), [0] * 4), 3, first=0) == [0, 2, 3]


def test_facility_location_by_its_oracle():
    order, gains = greedy_facility_location(np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]]), 2)
    assert order.tolist() == [0, 2]
    assert gains.sum() == pytest.approx(2.9, abs=1e-6)


def test_facility_location_is_the_plain_greedy_choice():
    similarity = draw(4).random((50, 80))
    best, expected = np.zeros(50), []
    for _ in range(30):
        gains = np.maximum(similarity - best[:, None], 0).sum(axis=0)
        expected.append(int(np.argmax(gains)))
        best = np.maximum(best, similarity[:, expected[-1]])
    order, gains = greedy_facility_location(similarity, 30)
    assert order.tolist() == expected
    assert gains.sum() == pytest.approx(best.sum(), abs=1e-9)


def test_facility_location_runs_out_by_the_sum_of_similarities():
    # Row 2 serves all; then nothing adds anything, and rows follow by their sums: 1 (1.5), 0 (1), 3 (0).
    similarity = np.array([[1, 0.5, 1, 0], [0, 1, 1, 0]])
    order, gains = greedy_facility_location(similarity, 4)
    assert order.tolist() == [2, 1, 0, 3]
    assert gains.tolist() == [2, 0, 0, 0]
    with pytest.raises(InputError, match="similarity -1.0"):
        greedy_facility_location(-similarity, 1)


def test_facility_location_of_a_sample_draws_it_from_the_generator():
    pool = random_pool()
    assert len(set(answer(facility_location, pool, N, represented=10))) == N
    assert answer(facility_location, pool, 9, 3, represented=10) == answer(facility_location, pool, 9, 3, represented=10)
    assert len({tuple(answer(facility_location, pool, 9, seed, represented=10)) for seed in range(5)}) > 1


def test_herding_by_its_oracle():
    # w = 3: 9 (row 3). w = 3 + 3 - 9 = -3: 0 (row 0). w = -3 + 3 - 0 = 0: a tie, row 1. w = 0 + 3 - 1 = 2: row 2.
    assert herd(column(0, 1, 2, 9), np.array([3.0]), 4).tolist() == [3, 0, 1, 2]


def test_herding_approaches_the_mean_asked_for():
    # Unit vectors: east, east, north. Pool: w = (2/3, 1/3), east (row 0); w = (1/3, 2/3), north; then the second east.
    # Reward: (1, 1)/√2, w = (.71, .71), a tie, row 0; w = (.41, 1.41), north.
    pool = plain_pool([[2, 0], [5, 0], [0, 3]], [0, 0, 0])
    assert answer(herding, pool, 3) == [0, 2, 1]
    assert answer(herding, pool, 2, target="reward") == [0, 2]
    # Ten times as many easts would not move the reward's mean.
    assert set(answer(herding, plain_pool([[1, 0]] * 5 + [[0, 1]], [0] * 6), 2, target="reward")) == {0, 5}


def test_density_by_its_oracle():
    sums = kernel_sums(column(0, 0, 10), 0.1)
    np.testing.assert_allclose(sums, [2, 2, 1], atol=1e-6)
    pool = plain_pool([[0], [0], [10]], [0, 0, 0])
    first = np.bincount([int(density(pool, 1, np.random.default_rng(seed), bandwidth=0.1)[0]) for seed in range(2000)])
    np.testing.assert_allclose(first / 2000, [0.25, 0.25, 0.5], atol=0.04)


def test_density_kernel_and_bandwidth_by_hand():
    # Distances 1 and 3: h = 1 gives exp(-1/2) and exp(-9/2) and exp(-4/2) between 1 and 3.
    sums = kernel_sums(column(0, 1, 3), 1.0)
    near, far, middle = math.exp(-0.5), math.exp(-4.5), math.exp(-2)
    np.testing.assert_allclose(sums, [1 + near + far, 1 + near + middle, 1 + far + middle], atol=1e-6)
    # Nearest: 0, 0 (duplicates, left out), 4, 2, 2: the median of 4, 2, 2 is 2.
    assert nearest_bandwidth(column(0, 0, 4, 10, 12)) == pytest.approx(2)
    assert nearest_bandwidth(np.ones((3, 2))) == 1
    assert nearest_bandwidth(np.ones((1, 2))) == 1


def test_gumbel_top_draws_in_proportion_to_the_weights():
    # First rows: .25, .25, .5. Second after row 2 (then 1/2 each), by symmetry rows 0 and 1 share the rest.
    rng, log_weights = draw(), np.log([1.0, 1.0, 2.0])
    drawn = np.array([gumbel_top(log_weights, 2, rng) for _ in range(8000)])
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 8000, [0.25, 0.25, 0.5], atol=0.025)
    # Row 2 is among two drawn with probability 1/2 + 1/2 · 2/3 = 5/6.
    assert (drawn == 2).any(axis=1).mean() == pytest.approx(5 / 6, abs=0.02)


def test_semdedup_finds_what_is_like_an_earlier_row():
    # Cluster 0 at 0°, 60°, 60° and 90° (rows 0 to 3). Sums of cosines to the others: row 0: 1 + .5 + .5 + 0 = 2; rows 1, 2:
    # .5 + 1 + 1 + √3/2 = 3.366; row 3: 0 + √3 + 1 = 2.732. Least central first: 0, 3, 1, 2, so greatest earlier cosines
    # are -inf, cos 90° = 0, then max(.5, √3/2) = .866, then 1. Cluster 1 holds row 4 alone.
    angles = np.radians([0, 60, 60, 90, 45])
    vectors = np.array([1, 2, 2, 1, 7])[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    greatest, central = earlier_cosines(vectors, np.array([0, 0, 0, 0, 1]))
    np.testing.assert_allclose(greatest, [-np.inf, math.sqrt(0.75), 1, 0, -np.inf], atol=1e-6)
    # The sum is (2, √3 + 1), of length √(8 + 2√3).
    expected = np.array([2, (5 + math.sqrt(3)) / 2, (5 + math.sqrt(3)) / 2, math.sqrt(3) + 1]) / math.sqrt(
        8 + 2 * math.sqrt(3)
    )
    np.testing.assert_allclose(central, [*expected, 1], atol=1e-6)
    assert survivors(greatest, central).tolist() == [0, 4, 3, 1, 2]
    # ε = .2 drops cosines above .8: rows 1 and 2. The others by centrality: .59, .81, 1; the dropped by .866, 1.
    assert survivors(greatest, central, 0.2).tolist() == [0, 3, 4, 1, 2]


def test_semdedup_drops_duplicates_last():
    apart = draw(2).normal(size=(10, 6))
    pool = plain_pool(np.concatenate([apart, 3 * apart]), [0] * 20)
    for options in ({}, {"epsilon": 1e-6}, {"clusters": 1}):
        found = np.array(answer(semdedup, pool, 10, **options)) % 10
        assert sorted(found.tolist()) == list(range(10))


def test_d2_pruning_by_its_oracle():
    positions, rows = np.array([0.0, 1.0, 3.0]), np.array([[1, 2], [0, 2], [0, 1]])
    weights = np.exp(-((positions[:, None] - positions[rows]) ** 2))
    passed = pass_forward(np.array([1, 0.5, 0.2]), rows, weights)
    np.testing.assert_allclose(passed, [1.183964, 0.871543, 0.209281], atol=1e-6)
    # Row 0 first; it takes e^-1 · 1.183964 = .435556 from row 1 (.435987 left) and .000146 from row 2: row 1, then row 2.
    assert pick_in_reverse(passed, rows, weights, 3).tolist() == [0, 1, 2]


def test_d2_pruning_takes_scores_back():
    # Row 0 (1.0) takes .5 · 1.0 from row 1 (.9 to .4), so row 2 (.6) comes next; it takes .5 · .6 from row 1 again (.1).
    rows, weights = np.array([[1], [0], [1]]), np.full((3, 1), 0.5)
    assert pick_in_reverse(np.array([1.0, 0.9, 0.6]), rows, weights, 3).tolist() == [0, 2, 1]


def test_d2_pruning_starts_from_labels_or_scores():
    # One of two neighbours has another label: (1 + 1) / (2 + 2); both: 3/4; none: 1/4.
    rows = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    np.testing.assert_allclose(label_difficulty(rows, np.array([0, 0, 1, 0])), [0.5, 0.5, 0.75, 0.25])
    pool = random_pool()
    scores = np.zeros(N)
    scores[17] = 5
    assert answer(d2_pruning, pool, 3, scores=scores)[0] == 17
    assert answer(d2_pruning, pool, 9) != answer(d2_pruning, pool, 9, scores=scores)


def test_dsir_by_its_oracle():
    ratios = log_ratios(np.array([3.0, 1.0]), np.array([1.0, 3.0]), 0)
    np.testing.assert_allclose(ratios, [1.0986123, -1.0986123], atol=1e-6)
    # Smoothing 1: p = 4/6, 2/6 and q = 2/6, 4/6.
    np.testing.assert_allclose(log_ratios(np.array([3.0, 1.0]), np.array([1.0, 3.0]), 1), np.log([2, 0.5]), atol=1e-6)
    with pytest.raises(InputError, match="smoothing 0"):
        log_ratios(np.array([3.0, 0.0]), np.array([1.0, 3.0]), 0)


def test_dsir_counts_words_pairs_of_words_and_second_texts():
    # "I", "go", "!" and "I go", "go !": five; with the second text "go": "go" twice and "! go" too, seven in all.
    rows = Rows(["I go!", "I go!"], np.zeros(2, np.int64), pairs=["", "go"])
    counts = hashed_counts(joined(rows), 10_000)
    assert counts.sum(axis=1).ravel().tolist()[0] == [5, 7]
    assert sorted(counts[1].data.tolist()) == [1, 1, 1, 1, 1, 2]


def test_dsir_prefers_what_reads_like_the_reward_texts():
    labels = np.zeros(40, np.int64)
    rows = Rows(["red fish swim"] * 20 + ["stocks fell today"] * 20, labels)
    reward = Rows(["blue fish swim"] * 30, np.zeros(30, np.int64))
    pool = Pool(np.ones((40, 2)), labels, 1, np.ones((30, 2)), np.zeros(30, np.int64), rows=rows, reward_rows=reward)
    assert set(answer(dsir, pool, 20)) == set(range(20))


def test_dsir_needs_texts():
    with pytest.raises(InputError, match="reads texts"):
        dsir(plain_pool([[1.0], [2.0]], [0, 1]), 1, draw())


def test_knn_agreement_by_hand():
    # Labels 0, 0, 0, 1. Row 0: both neighbours agree, mean cosine (.9 + .5) / 2; row 1: the first agrees, .8; row 2: the
    # second, .6; row 3: none.
    rows = np.array([[1, 2], [0, 3], [3, 1], [1, 2]])
    cosines = np.array([[0.9, 0.5], [0.8, 0.3], [0.7, 0.6], [0.4, 0.2]])
    shares, closeness = agreement(rows, cosines, np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(shares, [1, 0.5, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(closeness, [0.7, 0.8, 0.6, 0], atol=1e-6)


def test_knn_agreement_orders_by_share_then_closeness_then_row():
    # Rows at these angles with labels 0, 0, 1, 1, 0. Two neighbours: rows 0 and 1 agree with each other, at 11°, and not
    # with 40°; rows 2 and 3 with each other, at 10°, and not with 55°; row 4 with neither 50° nor 40°. Shares 1/2 and 0.
    # One neighbour: rows 0 and 1 have each other (11°), row 2 has row 3 (10°), row 3 and row 4 have each other: disagreed.
    angles = np.radians([0, 11, 40, 50, 55])
    pool = plain_pool(np.stack([np.cos(angles), np.sin(angles)], axis=1), [0, 0, 1, 1, 0])
    assert answer(knn_agreement, pool, 5, nearest=2) == [2, 3, 0, 1, 4]
    assert answer(knn_agreement, pool, 5, nearest=1) == [2, 0, 1, 3, 4]


@pytest.mark.parametrize(
    ("same", "nearest", "expected"),
    [
        ([1, 0, 1], 1, [0.8333333, -0.1666667, 0.3333333]),
        ([1, 0, 1, 1], 2, [0.25, -0.25, 0.25, 0.25]),
        ([1, 0, 1], 5, [0.2, 0, 0.2]),  # K above n: each right row adds 1/K whatever else is there
    ],
)
def test_knn_shapley_by_its_oracle(same, nearest, expected):
    np.testing.assert_allclose(ordered_shapley(np.array([same], bool), nearest), [expected], atol=1e-6)


def test_knn_shapley_is_the_mean_over_reward_rows(monkeypatch):
    # Test row at 0, label 1: order of rows 0 (at 1), 1 (at 2), 2 (at 3), labels 1, 0, 1: 5/6, -1/6, 1/3.
    # Test row at 4, label 1: order 2, 1, 0, so rows 0 and 2 swap: 1/3, -1/6, 5/6. Means: 7/12, -1/6, 7/12.
    monkeypatch.setattr(neighbours_module, "BLOCK_CELLS", 3)  # a block a test row
    vectors, labels = column(1, 2, 3), np.array([1, 0, 1])
    values = shapley_values(vectors, labels, column(0, 4), np.array([1, 1]), 1, "euclid")
    np.testing.assert_allclose(values, [7 / 12, -1 / 6, 7 / 12], atol=1e-6)
    pool = Pool(vectors, labels, 2, column(0, 4), np.array([1, 1]))
    assert answer(knn_shapley, pool, 3, nearest=1, metric="euclid") == [0, 2, 1]
