"""Weights with Adam's moments as arrays by name, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from dsenv.errors import InputError, require

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
Named = Iterable[tuple[object, Any]]  # names and weights


def weights_state(named: Named, optimizer: Any) -> dict[str, npt.NDArray[Any]]:
    """Return copies: ``weight <name>`` and, once there was a step, ``<moment> <name>``."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, weight in named:
        found[f"weight {name}"] = weight.detach().cpu().numpy().copy()
        for key, value in optimizer.state.get(weight, {}).items():
            found[f"{key} {name}"] = value.cpu().numpy().copy()
    return found


def put_weights_state(named: Named, optimizer: Any, state: Mapping[str, npt.NDArray[Any]]) -> None:
    """Take back what ``weights_state`` returned; nothing is changed where it does not fit.

    Raises:
        InputError: where the weights are of another shape.
    """
    torch = require("torch", "finetune")
    pairs = list(named)
    for name, weight in pairs:
        value = state.get(f"weight {name}")
        if value is None or value.shape != tuple(weight.shape):
            raise InputError(f"the state has weights of shape {None if value is None else value.shape}, not {weight.shape}")
    for name, weight in pairs:
        with torch.no_grad():
            weight.copy_(torch.as_tensor(state[f"weight {name}"]))
        moments = {key: torch.tensor(state[f"{key} {name}"]) for key in MOMENTS if f"{key} {name}" in state}
        if moments:
            optimizer.state[weight] = {key: value.to(weight.device) for key, value in moments.items()}
