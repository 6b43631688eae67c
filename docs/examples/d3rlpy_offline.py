"""Conservative Q-learning of d3rlpy on what ``minari_export.py FOLDER`` wrote: ``python d3rlpy_offline.py FOLDER``.

d3rlpy wants an environment of its own: docs/libraries.md.
"""

import json
import os
import sys
from pathlib import Path

os.environ["MINARI_DATASETS_PATH"] = str(Path(sys.argv[1]).resolve())  # read when Minari is imported

import d3rlpy
import minari
import numpy as np

import dsenv

NAME, ID, SEED = "dsenv/infotabs-small/uniform-v0", "DataSelect-InfoTabs-Small-v0", 0
rng = np.random.default_rng(SEED)
d3rlpy.seed(SEED)

recorded = minari.load_dataset(NAME)
episodes, clusters = list(recorded.iterate_episodes()), int(recorded.spec.action_space.n)
dataset = d3rlpy.dataset.MDPDataset(
    observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
    actions=np.concatenate([episode.actions for episode in episodes])[:, None],
    rewards=np.concatenate([episode.rewards for episode in episodes])[:, None].astype(np.float32),
    terminals=np.concatenate([episode.terminations for episode in episodes]).astype(np.float32),
    action_space=d3rlpy.ActionSpace.DISCRETE,
    action_size=clusters,
)
scaled = d3rlpy.preprocessing.StandardRewardScaler()  # differences of scores are small against Adam's steps
config = d3rlpy.algos.DiscreteCQLConfig(
    gamma=1.0, learning_rate=1e-3, batch_size=128, alpha=0.1, target_update_interval=100, reward_scaler=scaled
)
learner = config.create(device="cpu:0")
# With fewer steps than an epoch has (10,000 unless said) fit returns at once, and nothing is trained.
quiet = d3rlpy.logging.NoopAdapterFactory()
learner.fit(dataset, 2_000, n_steps_per_epoch=2_000, show_progress=False, logger_adapter=quiet)


def greedy(seen, info):
    """Pick the cluster of the highest value that has rows left; d3rlpy's own ``predict`` knows no masks."""
    values = learner.predict_value(np.repeat(seen[None], clusters, 0), np.arange(clusters))
    return int(np.where(info["action_mask"] == 1, values, -np.inf).argmax())


played = dsenv.evaluate(greedy, ID, seeds=range(5))
uniform = dsenv.evaluate(lambda _, info: int(rng.choice(np.flatnonzero(info["action_mask"]))), ID, seeds=range(50))
invalid = sum(len(result.actions) - sum(result.counts) for result in played)
scores = {name: np.mean([result.score for result in results]) for name, results in (("uniform", uniform), ("trained", played))}
print(json.dumps({**scores, "invalid": invalid}))
