"""What all agents share: the command line, the environments, the training run and its result."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import dsenv
from dsenv.env import DataSelectEnv
from dsenv.errors import InputError
from dsenv.evaluation import Result, save_results
from dsenv.proxies import Proxy
from dsenv.sb3 import SB3VecEnv
from dsenv.search import Evaluator
from dsenv.seeding import generator

ENVIRONMENTS = 16
MODELS = 4  # trained one after another at most

MakeModel = Callable[[VecEnv, int, int, str | None], BaseAlgorithm]
Fit = Callable[[Evaluator, np.random.Generator], BaseAlgorithm]


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


def metered(evaluator: Evaluator, environments: int, seed: int, proxy: Proxy | None = None, **keywords: Any) -> VecEnv:
    """Return environments of the evaluator's problem that pay at the end; scored by it, or by another proxy for free."""
    assert evaluator.id is not None, "an evaluator without an id meters a proxy alone: agents need its environment"
    paid = {**evaluator.keywords, **keywords, "reward": "final", "proxy": evaluator if proxy is None else proxy}
    return VecMonitor(SB3VecEnv(evaluator.id, environments, seed=seed, **paid))


def draw_seed(rng: np.random.Generator) -> int:
    """Return a seed for what draws with a generator of its own."""
    return int(rng.integers(2**31))


def learn(make_model: MakeModel, evaluator: Evaluator, rng: np.random.Generator, **keywords: Any) -> None:
    """Train new models until the evaluations are spent.

    A policy that has converged repeats its episodes, which costs nothing: training is therefore bounded by as many episodes
    as evaluations are left, and what is left then goes to a new model.

    Args:
        make_model: (environments, episode length, seed, TensorBoard folder) -> model.
        evaluator: of the problem.
        rng: draws the models' seeds.
        keywords: of the environment.
    """
    for _ in range(MODELS):
        if evaluator.left < 1:
            return
        seed, picks = draw_seed(rng), evaluator.plan.picks
        vec = metered(evaluator, ENVIRONMENTS, seed, **keywords)
        make_model(vec, picks, seed, None).learn(max(evaluator.left, ENVIRONMENTS) * picks)


def train_metered(
    fit: Fit,
    id: str,
    *,
    seed: int,
    evaluations: int,
    tensorboard: str | None = None,
    progress: bool = False,
    **keywords: Any,
) -> Trained:
    """Train a model that spends its evaluations itself; arguments as in ``train``, nothing is logged or shown."""
    keywords = {"reward": "final", **keywords}
    probe = gym.make(id, **keywords).unwrapped
    assert isinstance(probe, DataSelectEnv)
    evaluator = Evaluator(probe.proxy, evaluations, id=id, keywords=keywords)
    started = time.perf_counter()
    model = fit(evaluator, generator(seed, "search"))
    return Trained(model, keywords, evaluator.used, time.perf_counter() - started)


def main(name: str, make_model: MakeModel, description: str | None, **keywords: Any) -> None:
    """Train a model from the command line, in environments of these keywords."""
    _command_line(name, partial(train, make_model), description, ["final", "dense"], keywords)


def main_metered(name: str, fit: Fit, description: str | None) -> None:
    """Train from the command line what spends its evaluations itself."""
    _command_line(name, partial(train_metered, fit), description, ["final"], {})


def _command_line(
    name: str, trainer: Callable[..., Trained], description: str | None, rewards: list[str], keywords: dict[str, Any]
) -> None:
    """Train; write the model, and the greedy rollout of its policy as a replayable result."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--env", default="DataSelect-GooglePlayNoisy-v0", help="id of the environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=4096, help="proxy evaluations to spend")
    parser.add_argument("--reward", choices=rewards, default="final")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder for the model, the result and TensorBoard's logs"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out / f"{name}-{arguments.env}-{arguments.seed}"
    out.mkdir(parents=True, exist_ok=True)
    trained = trainer(
        arguments.env,
        seed=arguments.seed,
        evaluations=arguments.evaluations,
        tensorboard=str(out / "tensorboard"),
        progress=True,
        reward=arguments.reward,
        **keywords,
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
