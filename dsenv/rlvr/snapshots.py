"""Training that was interrupted goes on: a snapshot of policy, optimiser, replay buffer, costs and controller in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.errors import InputError, require
from dsenv.files import atomic_write
from dsenv.reading import check_file, convert, parse_json
from dsenv.rlvr.controllers.controller import Controller
from dsenv.rlvr.grpo import GRPO

VERSION = 1
Arrays = dict[str, npt.NDArray[Any]]


def save_snapshot(path: str | Path, training: GRPO, controller: Controller, notes: Mapping[str, Any] | None = None) -> Path:
    """Write where a run is, atomically: one safetensors file, no pickle.

    Args:
        path: the file.
        training: between two rounds.
        controller: of the run.
        notes: JSON-able, given back by ``load_snapshot``.
    """
    path = Path(path)
    arrays: Arrays = {f"training/{name}": value for name, value in training.state().items()}
    arrays |= {f"controller/{name}": np.asarray(value) for name, value in controller.state().items()}
    meta = {**_identity(training, controller), "notes": dict(notes or {}), "counts": training.counts()}
    with atomic_write(path) as temporary:
        require("safetensors.numpy", "finetune").save_file(
            {name: np.array(value, order="C") for name, value in arrays.items()},
            temporary,
            metadata={"dsenv": json.dumps(meta)},
        )
    return path


def load_snapshot(path: str | Path, training: GRPO, controller: Controller) -> dict[str, Any]:
    """Put a training and its controller where a snapshot was taken, and return the snapshot's notes.

    Raises:
        InputError: where the file is no snapshot, is damaged, or is of other questions, another policy, other settings (but
            for the learning rate, which may change), another seed or another controller.
    """
    path = Path(path)
    safetensors = require("safetensors", "finetune")
    check_file(path, "snapshot")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            meta = parse_json((file.metadata() or {})["dsenv"], dict[str, Any], "its facts")
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(f"{str(path)!r} is no snapshot or is damaged: {error}") from error
    for name, expected in _identity(training, controller).items():
        if meta.get(name) != expected:
            raise InputError(f"snapshot {str(path)!r} is of another {name}: {meta.get(name)!r}, not {expected!r}")
    parts: dict[str, Arrays] = {"training": {}, "controller": {}}
    for name, value in arrays.items():
        owner, _, rest = name.partition("/")
        if owner not in parts:
            raise InputError(f"{str(path)!r} is no snapshot or is damaged: it holds {name!r}")
        parts[owner][rest] = value
    try:
        notes = convert(meta.get("notes"), dict[str, Any])
        training.put_state(parts["training"], meta["counts"])
        controller.restore(parts["controller"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise InputError(f"{str(path)!r} is no snapshot or is damaged: {error!r}") from error
    return notes


def _identity(training: GRPO, controller: Controller) -> dict[str, Any]:
    """Return what a snapshot fits to, by words for an error."""
    settings = {name: value for name, value in asdict(training.settings).items() if name != "learning_rate"}
    return {
        "version": VERSION,
        "question set": training.questions.digest,
        "policy": {"weights": training.begun_digest, "max_new_tokens": training.policy.max_new_tokens},
        "settings": settings,
        "seed": training.seed,
        "controller": {"class": type(controller).__name__, **controller.options},
    }
