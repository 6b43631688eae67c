"""What the policy is worth on datasets it never saw: without any search, and as the start of a short one.

``python -m benchmarks.transfer --seeds 10``

For every dataset, the weights trained without it, on its ids that are not tabulated. (a) ``pretrained`` chooses one selection
without search; against proportional picks, and class-mix rows, which are the best of eleven mixes on the reward rows. (b)
``guided`` with a tenth of the evaluations that greedy search spends; against greedy. Differences of the normalised score:
interquartile mean over instances, with a paired 95% bootstrap interval. Stored as ``transfer`` in ``leaderboard.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.leaderboard import store_record
from benchmarks.records import RESULTS, provenance, read_record
from dsenv.baselines import class_mix_rows, reward_of_rows
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.leaderboard import SMALL, load_constants, paired_difference
from dsenv.progress import track
from dsenv.registration import IDS
from dsenv.search import search
from dsenv.seeding import generator
from dsenv.stats import normalised_score

SHARE = 10  # guided may spend 1/10 of greedy's evaluations


def held_out_ids() -> dict[str, list[str]]:
    """Return the ids of each dataset that are not tabulated."""
    found: dict[str, list[str]] = {}
    for id, keywords in IDS.items():
        if id not in SMALL:
            found.setdefault(str(keywords["task"]).partition(":")[0], []).append(id)
    return found


def scores_of(id: str, instance: int, ends: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the normalised scores of one instance, and greedy's evaluations."""
    made = gym.make(id, instance=instance).unwrapped
    assert isinstance(made, DataSelectEnv)
    env = made
    greedy = search(env.proxy, "greedy", evaluations=4096, seed=instance)
    tenth = greedy.used // SHARE
    rows = class_mix_rows(env.task, env.plan.budget_rows, env.metric, generator(instance, "baseline rows"))
    found = {
        "proportional": ends["zero"]["reward"],
        "class_mix_rows": reward_of_rows(env.task, rows, env.metric),
        "pretrained": search(env.proxy, "pretrained", evaluations=1, seed=instance).score,
        "greedy": greedy.score,
        "guided": search(env.proxy, "guided", evaluations=tenth, seed=instance).score,
    }
    return {
        "evaluations": tenth,
        **{name: normalised_score(score, ends["zero"]["reward"], ends["one"]["reward"]) for name, score in found.items()},
    }


def transfer_rows(held_out: str, by_id: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return the differences for one dataset; ids are strata."""
    rows = []
    for agent, against in (("pretrained", "proportional"), ("pretrained", "class_mix_rows"), ("guided", "greedy")):
        ours, theirs = ([np.array([run[name] for run in runs]) for runs in by_id.values()] for name in (agent, against))
        found = paired_difference(ours, theirs)
        spent = [run["evaluations"] if agent == "guided" else 1 for runs in by_id.values() for run in runs]
        rows.append(
            {
                "held_out": held_out,
                "agent": agent,
                "evaluations": round(float(np.mean(spent))),
                "against": against,
                "value": round(found.value, 4),
                "low": round(found.low, 4),
                "high": round(found.high, 4),
                "ids": list(by_id),
                "seeds": min(map(len, by_id.values())),
            }
        )
    return rows


def main() -> None:
    """Measure every dataset and store the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path, default=RESULTS / "leaderboard.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    every: dict[str, list[dict[str, float]]] = {}
    work = [(id, instance) for ids in held_out_ids().values() for id in ids for instance in range(arguments.seeds)]
    constants = load_constants()
    for id, instance in track(work, "transfer"):
        every.setdefault(id, []).append(scores_of(id, instance, constants[id]["instances"][str(instance)]))
    for held_out, ids in held_out_ids().items():
        rows += transfer_rows(held_out, {id: every[id] for id in ids})
    headroom = {id: runs for id, runs in every.items() if constants[id]["headroom"]}
    rows += transfer_rows("each in turn, ids with headroom", headroom)
    for row in rows:
        print(f"{row['held_out']}: {row['agent']} - {row['against']} {row['value']} [{row['low']}, {row['high']}]")
    made_with = provenance("benchmarks.transfer", {"seeds": arguments.seeds})
    record = {**read_record(arguments.json), "transfer": rows, "transfer_made_with": made_with}
    store_record(arguments.json, record)


if __name__ == "__main__":
    with ending_cleanly():
        main()
