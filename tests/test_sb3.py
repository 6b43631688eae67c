"""The Stable-Baselines3 adapter against DummyVecEnv of the single environment: the same steps, the same training."""

import importlib

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecMonitor

from dsenv.errors import InputError
from dsenv.sb3 import SB3VecEnv

ID = "DataSelect-Synthetic-v0"
SHORT = {"picks": 8, "budget": 0.02}


def both(n=4, seed=5, **keywords):
    theirs = make_vec_env(f"dsenv:{ID}", n_envs=n, seed=seed, env_kwargs={**SHORT, **keywords})
    return SB3VecEnv(ID, n, seed=seed, **SHORT, **keywords), theirs


@pytest.mark.parametrize("keywords", [{}, {"observation": "dict"}, {"reward": "final", "reward_rows": 0.5}])
def test_the_same_steps(keywords):
    ours, theirs = both(**keywords)
    assert ours.observation_space == theirs.observation_space

    def same(a, b):
        if isinstance(a, dict):
            assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        else:
            assert np.array_equal(a, b)

    same(ours.reset(), theirs.reset())
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.integers(0, ours.action_space.n, 4)
        mine, expected = ours.step(actions), theirs.step(actions)
        same(mine[0], expected[0])
        assert np.array_equal(mine[1], expected[1]) and mine[1].dtype == expected[1].dtype
        assert np.array_equal(mine[2], expected[2])
        for own, other in zip(mine[3], expected[3], strict=True):
            assert "terminal_observation" not in other or own["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if "terminal_observation" in other:
                same(own["terminal_observation"], other["terminal_observation"])
                assert np.array_equal(own["counts"], other["counts"])
            assert own["score"] == other["score"] and own["rows"] == other["rows"]
        masks = np.stack(ours.env_method("action_masks"))
        assert np.array_equal(masks, np.stack(theirs.env_method("action_masks")))
    assert ours.has_attr("action_masks") and ours.get_attr("metric") == ["brier_skill"] * 4
    assert ours.env_is_wrapped(VecMonitor) == [False] * 4
    assert [counts.sum() for counts in ours.get_attr("counts")] == [counts.sum() for counts in theirs.get_attr("counts")]
    assert np.array_equal(ours.get_attr("action_masks", 2)[0](), theirs.env_method("action_masks", indices=2)[0])
    ours.set_options({"counts": np.eye(48, dtype=int)[3]})
    ours.reset()
    assert [counts[3] for counts in ours.get_attr("counts")] == [1] * 4
    ours.set_options([{}, {"counts": np.zeros(48, int)}, {}, {}])
    for call in (
        lambda: ours.env_method("step", 1),
        lambda: ours.set_attr("metric", "accuracy"),
        lambda: ours.get_attr("episodes"),
        ours.reset,
    ):
        with pytest.raises(InputError):
            call()


@pytest.mark.parametrize("agent", ["ppo", "maskable_ppo", "dqn"])
def test_the_same_training(agent):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make_model = importlib.import_module(f"agents.{agent}").make_model
    found = []
    for vec in both(n=4, seed=3, reward="final"):
        model = make_model(VecMonitor(vec) if isinstance(vec, SB3VecEnv) else vec, 8, 3, None)
        model.learn(4 * 8 * 4)
        found.append(torch.cat([p.detach().ravel() for p in model.policy.parameters()]))
        assert model.ep_info_buffer and model.ep_info_buffer[0]["l"] == 8
    torch.set_num_threads(threads)
    assert torch.equal(*found)
