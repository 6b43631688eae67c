"""Prompts for causal language models: plain text without a chat template, cut to fit.

A prompt that is longer than ``max_length`` or than the model's context is cut: its texts lose tokens from the end, the longest
text first, and a warning says how many prompts it befell.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dsenv.causal import Causal
from dsenv.dataset import Rows
from dsenv.errors import InputError

log = logging.getLogger(__name__)

Build = Callable[[Sequence[str]], str]  # the texts of one prompt, perhaps cut -> the prompt


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt.

    Attributes:
        ids: the tokens.
        offsets: where each token starts and ends in the prompt's text, in characters; (0, 0) for one the tokenizer added.
        text: the prompt's text.
        parts: the texts that were put in, as far as they fit.
        cut: whether one of them was cut.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    text: str
    parts: tuple[str, ...] = ()
    cut: bool = False

    def ending(self, start: int, end: int) -> list[int]:
        """Return the positions of the tokens that end after character ``start`` and at most at ``end``."""
        return [i for i, (_, at) in enumerate(self.offsets) if start < at <= end]

    def touching(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return (position, token) of the tokens with a character from ``start`` to before ``end``."""
        return [(i, self.ids[i]) for i, (first, at) in enumerate(self.offsets) if start < at and first < end]


def fit_prompts(causal: Causal, parts: Sequence[Sequence[str]], builds: Sequence[Build], what: str) -> list[Prompt]:
    """Tokenize prompts; where one is longer than the context, its longest texts are cut, token by token, from the end.

    Args:
        causal: whose tokenizer and context.
        parts: the texts of every prompt that may be cut.
        builds: one a prompt: from its texts to the prompt.
        what: the selector's name, for the warning that tells how many prompts were cut.

    Raises:
        InputError: where a prompt does not fit even with one token left of every text.
    """
    prompts = [_tokenized(causal, part, build) for part, build in zip(parts, builds, strict=True)]
    for number, prompt in enumerate(prompts):
        if len(prompt.ids) > causal.context:
            prompts[number] = _cut(causal, prompt, builds[number])
    count = sum(prompt.cut for prompt in prompts)
    if count:
        log.warning("%s: texts of %d prompts of %d cut to fit in %d tokens", what, count, len(prompts), causal.context)
    return prompts


def tokenize(causal: Causal, text: str) -> Prompt:
    """Tokenize one text with its character offsets, whatever its length."""
    encoded = causal.tokenizer(text, return_offsets_mapping=True, verbose=False)
    return Prompt(encoded["input_ids"], encoded["offset_mapping"], text)


def names_of(classes: int, class_names: Sequence[str] | None) -> list[str]:
    """Return one name a class: those given, or the class ids.

    Raises:
        InputError: where they are not ``classes`` different names, none empty.
    """
    names = [str(i) for i in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes or len(set(names)) != classes or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"class_names {names!r}: allowed are {classes} different names, none empty")
    return names


def texts_of(rows: Rows, row: int) -> list[str]:
    """Return a row's text, or its pair of texts."""
    return [rows.texts[row]] if rows.pairs is None else [rows.texts[row], rows.pairs[row]]


def example_of(parts: Sequence[str], name: str) -> str:
    """Return "Text: <text>", "Label: <class name>" and an empty line; a second text has a line of its own."""
    return (
        "".join(f"{what}: {part}\n" for what, part in zip(("Text", "Second text"), parts, strict=False)) + f"Label: {name}\n\n"
    )


def _tokenized(causal: Causal, parts: Sequence[str], build: Build, cut: bool = False) -> Prompt:
    return replace(tokenize(causal, build(parts)), parts=tuple(parts), cut=cut)


def _cut(causal: Causal, prompt: Prompt, build: Build) -> Prompt:
    parts = prompt.parts
    ends = [[end for _, end in tokenize(causal, part).offsets if end] for part in parts]

    def tokens(level: int) -> int:
        return sum(min(len(end), level) for end in ends)

    level = max((len(end) for end in ends), default=0)
    while len(prompt.ids) > causal.context and level > 1:
        room = tokens(level) - (len(prompt.ids) - causal.context)
        level = max(1, bisect.bisect_right(range(1, level), room, key=tokens))
        kept = [part[: end[:level][-1]] if end else part for part, end in zip(parts, ends, strict=True)]
        prompt = _tokenized(causal, kept, build, cut=True)
    if len(prompt.ids) > causal.context:
        raise InputError(
            f"model {causal.name!r}: a context of {causal.context} tokens cannot hold even the shortest prompt, which has "
            f"{len(prompt.ids)} tokens"
        )
    return prompt
