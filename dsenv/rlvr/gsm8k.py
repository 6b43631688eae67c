"""GSM8K: grade-school word problems whose answer stands behind ``####`` (arXiv 2110.14168)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.dataset import Ints, find_folder, read_hub, read_split
from dsenv.errors import InputError, check_whole
from dsenv.rlvr.checkers import MARK, final_number
from dsenv.rlvr.questions import Questions, QuestionSet
from dsenv.seeding import generator

HUB_SUBSET = "main"
REFERENCE = 256
REWARD = 500  # where there is no validation split
STEPS = 6  # clusters: 1, 2, ..., 6 or more steps
STEP_MARK = "<<"  # of the calculator, once a step
PROMPT = f"Solve the problem step by step. End with a line that has {MARK} and the answer as a number.\n\n{{question}}\n"


def gsm8k_questions(
    source: str | Path = "gsm8k", *, data_dir: str | Path | None = None, prompt: str = PROMPT, seed: int = 0
) -> QuestionSet:
    """Read GSM8K, or questions of its form; clusters are the numbers of steps in the training answers.

    ``validation`` becomes the reward part; without it, 500 training questions do. 256 further training questions become
    the reference part; both draws are seeded. In a small set the parts are at most a quarter of the training questions.

    Args:
        source: a folder, its name below ``data_dir`` (default: ``DSENV_DATA_DIR``), or a hub name (``openai/gsm8k``) with
            the splits ``train``, ``test`` and perhaps ``validation``; columns ``question`` and ``answer``.
        data_dir: where folders are looked for.
        prompt: what the policy reads, with ``{question}`` in it.
        seed: of the draws.

    Raises:
        InputError: where the source cannot be read, the columns are missing, or an answer has no number behind ``####``.
    """
    check_whole("seed", seed, 0)
    if "{question}" not in prompt:
        raise InputError(f"prompt {prompt[:60]!r}: it must have {{question}} in it")
    folder = find_folder(source, data_dir)
    if folder is None:
        loaded = read_hub(str(source), HUB_SUBSET)
        tables = {split: dict(loaded[split].to_dict()) for split in loaded}
    else:
        named = ("train", "test", *(["validation"] if any(folder.glob("validation.*")) else []))
        tables = {split: read_split(folder, split) for split in named}
    for split in ("train", "test"):
        if split not in tables:
            raise InputError(f"questions {str(source)!r} have no split {split!r}; found {', '.join(sorted(tables))}")
    read = {split: _read(table, f"{split} of {str(source)!r}", prompt) for split, table in tables.items()}
    left = generator(seed, "gsm8k parts").permutation(len(read["train"]))
    parts = {"test": read["test"]}
    sizes = {"reference": REFERENCE}
    if "validation" in read:
        parts["reward"] = read["validation"]
    else:
        sizes["reward"] = REWARD
    for part, size in sizes.items():
        size = min(size, len(read["train"]) // 4)
        parts[part] = read["train"].take(left[:size])
        left = left[size:]
    parts["train"] = read["train"].take(np.sort(left))
    names = tuple(f"{step} step{'s' if step > 1 else ''}{' or more' if step == STEPS else ''}" for step in range(1, STEPS + 1))
    meta = {"source": str(source) if folder is None else folder.name, "seed": seed, "prompt": prompt}
    return QuestionSet(Path(source).name, **parts, clusters=names, checker="gsm8k", meta=meta)


def _read(table: Mapping[str, Sequence[Any]], where: str, prompt: str) -> Questions:
    for column in ("question", "answer"):
        if column not in table:
            raise InputError(f"{where} has no column {column!r}; found {', '.join(map(str, table))}")
    for row, (question, answer) in enumerate(zip(table["question"], table["answer"], strict=True)):
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"row {row} of {where}: question {question!r} is not a text")
        if not isinstance(answer, str) or final_number(answer) is None:
            raise InputError(f"row {row} of {where}: the answer {str(answer)[-60:]!r} has no number behind {MARK!r}")
    prompts = [prompt.replace("{question}", question) for question in table["question"]]
    return Questions(prompts, list(table["answer"]), _steps(table["answer"]))


def _steps(answers: Sequence[str]) -> Ints:
    """Clusters 0, 1, ... of answers with 1 (or none marked), 2, ... steps."""
    return np.clip([answer.count(STEP_MARK) - 1 for answer in answers], 0, STEPS - 1).astype(np.int64)
