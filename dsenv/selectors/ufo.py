"""UFO: rows of which a language model is neither sure nor clueless."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dsenv.causal import load_causal, token_logprobs
from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.selectors.pool import Pool, highest
from dsenv.selectors.prompts import example_of, fit_prompts, names_of, texts_of


def ufo(
    pool: Pool,
    count: int,
    rng: np.random.Generator,
    *,
    model: str,
    class_names: Sequence[str] | None = None,
    max_length: int = 1024,
    device: str = "auto",
) -> Ints:
    """Keep the rows of which a language model is neither sure nor clueless: confidence near the pool's mean.

    One forward pass a row, over "Labels: <class names>.", an empty line, "Text: <text>", "Label:" and the gold answer,
    which is a space and the class name; the confidence is the mean log-probability of the answer's tokens.

    Args:
        pool: with texts.
        count: rows to keep.
        rng: not used.
        model: a causal checkpoint: hub name or folder.
        class_names: one a class; default: the class ids.
        max_length: tokens a prompt, at most.
        device: as torch names it, or ``auto``.

    Raises:
        InputError: without texts, for a checkpoint that cannot be used, or where its context is too short.
        MissingExtraError: without the extra ``finetune``.

    Source: "UFO-RL", arXiv 2505.12457, with the class name in the place of a reasoning answer.
    """
    rows, _ = pool.texts()
    names = names_of(pool.classes, class_names)
    causal = load_causal(model, max_length=max_length, device=device)
    head = f"Labels: {', '.join(names)}.\n\n"
    builds = [partial(_headed, head=head, name=names[label]) for label in rows.labels]
    prompts = fit_prompts(causal, [texts_of(rows, i) for i in range(len(rows))], builds, "ufo")
    wanted = [
        prompt.touching(len(prompt.text) - len(f" {names[label]}"), len(prompt.text))
        for prompt, label in zip(prompts, rows.labels, strict=True)
    ]
    found = token_logprobs(causal, [prompt.ids for prompt in prompts], wanted, "ufo")
    return highest(ufo_scores(np.array([logprobs.mean() for logprobs in found])), count)


def ufo_scores(confidences: Doubles) -> Doubles:
    """Return 1 - (s - mean(s))² with s = exp(confidence).

    Args:
        confidences: (n,) mean log-probability of the answer's tokens, in nats.

    Source: arXiv 2505.12457; the authors' ``compute_ufo_scores.py``.
    """
    sure = np.exp(confidences)
    return np.asarray(1 - (sure - sure.mean()) ** 2)


def _headed(parts: Sequence[str], head: str, name: str) -> str:
    return head + example_of(parts, name)[:-2]
