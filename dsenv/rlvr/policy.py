"""The policy: any causal language model, asked in batches with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.causal import Causal, load_causal, pad_ids
from dsenv.dataset import Ints
from dsenv.errors import InputError, check_whole, require
from dsenv.training import prompt_tokens

EMBEDDED = Path(__file__).parent.parent / "policies" / "arithmetic"
BATCH_TOKENS = {"cpu": 4096, "cuda": 131_072}  # tokens worked on at once, padding included
BATCH_LOGITS = {"cpu": 2**26, "cuda": 2**30}  # numbers of one float32 tensor over the vocabulary, of which there are a few
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Completions:
    """What a policy wrote.

    Attributes:
        tokens: (n, T) ids, zero behind each completion's end.
        lengths: (n,) tokens of each, the end token included.
        logprobs: (n, T) natural log-probability of each token when it was drawn, at the temperature it was drawn with.
        texts: n strings without special tokens; None for a completion that was cut off before its end.
    """

    tokens: Ints
    lengths: Ints
    logprobs: Floats
    texts: list[str | None]

    @property
    def mask(self) -> Bools:
        """(n, T) True on the tokens of a completion."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]


class Policy:
    """A causal language model with its tokenizer, in float32.

    Args:
        name: ``arithmetic`` (the embedded one), a folder or a hub name.
        max_new_tokens: a completion's length, at most; one without an end token by then is wrong.
        device: as torch names it, or ``auto``.

    Raises:
        InputError: where the checkpoint or its tokenizer cannot be used.
        MissingExtraError: without the extra ``finetune``.
    """

    def __init__(self, name: str = "arithmetic", *, max_new_tokens: int = 12, device: str = "auto") -> None:
        check_whole("max_new_tokens", max_new_tokens, 1)
        self.name, self.max_new_tokens = name, max_new_tokens
        folder = str(EMBEDDED) if name == "arithmetic" else name
        self.causal: Causal = load_causal(folder, max_length=2**31, device=device, dtype="float32")
        self.model, self.tokenizer, self.device = self.causal.model, self.causal.tokenizer, self.causal.device
        ends = self.model.generation_config.eos_token_id
        self.ends: list[int] = [ends] if isinstance(ends, int) else list(ends or [])
        if not self.ends:
            raise InputError(f"model {name!r} has no end token, so its completions never end")
        self._check_cache()

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of prompts; a tokenizer with a chat template gets each as a user's message.

        Raises:
            InputError: for a prompt that leaves no room for a completion in the model's context.
        """
        found = prompt_tokens(self.tokenizer, prompts)
        room = self.causal.context - self.max_new_tokens
        for prompt, ids in zip(prompts, found, strict=True):
            if not 1 <= len(ids) <= room:
                raise InputError(
                    f"prompt {prompt[:60]!r} has {len(ids)} tokens: model {self.name!r} with a context of "
                    f"{self.causal.context} and {self.max_new_tokens} new tokens reads 1 to {room}"
                )
        return found

    def prompt_length(self, prompt: str) -> int:
        """Return how many tokens a prompt has."""
        return len(prompt_tokens(self.tokenizer, [prompt])[0])

    def complete(
        self, prompts: Sequence[str], group: int, temperature: float, rng: np.random.Generator, *, cache: bool = True
    ) -> Completions:
        """Draw ``group`` completions of every prompt, those of a prompt side by side.

        A token is drawn by inverting its distribution's cumulative sum at a uniform number, which is drawn for every place
        of every completion before the first token: what is drawn does not depend on how the prompts are put in batches.

        Args:
            prompts: q strings.
            group: G, completions of each.
            temperature: logits are divided by it; 0 takes the likeliest token.
            rng: of the draws.
            cache: False computes every token from the whole sequence: slow, for checking the cache.
        """
        torch = require("torch", "finetune")
        ids = self.prompt_ids(prompts)
        rows, steps = len(ids) * group, self.max_new_tokens
        uniform = rng.random((rows, steps)) if temperature else None
        tokens, logprobs = np.zeros((rows, steps), np.int64), np.zeros((rows, steps), np.float32)
        lengths, ended = np.full(rows, steps), np.zeros(rows, bool)
        self.model.eval()
        with torch.inference_mode():
            for batch in self.batches(*self._sizes(ids), group):
                places = (batch[:, None] * group + np.arange(group)).ravel()
                drawn = None if uniform is None else uniform[places]
                found = self._draw([ids[i] for i in batch], group, temperature, drawn, cache)
                tokens[places], logprobs[places], lengths[places], ended[places] = found
        # Only the end is cut off: a special token inside a completion is text, and no answer has any.
        written = [one[: n - 1] for one, n in zip(tokens, lengths, strict=True)]
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=False)
        return Completions(tokens, lengths, logprobs, [text if end else None for text, end in zip(texts, ended, strict=True)])

    def logprobs(self, prompts: Sequence[Sequence[int]], tokens: Ints, temperature: float) -> Any:
        """Return (q G, T) log-probabilities of completions' tokens as a tensor, with a gradient where torch keeps one.

        A prompt goes through the model once for all its completions, which go on from its keys and values.

        Args:
            prompts: q lists of tokens.
            tokens: (q, G, T), anything behind a completion's end.
            temperature: above 0.
        """
        torch = require("torch", "finetune")
        inputs = self._padded(prompts)
        group, steps = tokens.shape[1:]
        given = torch.as_tensor(tokens.reshape(-1, steps), device=self.device)
        output = self.model(**inputs, logits_to_keep=1, use_cache=True)
        logits, memory = output.logits.repeat_interleave(group, 0), output.past_key_values
        if steps > 1:
            memory.batch_repeat_interleave(group)
            mask = inputs["attention_mask"].repeat_interleave(group, 0)
            mask = torch.cat([mask, torch.ones_like(given[:, 1:])], 1)
            places = _positions(mask)[:, 1 - steps :]
            more = {"input_ids": given[:, :-1], "position_ids": places, "past_key_values": memory}
            logits = torch.cat([logits, self.model(**more, attention_mask=mask, use_cache=True).logits], 1)
        return (logits.float() / temperature).log_softmax(-1).gather(-1, given[..., None])[..., 0]

    def embed(self, prompts: Sequence[str]) -> Floats:
        """Return the mean of the last hidden states over each prompt's tokens, (n, d)."""
        torch = require("torch", "finetune")
        ids = self.prompt_ids(prompts)
        found = np.empty((len(ids), self.model.config.get_text_config().hidden_size), np.float32)
        self.model.eval()
        with torch.inference_mode():
            for batch in self.batches(*self._sizes(ids)):
                inputs = self._padded([ids[i] for i in batch])
                output = self.model(**inputs, output_hidden_states=True, logits_to_keep=1, use_cache=False)
                hidden = output.hidden_states[-1]
                mask = inputs["attention_mask"][..., None].float()
                found[batch] = ((hidden * mask).sum(1) / mask.sum(1)).float().cpu().numpy()
        return found

    def batches(self, prompts: Ints, completions: Ints, copies: int = 1) -> Iterator[Ints]:
        """Yield rows of about the same length, as many as may be worked on at once: (rows,) places.

        Args:
            prompts: (n,) tokens of each prompt.
            completions: (n,) tokens of the longest completion of each.
            copies: sequences that each row stands for.
        """
        kind = "cpu" if self.device == "cpu" else "cuda"
        vocabulary = self.model.get_input_embeddings().num_embeddings
        limit = min(BATCH_TOKENS[kind], BATCH_LOGITS[kind] // vocabulary)
        order = np.argsort(-(prompts + completions), kind="stable")
        start = 0
        for end in range(1, len(order) + 1):
            if end < len(order):
                rows = order[start : end + 1]
                if (prompts[rows].max() + completions[rows].max()) * copies * len(rows) <= limit:
                    continue
            yield order[start:end]
            start = end

    def _sizes(self, ids: list[list[int]]) -> tuple[Ints, Ints]:
        return np.array([len(one) for one in ids], np.int64), np.full(len(ids), self.max_new_tokens)

    def _check_cache(self) -> None:
        """Refuse an architecture that this sampling does not fit, before anything is trained."""
        torch = require("torch", "finetune")
        inputs = self._padded([[self.ends[0]], [self.ends[0], self.ends[0]]])
        with torch.inference_mode():
            try:
                memory = self.model(**inputs, logits_to_keep=1, use_cache=True).past_key_values
                fits = all(hasattr(memory, name) for name in ("batch_repeat_interleave", "batch_select_indices"))
            except (TypeError, AttributeError):
                fits = False
        if not fits:
            raise InputError(
                f"model {self.name!r} is a {type(self.model).__name__}: allowed are those with position_ids, logits_to_keep "
                "and a key-value cache, as Llama, Qwen, Mistral or Gemma have"
            )

    def _draw(
        self, prompts: list[list[int]], group: int, temperature: float, uniform: Any, cache: bool
    ) -> tuple[Ints, Floats, Ints, Bools]:
        """Complete one batch: (tokens, logprobs, lengths, ended)."""
        torch = require("torch", "finetune")
        inputs = self._padded(prompts)
        output = self.model(**inputs, logits_to_keep=1, use_cache=cache)
        logits = output.logits[:, -1].float().repeat_interleave(group, 0)
        memory = output.past_key_values
        if cache:
            memory.batch_repeat_interleave(group)
        mask = inputs["attention_mask"].repeat_interleave(group, 0)
        written = inputs["input_ids"].repeat_interleave(group, 0)
        rows, steps = len(mask), self.max_new_tokens
        tokens = torch.zeros(rows, steps, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(rows, steps, device=self.device)
        lengths = torch.full((rows,), steps, device=self.device)
        ended = torch.zeros(rows, dtype=torch.bool, device=self.device)
        alive = torch.arange(rows, device=self.device)  # the completions that the next forward pass is about
        ends = torch.tensor(self.ends, device=self.device)
        draws = None if uniform is None else torch.as_tensor(uniform, device=self.device)
        for step in range(steps):
            scores = (logits / (temperature or 1)).log_softmax(-1)
            if draws is None:
                drawn = scores.argmax(-1)
            else:
                sums = scores.double().exp().cumsum(-1)
                drawn = torch.searchsorted(sums, draws[alive, step, None] * sums[:, -1:], right=True)[:, 0]
                drawn = drawn.clamp(max=scores.shape[-1] - 1)
            tokens[alive, step] = drawn
            logprobs[alive, step] = scores.gather(1, drawn[:, None])[:, 0]
            over = torch.isin(drawn, ends)
            lengths[alive[over]] = step + 1
            ended[alive[over]] = True
            kept = torch.nonzero(~over)[:, 0]
            if not len(kept) or step == steps - 1:
                break
            if len(kept) < len(alive):
                alive, drawn, mask, written = alive[kept], drawn[kept], mask[kept], written[kept]
                if cache:
                    memory.batch_select_indices(kept)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            places = _positions(mask)
            if cache:
                one = {"input_ids": drawn[:, None], "position_ids": places[:, -1:], "past_key_values": memory}
                logits = self.model(**one, attention_mask=mask, use_cache=True).logits[:, -1].float()
            else:
                written = torch.cat([written, drawn[:, None]], 1)
                whole = {"input_ids": written, "attention_mask": mask, "position_ids": places}
                logits = self.model(**whole, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        return tokens.cpu().numpy(), logprobs.cpu().numpy(), lengths.cpu().numpy(), ended.cpu().numpy()

    def _padded(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Pad on the left, so that all completions begin in one column."""
        inputs = pad_ids(prompts, self.device, left=True)
        return {**inputs, "position_ids": _positions(inputs["attention_mask"])}


def _positions(mask: Any) -> Any:
    return (mask.cumsum(-1) - 1).clamp(min=0)
