"""Reference agents on Stable-Baselines3, one file each: ``python -m agents.<name>``, or ``load(name)`` for a leaderboard.

The paper's CLIMB-Disc needs no such library: it is the search ``climb``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dsenv.search import Agent


class Entry(NamedTuple):
    """Where an agent is found, and what it is.

    Attributes:
        entry_point: ``module:function`` of a function (evaluator, rng).
        description: one line; says what is not read in arXiv 2509.25850.
    """

    entry_point: str
    description: str


AGENTS: dict[str, Entry] = {
    "dqn": Entry("agents.dqn:solve", "masked double DQN (named by the paper; masks, double targets and network are ours)"),
    "ppo": Entry("agents.ppo:solve", "PPO without masks (named by the paper; network and hyper-parameters are ours)"),
    "maskable_ppo": Entry("agents.maskable_ppo:solve", "PPO with masked logits (masking is ours; the network is PPO's)"),
    "mlp": Entry("agents.mlp:solve", "masked PPO, an MLP on the dictionary observation (inputs and layers are ours)"),
    "transformer": Entry(
        "agents.transformer:solve", "masked PPO, a set transformer over clusters (named by the paper; its form is ours)"
    ),
    "reward_model_mlp": Entry(
        "agents.reward_model_mlp:solve", "masked PPO on rollouts of an MLP reward model (named; how the two alternate is ours)"
    ),
    "reward_model_transformer": Entry(
        "agents.reward_model_transformer:solve",
        "masked PPO on rollouts of a set transformer reward model (named; how the two alternate is ours)",
    ),
    "warm_start_buffer": Entry(
        "agents.warm_start_buffer:solve", "WarmStart, our reading (a): DQN whose buffer begins with the best sets so far"
    ),
    "warm_start_model": Entry(
        "agents.warm_start_model:solve",
        "WarmStart, our reading (b): masked PPO trained on a reward model, then on real scores",
    ),
}


def load(name: str) -> Agent:
    """Import an agent.

    Raises:
        InputError: for an unknown name.
    """
    from dsenv.errors import one_of

    one_of("agent", name, AGENTS)
    module, _, function = AGENTS[name].entry_point.partition(":")
    agent: Agent = getattr(importlib.import_module(module), function)
    return agent
