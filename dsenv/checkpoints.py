"""A training between two epochs, in one safetensors file: what it needs to go on bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from dsenv.errors import InputError, require
from dsenv.files import atomic_write
from dsenv.reading import Whole, parse_json

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW


class Facts(TypedDict):
    """What a checkpoint says of its training: where it is, and what it has taken so far."""

    run: str
    steps: Whole
    tokens: Whole
    losses: list[float]
    seconds: float


def save_checkpoint(path: Path, weights: Sequence[Any], optimizer: Any, device: str, facts: Facts) -> None:
    """Write trained weights, AdamW's moments, torch's random state and JSON-able facts, atomically."""
    torch, library = require("torch", "finetune"), require("safetensors.torch", "finetune")
    tensors = {"random": torch.get_rng_state()}
    if device.startswith("cuda"):
        tensors["random cuda"] = torch.cuda.get_rng_state(device)
    for number, weight in enumerate(weights):
        tensors[f"{number} weight"] = weight.detach()
        state = optimizer.state.get(weight, {})  # empty for a weight that no loss reaches
        tensors |= {f"{number} {name}": torch.as_tensor(state[name]) for name in MOMENTS if name in state}
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        library.save_file(tensors, temporary, {"facts": json.dumps(facts)})


def load_checkpoint(path: Path, weights: Sequence[Any], optimizer: Any, device: str, run: str) -> Facts | None:
    """Bring weights, optimiser and torch's generators to a checkpoint and return its facts; None where there is none.

    Args:
        path: of the file.
        weights: in the order they were saved; changed in place.
        optimizer: an AdamW of these weights; changed in place.
        device: as torch names it.
        run: what the facts must say under ``run``.

    Raises:
        InputError: for a file of another run, or one that cannot be read.
    """
    if not path.is_file():
        return None
    torch, safetensors = require("torch", "finetune"), require("safetensors", "finetune")
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = parse_json((file.metadata() or {}).get("facts", ""), Facts, "its facts")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(f"{str(path)!r} is not a readable checkpoint: {error}; remove it") from error
    if facts["run"] != run:
        raise InputError(f"{str(path)!r} is of another training (other rows, recipe or seed): remove it, or give another path")
    for number, weight in enumerate(weights):
        for key in (f"{number} {name}" for name in ("weight", *MOMENTS)):
            form = tensors[key].shape if key in tensors else None
            if form not in ((), weight.shape) and (form is not None or key.endswith("weight")):
                raise InputError(f"{str(path)!r} is not a readable checkpoint: {key} does not fit the model; remove it")
    try:
        torch.Generator().set_state(tensors["random"])
        if device.startswith("cuda"):
            torch.Generator(device).set_state(tensors["random cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(f"{str(path)!r} is not a readable checkpoint: no random state ({error}); remove it") from error
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight.copy_(tensors[f"{number} weight"])
            state = {name: tensors[f"{number} {name}"] for name in MOMENTS if f"{number} {name}" in tensors}
            if state:
                optimizer.state[weight] = {name: tensor.to(weight.device) for name, tensor in state.items()}
    torch.set_rng_state(tensors["random"])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(tensors["random cuda"], device)
    return facts
