"""Keywords, actions and options of environments; results to replay; completions and answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz import samples
from benchmarks.fuzz.drawing import ANYTHING, NUMBERS, WEIRD_TEXTS
from benchmarks.fuzz.surface import Surface
from dsenv.env import DataSelectEnv
from dsenv.evaluation import Result, replay
from dsenv.rlvr.checkers import CHECKERS


def play_surfaces() -> list[Surface]:
    """Return the surfaces."""
    return [
        Surface("environment", _environment, _episodes()),
        Surface("replay", _replay, _results()),
        Surface("answers", _answers, st.tuples(st.sampled_from(sorted(CHECKERS)), _completions(), _completions())),
    ]


def _episodes() -> st.SearchStrategy[tuple[dict[str, Any], Any, list[Any]]]:
    names = ["metric", "reward", "observation", "unit", "clustering", "proxy", "render_mode"]
    known = [
        "accuracy",
        "macro_f1",
        "final",
        "flat",
        "dict",
        "cluster",
        "rows",
        "kmeans",
        "ridge",
        "table",
        "probe",
        "finetune",
        "ansi",
    ]
    keywords = st.fixed_dictionaries(
        {},
        optional={
            **{name: st.sampled_from(known) | ANYTHING for name in names},
            "budget": st.just(0.5) | NUMBERS | ANYTHING,
            "picks": st.integers(1, 6) | NUMBERS | ANYTHING,
            "reward_rows": NUMBERS | ANYTHING,
            "instance": st.integers(0, 3) | ANYTHING,
            "dataset": ANYTHING,
        },
    )
    options = st.one_of(
        st.none(),
        st.fixed_dictionaries({}, optional={"counts": ANYTHING | st.lists(st.integers(-1, 9), max_size=8), "else": ANYTHING}),
    )
    return st.tuples(keywords, st.tuples(st.none() | NUMBERS, options), st.lists(st.integers(0, 6) | ANYTHING, max_size=8))


def _environment(drawn: tuple[dict[str, Any], Any, list[Any]]) -> None:
    keywords, (seed, options), actions = drawn
    for made in (DataSelectEnv(samples.task(), **keywords),):
        made.reset(seed=seed, options=options)
        for action in actions:
            _, reward, over, _, _ = made.step(action)
            if not np.isfinite(reward):
                raise AssertionError("a reward is not finite")
            if over:
                made.reset()


def _results() -> st.SearchStrategy[dict[str, Any]]:
    ids = st.sampled_from(
        ["DataSelect-Synthetic-v0", "CartPole-v1", "antigravity:Nope-v0", "DataSelect-v0", "DataSelectRLVR-Simulator-v0"]
    )
    keywords = st.dictionaries(
        st.sampled_from(
            ["instance", "unit", "budget", "picks", "task", "proxy", "metric", "max_episode_steps", "other", "clustering"]
        ),
        ANYTHING | st.sampled_from([1, "cluster", 0.5, "table"]),
        max_size=2,
    )
    return st.fixed_dictionaries(
        {
            "id": ids | WEIRD_TEXTS,
            "keywords": keywords,
            "actions": st.lists(st.integers(0, 2**62) | st.integers(0, 40), max_size=64),
            "counts": st.lists(st.integers(0, 9), max_size=8),
            "score": st.floats(allow_nan=False, allow_infinity=False),
        }
    )


def _replay(edits: dict[str, Any]) -> None:
    genuine = samples.as_json(samples.result())
    assert isinstance(genuine, dict)
    try:
        line = json.dumps({**genuine, **edits})
    except (TypeError, ValueError):
        return  # no JSON
    replay(Result.from_json(line))


def _completions() -> st.SearchStrategy[str]:
    number = st.one_of(
        st.integers().map(str), st.floats().map(str), st.just("9" * 100_000), st.just("1," * 50_000), st.just("-1,000.50")
    )
    return st.one_of(WEIRD_TEXTS, number.map(lambda text: f"it is #### {text}"), st.just("#### " * 20_000), st.just("####"))


def _answers(drawn: tuple[str, str, str]) -> None:
    checker, completion, answer = drawn
    if CHECKERS[checker](completion, answer) not in (True, False):
        raise AssertionError("a checker says neither yes nor no")
