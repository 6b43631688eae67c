"""Make the embedded policy of the arithmetic questions: ``python -m benchmarks.warm_policy [--out FOLDER]``.

A Llama with random weights is trained by supervised steps: first on right answers up to the level that it is to be able of,
then on all levels, with answers of which a share that grows with the level is right for another task (differences for sums,
copies for reverses). So it can do more than it mostly does: easy questions are solved, harder ones now and then, the hardest
never. GRPO needs such a start: what a policy of this size cannot do at all, some thousand rollouts do not teach it. Questions
of the registered set are left out, except those of level 1.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.errors import ending_cleanly
from dsenv.progress import track
from dsenv.rlvr.arithmetic import ALPHABET, KINDS, LEVELS, LONGEST, arithmetic_questions
from dsenv.rlvr.policy import EMBEDDED, Policy
from dsenv.seeding import generator

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
SIZES = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip
CONTEXT = 48
ABLE = {"add": 5, "subtract": 5, "multiply": 2, "modulo": 1, "chain": 5, "copy": 8, "reverse": 8}  # levels of the first phase
WRONG_SHARES = (0.0, 0.0, 0.5, 0.75, 0.9, 0.97, 1.0, 1.0)  # of a level's answers, in the second phase
STEPS = (4500, 500)  # of the two phases
LEARNING_RATES = ((2e-3, 3e-4), (1e-3, 1e-5))  # at the first and last step of each
BATCH, WARMUP = 256, 100
SAMPLES = 8  # completions of a question in the report


def make_tokenizer() -> Any:
    """Return a tokenizer of single characters that puts the beginning token first."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    first = [("<bos>", vocabulary["<bos>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=first)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def warm_up(out: Path, steps: Sequence[int], seed: int = 0) -> None:
    """Train a policy and save it as a transformers folder: config.json, model.safetensors and the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, **SIZES,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights, {sum(steps)} steps of {BATCH} questions")
    rng = generator(seed, "warm-up questions")
    for phase, count in enumerate(steps):
        loss = train_phase(model, tokenizer.get_vocab(), phase, count, rng)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        print(f"phase {phase + 1}: loss {loss:.3f}")
        report(out)


def train_phase(model: Any, numbers: dict[str, int], phase: int, steps: int, rng: np.random.Generator) -> float:
    """Train on fresh questions and return the last loss."""
    import torch

    taken = {prompt for questions in arithmetic_questions().parts.values() for prompt in questions.prompts}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01)
    first, last = LEARNING_RATES[phase]
    loss = torch.zeros(())
    for step in track(range(steps), f"warm-up, phase {phase + 1}"):
        optimizer.param_groups[0]["lr"] = (first + (last - first) * step / steps) * min(1, (step + 1) / WARMUP)
        texts = [draw(rng, taken, wrong=phase == 1) for _ in range(BATCH)]
        ids = [[1, *(numbers[character] for character in prompt + answer), 2] for prompt, answer in texts]
        batch = torch.zeros(BATCH, max(map(len, ids)), dtype=torch.long)
        labels = torch.full_like(batch, -100)
        for row, (one, (prompt, _)) in enumerate(zip(ids, texts, strict=True)):
            batch[row, : len(one)] = torch.tensor(one)
            labels[row, len(prompt) + 1 : len(one)] = batch[row, len(prompt) + 1 : len(one)]
        logits = model(input_ids=batch, attention_mask=(batch > 0).long()).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def draw(rng: np.random.Generator, taken: set[str], *, wrong: bool) -> tuple[str, str]:
    """Return a question with an answer, right or, in a share of a level's, that of another task."""
    while True:
        kind = list(KINDS)[rng.integers(len(KINDS))]
        level = int(rng.integers(1, (LEVELS if wrong else ABLE[kind]) + 1))
        prompt, answer = KINDS[kind](level, rng)
        if level == 1 or prompt not in taken:  # of the smallest numbers nearly all are taken
            break
    if wrong and (level > ABLE[kind] or rng.random() < WRONG_SHARES[level - 1]):
        answer = other_answer(kind, prompt, answer)
    return prompt, answer


def other_answer(kind: str, prompt: str, answer: str) -> str:
    """Return the answer to another task: the reverse for a copy, the difference for a sum, a number of the question, ..."""
    if kind in ("copy", "reverse"):
        return answer[::-1]
    numbers: list[str] = re.findall("[0-9]+", prompt)
    if kind == "add":
        return str(int(numbers[0]) - int(numbers[1]))
    if kind == "subtract":
        return str(-int(answer))
    return numbers[0] if kind == "chain" else numbers[1]


def report(folder: Path) -> None:
    """Print the pass rates of sampled completions of the reference questions, by kind and level."""
    whole = arithmetic_questions()
    questions = whole.reference
    found = Policy(str(folder), max_new_tokens=LONGEST).complete(
        questions.prompts, SAMPLES, 1.0, generator(0, "warm-up report")
    )
    answers = [answer for answer in questions.answers for _ in range(SAMPLES)]
    right = [text is not None and whole.check(text, answer) for text, answer in zip(found.texts, answers, strict=True)]
    rates = np.array(right).reshape(-1, SAMPLES).mean(1)
    table = np.array([rates[questions.cluster == k].mean() for k in range(len(whole.clusters))]).reshape(-1, LEVELS)
    for kind, row in zip(KINDS, table, strict=True):
        print(f"{kind:9}" + " ".join(f"{value:.2f}" for value in row))
    print(
        f"mean {rates.mean():.3f}; always {(rates == 1).mean():.2f}, never {(rates == 0).mean():.2f} of the questions",
        flush=True,
    )


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=2, default=STEPS, help="of the two phases (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warm_up(options.out, options.steps)


if __name__ == "__main__":
    with ending_cleanly():
        main()
