"""One loop: fit a transformers model on given rows, and predict with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.blocks import token_batches
from dsenv.checkpoints import Facts, load_checkpoint, save_checkpoint
from dsenv.dataset import Ints, Rows
from dsenv.encoders import minilm_folder, quiet
from dsenv.errors import InputError, check_whole, one_of, require
from dsenv.metrics import Doubles
from dsenv.progress import track
from dsenv.seeding import generator
from dsenv.tracking import Tracker

log = logging.getLogger(__name__)

METHODS = ("full", "lora")
ORDERS = ("shuffled", "given")
PREDICT_TOKENS = {"cpu": 512, "cuda": 16_384}  # a batch: what stays in the processor's cache, or fills a GPU
NO_TOKEN = -100  # where a model's prediction is asked for nothing
LENGTH_GROUP = 16  # batches whose rows are sorted by length together, so that little of a batch is padding


@dataclass(frozen=True)
class Recipe:
    """How a target is fine-tuned.

    Attributes:
        target: ``minilm`` (the packaged all-MiniLM-L6-v2), a hub name or a folder; encoder or causal.
        method: ``full``, or ``lora`` (low-rank adapters on all linear layers through ``peft``; arXiv 2106.09685).
        epochs: passes over the rows.
        learning_rate: of AdamW at its peak; linear warm-up over the first tenth of the steps, then linear decay to 0.
        batch_size: rows a step.
        max_length: tokens a row; longer rows are cut.
        weight_decay: of AdamW.
        lora_rank: r; alpha is 2 r.
        order: ``shuffled``: anew every epoch, rows of similar length together; ``given``: as the rows stand, every epoch
            (``folded`` puts them in the order of DELT).
        device: as torch names it, or ``auto``: CUDA where there is some, else the CPU.
    """

    target: str = "minilm"
    method: str = "full"
    epochs: int = 3
    learning_rate: float = 1e-4
    batch_size: int = 16
    max_length: int = 128
    weight_decay: float = 0.01
    lora_rank: int = 8
    order: str = "shuffled"
    device: str = "auto"

    def __post_init__(self) -> None:
        one_of("fine-tuning method", self.method, METHODS)
        one_of("order of the rows", self.order, ORDERS)
        for name in ("epochs", "batch_size", "max_length", "lora_rank"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} {value!r}: allowed are whole numbers from 1")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate {self.learning_rate!r}: allowed are numbers between 0 and 1")


def make_recipe(target: str, **options: Any) -> Recipe:
    """Return a recipe of options by name.

    Raises:
        InputError: for an option that a recipe does not have, or a value outside what is allowed.
    """
    for name in options:
        one_of("option of a recipe", name, Recipe.__dataclass_fields__)
    return Recipe(target=target, **options)


@dataclass
class Target:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any
    recipe: Recipe
    device: str


@dataclass(frozen=True)
class Fit:
    """What a training run took: seconds, optimiser steps, rows and tokens seen, loss of the last tenth of the steps."""

    seconds: float
    steps: int
    rows_seen: int
    tokens_seen: int
    loss: float


def load_target(recipe: Recipe, classes: int | None, seed: int = 0) -> Target:
    """Load a checkpoint with a fresh classification head drawn from the seed; weights are read from safetensors only.

    Args:
        recipe: names the checkpoint.
        classes: C; None: a causal language model, for instruction data, with the head that it has.
        seed: of the head.

    Raises:
        InputError: where the checkpoint cannot be read, or is asked to be a causal model and is none.
        MissingExtraError: without the extra ``finetune``, or ``minilm`` for the packaged weights.
    """
    torch, transformers = require("torch", "finetune"), require("transformers", "finetune")
    name = str(minilm_folder()) if recipe.target == "minilm" else recipe.target
    device = usable_device(recipe.device)
    local = Path(name).is_dir()
    keywords = {"trust_remote_code": False, "local_files_only": local}
    with _seeded(torch, seed, device), quiet(transformers, bars=not local):
        with reading(f"target {recipe.target!r} cannot be read"), torch.device("meta"):
            head = {} if classes is None else {"num_labels": classes}
            kind = transformers.AutoModelForCausalLM if classes is None else transformers.AutoModelForSequenceClassification
            config = transformers.AutoConfig.from_pretrained(name, **head, **keywords)
            sketch = kind.from_config(config, trust_remote_code=False)
        _check_memory(sketch, recipe, device)
        with reading(f"target {recipe.target!r} cannot be read"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **keywords)
            model, loaded = kind.from_pretrained(
                name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **head, **keywords
            )
        if classes is None:
            check_complete(f"target {recipe.target!r}", loaded)
            _check_causal(model, recipe.target)
        absent = [key for key in loaded["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
        if absent:  # beside the head, which is always new
            log.warning(
                "target %r lacks %d weights, drawn at random: %s", recipe.target, len(absent), ", ".join(sorted(absent))
            )
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise InputError(f"the tokenizer of target {recipe.target!r} has neither a padding nor an end token")
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        longest = getattr(model.config, "max_position_embeddings", recipe.max_length)
        if recipe.max_length > longest:
            raise InputError(f"max_length {recipe.max_length}: target {recipe.target!r} reads 1 to {longest} tokens")
        if recipe.method == "lora":
            peft = require("peft", "finetune")
            config = peft.LoraConfig(
                task_type="CAUSAL_LM" if classes is None else "SEQ_CLS",
                r=recipe.lora_rank,
                lora_alpha=2 * recipe.lora_rank,
                target_modules="all-linear",
            )
            model = peft.get_peft_model(model, config)
    model.to(device)
    return Target(model, tokenizer, recipe, device)


def check_complete(what: str, loaded: Mapping[str, Any]) -> None:
    """Refuse a causal model some of whose weights would be drawn at random.

    Args:
        what: the checkpoint's name, for the error.
        loaded: what transformers says of the loading.

    Raises:
        InputError: naming some of the weights.
    """
    if loaded["missing_keys"]:
        absent = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise InputError(f"{what} is no complete causal language model: it lacks weights ({absent}, ...)")


def _check_causal(model: Any, name: str) -> None:
    """Refuse a model that reads the tokens it is asked to predict (BERT with its language model head, say)."""
    torch = require("torch", "finetune")
    model.eval()
    with torch.inference_mode():
        first = [model(input_ids=torch.tensor([[1, 2, last]])).logits[0, 0] for last in (3, 4)]
    if not torch.equal(*first):
        raise InputError(f"target {name!r} is no causal language model: what it predicts depends on later tokens")


def fit(
    target: Target,
    rows: Rows,
    seed: int = 0,
    what: str = "fine-tune",
    after_epoch: Callable[[Any, float], None] | None = None,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
) -> Fit:
    """Fit the target on rows with cross-entropy: of their classes, or of the tokens of their responses.

    The same rows, recipe and seed give the same weights on one machine and device; the caller's random state is left
    as it was.

    Args:
        target: changed in place.
        rows: texts, or pairs, with labels.
        seed: of the row order and of dropout.
        what: for the progress bar.
        after_epoch: called after every epoch with the optimiser and the epoch's mean learning rate. It may put the model in
            evaluation mode, must leave its weights as they are and must not draw from torch's generator, and its seconds
            count.
        checkpoint: a file that is written after every epoch but the last; where it is there, training goes on from it.
        tracker: told the loss by the rows trained on.

    Raises:
        InputError: where an epoch ends with a loss that is not finite, or for a checkpoint of another training.
    """
    torch = require("torch", "finetune")
    recipe, model = target.recipe, target.model
    encoded = tokenize_rows(target, rows)
    batches = -(-len(rows) // recipe.batch_size)  # of an epoch
    steps = recipe.epochs * batches
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    warmup = max(1, steps // 10)
    rng = generator(seed, "fine-tuning order")
    started = time.perf_counter()
    tokens, done, spent = 0, 0, 0.0
    losses: list[float] = []
    rates: list[float] = []
    with _seeded(torch, seed, target.device):
        model.train()
        order = [batch for _ in range(recipe.epochs) for batch in _batches(encoded, recipe, rng)]
        run = f"{rows.digest} {seed} {asdict(recipe)}" if checkpoint is not None else ""
        if checkpoint is not None and (held := load_checkpoint(checkpoint, trained, optimizer, target.device, run)):
            done, tokens, losses, spent = held["steps"], held["tokens"], held["losses"], held["seconds"]
            if not 0 < done < steps or done % batches or len(losses) != done:
                raise InputError(f"{str(checkpoint)!r} is after {done} steps, which end no epoch of {batches}: remove it")
            log.info("%s: goes on after %d of %d epochs", what, done // batches, recipe.epochs)
        shown = track(order[done:], what, total=(steps - done) * recipe.batch_size, weight=recipe.batch_size)
        for number, batch in enumerate(shown, done + 1):
            step = number - 1
            rate = recipe.learning_rate * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
            for group in optimizer.param_groups:
                group["lr"] = rate
            inputs = pad_batch(target, encoded, batch)
            if rows.responses is None:
                labels = torch.as_tensor(rows.labels[batch], device=target.device)
                loss = torch.nn.functional.cross_entropy(model(**inputs).logits.float(), labels)
            else:
                nats, counted = _token_losses(target, inputs)
                loss = nats.sum() / counted.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            rates.append(rate)
            optimizer.step()
            tokens += int(inputs["attention_mask"].sum())
            losses.append(loss.item())
            if tracker is not None:
                tracker(number * recipe.batch_size, loss=losses[-1])
            if number % batches:
                continue
            if not np.isfinite(losses).all():
                raise InputError(f"the loss is not finite with learning_rate {recipe.learning_rate}: try a smaller one")
            if after_epoch is not None:
                after_epoch(optimizer, float(np.mean(rates[-batches:])))
                model.train()
            if checkpoint is not None and number < steps:
                taken = spent + time.perf_counter() - started
                facts = Facts(run=run, steps=number, tokens=tokens, losses=losses, seconds=taken)
                save_checkpoint(checkpoint, trained, optimizer, target.device, facts)
    seconds = spent + time.perf_counter() - started
    return Fit(seconds, steps, len(rows) * recipe.epochs, tokens, float(np.mean(losses[-max(1, steps // 10) :])))


def predict(target: Target, rows: Rows, what: str = "predict") -> Doubles:
    """Return class probabilities (n, C)."""
    torch = require("torch", "finetune")
    encoded = tokenize_rows(target, rows)
    batches = _full_batches(target, encoded)
    scores = np.empty((len(rows), target.model.config.num_labels))
    target.model.eval()
    with torch.inference_mode():
        for batch in track(batches, what):
            logits = target.model(**pad_batch(target, encoded, batch)).logits.float()
            scores[batch] = torch.softmax(logits, -1).cpu().numpy()
    return scores


@dataclass(frozen=True)
class ResponseLosses:
    """What a causal model makes of responses given their prompts.

    Attributes:
        nats: (n,) negative log probability of each response, its end included.
        tokens: (n,) tokens of each.
    """

    nats: Doubles
    tokens: Ints

    @property
    def mean(self) -> float:
        """Nats a token."""
        return float(self.nats.sum() / self.tokens.sum())


def response_losses(target: Target, rows: Rows, what: str = "responses") -> ResponseLosses:
    """Return the losses of rows of instruction data."""
    torch = require("torch", "finetune")
    encoded = tokenize_rows(target, rows)
    batches = _full_batches(target, encoded)
    nats, tokens = np.empty(len(rows)), np.empty(len(rows), np.int64)
    target.model.eval()
    with torch.inference_mode():
        for batch in track(batches, what):
            found, counted = _token_losses(target, pad_batch(target, encoded, batch))
            nats[batch], tokens[batch] = found.sum(1).double().cpu().numpy(), counted.sum(1).cpu().numpy()
    return ResponseLosses(nats, tokens)


def _full_batches(target: Target, encoded: dict[str, Any]) -> list[Ints]:
    """Batches of rows of about the same length, as many as the device predicts at once."""
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    return list(token_batches(lengths, PREDICT_TOKENS["cpu" if target.device == "cpu" else "cuda"]))


def _token_losses(target: Target, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """Return (B, T - 1) losses of the next tokens, 0 where they are no response's, and which are."""
    torch = require("torch", "finetune")
    labels = inputs.pop("labels")[:, 1:]
    logits = target.model(**inputs).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=NO_TOKEN, reduction="none")
    return losses, labels != NO_TOKEN


