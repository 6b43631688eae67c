"""Data Whisperer: rows that serve a language model best as demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dsenv.causal import attention_to, load_causal
from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole
from dsenv.metrics import Doubles
from dsenv.progress import track
from dsenv.selectors.pool import Pool, highest
from dsenv.selectors.prompts import Prompt, example_of, fit_prompts, names_of, texts_of


def data_whisperer(
    pool: Pool,
    count: int,
    rng: np.random.Generator,
    *,
    model: str,
    class_names: Sequence[str] | None = None,
    demonstrations: int = 5,
    queries: int = 3,
    passes: int = 1,
    layer: int | None = None,
    max_length: int = 1024,
    device: str = "auto",
) -> Ints:
    """Keep the rows that serve a language model best as demonstrations, weighted by the attention they get.

    A prompt is demonstrations from the pool and then queries from the reward rows, each "Text: <text>", "Label: <class
    name>" and an empty line, with the queries' gold labels in place, so that one forward pass scores them all: a query's
    score is the probability of its label, the geometric mean over the label's tokens. Each pass shuffles the pool and shows
    every row at least once; a last, incomplete prompt is filled up with other rows. Prompts run one at a time, since the
    attention weights of all layers are held: layers x heads x tokens² numbers.

    Args:
        pool: with texts.
        count: rows to keep.
        rng: of the order of the rows and of the queries.
        model: a causal checkpoint: hub name or folder.
        class_names: one a class; default: the class ids.
        demonstrations: a prompt; fewer where the pool is smaller.
        queries: a prompt; fewer where there are fewer reward rows.
        passes: over the pool; more make the scores less noisy.
        layer: whose attention, from 0; default: 0.4 of the depth, as the authors' choices are in the middle.
        max_length: tokens a prompt, at most.
        device: as torch names it, or ``auto``.

    Raises:
        InputError: without texts, for a checkpoint that cannot be used or returns no attention weights, for a layer that it
            has not, or where its context is too short.
        MissingExtraError: without the extra ``finetune``.

    Source: "Data Whisperer", arXiv 2505.12212, section 3, with label probability as the metric.
    """
    for name, value in (("demonstrations", demonstrations), ("queries", queries), ("passes", passes)):
        check_whole(name, value, 1)
    rows, reward = pool.texts()
    names = names_of(pool.classes, class_names)
    causal = load_causal(model, max_length=max_length, device=device, attentions=True)
    layers = causal.model.config.get_text_config().num_hidden_layers
    used = round(0.4 * layers) if layer is None else layer
    check_whole("layer", used, 0)
    if used >= layers:
        raise InputError(f"layer {used}: model {model!r} has the layers 0 to {layers - 1}")
    shown = [group for _ in range(passes) for group in _groups(len(rows), demonstrations, rng)]
    asked = np.resize(rng.permutation(len(reward)), (len(shown), min(queries, len(reward))))
    parts, labels = [], []
    for demos, ids in zip(shown, asked, strict=True):
        examples = [(rows, i) for i in demos] + [(reward, i) for i in ids]
        parts.append([text for source, i in examples for text in texts_of(source, i)])
        labels.append([names[source.labels[i]] for source, i in examples])
    builds = [partial(_joined, names=each) for each in labels]
    prompts = fit_prompts(causal, parts, builds, "data_whisperer")
    gained, times = np.zeros(len(rows)), np.zeros(len(rows))
    for k in track(range(len(shown)), "data_whisperer", total=len(shown) * len(shown[0]), weight=len(shown[0])):
        prompt, demos, ids = prompts[k], shown[k], asked[k]
        found, answers = _spans(prompt, labels[k])
        spans, queried = found[: len(demos)], [position for span in found[len(demos) :] for position in span]
        mass, logprobs = attention_to(causal, prompt.ids, spans, queried, used)
        sure = np.array(
            [
                np.exp(np.mean([float(logprobs[position - 1, token]) for position, token in answer]))
                for answer in answers[len(demos) :]
            ]
        )
        gained[demos] += len(ids) * demonstration_scores(mass, np.array([len(span) for span in spans]), sure)
        times[demos] += len(ids)
    return highest(gained / times, count)


def demonstration_scores(attention: Doubles, lengths: Ints, query_scores: Doubles) -> Doubles:
    """Return (n,) what the demonstrations of one prompt gain a query: shares of attention times the mean query score.

    Args:
        attention: (n,) mass from the query tokens to each demonstration; dividing it by the number of query tokens too
            would change nothing, since the shares sum to one.
        lengths: (n,) tokens of each demonstration.
        query_scores: (q,) the metric of each query.

    Source: arXiv 2505.12212, section 3.
    """
    weights = attention / lengths
    return np.asarray(weights / weights.sum() * np.mean(query_scores))


def _groups(rows: int, size: int, rng: np.random.Generator) -> list[Ints]:
    """Cut a permutation into groups of one size, so that every row's share of attention is one among as many."""
    size = min(size, rows)
    order = rng.permutation(rows)
    missing = -rows % size
    return list(np.concatenate([order, order[:missing]]).reshape(-1, size))


def _joined(parts: Sequence[str], names: Sequence[str]) -> str:
    return "".join(_blocks(parts, names))


def _blocks(parts: Sequence[str], names: Sequence[str]) -> list[str]:
    width = len(parts) // len(names)
    return [example_of(parts[i * width : (i + 1) * width], name) for i, name in enumerate(names)]


def _spans(prompt: Prompt, names: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Return the positions of every example's tokens, and the (position, token) of every example's label."""
    spans, labels = [], []
    start = 0
    for block, name in zip(_blocks(prompt.parts, names), names, strict=True):
        end = start + len(block)
        spans.append(prompt.ending(start, end))
        labels.append(prompt.touching(end - len(f" {name}\n\n"), end - len("\n\n")))
        start = end
    return spans, labels
