"""The cluster map: as a text, as a picture, in a video, in a window."""

import os
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import dsenv  # noqa: F401 - registers the ids
from dsenv.errors import InputError


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


def test_vector_environments_draw_every_episode():
    envs = gym.make_vec("DataSelect-Synthetic-v0", 2, render_mode="rgb_array")
    envs.reset(seed=0)
    envs.step(np.array([3, 40]))
    pictures = envs.render()
    assert [picture.shape for picture in pictures] == [(480, 640, 3)] * 2 and (pictures[0] != pictures[1]).any()
    with pytest.raises(InputError, match="shows one environment"):
        gym.make_vec("DataSelect-Synthetic-v0", 2, render_mode="human")


def test_an_episode_becomes_a_video(tmp_path):
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy")
    env = gym.make("DataSelect-Synthetic-v0", render_mode="rgb_array", picks=4)
    env = gym.wrappers.RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: True, disable_logger=True)
    env.reset(seed=0)
    for action in range(4):
        env.step(action)
    env.close()
    (video,) = tmp_path.glob("videos/*.mp4")
    assert video.stat().st_size > 1000


WINDOW = """
import gymnasium as gym, numpy as np, dsenv, time
env = gym.make("DataSelect-Synthetic-v0", render_mode="human", picks=8)
unwrapped = env.unwrapped
env.reset(seed=0)
window = unwrapped._window
root, shown = window._root, window._label.image
assert root.title() == "synthetic" and (root.winfo_width(), root.winfo_height()) == (640, 480) and root.winfo_viewable()
started = time.monotonic()
for action in (3, 30, 40):
    env.step(action)
assert time.monotonic() - started >= 2 / env.metadata["render_fps"]
assert window._label.image is not shown and window._label.image.get(5, 5) == (255, 255, 255)
pixels = [window._label.image.get(x, y) for x in range(0, 640, 4) for y in range(60, 480, 4)]
assert len(set(pixels)) > 4, "an empty picture"
assert env.render() is None
root.event_generate("<<Nothing>>")
window.close()  # as its user does
env.step(5)
assert not window.open
env.close()
env.close()
other = gym.make("DataSelect-Synthetic-v0", render_mode="human")
other.reset()
kept = other.unwrapped._window
other.close()
assert not kept.open
from gymnasium.utils.env_checker import check_env
check_env(gym.make("DataSelect-Synthetic-v0", picks=2).unwrapped)  # resets and renders in every mode
print("shown")
"""


def in_display(code, display):
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"DISPLAY": display} if display else {}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def display():
    """A screen that nobody sees, on a display number that Xvfb finds free."""
    if shutil.which("Xvfb") is None:
        if os.environ.get("DSENV_REQUIRE_BROWSER"):
            pytest.fail("Xvfb is missing, and DSENV_REQUIRE_BROWSER is set")
        pytest.skip("Xvfb is missing")
    reads, writes = os.pipe()
    command = ["Xvfb", "-displayfd", str(writes), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writes)
    with os.fdopen(reads) as told:
        number = told.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait(10)


@pytest.mark.browser
def test_a_window_shows_the_episode(display):
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    done = in_display(WINDOW, display)
    assert done.returncode == 0 and done.stdout == "shown\n", done.stderr


def test_a_window_names_what_is_missing():
    reset = 'import gymnasium, dsenv; gymnasium.make("DataSelect-Synthetic-v0", render_mode="human").reset()'
    without = f"import sys; sys.modules['tkinter'] = None; {reset}"
    done = in_display(without, "")
    assert done.returncode == 1 and "MissingExtraError: render_mode 'human' needs tkinter" in done.stderr
    pytest.importorskip("tkinter", reason="this Python has no tkinter")
    done = in_display(reset, "")
    assert done.returncode == 1 and "InputError: render_mode 'human' needs a display" in done.stderr