def folded(scores: npt.ArrayLike, folds: int = 3) -> Ints:
    """Order rows by folding: ascending scores, every ``folds``-th row first, then the next ones (DELT, arXiv 2506.21545).

    Args:
        scores: (n,) of the rows, of their difficulty say.
        folds: L, how often the training goes from low to high scores.

    Returns:
        (n,) row numbers: those at the places 0, L, 2 L, ..., then 1, L + 1, ... of the sorted rows; for
        ``Recipe(order="given")``.

    Raises:
        InputError: for fewer than one fold, or scores that are not finite numbers in one row.
    """
    check_whole("folds", folds, 1)
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(f"folding needs finite scores of shape (n,), not {values.shape}: {values.ravel()[:5].tolist()} ...")
    order = np.argsort(values, kind="stable")
    return np.concatenate([order[fold::folds] for fold in range(folds)])


def tokenize_rows(target: Target, rows: Rows) -> dict[str, Any]:
    """Return the tokens of rows, cut to the recipe's length: lists of numbers by the names of the model's inputs.

    Of instruction data ``labels`` too: the response's tokens in their places, and no token elsewhere.
    """
    if rows.responses is not None:
        return _tokenize_instructions(target, rows.texts, rows.responses)
    pairs = {} if rows.pairs is None else {"text_pair": rows.pairs}
    encoded = target.tokenizer(rows.texts, **pairs, truncation=True, max_length=target.recipe.max_length)
    return {key: encoded[key] for key in encoded if key in ("input_ids", "attention_mask", "token_type_ids")}


