"""Ask-LLM: rows that a language model calls informative."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dsenv.causal import load_causal, token_logprobs
from dsenv.dataset import Ints
from dsenv.metrics import Doubles
from dsenv.selectors.pool import Pool, highest
from dsenv.selectors.prompts import example_of, fit_prompts, names_of, texts_of, tokenize

QUESTION = "Is this an informative, correctly labelled example to train a text classifier with? Answer yes or no.\nAnswer:"
YES, NO = " yes", " no"


def ask_llm(
    pool: Pool,
    count: int,
    rng: np.random.Generator,
    *,
    model: str,
    class_names: Sequence[str] | None = None,
    max_length: int = 1024,
    device: str = "auto",
) -> Ints:
    """Keep the rows that a language model calls informative with the highest probability.

    The prompt is "Text: <text>", "Label: <class name>", an empty line and ``QUESTION``, and the answers are " yes" and
    " no". Where an answer is several tokens, the sum of their log-probabilities takes the place of its logit, and a row
    costs two sequences instead of one.

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

    Source: "How to Train Data-Efficient LLMs", arXiv 2402.09668, section 3.1, with a question of our own for labelled rows.
    """
    rows, _ = pool.texts()
    names = names_of(pool.classes, class_names)
    causal = load_causal(model, max_length=max_length, device=device)
    longer = max((YES, NO), key=lambda answer: len(tokenize(causal, answer).ids))  # what fits with it fits with the other
    builds = [partial(_asked, name=names[label], answer=longer) for label in rows.labels]
    prompts = fit_prompts(causal, [texts_of(rows, i) for i in range(len(rows))], builds, "ask_llm")
    sequences: list[list[int]] = []
    wanted: list[list[tuple[int, int]]] = []
    answers: list[list[int]] = []  # which answer each of the wanted tokens belongs to: 2 i is row i's yes, 2 i + 1 its no
    for row, prompt in enumerate(prompts):
        stem = prompt.text.removesuffix(longer)
        yes, no = (tokenize(causal, stem + answer) for answer in (YES, NO))
        if yes.ids[:-1] == no.ids[:-1]:
            last = len(yes.ids) - 1
            sequences.append(yes.ids[:-1])
            wanted.append([(last, yes.ids[-1]), (last, no.ids[-1])])
            answers.append([2 * row, 2 * row + 1])
        else:
            for answer, answered in enumerate((yes, no)):
                sequences.append(answered.ids)
                wanted.append(answered.touching(len(stem), len(answered.text)))
                answers.append([2 * row + answer] * len(wanted[-1]))
    logits = np.zeros(2 * len(rows))
    for ids, logprobs in zip(answers, token_logprobs(causal, sequences, wanted, "ask_llm"), strict=True):
        np.add.at(logits, ids, logprobs)
    return highest(yes_share(logits[::2], logits[1::2]), count)


def yes_share(logits_yes: Doubles, logits_no: Doubles) -> Doubles:
    """Return the softmax probability (n,) of "yes" among "yes" and "no".

    Args:
        logits_yes: (n,) logits, or log-probabilities.
        logits_no: (n,) likewise.

    Source: arXiv 2402.09668, section 3.1.
    """
    return np.exp(-np.logaddexp(0, np.asarray(logits_no, np.float64) - np.asarray(logits_yes, np.float64)))


def _asked(parts: Sequence[str], name: str, answer: str) -> str:
    return example_of(parts, name) + QUESTION + answer
