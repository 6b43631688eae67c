"""The proxies between ridge and target: probe heads, learned reward models, and the paper's fine-tuned proxy."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score

from dsenv.building import build_task
from dsenv.dataset import TextDataset
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError
from dsenv.metrics import METRICS, score
from dsenv.picks import plan_picks
from dsenv.proxies import RowSample, empty_score, recipe_digest, sampled_rows
from dsenv.proxies.finetune import FinetuneProxy
from dsenv.proxies.probe import ProbeProxy
from dsenv.proxies.reward_models import MODELS, set_transformer
from dsenv.proxies.surrogate import SurrogateProxy, mixed_counts
from dsenv.training import Recipe, fit, load_target, predict
from tests.conftest import tiny_splits
from tests.test_finetuning import save_encoder
from tests.test_task import random_vectors


@pytest.fixture(scope="module")
def plan(tiny_task):
    return plan_picks(tiny_task.clustering("stratified"), budget=0.25, picks=12)


def drawn(plan, number=6, seed=3):
    return mixed_counts(plan, number, seed)


def pure(task, plan, labels):
    """One pick of a cluster of each of these classes."""
    counts = np.zeros(plan.clusters, np.int64)
    for label in labels:
        counts[next(k for k in range(plan.clusters) if task.train.labels[plan.order[plan.starts[k]]] == label)] = 1
    return counts


@pytest.fixture(autouse=True)
def torch_is_left_alone():
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


# probe


@pytest.mark.parametrize(("name", "regularisation"), [("googleplay:noisy", 1.0), ("hateunion", 20.0)])
def test_logistic_probe_equals_scikit_learn_on_the_very_rows(name, regularisation):
    env = DataSelectEnv(name)
    proxies = {metric: ProbeProxy(env.task, env.plan, metric, regularisation=regularisation) for metric in METRICS}
    every = np.arange(len(env.task.reward))
    for counts in drawn(env.plan, 3):
        rows = env.plan.rows(counts)
        theirs = LogisticRegression(C=1 / regularisation, tol=1e-9, max_iter=20_000)
        theirs.fit(env.task.train.features[rows, :-1].astype(float), env.task.train.labels[rows])
        expected = np.zeros((len(every), env.task.classes))
        expected[:, theirs.classes_] = theirs.predict_proba(env.task.reward.features[:, :-1].astype(float))
        found = proxies["accuracy"].class_scores(proxies["accuracy"].train(counts), every)
        assert np.abs(found - expected).max() < 3e-4
        assert found.sum(1) == pytest.approx(np.ones(len(found)))
        for metric in ("neg_log_loss", "brier_skill", "balanced_brier_skill"):
            value = score(metric, expected, env.task.reward.labels, env.task.class_shares)
            assert proxies[metric].score(counts[None])[0] == pytest.approx(value, abs=1e-3)


def test_absent_classes_of_a_logistic_probe(tiny_task, plan):
    proxy = ProbeProxy(tiny_task, plan, "neg_log_loss")
    every = np.arange(len(tiny_task.reward))
    for label in range(3):
        found = proxy.class_scores(proxy.train(pure(tiny_task, plan, [label])), every)
        assert np.array_equal(found, np.eye(3)[np.full(len(every), label)])
    two = pure(tiny_task, plan, [0, 2])
    rows = plan.rows(two)
    theirs = LogisticRegression(tol=1e-9, max_iter=20_000)
    theirs.fit(tiny_task.train.features[rows, :-1].astype(float), tiny_task.train.labels[rows])
    found = proxy.class_scores(proxy.train(two), every)
    assert not found[:, 1].any()
    assert found[:, [0, 2]] == pytest.approx(theirs.predict_proba(tiny_task.reward.features[:, :-1].astype(float)), abs=3e-4)


@pytest.mark.parametrize(("head", "metric"), [*[("logistic", metric) for metric in METRICS], ("mlp", "neg_log_loss")])
def test_probe_scores_depend_on_the_counts_alone(tiny_task, plan, head, metric):
    proxy = ProbeProxy(tiny_task, plan, metric, head)
    batch = np.concatenate([drawn(plan, 2), np.zeros((1, plan.clusters), np.int64), pure(tiny_task, plan, [1])[None]])
    found = proxy.score(batch)
    assert np.isfinite(found).all()
    assert found[2] == pytest.approx(empty_score(tiny_task, metric), abs=1e-12)
    backwards = pickle.loads(pickle.dumps(proxy)).score(batch[::-1])[::-1]
    singles = [ProbeProxy(tiny_task, plan, metric, head).score(row[None])[0] for row in batch]
    assert np.array_equal(found, backwards) and np.array_equal(found, singles)
    sample = RowSample(0.5, 7)
    rows = sampled_rows(tiny_task, sample)
    half = score(
        metric, proxy.class_scores(proxy.train(batch[0]), rows), tiny_task.reward.labels[rows], tiny_task.class_shares
    )
    assert proxy.score(batch[:1], samples=[sample])[0] == half


def test_the_network_learns_what_is_not_linear(tiny_task, plan):
    """Classes are rings around one centre: no line parts them."""
    rng = np.random.default_rng(0)

    def rings(labels):
        angle = rng.uniform(0, 2 * np.pi, len(labels))
        return np.stack([np.cos(angle), np.sin(angle)], 1) * (labels[:, None] + rng.uniform(0.8, 1.2, (len(labels), 1)))

    vectors = {"train": rings(tiny_task.train.labels), "reward": rings(tiny_task.reward.labels)}
    counts = plan.complete(np.zeros(plan.clusters, np.int64))[None]
    linear, network, other = (
        ProbeProxy(tiny_task, plan, "accuracy", head, vectors, regularisation=0.1, steps=150, seed=seed)
        for head, seed in (("logistic", 0), ("mlp", 0), ("mlp", 1))
    )
    assert network.score(counts)[0] > 0.85 > 0.65 > linear.score(counts)[0]
    assert not np.array_equal(network.train(counts[0])[0], other.train(counts[0])[0])
    assert len({recipe_digest(proxy) for proxy in (linear, network, other)}) == 3


def test_own_vectors_of_a_probe(tiny_task, plan):
    own = {"train": tiny_task.train.features[:, :-1], "reward": tiny_task.reward.features[:, :-1]}
    given = ProbeProxy(tiny_task, plan, "brier_skill", vectors=own)
    plain = ProbeProxy(tiny_task, plan, "brier_skill")
    batch = drawn(plan)
    assert np.array_equal(given.score(batch), plain.score(batch))
    assert len(given.recipe["vectors"]) == 64 and "vectors" not in plain.recipe
    json.dumps(given.recipe)
    other = ProbeProxy(tiny_task, plan, "brier_skill", vectors={**own, "reward": own["reward"] + 1})
    assert other.recipe != given.recipe
    holes = own["train"].copy()
    holes[3, 0] = np.nan
    cases = (
        ({"train": own["train"]}, "needed are train and reward"),
        ({**own, "test": own["train"]}, "needed are train and reward"),
        ({**own, "reward": own["reward"][1:]}, f"allowed is \\({len(tiny_task.reward)}, d\\)"),
        ({**own, "train": own["train"][:, 1:]}, "one d for both"),
        ({**own, "train": holes}, "'train' are not all finite"),
    )
    for vectors, says in cases:
        with pytest.raises(InputError, match=says):
            ProbeProxy(tiny_task, plan, "accuracy", vectors=vectors)


def test_bad_arguments_of_a_probe(tiny_task, plan):
    cases = (
        ({"head": "logistics"}, "Did you mean 'logistic'"),
        ({"regularisation": 0}, "regularisation 0"),
        ({"regularisation": float("nan")}, "regularisation nan"),
        ({"hidden": 0}, "hidden 0"),
        ({"steps": 0}, "steps 0"),
        ({"seed": -1}, "seed -1"),
    )
    for arguments, says in cases:
        with pytest.raises(InputError, match=says):
            ProbeProxy(tiny_task, plan, "accuracy", **arguments)


# surrogate


@pytest.fixture(scope="module")
def synthetic():
    return DataSelectEnv("synthetic")


@pytest.fixture(scope="module", params=MODELS)
def surrogate(request, synthetic):
    epochs = 60 if request.param == "mlp" else 8
    return SurrogateProxy.fit(synthetic.proxy, model=request.param, evaluations=200, epochs=epochs)


def test_a_surrogate_ranks_selections_that_it_never_saw(synthetic, surrogate):
    held = surrogate.scored.held_out
    truth, found = surrogate.scored.scores[held], surrogate.score(surrogate.scored.counts[held])
    assert surrogate.hold_out_r2 == pytest.approx(r2_score(truth, found)) and surrogate.hold_out_r2 > 0
    assert surrogate.hold_out_spearman == pytest.approx(spearmanr(truth, found).statistic)
    fresh = mixed_counts(synthetic.plan, 200, seed=9)
    ranks = [np.argsort(np.argsort(proxy.score(fresh))) for proxy in (surrogate, synthetic.proxy)]
    assert np.corrcoef(*ranks)[0, 1] > 0.6


def test_surrogate_scores_depend_on_the_counts_alone(synthetic, surrogate):
    batch = np.concatenate([mixed_counts(synthetic.plan, 150, seed=8), np.zeros((1, synthetic.plan.clusters), np.int64)])
    found = surrogate.score(batch)
    assert found[-1] == empty_score(synthetic.task, synthetic.metric)
    assert np.array_equal(found, np.array([surrogate.score(row[None])[0] for row in batch]))
    order = np.random.default_rng(0).permutation(len(batch))
    assert np.array_equal(found[order], surrogate.score(batch[order]))
    assert np.array_equal(found, pickle.loads(pickle.dumps(surrogate)).score(batch))
    assert surrogate.score(batch[:0]).shape == (0,)


def test_the_same_seed_learns_the_same_and_held_out_scores_are_not_learned(synthetic, surrogate):
    known, facts = surrogate.scored, surrogate.facts
    settings = {"model": facts.model, "epochs": facts.epochs}
    again = SurrogateProxy.fit(synthetic.proxy, known.counts, scores=known.scores, **settings)
    assert again.recipe == surrogate.recipe and again.facts == facts
    hidden = np.where(known.held_out, known.scores[::-1], known.scores)
    blind = SurrogateProxy.fit(synthetic.proxy, known.counts, scores=hidden, **settings)
    assert blind.recipe == surrogate.recipe and blind.hold_out_r2 != surrogate.hold_out_r2
    other = SurrogateProxy.fit(synthetic.proxy, known.counts, scores=known.scores, seed=1, model=facts.model, epochs=1)
    assert recipe_digest(other) != recipe_digest(surrogate)
    assert surrogate.recipe["predicts"] == recipe_digest(synthetic.proxy)
    json.dumps(surrogate.recipe)


def test_a_surrogate_is_refreshed_with_more_selections(synthetic, surrogate):
    more = np.concatenate([mixed_counts(synthetic.plan, 100, seed=5), surrogate.scored.counts[:7]])
    fresh = surrogate.refresh(more, synthetic.proxy.score(more))
    number = len(surrogate.scored.counts)
    assert np.array_equal(fresh.scored.counts[:number], surrogate.scored.counts)
    assert np.array_equal(fresh.scored.held_out[:number], surrogate.scored.held_out)
    assert len(fresh.scored.counts) == number + 100 and fresh.scored.held_out[number:].sum() == 20
    assert fresh.recipe["weights"] != surrogate.recipe["weights"]


def test_a_surrogate_is_stored_and_refuses_what_it_was_not_trained_for(synthetic, surrogate, tmp_path):
    path = surrogate.save(tmp_path / "s.safetensors")
    loaded = SurrogateProxy.load(path, synthetic.task, synthetic.plan)
    batch = mixed_counts(synthetic.plan, 20, seed=4)
    assert np.array_equal(loaded.score(batch), surrogate.score(batch))
    assert loaded.recipe == surrogate.recipe and loaded.facts == surrogate.facts and loaded.metric == synthetic.metric
    for name, array in vars(surrogate.scored).items():  # what a refresh starts from
        assert np.array_equal(vars(loaded.scored)[name], array)

    for other, what in (
        (DataSelectEnv("synthetic", instance=1), "instance"),
        (DataSelectEnv("synthetic", picks=32), "plan"),
        (DataSelectEnv("googleplay:noisy"), "task"),
    ):
        with pytest.raises(InputError, match=f"trained for another {what}"):
            SurrogateProxy.load(path, other.task, other.plan)

    content = path.read_bytes()
    arrays = load_file(path)
    damaged = tmp_path / "damaged.safetensors"
    for wrong in (b"", b"no such format", content[:-20], content[:40], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
        damaged.write_bytes(wrong)
        with pytest.raises(InputError, match="not a readable surrogate"):
            SurrogateProxy.load(damaged, synthetic.task, synthetic.plan)
    for metadata in (None, {"surrogate": "{}", "sha256": ""}, {"surrogate": '{"format": 1}', "sha256": ""}):
        save_file(arrays, damaged, metadata)
        with pytest.raises(InputError, match="not a readable surrogate"):
            SurrogateProxy.load(damaged, synthetic.task, synthetic.plan)
    with pytest.raises(InputError, match="not a readable surrogate"):
        SurrogateProxy.load(tmp_path / "none.safetensors", synthetic.task, synthetic.plan)
    with pytest.raises(InputError, match="ends in .safetensors"):
        surrogate.save(tmp_path / "s.pt")


def test_what_a_surrogate_refuses(synthetic, surrogate):
    proxy, counts = synthetic.proxy, surrogate.scored.counts
    with pytest.raises(InputError, match="trained before it serves"):
        SurrogateProxy(synthetic.task, synthetic.plan, synthetic.metric)
    with pytest.raises(InputError, match="all reward rows only"):
        surrogate.score(counts[:1], samples=[RowSample(0.5, 0)])
    with pytest.raises(InputError):
        surrogate.score(-counts[:1])
    cases = (
        ({"model": "mpl"}, "Did you mean 'mlp'"),
        ({"evaluations": 9}, "evaluations 9"),
        ({"epochs": 0}, "epochs 0"),
        ({"seed": -1}, "seed -1"),
        ({"hold_out": 1}, "hold_out 1"),
        ({"scores": np.zeros(3)}, "without counts"),
        ({"counts": counts[:20], "scores": np.zeros(20)}, "nothing to learn"),
        ({"counts": counts[:20], "scores": np.full(20, np.nan)}, "not all finite"),
        ({"counts": counts[:20], "scores": np.zeros(3)}, "do not fit 20 selections"),
        ({"counts": counts[[0] * 20]}, "1 different selections"),
        ({"counts": counts[:20], "hold_out": 0.01}, "0 of them held out"),
    )
    for arguments, says in cases:
        with pytest.raises(InputError, match=says):
            SurrogateProxy.fit(proxy, **arguments)


def test_the_order_of_clusters_means_nothing_to_a_set_transformer(synthetic):
    found = SurrogateProxy.fit(synthetic.proxy, model="set_transformer", evaluations=40, epochs=1)
    weights = {name: torch.from_numpy(array) for name, array in found._weights.items()}
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(5, synthetic.plan.clusters, 4)).astype(np.float32))
    order = torch.from_numpy(rng.permutation(synthetic.plan.clusters))
    turned = set_transformer(torch, {**weights, "clusters": weights["clusters"][order]}, x[:, order])
    assert torch.allclose(turned, set_transformer(torch, weights, x), atol=1e-5)
    assert not torch.allclose(set_transformer(torch, weights, x[:, order]), turned, atol=1e-3)


def test_mixed_selections_are_different_possible_and_seeded(synthetic, plan):
    for each in (synthetic.plan, plan, DataSelectEnv("banking77:small", unit="cluster", budget=0.2, clustering="kmeans").plan):
        found = each.check_batch(mixed_counts(each, 200))
        assert len(np.unique(found, axis=0)) == 200 and found.any(1).all()
        assert np.array_equal(found, mixed_counts(each, 200))
    lengths = mixed_counts(synthetic.plan, 600).sum(1)
    assert 0.4 < (lengths == synthetic.plan.picks).mean() < 0.6 and len(np.unique(lengths)) > 40
    few = plan_picks(synthetic.task.clustering("stratified"), unit="cluster", budget=1 / synthetic.plan.clusters)
    assert len(mixed_counts(few, 200)) == few.clusters


# finetune


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    return str(folder)


@pytest.fixture(scope="module")
def make(tiny, tiny_task, plan, checkpoint):
    def proxy(metric="neg_log_loss", dataset=tiny, task=tiny_task, **arguments):
        return FinetuneProxy(task, plan, metric, dataset, **{**SETTINGS, "model": checkpoint, **arguments})

    return proxy


SETTINGS = {"max_length": 16, "batch_size": 8, "learning_rate": 3e-3, "device": "cpu"}


def test_a_fine_tuned_proxy_is_the_paper_s(make, tiny, tiny_task, plan, checkpoint):
    """Φ is what the same rows, seeds and settings give when they are trained by hand, not from the model kept in memory."""
    counts = plan.complete(np.zeros(plan.clusters, np.int64))
    for metric in ("neg_log_loss", "accuracy"):
        proxy = make(metric, rows=0.5, reward_rows=25, seed=2)
        found = proxy.score(counts[None])[0]
        rows = proxy.training_rows(counts)
        assert len(rows) == round(0.5 * len(plan.rows(counts))) and set(rows) <= set(plan.rows(counts).tolist())
        target = load_target(Recipe(target=checkpoint, epochs=1, **SETTINGS), 3, seed=2)
        fit(target, tiny.train.take(tiny_task.train_rows[rows]), seed=proxy.selection_seed(counts))
        scored = proxy.scored_rows()
        assert len(scored) == 25
        held_out = tiny.validation.take(tiny_task.dataset_rows("reward")[scored])
        expected = score(metric, predict(target, held_out), held_out.labels, tiny_task.class_shares)
        assert found == expected


def test_a_fine_tuned_proxy_learns(make, plan):
    counts = plan.complete(np.zeros(plan.clusters, np.int64))[None]
    proxy = make("accuracy", rows=1.0, epochs=12)
    assert proxy.score(counts)[0] > proxy.score(0 * counts)[0] + 0.1


def test_fine_tuned_scores_depend_on_the_counts_alone(make, tiny_task, plan):
    proxy = make(reward_rows=12)
    batch = np.concatenate([drawn(plan, 3), np.zeros((1, plan.clusters), np.int64), pure(tiny_task, plan, [1])[None]])
    found = proxy.score(batch)
    assert np.isfinite(found).all()
    assert np.array_equal(found[::-1], pickle.loads(pickle.dumps(proxy)).score(batch[::-1]))
    assert np.array_equal(found[:3] != make(reward_rows=12, seed=1).score(batch[:3]), [True] * 3)
    sample = RowSample(0.5, 3)
    rows = proxy.scored_rows(sample)
    assert len(rows) == 12 and set(rows.tolist()) < set(sampled_rows(tiny_task, sample).tolist())
    labels = tiny_task.reward.labels[rows]
    by_hand = score("neg_log_loss", proxy.class_scores(proxy.train(batch[0]), rows), labels, tiny_task.class_shares)
    assert proxy.score(batch[:1], samples=[sample])[0] == by_hand


def test_part_of_the_rows_is_trained_on_and_every_class_that_is_there(make, tiny_task, plan):
    for counts in [*drawn(plan, 8), pure(tiny_task, plan, [0, 2])]:
        rows = plan.rows(counts)
        chosen = make(rows=0.01).training_rows(counts)
        assert len(chosen) == len(set(chosen.tolist())) == min(len(rows), 16)
        assert set(tiny_task.train.labels[chosen]) == set(tiny_task.train.labels[rows])
        assert np.array_equal(chosen, make(rows=0.01).training_rows(counts))
        assert np.array_equal(np.sort(make(rows=1.0).training_rows(counts)), np.sort(rows))


@pytest.mark.parametrize("metric", METRICS)
def test_the_empty_selection_of_a_fine_tuned_proxy(make, tiny, tiny_task, plan, checkpoint, metric):
    none = np.zeros((1, plan.clusters), np.int64)
    assert make(metric, reward_rows=1000).score(none)[0] == pytest.approx(empty_score(tiny_task, metric), abs=1e-12)
    untrained = make(metric, empty="untrained", seed=5)
    target = load_target(Recipe(target=checkpoint, **SETTINGS), 3, seed=5)
    held_out = tiny.validation.take(tiny_task.dataset_rows("reward"))
    expected = score(metric, predict(target, held_out), held_out.labels, tiny_task.class_shares)
    assert untrained.score(none)[0] == expected


def test_the_texts_must_be_the_task_s(make, tiny):
    noisy = tiny.with_label_noise(0.3)
    task = build_task(noisy, vectors=random_vectors(noisy), clusters=6)
    plan = plan_picks(task.clustering("stratified"), budget=0.5, picks=4)
    given, derived = (FinetuneProxy(task, plan, "accuracy", dataset, **SETTINGS) for dataset in (noisy, tiny))
    assert np.array_equal(given._pool.labels, derived._pool.labels) and np.array_equal(given._pool.labels, task.train.labels)
    assert np.array_equal(given._held_out.labels, task.reward.labels)
    for other in (tiny.with_label_noise(0.2), TextDataset.from_columns(tiny_splits(rows=100))):
        with pytest.raises(InputError, match="apply the derivation"):
            FinetuneProxy(task, plan, "accuracy", other, **SETTINGS)
    with pytest.raises(InputError, match="was built from dataset fingerprint"):
        make(dataset=replace(tiny, train=tiny.train.take(range(100))))


def test_what_decides_a_fine_tuned_score_is_in_its_recipe(make, tiny, tiny_task, plan, tmp_path):
    proxies = [make(), make(rows=0.5), make(reward_rows=9), make(epochs=2), make(seed=1), make(empty="untrained")]
    save_encoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: array + 1 for name, array in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    proxies += [make(model=str(tmp_path)), FinetuneProxy(tiny_task, plan, "accuracy", tiny), make("accuracy")]
    assert len({recipe_digest(proxy) for proxy in proxies}) == len(proxies)
    assert proxies[-3].recipe["weights"] != proxies[0].recipe["weights"]
    assert proxies[0].recipe["dataset"] == tiny.fingerprint and len(proxies[-2].recipe["weights"]) == 64
    cases = (
        ({"rows": 0}, "rows 0"),
        ({"rows": 1.5}, "rows 1.5"),
        ({"reward_rows": 0}, "reward_rows 0"),
        ({"reward_rows": 2}, "cannot draw 2 rows in 3 groups"),
        ({"empty": "nothing"}, "class_shares, untrained"),
        ({"epochs": 0}, "epochs 0"),
        ({"metric": "accuracyy"}, "Did you mean 'accuracy'"),
    )
    for arguments, says in cases:
        with pytest.raises(InputError, match=says):
            make(**arguments)


def test_loading_is_quiet_and_says_what_the_body_lacks(checkpoint, tmp_path, capfd, caplog):
    library = transformers.utils.logging
    before = library.get_verbosity(), library.is_progress_bar_enabled()
    load_target(Recipe(target=checkpoint, **SETTINGS), 3)
    assert (library.get_verbosity(), library.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "") and not caplog.records
    save_encoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "query.weight" in name)
    save_file(
        {name: array for name, array in weights.items() if name != lost}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    load_target(Recipe(target=str(tmp_path), **SETTINGS), 3)
    assert "lacks 1 weights, drawn at random" in caplog.text and lost in caplog.text


@pytest.mark.slow
def test_the_real_minilm_as_a_proxy(texts):
    task = build_task(texts, encoder="tfidf", clusters=10)
    plan = plan_picks(task.clustering("stratified"), budget=0.8, picks=10)
    proxy = FinetuneProxy(task, plan, "accuracy", texts, rows=1.0, epochs=4, device="cpu")
    counts = plan.complete(np.zeros(plan.clusters, np.int64))[None]
    assert proxy.score(counts)[0] > proxy.score(0 * counts)[0] + 0.1
