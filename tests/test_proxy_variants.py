"""Variants of the ridge proxy: what they compute by hand, what may read test rows, and that a stopped run goes on."""

import copy
import json

import numpy as np
import pytest

from benchmarks import proxy_variants as variants
from benchmarks.fidelity import by_search, correlation_difference, rank_correlation
from benchmarks.records import RESULTS, read_record
from benchmarks.target_scores import load_pool, read_scores
from dsenv.dataset import Rows
from dsenv.encoders import SentenceEncoder, TfidfEncoder
from dsenv.errors import InputError
from dsenv.picks import plan_picks
from dsenv.selectors.head import fit_head, output_errors, probabilities, with_constant

KEY = "synthetic-texts pool=400"


@pytest.fixture(scope="module")
def pool():
    return load_pool("synthetic-texts", 400)


@pytest.fixture(scope="module")
def targets(pool):
    return variants.stand_in_targets(pool[1], plan_picks(pool[1].clustering("stratified")), 10)


@pytest.fixture
def case(pool, targets, tmp_path):
    texts, task = pool
    plan = plan_picks(task.clustering("stratified"))
    counts = np.array([chosen["counts"] for chosen in targets["selections"]])
    return variants.Case(texts, task, plan, counts, read_scores(targets), 40, variants.warmed_tfidf, tmp_path)


def check_block(block):
    assert {"command", "versions", "machine", "task_digest", "warm_rows", "selections", "warm_seconds"} <= set(block)
    assert set(block["variants"]) == set(variants.VARIANTS) and set(block["warm_seconds"]) == set(map(str, variants.SEEDS))
    for found in block["variants"].values():
        assert len(found["scores"]) == block["selections"] and np.isfinite(found["scores"]).all()
        assert all(-1 <= found[name]["value"] <= 1 for name in ("spearman", "unsearched", "spearman_test"))
    plain = block["variants"][variants.PLAIN]
    assert plain["difference"]["value"] == plain["difference"]["low"] == plain["difference_unsearched"]["high"] == 0
    for found in block["variants"].values():
        assert found["difference"]["value"] == pytest.approx(found["spearman"]["value"] - plain["spearman"]["value"])


def test_quick_gives_the_fields_and_the_table(tmp_path, capsys):
    variants.main(["--quick", "--json", str(tmp_path / "found.json")])
    check_block(json.loads((tmp_path / "found.json").read_text())[KEY])
    assert len(capsys.readouterr().out.strip().splitlines()) == 2 + len(variants.VARIANTS)


def test_the_committed_record_has_every_variant():
    record = read_record(RESULTS / "proxy_variants.json")
    assert set(record) == set(read_record(RESULTS / "target_scores.json"))
    for key, block in record.items():
        check_block(block)
        assert block["target_digest"] == variants.target_digest(read_record(RESULTS / "target_scores.json")[key])


def test_a_stopped_run_goes_on_and_another_build_is_refused(case, targets, tmp_path, monkeypatch):
    path, asked = tmp_path / "found.json", []

    def stopped(case):
        raise KeyboardInterrupt

    named = {variants.PLAIN: variants.VARIANTS[variants.PLAIN], "other": stopped}
    monkeypatch.setattr(variants, "VARIANTS", named)
    with pytest.raises(KeyboardInterrupt):
        variants.measure(case, targets, KEY, {"quick": True}, path)
    assert list(read_record(path)[KEY]["variants"]) == [variants.PLAIN]
    named["other"] = lambda case: asked.append("other") or case.ridge
    named[variants.PLAIN] = stopped
    variants.measure(case, targets, KEY, {"quick": True}, path)
    assert asked == ["other"] and set(read_record(path)[KEY]["variants"]) == {variants.PLAIN, "other"}
    with pytest.raises(InputError, match="warm_rows 40, not 39"):
        variants.measure(variants.replace(case, warm_rows=39), targets, KEY, {"quick": True}, path)
    other = copy.deepcopy(targets)
    other["runs"]["0 seed=0"]["selection"]["accuracy"] += 0.01
    with pytest.raises(InputError, match=f"target_digest {variants.target_digest(targets)}, not"):
        variants.measure(case, other, KEY, {"quick": True}, path)
    with pytest.raises(InputError, match="are of task gone"):
        variants.measure(case, {**targets, "task_digest": "gone"}, KEY, {"quick": True}, path)


