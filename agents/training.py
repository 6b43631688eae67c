"""What all agents share: the command line, the environments, the training run and its result."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import dsenv
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError
from dsenv.evaluation import Result, save_results
from dsenv.wrappers import SB3VecEnv

ENVIRONMENTS = 16

MakeModel = Callable[[VecEnv, int, int, str | None], BaseAlgorithm]


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: with Stable-Baselines3's ``predict``.
        keywords: of the environments it was trained in; play it with the same.
        evaluations: proxy evaluations spent: one an episode with ``reward="final"``, else one a step.
        seconds: of training.
    """

    model: BaseAlgorithm
    keywords: dict[str, Any]
    evaluations: int
    seconds: float


def train(
    make_model: MakeModel,
    id: str,
    *,
    seed: int,
    evaluations: int,
    tensorboard: str | None = None,
    progress: bool = False,
    **keywords: Any,
) -> Trained:
    """Train a model until it has spent its proxy evaluations.

    Args:
        make_model: (environments, episode length, seed, TensorBoard folder) -> model.
        id: of the environment.
        seed: of the agent and the environments.
        evaluations: proxy evaluations to spend, rounded down to whole episodes of all environments.
        tensorboard: folder for TensorBoard, or None.
        progress: show a progress bar.
        keywords: for ``gym.make``; ``reward`` is ``final`` unless given.

    Raises:
        InputError: for fewer evaluations than one episode takes.
    """
    keywords = {"reward": "final", **keywords}
    probe = gym.make(id, **keywords).unwrapped
    assert isinstance(probe, DataSelectEnv)
    picks = probe.plan.picks
    cost = 1 if keywords["reward"] == "final" else picks
    episodes = evaluations // cost
    if episodes < 1:
        raise InputError(f"{evaluations} evaluations: one episode of {id} takes {cost}")
    environments = min(ENVIRONMENTS, episodes)
    episodes -= episodes % environments
    vec = VecMonitor(SB3VecEnv(id, environments, seed=seed, **keywords))
    model = make_model(vec, picks, seed, tensorboard)
    started = time.perf_counter()
    model.learn(episodes * picks, progress_bar=progress)
    return Trained(model, keywords, episodes * cost, time.perf_counter() - started)


def main(name: str, make_model: MakeModel, description: str | None) -> None:
    """Train from the command line; write the model, and the greedy rollout of its policy as a replayable result."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--env", default="DataSelect-GooglePlayNoisy-v0", help="id of the environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=4096, help="proxy evaluations to spend")
    parser.add_argument("--reward", choices=["final", "dense"], default="final")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder for the model, the result and TensorBoard's logs"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out / f"{name}-{arguments.env}-{arguments.seed}"
    out.mkdir(parents=True, exist_ok=True)
    trained = train(
        make_model,
        arguments.env,
        seed=arguments.seed,
        evaluations=arguments.evaluations,
        tensorboard=str(out / "tensorboard"),
        progress=True,
        reward=arguments.reward,
    )
    trained.model.save(out / "model.zip")
    results: list[Result] = dsenv.evaluate(
        trained.model,
        arguments.env,
        agent=name,
        seeds=[arguments.seed],
        evaluations=trained.evaluations,
        seconds=trained.seconds,
        **trained.keywords,
    )
    save_results(results, out / "result.jsonl")
    result = results[0]
    print(f"{name} on {arguments.env}, seed {arguments.seed}: score {result.score:.4f} after {result.evaluations} evaluations")
    for split, scores in result.scores.items():
        print(f"  {split:9s} " + "  ".join(f"{metric} {value:.4f}" for metric, value in scores.items()))
    print(f"  {result.rows} rows, {trained.seconds:.0f} s; model and replayable result in {out}")
