"""Data selection for fine-tuning language models, as a reinforcement learning problem anybody can work on.

Importing registers the environments (``DataSelect-GooglePlay-v0`` and the others of ``dsenv.registration``) and nothing
else: public names are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from dsenv.registration import register_all

__version__ = "0.1.0"

_PUBLIC = {
    "TextDataset": "dataset",
    "load_dataset": "dataset",
    "synthetic_texts": "synthetic",
    "encode": "encoders",
    "SelectionTask": "task",
    "build_task": "building",
    "build_task_from_vectors": "building",
    "load_task": "env",
    "DataSelectEnv": "env",
    "DataSelectVectorEnv": "vector_env",
    "MaskedObservation": "wrappers",
    "SB3VecEnv": "sb3",
    "make_proxy": "proxies",
    "SurrogateProxy": "proxies.surrogate",
    "StoredProxy": "proxies.stored",
    "PooledProxy": "proxies.pool",
    "Selection": "selection",
    "select": "selectors",
    "select_finalist": "finalists",
    "evaluate": "evaluation",
    "replay": "evaluation",
    "Result": "evaluation",
    "fine_tune": "finetuning",
    "write_report": "report",
}

__all__ = ["__version__", *_PUBLIC]

register_all()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dsenv' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dsenv.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
