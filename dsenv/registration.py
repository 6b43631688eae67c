"""The registered ids, as strings and JSON-able keywords: nothing is loaded here."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

ENTRY_POINT = "dsenv.env:DataSelectEnv"
VECTOR_ENTRY_POINT = "dsenv.vector_env:DataSelectVectorEnv"
SMALL: dict[str, Any] = {"clustering": "kmeans", "unit": "cluster", "budget": 0.2, "proxy": "table"}
MAIN = {
    "GooglePlay": "googleplay",
    "HateUnion": "hateunion",
    "Banking77": "banking77",
    "InfoTabs": "infotabs",
    "GoEmotions": "goemotions",
}

IDS: dict[str, dict[str, Any]] = {
    **{f"DataSelect-{title}-v0": {"task": task} for title, task in MAIN.items()},
    "DataSelect-GooglePlayNoisy-v0": {"task": "googleplay:noisy"},
    "DataSelect-HateTarget-v0": {"task": "hateunion:target"},
    **{f"DataSelect-{title}-Small-v0": {"task": f"{task}:small", **SMALL} for title, task in MAIN.items()},
    "DataSelect-Synthetic-v0": {"task": "synthetic"},
}
RLVR_ENTRY_POINT = "dsenv.rlvr.env:DataSelectRLVREnv"
RLVR_IDS: dict[str, dict[str, Any]] = {
    "DataSelectRLVR-Arithmetic-v0": {"questions": "arithmetic"},
    "DataSelectRLVR-GSM8K-v0": {"questions": "gsm8k", "policy": None, "max_new_tokens": 256},
    "DataSelectRLVR-Simulator-v0": {"questions": "arithmetic", "policy": "simulator"},
}
OWN_TASK_ID = "DataSelect-v0"


# No wrappers: an attribute of the environment (``action_masks``) is one of what ``gym.make`` returns. The environments
# check their actions, and the order of calls, themselves.
BARE: dict[str, Any] = {"order_enforce": False, "disable_env_checker": True}


def register_all() -> None:
    """Register every id with Gymnasium."""
    for name, keywords in {**IDS, OWN_TASK_ID: {}}.items():
        if name not in gym.registry:
            own = dict(keywords)
            gym.register(name, entry_point=ENTRY_POINT, vector_entry_point=VECTOR_ENTRY_POINT, kwargs=own, **BARE)
    for name, keywords in RLVR_IDS.items():
        if name not in gym.registry:
            gym.register(name, entry_point=RLVR_ENTRY_POINT, kwargs=dict(keywords), **BARE)
