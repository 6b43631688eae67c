"""The wrapper that puts the action mask beside the observation, and the warning where masks are lost."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import dsenv
from dsenv.errors import InputError
from dsenv.wrappers import MaskedObservation

ID = "DataSelect-InfoTabs-Small-v0"


def test_the_mask_stands_beside_the_observation():
    plain, masked = gym.make(ID), MaskedObservation(gym.make(ID))
    (observation, info), (both, same) = plain.reset(seed=3), masked.reset(seed=3)
    over = False
    while not over:
        assert list(both) == ["observations", "action_mask"] and masked.observation_space.contains(both)
        assert np.array_equal(both["observations"], observation)
        assert np.array_equal(both["action_mask"], info["action_mask"]) and both["action_mask"].dtype == np.int8
        assert np.array_equal(masked.action_masks(), info["action_mask"] == 1) and info.keys() == same.keys()
        action = masked.action_space.sample(mask=both["action_mask"])
        observation, reward, over, _, info = plain.step(action)
        both, paid, ended, truncated, same = masked.step(action)
        assert (paid, ended, truncated) == (reward, over, False)
    assert same["counts"].sum() == 4 and "counts" not in both


def test_other_keys_and_reset_options():
    env = MaskedObservation(gym.make("DataSelect-Synthetic-v0", picks=8), "obs", "mask")
    full = env.unwrapped.plan.capacity.argmin()
    start = np.eye(48, dtype=int)[full] * env.unwrapped.plan.capacity[full]
    observation, _ = env.reset(options={"counts": start})
    assert list(observation) == ["obs", "mask"] and observation["mask"][full] == 0 and observation["mask"].sum() == 47


def test_gymnasium_checks_records_and_batches_it():
    env = MaskedObservation(gym.make(ID), mask_key="mask")
    with pytest.warns(UserWarning, match="different from the unwrapped"):
        check_env(env, skip_render_check=True)
    again = gym.make(env.spec)
    assert isinstance(again, MaskedObservation) and again.observation_space == env.observation_space
    batch = gym.make_vec(ID, 3, vectorization_mode="sync", wrappers=[MaskedObservation])
    observations, _ = batch.reset(seed=0)
    assert observations["action_mask"].shape == (3, 20) and observations["observations"].shape == (3, 22)
    batch.close()


def test_a_wrapped_id_is_evaluated_and_replayed():
    wrapped = "DataSelect-InfoTabs-Small-Masked-v0"
    spec = gym.spec(ID)
    gym.register(wrapped, spec.entry_point, kwargs=spec.kwargs, additional_wrappers=(MaskedObservation.wrapper_spec(),))
    try:
        [masked] = dsenv.evaluate(lambda observation, info: int(observation["action_mask"].nonzero()[0][-1]), wrapped)
        [plain] = dsenv.evaluate(lambda observation, info: int(info["action_mask"].nonzero()[0][-1]), ID)
        assert masked.actions == plain.actions == (19, 18, 17, 16) and masked.score == plain.score
        assert dsenv.replay(masked).score == plain.score
    finally:
        del gym.registry[wrapped]


def test_what_it_cannot_wrap():
    for env, keys, message in (
        (gym.make(ID, observation="dict"), {}, "observation='flat'"),
        (gym.make("CartPole-v1"), {}, "no action mask"),
        (gym.make(ID), {"observation_key": "same", "mask_key": "same"}, "two names"),
    ):
        with pytest.raises(InputError, match=message):
            MaskedObservation(env, **keys)


def play(env, actions):
    env.reset()
    for action in actions:
        env.step(action)


def test_lost_masks_are_said_once(caplog):
    env = gym.make(ID)
    play(env, [0, 1, 1, 1])
    play(env, [0, 1, 2, 3])
    assert not caplog.records
    play(env, [5, 5, 5, 5])
    play(env, [5, 5, 5, 5])
    [record] = caplog.records
    assert record.name == "dsenv.episodes" and "3 of an episode's 4 picks" in record.getMessage()
    play(gym.make(ID), [5, 5, 5, 5])
    assert len(caplog.records) == 2
    env.reset(options={"counts": np.eye(20, dtype=int)[:3].sum(0)})
    env.step(4)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_lost_masks_are_said_once_for_a_batch(mode, caplog):
    batch = gym.make_vec(ID, 3, vectorization_mode="vector_entry_point", autoreset_mode=mode)
    batch.reset()
    for step in range(15):
        batch.step(np.array([7, 7, step % 20]))
    assert [record.name for record in caplog.records] == ["dsenv.episodes"]


def test_a_policy_evaluated_without_its_masks_is_noticed(caplog):
    dsenv.evaluate(lambda observation, info: 3, ID)
    assert "mask lost" in caplog.text
