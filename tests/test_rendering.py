"""The cluster map, as a text and as a picture."""

import gymnasium as gym
import numpy as np
import pytest

import dsenv  # noqa: F401 - registers the ids


@pytest.mark.parametrize("id", ["DataSelect-GooglePlay-v0", "DataSelect-Banking77-v0", "DataSelect-InfoTabs-Small-v0"])
def test_pictures_show_what_is_taken(id):
    env = gym.make(id, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.shape == (480, 640, 3) and before.dtype == np.uint8
    env.step(2)
    env.step(3)
    after = env.render()
    map_only = slice(60, None)
    assert (before[map_only] != after[map_only]).any()
    assert np.array_equal(after, env.render())


def test_text_lists_the_clusters_taken():
    env = gym.make("DataSelect-Synthetic-v0", render_mode="ansi")
    env.reset(seed=0)
    assert len(env.render().splitlines()) == 1
    env.step(7)
    text = env.render()
    assert "pick 1 of 64" in text and "cluster   7 [" in text and "brier_skill" in text


def test_rendering_without_a_mode_warns():
    env = gym.make("DataSelect-Synthetic-v0").unwrapped
    env.reset()
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None
