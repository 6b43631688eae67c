"""The vector environment against Gymnasium's SyncVectorEnv of the single one, step by step; bad calls; sampled rewards."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from dsenv.env import DataSelectEnv, EpisodeOver
from dsenv.errors import InputError
from dsenv.vector_env import DataSelectVectorEnv

N = 5
CASES = {
    "flat": {},
    "dict": {"observation": "dict"},
    "final": {"reward": "final", "metric": "accuracy"},
    "sampled": {"reward_rows": 0.5},
    "sampled final": {"reward_rows": 0.3, "reward": "final", "metric": "neg_log_loss"},
    "short": {"picks": 3, "budget": 0.01},
    "cluster": {"unit": "cluster", "budget": 0.2, "clustering": "kmeans", "metric": "macro_f1"},
}


def same(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, tuple):
        assert len(a) == len(b), where
        for x, y in zip(a, b, strict=True):
            same(x, y, where)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where} {key}")
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert [x is None for x in a] == [x is None for x in b], where
        for x, y in zip(a, b, strict=True):
            same(x, y, where)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, where)
    else:
        assert a == b, where


def make(id, mode, kind, keywords):
    if kind == "sync":
        return gym.make_vec(id, N, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **keywords)
    return gym.make_vec(id, N, vectorization_mode="vector_entry_point", autoreset_mode=mode, **keywords)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_sync_step_by_step(case, mode):
    keywords = {"picks": 7, "budget": 0.1, **CASES[case]} if case != "cluster" else CASES[case]
    ours, theirs = (make("DataSelect-Synthetic-v0", mode, kind, keywords) for kind in ("ours", "sync"))
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    same(ours.reset(seed=3), theirs.reset(seed=3))
    assert ours.np_random_seed == theirs.np_random_seed
    rng = np.random.default_rng(0)
    ends = 0
    for number in range(30):
        actions = rng.integers(0, ours.single_action_space.n, N)
        mine = ours.step(actions)
        ours.unwrapped.single.proxy._memo.clear()  # both sides share a proxy: what one has scored the other scores anew
        expected = theirs.step(actions)
        same(mine, expected, f"step {number}")
        assert mine[0] in ours.observation_space if isinstance(mine[0], np.ndarray) else True
        ends += int(mine[2].sum())
        if number == 17:  # episodes out of step with each other
            counts = np.zeros(ours.single_action_space.n, np.int64)
            counts[2] = 1
            same(
                ours.reset(seed=[9, 8, 7, 6, 5], options={"counts": counts}),
                theirs.reset(seed=[9, 8, 7, 6, 5], options={"counts": counts}),
            )
    assert ends >= 2 * N


def test_equal_to_sync_where_classes_are_many():
    keywords = {"picks": 6, "budget": 0.01, "metric": "accuracy"}
    ours, theirs = (make("DataSelect-Banking77-v0", "SameStep", kind, keywords) for kind in ("ours", "sync"))
    same(ours.reset(seed=0), theirs.reset(seed=0))
    rng = np.random.default_rng(1)
    for number in range(13):
        actions = rng.integers(0, ours.single_action_space.n, N)
        same(ours.step(actions), theirs.step(actions), f"step {number}")


def test_episodes_out_of_step_with_autoreset_disabled():
    ours, theirs = (
        make("DataSelect-Synthetic-v0", AutoresetMode.DISABLED, kind, {"picks": 4, "budget": 0.02})
        for kind in ("ours", "sync")
    )
    same(ours.reset(seed=0), theirs.reset(seed=0))
    rng = np.random.default_rng(2)
    for number in range(20):
        if number == 2:
            mask = np.array([True, False, True, False, False])
            same(ours.reset(options={"reset_mask": mask.copy()}), theirs.reset(options={"reset_mask": mask.copy()}))
        actions = rng.integers(0, ours.single_action_space.n, N)
        mine = ours.step(actions)
        same(mine, theirs.step(actions), f"step {number}")
        if mine[2].any():
            with pytest.raises(EpisodeOver):
                ours.step(actions)
            same(ours.reset(options={"reset_mask": mine[2].copy()}), theirs.reset(options={"reset_mask": mine[2].copy()}))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_gymnasium_wrappers_count_what_they_count_of_its_own(mode):
    """Before 1.4 Gymnasium's wrapper miscounts with SAME_STEP, its own vector environment too."""
    keywords = {"task": "synthetic", "picks": 4}

    def lengths(env):
        counted = gym.wrappers.vector.RecordEpisodeStatistics(env)
        counted.reset(seed=0)
        found = []
        for _ in range(15):
            *_, over, _, info = counted.step(np.array([0, 1, 2]))
            found += info["episode"]["l"][over].tolist() if over.any() else []
        return found

    single = gym.vector.SyncVectorEnv([lambda: DataSelectEnv(**keywords)] * 3, autoreset_mode=mode)
    ours = lengths(DataSelectVectorEnv(3, autoreset_mode=mode, **keywords))
    assert ours == lengths(single) and len(ours) >= 9
    if mode == AutoresetMode.NEXT_STEP:
        assert set(ours) == {4}


def test_make_vec_takes_it_by_default():
    assert isinstance(gym.make_vec("DataSelect-Synthetic-v0", 2).unwrapped, DataSelectVectorEnv)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_envs": 0}, "num_envs 0"),
        ({"num_envs": 2, "autoreset_mode": "Sometimes"}, "autoreset_mode 'Sometimes'"),
        ({"num_envs": 2, "reward_rows": 1.5}, "reward_rows 1.5"),
        ({"num_envs": 2, "reward_rows": 0}, "reward_rows 0"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(InputError, match=text):
        DataSelectVectorEnv(task="synthetic", **arguments)


def test_bad_calls():
    env = DataSelectVectorEnv(2, task="synthetic")
    with pytest.raises(EpisodeOver):
        env.step(np.zeros(2, int))
    env.reset(seed=0)
    for wrong in (np.zeros(3, int), np.zeros(2), np.array([0, 64]), np.array([-1, 0])):
        with pytest.raises(InputError, match="allowed|integers"):
            env.step(wrong)
    with pytest.raises(InputError, match="seeds"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(InputError, match="reset_mask"):
        env.reset(options={"reset_mask": np.zeros(2, bool)})
    with pytest.raises(InputError, match="unknown reset options"):
        env.reset(options={"count": 1})


def test_sampled_rewards_are_paid_on_the_sample_and_shown_on_all():
    env = DataSelectEnv("synthetic", reward_rows=0.3)
    plain = DataSelectEnv("synthetic")
    _, info = env.reset(seed=4)
    plain.reset(seed=4)
    paid, full, returns = [], [], 0.0
    for action in range(10):
        _, reward, _, _, info = env.step(action)
        _, other, _, _, expected = plain.step(action)
        assert info["score"] == expected["score"]
        paid.append(reward)
        full.append(other)
        returns += reward
    assert not np.allclose(paid, full)
    sample = env.episodes._samples[0]
    from dsenv.proxies import empty_score

    final = env.proxy.score(env.counts[None], samples=[sample])[0]
    assert returns == pytest.approx(final - empty_score(env.task, env.metric, sample))
    seeds = set()
    for _ in range(5):
        env.reset()
        seeds.add(env.episodes._samples[0].seed)
    assert len(seeds) == 5
    env.reset(seed=4)
    assert env.episodes._samples[0] == sample