def pad_batch(target: Target, encoded: dict[str, Any], batch: np.ndarray) -> dict[str, Any]:
    """Return some of the rows of ``tokenize_rows`` as the model's inputs, padded to the longest, on the target's device."""
    chosen = {key: [values[i] for i in batch] for key, values in encoded.items()}
    labels = chosen.pop("labels", None)
    side = {} if labels is None else {"padding_side": "right"}
    inputs = dict(target.tokenizer.pad(chosen, padding=True, return_tensors="pt", **side).to(target.device))
    if labels is not None:
        longest = inputs["input_ids"].shape[1]
        padded = [[*row, *[NO_TOKEN] * (longest - len(row))] for row in labels]
        inputs["labels"] = require("torch", "finetune").tensor(padded, device=target.device)
    return inputs


def prompt_tokens(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of prompts, in the chat template where the tokenizer has one, ready for an answer."""
    if tokenizer.chat_template:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        found = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    else:
        found = tokenizer(list(prompts))["input_ids"]
    return [list(ids) for ids in found]


def _tokenize_instructions(target: Target, prompts: list[str], responses: list[str]) -> dict[str, Any]:
    """A chat model reads the prompt in its template; any other reads it as it stands, and a line break.

    What is too long loses the end of the response, which keeps half of the room, and the beginning of the prompt.
    """
    tokenizer, room = target.tokenizer, target.recipe.max_length
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if tokenizer.chat_template:
        asked = prompt_tokens(tokenizer, prompts)
    else:
        asked = prompt_tokens(tokenizer, [f"{prompt}\n" for prompt in prompts])
        asked = [ids[:-1] if ids and ids[-1:] == end else ids for ids in asked]
    answered = tokenizer(responses, add_special_tokens=False)["input_ids"]
    found: dict[str, Any] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, response in zip(asked, answered, strict=True):
        answer = [*response, *end][: max(room // 2, room - len(prompt))]
        kept = prompt[max(0, len(prompt) - (room - len(answer))) :]
        found["input_ids"].append([*kept, *answer])
        found["attention_mask"].append([1] * (len(kept) + len(answer)))
        found["labels"].append([NO_TOKEN] * len(kept) + list(answer))
    return found


def _batches(encoded: dict[str, Any], recipe: Recipe, rng: np.random.Generator) -> Iterator[Ints]:
    """Rows as they stand, or shuffled batches of rows of similar length: sorted in groups, then all batches shuffled."""
    size = recipe.batch_size
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    if recipe.order == "given":
        yield from np.split(np.arange(len(lengths)), range(size, len(lengths), size))
        return
    order = rng.permutation(len(lengths))
    found: list[Ints] = []
    for start in range(0, len(order), size * LENGTH_GROUP):
        group = order[start : start + size * LENGTH_GROUP]
        group = group[np.argsort(lengths[group], kind="stable")]
        found += [group[i : i + size] for i in range(0, len(group), size)]
    for i in rng.permutation(len(found)):
        yield found[i]


def usable_device(device: str) -> str:
    """Return the device, or for ``auto`` CUDA where there is some, else the CPU.

    Raises:
        InputError: where torch cannot use it.
    """
    torch = require("torch", "finetune")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {error}") from error
    return chosen


@contextmanager
def reading(failure: str) -> Iterator[None]:
    """Turn what transformers raises for a checkpoint into an ``InputError`` that begins with ``failure``."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, require("safetensors", "finetune").SafetensorError) as error:
        raise InputError(f"{failure}: {error}") from error


def _check_memory(model: Any, recipe: Recipe, device: str) -> None:
    """Refuse a target whose weights, gradients and moments of Adam are more than the device has free."""
    torch = require("torch", "finetune")
    weights = sum(parameter.numel() for parameter in model.parameters())
    copies = 4 if recipe.method == "full" else 1.1  # the weights, their gradients and two moments; adapters are small
    needed = 4 * weights * copies
    if device.startswith("cuda"):
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = require("psutil", "finetune").virtual_memory().available
    if needed > free:
        advice = "" if recipe.method == "lora" else "method='lora', which trains adapters alone, "
        raise InputError(
            f"target {recipe.target!r} has {weights / 1e6:.0f} million weights: method={recipe.method!r} needs at least "
            f"{needed / 2**30:.1f} GiB and {device!r} has {free / 2**30:.1f} GiB free; try {advice}a smaller target or "
            "another device"
        )


@contextmanager
def _seeded(torch: Any, seed: int, device: str) -> Iterator[None]:
    """Seed torch inside the block only: dropout and new heads read its global generator."""
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
