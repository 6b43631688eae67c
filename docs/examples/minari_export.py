"""Episodes of uniform picks as a Minari dataset: ``python minari_export.py [FOLDER]``; a temporary folder where none is given.

``d3rlpy_offline.py`` learns from it.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

# Read when Minari is imported; its default lies in the home folder.
os.environ["MINARI_DATASETS_PATH"] = str(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve())

import gymnasium as gym
import minari
import numpy as np

NAME, ID, SEED = "dsenv/infotabs-small/uniform-v0", "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)

if NAME in minari.list_local_datasets():
    minari.delete_dataset(NAME)
collector = minari.DataCollector(gym.make(f"dsenv:{ID}", reward="final"))
invalid = 0
for episode in range(1_000):
    _, info = collector.reset(seed=SEED + episode)
    while "counts" not in info:
        _, _, _, _, info = collector.step(rng.choice(np.flatnonzero(info["action_mask"])))
    invalid += int(collector.unwrapped.plan.picks - info["counts"].sum())
collector.create_dataset(
    NAME,
    eval_env=ID,
    algorithm_name="uniform picks among the clusters that have rows left",
    description="The return is the score of the rows selected, paid with the last pick: learn with a discount of 1.",
    author="Your name",
    author_email="you@example.org",
    code_permalink="docs/examples/minari_export.py",
)
collector.close()

dataset = minari.load_dataset(NAME)
assert dataset.recover_environment().spec.id == ID
returns = [float(episode.rewards.sum()) for episode in dataset.iterate_episodes()]
print(
    json.dumps(
        {"uniform": np.mean(returns), "best": max(returns), "invalid": invalid, "folder": os.environ["MINARI_DATASETS_PATH"]}
    )
)