def test_test_rows_change_the_fields_of_the_test_rows_alone(targets):
    other = copy.deepcopy(targets)
    for run in other["runs"].values():
        run["test"]["accuracy"] = 1 - run["test"]["accuracy"]
    proxy, plain = np.random.default_rng(0).random((2, 10))
    shares = np.random.default_rng(1).random((10, 2))
    ours, theirs = (variants.compare(proxy, plain, found, shares) for found in (targets, other))
    assert {name for name in ours if ours[name] != theirs[name]} == {"spearman_test", "regret_test"}


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    target, noise = rng.random((2, 40))
    found = correlation_difference(target + 0.1 * noise, target + 2 * noise, target)
    parts = [rank_correlation(target + share * noise, target) for share in (0.1, 2)]
    assert found.value == pytest.approx(parts[0].value - parts[1].value) and found.low > 0
    same = correlation_difference(noise, noise, target)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    tied = correlation_difference(noise, np.zeros(40), target)
    assert (tied.low, tied.high) == (-2, 2)


def test_what_is_left_beside_other_columns():
    rng = np.random.default_rng(0)
    share, ours, theirs = rng.random((3, 200))
    shared = variants.partial_correlation(share + 0.1 * ours, share + 0.1 * theirs, share[:, None])
    assert shared.low < 0 < shared.high and rank_correlation(share + 0.1 * ours, share + 0.1 * theirs).value > 0.8
    own = variants.partial_correlation(share + ours, share + ours + 0.1 * theirs, share[:, None])
    assert own.low > 0.5
    none = variants.partial_correlation(share, theirs, np.column_stack([share, 1 - share]))
    assert (none.value, none.low, none.high) == (0, -1, 1)


def test_which_selections_a_search_found():
    named = ["greedy accuracy", "uniform", "swap 16", "worst of 256", "by size"]
    assert by_search({"selections": [{"how": how} for how in named]}).tolist() == [True, False, True, True, False]


def test_the_same_encoder_gives_the_same_rows(case):
    encoder = TfidfEncoder(case.texts.train.texts)
    again = variants.with_encoder(case.task, case.texts, encoder, case.cache)
    assert np.array_equal(again.train.features, case.task.train.features)
    assert np.array_equal(again.reward.features, case.task.reward.features)
    assert not again.test.features[:, :-1].any() and not again.selection.features[:, :-1].any()
    warmed = case.warmed(0)
    assert warmed is case.warmed(0) and not np.array_equal(case.drawn(0), case.drawn(1))
    assert np.array_equal(warmed.train_rows, case.task.train_rows) and len(set(case.drawn(0))) == 40


def test_gradient_matching_by_hand(case):
    task, drawn = case.task, case.drawn(0)
    head = fit_head(task.train.features[drawn, :-1], task.train.labels[drawn], task.classes)

    def gradients(split):
        x = split.features[:, :-1]
        errors = output_errors(probabilities(x, head), split.labels)
        return np.stack([np.outer(a, b).ravel() for a, b in zip(with_constant(x), errors, strict=True)])

    train, reward = gradients(task.train), gradients(task.reward).sum(0)
    sums = np.stack([train[rows].sum(0) for rows in case.rows])
    wanted = sums @ reward / np.linalg.norm(sums, axis=1) / np.linalg.norm(reward)
    np.testing.assert_allclose(variants.gradient_matching(case, 0), wanted, rtol=1e-9)


def test_equal_weights_are_the_ridge(case):
    case.__dict__["agreement"] = np.full(len(case.task.train), 0.5)
    np.testing.assert_allclose(variants.weighted_ridge(case), case.ridge, rtol=1e-6)
    composed = variants.composition(case)
    np.testing.assert_allclose(composed[:, :-1].sum(1), 1)
    assert (composed[:, -1] == 1).all()


def test_no_target_enters_its_own_prediction():
    rng = np.random.default_rng(0)
    target, free, penalised = rng.random(12), rng.random((12, 1)), rng.random((12, 3))
    found = variants.left_one_out(target, free, penalised)
    standardised = (penalised - penalised.mean(0)) / penalised.std(0)
    design = np.column_stack([np.ones(12), free, standardised])
    shrunk = np.diag([0, 0, *[variants.PENALTY] * 3])
    for out in range(12):
        kept = np.arange(12) != out
        weights = np.linalg.solve(design[kept].T @ design[kept] + shrunk, design[kept].T @ target[kept])
        assert found[out] == pytest.approx(design[out] @ weights)
    constant = variants.left_one_out(target, np.empty((12, 0)), np.ones((12, 2)))
    np.testing.assert_allclose(constant, (target.sum() - target) / 11)


@pytest.mark.slow
def test_a_warmed_model_encodes_as_the_original_does():
    rows = Rows(["good app", "bad app", "fine", "crashes at once"] * 4, np.array([1, 0, 1, 0] * 4), None, None)
    warmed, original = variants.warmed_minilm(rows, 2, 0), SentenceEncoder("minilm", batching="tokens")
    ours, theirs = (encoder.encode(rows.texts) for encoder in (warmed, original))
    assert ours.shape == theirs.shape and warmed.identity != original.identity
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)
    assert 0.5 < (ours * theirs).sum(1).mean() < 0.99999
    assert warmed.identity == variants.warmed_minilm(rows, 2, 0).identity
