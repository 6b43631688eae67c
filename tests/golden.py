"""What a registered id stands for, as one fixed episode shows it: ``golden_rollouts.json``.

``python -m tests.golden`` checks every id; ``--add`` adds ids that have no entry yet. No entry is ever written again: what an
id stands for is fixed, and what changes clusters, splits, budget, reward or observation is a new version (``-v1``).
"""

import argparse
import hashlib
import json
import math
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np

from dsenv.registration import IDS, OWN_TASK_ID, RLVR_IDS

GOLDEN = Path(__file__).parent / "golden_rollouts.json"
ARITHMETIC, GSM8K, SIMULATOR = RLVR_IDS
NEEDS_TORCH = {ARITHMETIC}  # the others need the core alone
TOLERANCE = {"pass_rate": 0.02}  # greedy completions differ where two tokens tie within rounding


def play(env, seed):
    """A seeded random episode, as everything that a step returns."""
    observation, info = env.reset(seed=seed)
    trace = [(observation, info)]
    rng = np.random.default_rng(seed)
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(int(rng.integers(env.action_space.n)))
        trace.append((observation, reward, terminated, truncated, info))
        over = terminated or truncated
    return trace


def rollout(id):
    """What is fixed of an id."""
    if id in IDS or id == OWN_TASK_ID:
        return _selection(gym.make(id, **({"task": "synthetic"} if id == OWN_TASK_ID else {})))
    if id == ARITHMETIC:
        return _trained(gym.make(id))
    if id == GSM8K:
        with tempfile.TemporaryDirectory() as folder:
            _write_questions(Path(folder))
            return _simulated(gym.make(id, questions=folder, policy="simulator")) | {"keywords": RLVR_IDS[id]}
    return _simulated(gym.make(id))


def differences(found, golden):
    """Return the names of what is not as it was: numbers beyond 1e-6, anything else at all."""
    return [
        name
        for name in {**golden, **found}
        if name not in found or name not in golden or not _same(found[name], golden[name], TOLERANCE.get(name, 1e-6))
    ]


def known():
    """Return the ids that must have an entry."""
    return [*IDS, OWN_TASK_ID, *RLVR_IDS]


def add(path=GOLDEN):
    """Add the ids that have no entry; return them."""
    golden = json.loads(path.read_text()) if path.is_file() else {}
    new = {id: rollout(id) for id in known() if id not in golden}
    if new:
        path.write_text(json.dumps({**golden, **new}, indent=1) + "\n")
    return list(new)


def faults(ids, path=GOLDEN):
    """Return a line for every id that has changed or has no entry."""
    golden = json.loads(path.read_text())
    found = [f"{id} has no entry: python -m tests.golden --add" for id in ids if id not in golden]
    for id in set(ids) & set(golden):
        if changed := differences(rollout(id), golden[id]):
            found.append(f"{id} has changed ({', '.join(changed)}): mend that, or register a new version of the id")
    return found


def _same(found, golden, tolerance):
    if isinstance(golden, dict):
        return isinstance(found, dict) and not differences(found, golden)
    if isinstance(golden, list):
        return len(found) == len(golden) and all(_same(a, b, tolerance) for a, b in zip(found, golden, strict=True))
    if isinstance(golden, float):
        return math.isclose(found, golden, rel_tol=0, abs_tol=tolerance)
    return found == golden


def _selection(env):
    trace, plan = play(env, 11), env.unwrapped.plan
    return {
        "picks": [plan.picks, plan.rows_per_pick],
        "sizes": plan.sizes.tolist(),
        "counts": trace[-1][4]["counts"].tolist(),
        "rows": trace[-1][4]["rows"],
        "scores": [float(step[4]["score"]) for step in trace[1:]][:: max(1, plan.picks // 8)],
        "shape": list(env.observation_space.shape),
        "observation": [float(x) for x in trace[-1][0][:: max(1, len(trace[-1][0]) // 16)]],
    }


def _simulated(env):
    trace = play(env, 11)
    return {
        "counts": trace[-1][4]["counts"].tolist(),
        "scores": [float(step[4]["score"]) for step in trace[1:]][::5],
        "shape": list(env.observation_space.shape),
        "observation": [float(x) for x in trace[-1][0][::7]],
    }


def _trained(env):
    """Rollouts of a real policy are not the same on every machine: what they begin with is."""
    _, info = env.reset(seed=11)
    made = env.unwrapped
    weights = Path(sys.modules["dsenv"].__file__).parent / "policies" / "arithmetic" / "model.safetensors"
    return {
        "questions": made.questions.digest,
        "policy": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "rounds": [made.horizon, made.training.settings.round_rollouts],
        "settings": {name: str(value) for name, value in vars(made.training.settings).items()},
        "shape": list(env.observation_space.shape),
        "pass_rate": float(info["score"]),
    }


def _write_questions(folder):
    """Questions in GSM8K's form, of one to six steps."""
    for split, rows in (("train", 240), ("test", 30)):
        steps = [1 + number % 6 for number in range(rows)]
        lines = [
            {
                "question": f"{split} {number}: what is {number} and {count}?",
                "answer": f"{'<<1+1=2>> ' * count}\n#### {number}",
            }
            for number, count in enumerate(steps)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def main():
    """Check every id, or add those that are new."""
    import dsenv  # noqa: F401 - registers the ids

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--add", action="store_true", help="add entries of new ids; those that are there stay")
    parser.add_argument("--core", action="store_true", help="leave out the ids that need torch")
    given = parser.parse_args()
    if given.add:
        sys.stdout.write(f"added: {', '.join(add()) or 'nothing'}\n")
    found = faults([id for id in known() if not (given.core and id in NEEDS_TORCH)])
    sys.stdout.write("\n".join(found or ["every id is as it was"]) + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
