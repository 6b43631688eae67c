"""Controllers by name: what chooses the questions of the next round while a policy is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dsenv.errors import InputError, one_of
from dsenv.rlvr.controllers.agent import Agent
from dsenv.rlvr.controllers.bandits import Thompson, Ucb
from dsenv.rlvr.controllers.controller import Controller
from dsenv.rlvr.controllers.cropi import Cropi
from dsenv.rlvr.controllers.difficulty import DifficultyFilter
from dsenv.rlvr.controllers.dots import Dots
from dsenv.rlvr.controllers.learnalign import LearnAlign
from dsenv.rlvr.controllers.lfr import LearnFocusReview
from dsenv.rlvr.controllers.likelihood import Likelihood
from dsenv.rlvr.controllers.pass_rates import PassRates
from dsenv.rlvr.controllers.ufo import Ufo
from dsenv.rlvr.controllers.uniform import Uniform
from dsenv.rlvr.training import Training

CONTROLLERS: dict[str, Callable[..., Controller]] = {
    "uniform": Uniform,
    "difficulty": DifficultyFilter,
    "dots": Dots,
    "learnalign": LearnAlign,
    "cropi": Cropi,
    "ufo": Ufo,
    "pass_rates": PassRates,
    "ucb": Ucb,
    "thompson": Thompson,
    "lfr": LearnFocusReview,
    "ppo": Agent,
    "likelihood": Likelihood,
}


def make_controller(name: str, training: Training, **options: Any) -> Controller:
    """Return a controller of a training.

    Raises:
        InputError: for an unknown name, an option that the controller does not have, or a value that it refuses.
    """
    made = CONTROLLERS[one_of("controller", name, CONTROLLERS)]
    try:
        controller = made(training, **options)
    except TypeError as error:
        raise InputError(f"controller {name!r}: {error}") from error
    controller.options = options_of(name, options)
    return controller


def options_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a controller, those that are not given with their defaults."""
    known = inspect.signature(CONTROLLERS[one_of("controller", name, CONTROLLERS)]).parameters.values()
    return {one.name: options.get(one.name, one.default) for one in known if one.name != "training"}
