"""Arithmetic and string questions, generated from a seed."""

from __future__ import annotations

from collections.abc import Callable
from operator import add, mod, mul, sub

import numpy as np

from dsenv.errors import check_whole
from dsenv.rlvr.questions import PARTS, Questions, QuestionSet
from dsenv.seeding import generator

LETTERS = "abcdefgh"
ALPHABET = "0123456789+-*%=<>" + LETTERS
LEVELS = 8
PART_SIZES = {"train": 48, "reference": 12, "reward": 6, "test": 16}  # questions a cluster
OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul, "%": mod}
LONGEST = 12  # characters of an answer, its end included
Make = Callable[[int, np.random.Generator], tuple[str, str]]  # level -> a question and its answer


def arithmetic_questions(seed: int = 0) -> QuestionSet:
    """Generate arithmetic and string questions of eight levels a kind; clusters are kind × level, K = 56.

    Kinds: ``add``, ``subtract``, ``multiply``, ``modulo``, ``chain`` (sums and differences of digits, left to right),
    ``copy`` and ``reverse`` (of letters); a level adds digits, terms or letters. Answers are checked exactly. No question is
    in two parts.

    Args:
        seed: of the questions; seed 0 is the registered environment's.
    """
    check_whole("seed", seed, 0)
    rng = generator(seed, "arithmetic questions")
    made: dict[str, list[tuple[str, str, int]]] = {part: [] for part in PARTS}
    names = [f"{kind} {level}" for kind in KINDS for level in range(1, LEVELS + 1)]
    for number, name in enumerate(names):
        kind, level = name.split()
        found: dict[str, str] = {}
        while len(found) < sum(PART_SIZES.values()):
            prompt, answer = KINDS[kind](int(level), rng)
            found[prompt] = answer
        questions = [(prompt, answer, number) for prompt, answer in found.items()]
        for part, size in PART_SIZES.items():
            made[part] += questions[:size]
            questions = questions[size:]
    parts = {part: _questions(rows) for part, rows in made.items()}
    return QuestionSet("arithmetic", **parts, clusters=tuple(names), checker="exact", meta={"seed": seed})


def _number(digits: int, rng: np.random.Generator) -> int:
    """A whole number with so many digits; 0 counts as one digit."""
    return int(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))


def _letters(length: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(LETTERS), length))


def _digits(operator: str, sizes: tuple[tuple[int, int], ...]) -> Make:
    """Questions on two numbers whose digits are given level by level."""

    def make(level: int, rng: np.random.Generator) -> tuple[str, str]:
        a, b = (_number(digits, rng) for digits in sizes[level - 1])
        b = max(b, 2) if operator == "%" else b
        return f"{a}{operator}{b}=", str(OPERATIONS[operator](a, b))

    return make


def _chain(level: int, rng: np.random.Generator) -> tuple[str, str]:
    terms = rng.integers(0, 10, level + 2)
    signs = np.array([1, *rng.choice([-1, 1], level + 1)])
    text = "".join(f"{'+' if sign > 0 else '-'}{term}" for sign, term in zip(signs, terms, strict=True))
    return f"{text[1:]}=", str(int(signs @ terms))


def _copy(level: int, rng: np.random.Generator) -> tuple[str, str]:
    letters = _letters(level + 2, rng)
    return f">{letters}=", letters


def _reverse(level: int, rng: np.random.Generator) -> tuple[str, str]:
    letters = _letters(level + 2, rng)
    return f"<{letters}=", letters[::-1]


SUMS = ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3), (4, 4), (5, 4))
KINDS: dict[str, Make] = {
    "add": _digits("+", SUMS),
    "subtract": _digits("-", SUMS),
    "multiply": _digits("*", SUMS),
    "modulo": _digits("%", ((2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3), (5, 4))),
    "chain": _chain,
    "copy": _copy,
    "reverse": _reverse,
}


def _questions(rows: list[tuple[str, str, int]]) -> Questions:
    prompts, answers, cluster = zip(*rows, strict=True)
    return Questions(list(prompts), list(answers), np.array(cluster, np.int64))
