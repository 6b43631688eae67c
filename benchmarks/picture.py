"""Draw the README's picture with the environment itself: ``python -m benchmarks.picture``."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.image import imsave

from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.search import search

ID = "DataSelect-GooglePlay-v0"
OUT = Path(__file__).parent.parent / "docs" / "cluster_map.png"


def main() -> None:
    """Play what swap search finds and save the last frame."""
    env = gym.make(ID, render_mode="rgb_array")
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, DataSelectEnv)
    found = search(unwrapped.proxy, "swap", seed=0)
    env.reset(seed=0)
    for action in np.repeat(np.arange(unwrapped.plan.clusters), found.counts):
        env.step(int(action))
    frame = env.render()
    assert isinstance(frame, np.ndarray)
    OUT.parent.mkdir(exist_ok=True)
    imsave(OUT, frame)
    print(f"{OUT.name}: {frame.shape[1]} x {frame.shape[0]}")


if __name__ == "__main__":
    with ending_cleanly():
        main()
