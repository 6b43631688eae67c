"""One short real use of the core and of each extra: ``benchmarks.release`` copies this file to where the wheel alone is.

``python release_uses.py core`` (or ``build``, ``minilm``, ...). It imports ``dsenv`` and what the extra brings, nothing of the
checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import dsenv
from dsenv.errors import MissingExtraError

DSENV = Path(sys.executable).with_name("dsenv")


def command(*words: str) -> str:
    """Run the installed command and return what it prints."""
    return subprocess.run([str(DSENV), *words], check=True, capture_output=True, text=True).stdout


def play(id: str, **keywords: Any) -> float:
    """Play an episode of valid picks and return the score."""
    env = gym.make(id, **keywords)
    _, info = env.reset(seed=0)
    rng, over = np.random.default_rng(0), False
    while not over:
        _, _, over, _, info = env.step(rng.choice(np.flatnonzero(info["action_mask"])))
    return float(info["score"])


def core() -> None:
    """Episodes of every kind that needs no extra, a search, the command line; an absent extra is named."""
    assert play("DataSelect-GooglePlay-v0") != play("DataSelect-GooglePlay-Small-v0") != play("DataSelectRLVR-Simulator-v0")
    vector: Any = gym.make_vec("dsenv:DataSelect-InfoTabs-v0", 4)
    vector.reset(seed=0)
    assert vector.step(np.arange(4))[0].shape == (4, vector.plan.clusters + 2)
    assert "googleplay" in command("tasks")
    command("select", "googleplay", "--method", "greedy", "--evaluations", "256", "--out", "selection.json")
    assert len(dsenv.Selection.load("selection.json").rows) == 1984
    command("evaluate", "best_of", "--id", "DataSelect-Synthetic-v0", "--evaluations", "64", "--out", "results.jsonl")
    command("replay", "results.jsonl")
    proxy = gym.make("DataSelect-Synthetic-v0").unwrapped.proxy  # type: ignore[attr-defined]
    stored = dsenv.StoredProxy(proxy, "scores.sqlite")
    assert stored.score(np.zeros((1, 48), np.int64)) == proxy.score(np.zeros((1, 48), np.int64))
    try:
        import torch  # noqa: F401
    except ImportError:
        try:
            play("DataSelectRLVR-Arithmetic-v0")
        except MissingExtraError as error:
            assert "dsenv-gym[finetune]" in str(error)
        else:
            raise SystemExit("played without the extra")


def build() -> None:
    """A task of own texts, of a Parquet file too, and a selector that needs scikit-learn."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet

    rows = dsenv.synthetic_texts(rows=600, held_out=120)
    columns = {"text": rows.train.texts, "stars": [f"{label} stars" for label in rows.train.labels]}
    pyarrow.parquet.write_table(pa.table(columns), "mine.parquet")
    command("build", "mine.parquet", "--text", "text", "--label", "stars", "--encoder", "tfidf", "--out", "mine.npz")
    assert np.isfinite(play("DataSelect-v0", task="mine.npz"))
    task = dsenv.build_task(datasets.Dataset.from_dict(columns), text="text", label="stars", encoder="tfidf")
    assert len(dsenv.select(task, method="k_center").rows) > 10
    assert np.isfinite(play("DataSelect-v0", task=task, proxy="probe", reward="final"))


def minilm() -> None:
    """Vectors of the packaged all-MiniLM-L6-v2."""
    rows = dsenv.synthetic_texts(rows=200, held_out=40)
    assert dsenv.encode(rows, encoder="minilm")["test"].shape == (40, 384)
    assert len(dsenv.select(dsenv.build_task(rows, encoder="minilm"), method="greedy", evaluations=64).rows) > 1


def finetune() -> None:
    """A small encoder made here, fine-tuned in full and with LoRA; a round of the embedded policy's training."""
    import tokenizers
    import transformers

    rows = dsenv.synthetic_texts(rows=80, held_out=40)
    words = sorted({word for text in rows.train.texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained("model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained("model")
    for method in ("full", "lora"):
        result = dsenv.fine_tune(None, rows, "model", seeds=[0], method=method, epochs=1, max_length=32, device="cpu")
        assert 0 <= result.runs[0].accuracy <= 1
    env = gym.make("DataSelectRLVR-Arithmetic-v0", budget=16, batch=4, group=4, steps=1)
    env.reset(seed=0)
    assert env.step(0)[2]


def agents() -> None:
    """DQN and masked PPO learn for a moment on one batched call."""
    from sb3_contrib import MaskablePPO
    from stable_baselines3 import DQN

    vec = dsenv.SB3VecEnv("DataSelect-Synthetic-v0", 4, reward="final")
    MaskablePPO("MlpPolicy", vec, n_steps=64, batch_size=64, tensorboard_log="board", seed=0).learn(256)
    DQN("MlpPolicy", vec, learning_starts=64, seed=0, buffer_size=1000).learn(256)
    assert any(Path("board").rglob("events*"))


def ray() -> None:
    """Scores of Ray's workers are those of the proxy."""
    proxy = gym.make("DataSelect-Synthetic-v0").unwrapped.proxy  # type: ignore[attr-defined]
    counts = np.eye(48, dtype=np.int64)[:4]
    with dsenv.PooledProxy(proxy, "ray", workers=1) as pool:
        assert np.array_equal(pool.score(counts), proxy.score(counts))


def render() -> None:
    """A picture of the clusters."""
    env = gym.make("DataSelect-GooglePlay-v0", render_mode="rgb_array")
    env.reset(seed=0)
    env.step(0)
    picture: Any = env.render()
    assert picture.ndim == 3 and picture.std() > 0


def tracking() -> None:
    """A run of Weights & Biases that stays on this machine; TensorBoard's files need torch too, and that is said."""
    from dsenv.tracking import tracker

    os.environ["WANDB_MODE"] = "offline"
    with tracker("wandb:release", "run") as track:
        track(1, score=0.5)
    assert any(Path("wandb").rglob("*.wandb"))
    try:
        with tracker("tensorboard:board", "run") as track:
            track(1, score=0.5)
    except MissingExtraError as error:
        assert "dsenv-gym[tracking,finetune]" in str(error)
    else:
        assert any(Path("board").rglob("events*"))


USES: dict[str, Callable[[], None]] = {
    use.__name__: use for use in (core, build, minilm, finetune, agents, ray, render, tracking)
}

if __name__ == "__main__":
    assert Path(dsenv.__file__).is_relative_to(sys.prefix), f"{dsenv.__file__} is not what was installed"
    for name in sys.argv[1:]:
        USES[name]()
