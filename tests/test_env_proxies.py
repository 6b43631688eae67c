"""Every proxy inside the environment: by name or as an object, stored, on texts, and what is refused."""

import gymnasium as gym
import numpy as np
import pytest

import dsenv
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError, StoreError
from dsenv.proxies.ridge import RidgeProxy
from dsenv.proxies.store import ScoreStore
from dsenv.registration import SMALL

SHORT = {"picks": 4, "budget": 0.02}


def play(env, picks=4):
    _, info = env.reset(seed=0)
    first, returns = info["score"], 0.0
    for action in range(picks):
        _, reward, over, _, info = env.step(action)
        returns += reward
    assert over and returns == pytest.approx(info["score"] - first)
    return info["score"]


def test_a_probe_by_name_remembers_its_scores_where_it_is_told_to(tmp_path):
    made = [
        gym.make("DataSelect-Synthetic-v0", proxy="probe", cache_dir=tmp_path, metric="accuracy", **SHORT) for _ in range(2)
    ]
    scores = [play(env) for env in made]
    assert scores[0] == scores[1] == play(DataSelectEnv("synthetic", proxy="probe", metric="accuracy", **SHORT))
    first, second = (env.unwrapped.proxy for env in made)
    assert first.misses and second.misses == 0 and second.hits
    with ScoreStore(tmp_path / "scores.sqlite") as store:
        assert store.info().recipes[0].facts["recipe"]["proxy"] == "probe"


def test_a_trained_surrogate_as_an_object(tmp_path):
    plain = DataSelectEnv("synthetic", **SHORT)
    surrogate = dsenv.SurrogateProxy.fit(plain.proxy, evaluations=64, epochs=3)
    env = gym.make("DataSelect-Synthetic-v0", proxy=surrogate, **SHORT)
    assert play(env) == surrogate.score(env.unwrapped.counts[None])[0]
    with pytest.raises(InputError, match="all reward rows"):
        gym.make("DataSelect-Synthetic-v0", proxy=surrogate, reward_rows=0.5, **SHORT)


def test_the_vector_environment_plays_a_trained_proxy_too():
    keywords = {"proxy": "probe", "reward_rows": 0.5, **SHORT}
    ours = gym.make_vec("DataSelect-Synthetic-v0", 2, **keywords)
    theirs = gym.make_vec("DataSelect-Synthetic-v0", 2, vectorization_mode="sync", **keywords)
    for env in (ours, theirs):
        env.reset(seed=1)
    for action in range(4):
        mine, expected = (env.step(np.array([action, action + 5])) for env in (ours, theirs))
        assert np.array_equal(mine[0], expected[0]) and np.array_equal(mine[1], expected[1])


def test_a_stored_ridge_in_a_vector_environment_that_knows_some_scores(tmp_path):
    """Two episodes at the same selection, others known already, others new: as without a store."""
    plain = DataSelectEnv("synthetic", **SHORT)
    remembered = dsenv.StoredProxy(RidgeProxy(plain.task, plain.plan, plain.metric, memo=0), tmp_path / "scores.sqlite")
    for seed in range(3):
        ours, theirs = (
            gym.make_vec("DataSelect-Synthetic-v0", 4, proxy=proxy, **SHORT) for proxy in (remembered, plain.proxy)
        )
        rng = np.random.default_rng(seed)
        for env in (ours, theirs):
            env.reset(seed=0)
        for _ in range(4):
            actions = rng.integers(0, 3, 4)
            assert np.array_equal(ours.step(actions)[1], theirs.step(actions)[1])
    assert remembered.hits and remembered.misses


@pytest.mark.slow
def test_the_papers_proxy_by_name(texts):
    task = dsenv.build_task(texts, encoder="tfidf", clusters=8)
    env = gym.make("DataSelect-v0", task=task, proxy="finetune", dataset=texts, picks=2, budget=0.2, metric="neg_log_loss")
    assert play(env, 2) < 0


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"reward_rows": 0.001}, "cannot draw"),
        ({"reward_rows": True}, "reward_rows True"),
        ({"proxy": "finetune", "dataset": "nowhere"}, "no dataset 'nowhere'"),
    ],
)
def test_refused(keywords, text):
    with pytest.raises(InputError, match=text):
        DataSelectEnv("synthetic", **keywords)


def test_a_table_has_no_samples_and_another_dataset_is_no_proxy(texts):
    with pytest.raises(InputError, match="needs proxy='ridge'"):
        DataSelectEnv("googleplay:small", reward_rows=0.5, **SMALL)
    with pytest.raises(InputError, match="fingerprint"):
        DataSelectEnv("googleplay", proxy="finetune", dataset=texts)


def test_a_damaged_store_is_named(tmp_path):
    (tmp_path / "scores.sqlite").write_bytes(b"this is no store" * 1000)
    with pytest.raises(StoreError, match="scores.sqlite.* is not a store"):
        DataSelectEnv("synthetic", proxy="probe", cache_dir=tmp_path)
