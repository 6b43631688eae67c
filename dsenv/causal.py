"""Causal language models: loading, log-probabilities of given tokens, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.blocks import token_batches
from dsenv.encoders import quiet
from dsenv.errors import InputError, check_whole, require
from dsenv.metrics import Doubles
from dsenv.progress import track
from dsenv.training import check_complete, reading, usable_device

BATCH_TOKENS = 2048  # logits of 2,048 tokens over 32,000 pieces are 262 MB


@dataclass(frozen=True)
class Causal:
    """A causal model in evaluation mode with its tokenizer.

    Attributes:
        name: as the caller gave it.
        model: a ``transformers`` model.
        tokenizer: a fast one, since prompts are cut by its character offsets.
        device: as torch names it.
        context: tokens a prompt may have.
    """

    name: str
    model: Any
    tokenizer: Any
    device: str
    context: int


def load_causal(
    name: str, *, max_length: int = 1024, device: str = "auto", attentions: bool = False, dtype: str = "auto"
) -> Causal:
    """Load a causal checkpoint with its tokenizer; weights are read from safetensors only, and no code of it is run.

    Args:
        name: a folder, which is read without network, or a hub name.
        max_length: tokens a prompt, at most; a model with a shorter context lowers it.
        device: as torch names it, or ``auto``: CUDA where there is some, else the CPU.
        attentions: whether attention weights will be asked for.
        dtype: of the weights, as torch names it; ``auto``: as stored.

    Raises:
        InputError: where the checkpoint, its tokenizer or the device cannot be used.
        MissingExtraError: without the extra ``finetune``.
    """
    check_whole("max_length", max_length, 1)
    torch, transformers = require("torch", "finetune"), require("transformers", "finetune")
    device = usable_device(device)
    local = Path(name).is_dir()
    keywords: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
    with quiet(transformers, bars=not local), torch.random.fork_rng(devices=[]):  # absent weights are drawn at random
        with reading(f"the tokenizer of model {name!r} cannot be read"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **keywords)
        if attentions:
            keywords["attn_implementation"] = "eager"  # the only one that returns its weights
        with reading(f"model {name!r} cannot be read as a causal language model"):
            model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                name, use_safetensors=True, dtype=dtype, output_loading_info=True, **keywords
            )
    check_complete(f"model {name!r}", loaded)
    if not getattr(tokenizer, "is_fast", False) or len(tokenizer) == 0:
        raise InputError(f"model {name!r} has no fast tokenizer (tokenizer.json), by whose offsets prompts are cut")
    if not tokenizer("text").input_ids:
        raise InputError(f"the tokenizer of model {name!r} makes no token of the text 'text'")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise InputError(f"the tokenizer of model {name!r} has more tokens than the model's embedding")
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
    model.to(device).eval()
    return Causal(name, model, tokenizer, device, min(max_length, context))


def token_logprobs(
    causal: Causal, sequences: Sequence[Sequence[int]], wanted: Sequence[Sequence[tuple[int, int]]], what: str
) -> list[Doubles]:
    """Return natural log-probabilities of tokens, each given all that stands before it.

    Args:
        causal: the model.
        sequences: token ids; batched by length so that a batch has at most ``BATCH_TOKENS`` tokens, padding included.
        wanted: for every sequence the (position, token) whose probability is asked; a position may be one past the end.
        what: for the progress bar.

    Returns:
        One array for every sequence, in the order asked.
    """
    torch = require("torch", "finetune")
    found: list[Doubles] = [np.empty(0)] * len(sequences)
    with torch.inference_mode():
        batches = list(token_batches(np.array([len(ids) for ids in sequences]), BATCH_TOKENS))
        for batch in track(batches, what, total=len(sequences), weight=len(sequences) / len(batches)):
            logits = causal.model(**pad_ids([sequences[i] for i in batch], causal.device)).logits
            for row, number in enumerate(batch):
                positions = torch.tensor([position - 1 for position, _ in wanted[number]], device=causal.device)
                tokens = torch.tensor([token for _, token in wanted[number]], device=causal.device)
                logprobs = torch.log_softmax(logits[row, positions].float(), -1)
                found[number] = logprobs.gather(1, tokens[:, None])[:, 0].double().cpu().numpy()
    return found


def attention_to(
    causal: Causal, ids: Sequence[int], spans: Sequence[Sequence[int]], queries: Sequence[int], layer: int
) -> tuple[Doubles, Any]:
    """Run one prompt and return the attention mass from query tokens to spans, and the log-probabilities.

    Args:
        causal: loaded with ``attentions``.
        ids: the prompt's tokens.
        spans: the positions of the tokens of every span.
        queries: the positions that attend.
        layer: whose attention, from 0.

    Returns:
        (spans,) sums over query tokens, span tokens and heads; a (tokens, vocabulary) tensor of log-probabilities of the
        next token.

    Raises:
        InputError: for a model that returns no attention weights.
    """
    torch = require("torch", "finetune")
    with torch.inference_mode():
        output = causal.model(**pad_ids([ids], causal.device), output_attentions=True, use_cache=False)
        if not output.attentions or output.attentions[layer] is None:
            raise InputError(f"model {causal.name!r} returns no attention weights of layer {layer}")
        received = output.attentions[layer][0].double().sum(0)[list(queries)].sum(0).cpu().numpy()
        return np.array([received[list(span)].sum() for span in spans]), torch.log_softmax(output.logits[0].float(), -1)


def pad_ids(sequences: Sequence[Sequence[int]], device: str, *, left: bool = False) -> dict[str, Any]:
    """Return tokens and mask (n, longest), padded with any token.

    On the right a causal model's real tokens cannot see it; on the left the mask hides it, and what follows begins in one
    column, but positions have to be given.
    """
    torch = require("torch", "finetune")
    longest = max(len(ids) for ids in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence) if left else 0
        ids[row, start : start + len(sequence)] = torch.tensor(sequence)
        mask[row, start : start + len(sequence)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
