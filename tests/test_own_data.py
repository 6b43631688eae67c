"""A user's own rows: splits that are cut, row ids of the table, instruction data, and refusals that name the cell."""

import dataclasses
import json
import logging
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pandas
import pytest

import dsenv
from dsenv.baselines import model_for, reward_of_rows
from dsenv.dataset import TextDataset, as_dataset, load_dataset
from dsenv.errors import InputError
from dsenv.evaluation import evaluate, replay
from dsenv.finetuning import TargetResult
from dsenv.proxies.finetune import FinetuneProxy
from dsenv.proxies.outputs import Outputs
from dsenv.proxies.ridge import RidgeProxy, score_weights
from dsenv.proxies.ridge_torch import TorchRidgeProxy
from dsenv.run_folder import RunFolder
from dsenv.search import search
from dsenv.splits import cut_rows, near_duplicates
from dsenv.tables import read_table, write_table
from dsenv.training import Recipe, load_target, response_losses, tokenize_rows
from tests.conftest import tiny_columns

TABLES = ("csv", "tsv", "jsonl", "parquet")


def table(rows: int = 300) -> dict[str, list]:
    columns = tiny_columns(rows, 5)
    return {"review": columns["text"], "stars": columns["label"], "note": [f"note {i}" for i in range(rows)]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def own(cache):
    columns = table()
    return columns, dsenv.build_task(columns["review"], columns["stars"], encoder="tfidf", clusters=12, cache_dir=cache)


def instructions(rows: int = 240) -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    things, moves = rng.choice(["cat", "dog", "bird", "fish"], rows), rng.choice(["runs", "sleeps", "sings"], rows)
    known = rng.random(rows) < 0.6
    return {
        "prompt": [
            f"What does the {t} do when it {m}, question {i}?" for i, (t, m) in enumerate(zip(things, moves, strict=True))
        ],
        "response": [
            f"The {t} {m} in the garden." if k else "I do not know." for t, m, k in zip(things, moves, known, strict=True)
        ],
    }


@pytest.fixture(scope="module")
def asked(cache):
    dataset = TextDataset.from_table(instructions())
    return dataset, dsenv.build_task(dataset, encoder="tfidf", clusters=8, cache_dir=cache)


def test_five_lines_give_row_ids_of_the_table(own):
    columns, task = own
    env = gym.make("DataSelect-v0", task=task)
    env.reset(seed=0)
    selection = dsenv.select(task, budget=0.1, evaluations=64)
    held_out = {*range(300)} - set(task.row_ids.tolist())
    assert len(held_out) == 60 and not held_out & set(selection.rows)
    assert len(set(selection.rows)) == len(selection.rows) > 20
    names = [task.class_names[k] for k in task.train.labels[np.searchsorted(task.row_ids, sorted(selection.rows))]]
    assert names == [columns["stars"][row] for row in sorted(selection.rows)]
    chosen = selection.to_dataset(TextDataset.from_table(columns, text="review", label="stars")).train
    assert chosen.texts == [columns["review"][row] for row in selection.rows]
    assert task.metadata["split"] == {"cut": ["validation", "test"], "share": 0.1, "seed": 0}


@pytest.mark.parametrize("suffix", TABLES)
def test_every_table_gives_the_same_dataset(tmp_path, suffix):
    columns = table()
    path = write_table(columns, tmp_path / f"my.{suffix}")
    assert read_table(path) == columns
    expected = TextDataset.from_table(pandas.DataFrame(columns), text="review", label="stars")
    found = load_dataset(path, text="review", label="stars")
    assert found.fingerprint == expected.fingerprint and found.name == "my"
    assert found.train.ids.tolist() == expected.train.ids.tolist() and len(found.validation) == 30


def test_a_hub_dataset_is_a_table_too(own):
    import datasets

    columns, task = own
    found = TextDataset.from_table(datasets.Dataset.from_dict(columns), text="review", label="stars")
    assert found.fingerprint == task.metadata["fingerprint"]


def test_vectors_of_all_rows_stand_for_an_encoder(own):
    columns, task = own
    vectors = np.random.default_rng(0).normal(size=(300, 6))
    ours = dsenv.build_task(columns, text="review", label="stars", vectors=vectors, clusters=8)
    assert ours.row_ids.tolist() == task.row_ids.tolist() and ours.metadata["encoder"] == "own vectors"
    alone = dsenv.build_task(labels=columns["stars"], vectors=vectors, clusters=8)
    assert len(alone.train) == 240 and alone.class_names == ["bad", "good", "so"]
    first = [alone.class_names[k] for k in alone.train.labels]
    assert first == [columns["stars"][row] for row in alone.row_ids]
    with pytest.raises(InputError, match=r"shape \(299, 6\); allowed is \(300, d\)"):
        dsenv.build_task(labels=columns["stars"], vectors=vectors[1:])
    with pytest.raises(InputError, match=r"shape \(299, 6\); allowed is \(300, d\)"):
        dsenv.build_task(columns, text="review", label="stars", vectors=vectors[1:])
    with pytest.raises(InputError, match="nothing to build"):
        dsenv.build_task(labels=columns["stars"])
    with pytest.raises(InputError, match="texts come with labels"):
        dsenv.build_task(columns["review"])
    with pytest.raises(InputError, match="goes with texts"):
        dsenv.build_task(columns, columns["stars"])


def test_only_missing_splits_are_cut(tmp_path):
    columns = table()
    part = {name: values[:40] for name, values in table(80).items()}
    write_table(columns, tmp_path / "train.csv")
    write_table(part, tmp_path / "test.jsonl")
    found = TextDataset.from_folder(tmp_path, text="review", label="stars")
    assert len(found.train) == 270 and len(found.validation) == 30 and found.test.texts == part["review"]
    assert found.meta["split"]["cut"] == ["validation"]
    other = TextDataset.from_folder(tmp_path, text="review", label="stars", split_seed=1)
    assert other.fingerprint != found.fingerprint and len(other.train) == 270


def test_duplicates_stay_together_and_classes_keep_their_shares():
    rng = np.random.default_rng(0)
    keys = [f"text {i}" for i in rng.integers(0, 700, 2000)]
    strata = [{"a": 0, "b": 1}.get(key[-1], int(key[-1] in "13579")) for key in keys]
    found = cut_rows(keys, strata, ("validation", "test"))
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(2000))
    assert not {keys[i] for i in found["train"]} & {keys[i] for split in ("validation", "test") for i in found[split]}
    assert not {keys[i] for i in found["validation"]} & {keys[i] for i in found["test"]}
    for rows in found.values():
        assert np.mean([strata[i] for i in rows]) == pytest.approx(np.mean(strata), abs=0.03)
    assert [len(rows) for rows in found.values()] == pytest.approx([1600, 200, 200], abs=12)
    again = cut_rows(keys, strata, ("validation", "test"))
    assert all(np.array_equal(found[split], again[split]) for split in found)
    # A text with two labels goes to training, a class of one row too.
    odd = cut_rows(["same", "same", *keys], ["x", "y", *strata], ("validation", "test"))
    assert {0, 1} <= set(odd["train"].tolist())
    # Classes too small for a tenth of their own share theirs.
    small = cut_rows(range(500), [i % 100 for i in range(500)], ("validation", "test"))
    assert [len(rows) for rows in small.values()] == [400, 50, 50]
    assert {i % 100 for i in small["train"].tolist()} == set(range(100))
    with pytest.raises(InputError, match="3 rows, 1 of them different, cannot be cut .* validation would have 0"):
        cut_rows(["a"] * 3, [0] * 3, ("validation", "test"))


def test_near_duplicates_across_splits_are_warned_of(cache, caplog):
    columns = table()
    columns["review"][:60] = [f"a lovely superb app that is kind and works all day long, number {i}" for i in range(60)]
    columns["stars"][:60] = ["good"] * 60
    with caplog.at_level(logging.WARNING):
        dsenv.build_task(columns["review"], columns["stars"], encoder="tfidf", cache_dir=cache)
    assert "near-duplicates of training rows" in caplog.text
    vectors = np.eye(3)
    texts = ["the same words, all of them", "quite another sentence", "third"]
    assert near_duplicates(vectors, vectors, texts, ["the same words - ALL of them", "quite unlike it", "third."]) == [
        (0, 0),
        (2, 2),
    ]
    long = " ".join(f"word{i}" for i in range(2000))
    assert near_duplicates(vectors[:1], vectors[:1], [long], [f"{long} end"]) == [(0, 0)]
    assert not near_duplicates(vectors[:1], vectors[:1], [long], [long[: len(long) // 2]])


def broken(column: str, row: int, value: object) -> dict[str, list]:
    columns = table(60)
    columns[column][row] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (broken("review", 7, None), "row 7 of column 'review' of split 'train' of 'own' is None, not a text"),
        (broken("review", 7, " "), "row 7 of column 'review' .* is empty"),
        (broken("stars", 3, None), "row 3 of column 'stars' .* is empty: no label"),
        (broken("stars", 3, float("nan")), "row 3 of column 'stars' .* is empty: no label"),
        (broken("stars", 3, ""), "row 3 of column 'stars' .* is empty: no label"),
        (broken("stars", 3, 4), r"row 3 of column 'stars' is 4 \(int\)"),
        (broken("stars", 3, ["good"]), r"row 3 of column 'stars' is \['good'\] \(list\)"),
        ({"review": ["a"] * 60, "note": ["b"] * 60}, "no column 'stars'. Name the label column .*; found: 'review', 'note'"),
        ({"review": ["a"] * 60, "stars": ["b"] * 59}, "different lengths"),
        ({"review": [], "stars": []}, "has no rows"),
        ({"review": ["a b", "b c", "c d"], "stars": ["x", "y", "x"]}, "3 rows, 3 of them different, cannot be cut"),
    ],
)
def test_bad_cells_are_named(columns, says):
    with pytest.raises(InputError, match=says):
        dsenv.build_task(columns, text="review", label="stars")


def test_labels_of_two_kinds_in_a_csv_file_are_named(tmp_path):
    columns = table(60)
    columns["stars"] = ["5"] * 40 + ["1"] * 20
    columns["stars"][31] = "n/a"
    with pytest.raises(InputError, match=r"row 31 of column 'stars' is 'n/a' \(str\), others are a whole number"):
        load_dataset(write_table(columns, tmp_path / "my.csv"), text="review", label="stars")
    columns["stars"] = ["error", "error", "404"] * 20  # one number is a name among names
    assert load_dataset(write_table(columns, tmp_path / "my.csv"), text="review", label="stars").class_names == (
        "404",
        "error",
    )
    floats = TextDataset.from_table({"text": table(60)["review"], "label": [1.0, 2.0] * 30})
    assert floats.class_names == ("1", "2")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.csv", b"", "is empty"),
        ("empty.jsonl", b"\n", "has no rows"),
        ("header.csv", b"text,label\n", "has no rows"),
        (
            "latin.csv",
            "text,label\ngood,a\ncaf\u00e9,b\n".encode("latin-1"),
            r"row 1 of column 'text' of .* is not UTF-8: b'caf\\xe9'",
        ),
        (
            "latin.jsonl",
            '{"text": "a"}\n{"text": "caf\u00e9"}\n'.encode("latin-1"),
            "row 1 of column 'text' of .* is not UTF-8",
        ),
        ("header.csv", "caf\u00e9,label\na,b\n".encode("latin-1"), "the header of .* is not UTF-8"),
        ("fewer.csv", b"text,label\na,b\nc\n", r"row 1 of .* \(line 3\) has fewer cells than the header has columns \(2\)"),
        ("more.csv", b"text,label\na,b\nc,d,e\n", r"row 1 of .* more cells than the header has columns \(2\)"),
        ("quote.csv", b'text,label\n"a,b\n', "row 0 of .* cannot be read"),
        ("twice.csv", b"text,text\na,b\n", "two columns 'text'"),
        ("list.jsonl", b"[1]\n", r"row 0 of .* is '\[1\]': every line must be a JSON object"),
        ("deep.jsonl", b"[" * 100_000 + b"\n", "row 0 of .* is not JSON"),
        ("half.jsonl", b'{"text": "a"}\n{"text":\n', "row 1 of .* is not JSON"),
        ("broken.parquet", b"PAR1 nothing", "cannot be read"),
        ("my.xlsx", b"", "is no table: allowed are files"),
    ],
)
def test_bad_files_are_named(tmp_path, name, data, says):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_table(path)


def test_tables_as_pandas_writes_and_holds_them(tmp_path):
    columns = table(60)
    frame = pandas.DataFrame(columns, index=[f"r{i}" for i in range(60)])
    expected = TextDataset.from_table(frame, text="review", label="stars")
    frame.to_csv(tmp_path / "my.csv")  # the index becomes a column without a name
    assert load_dataset(tmp_path / "my.csv", text="review", label="stars").fingerprint == expected.fingerprint
    frame["stars"] = frame["stars"].astype("category")
    assert TextDataset.from_table(frame, text="review", label="stars").fingerprint == expected.fingerprint
    numbers = pandas.DataFrame({"text": columns["review"], "label": pandas.array([1, 2] * 30, dtype="Int64")})
    assert TextDataset.from_table(numbers).class_names == ("1", "2")
    numbers.loc[5, "label"] = pandas.NA
    with pytest.raises(InputError, match="row 5 of column 'label' .* is empty"):
        TextDataset.from_table(numbers)
    with pytest.raises(InputError, match="two columns 'text'"):
        TextDataset.from_table(pandas.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_hub_tables_keep_their_class_names():
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    held = datasets.Dataset.from_dict({"text": table(60)["review"], "label": [0, 1] * 30}, features=features)
    assert TextDataset.from_table(held).class_names == ("no", "yes")
    splits = as_dataset(datasets.DatasetDict({"train": held, "test": held}))
    assert splits.class_names == ("no", "yes") and len(splits.test) == 60 and len(splits.validation) == 6


def test_numbers_as_names_and_other_names_of_splits(tmp_path):
    train = {"text": table(60)["review"], "label": ["a1", "500", "404", "b", "c", "d"] * 10}
    write_table(train, tmp_path / "train.csv")
    write_table({"text": ["x", "y"], "label": ["500", "404"]}, tmp_path / "test.csv")
    write_table({"text": ["v", "w"], "label": ["b", "404"]}, tmp_path / "dev.csv")
    found = load_dataset(tmp_path)
    assert [found.class_names[k] for k in found.test.labels] == ["500", "404"] and len(found.validation) == 2
    assert "split" not in found.meta and len(found.train) == 60


def test_odd_labels_are_refused_or_warned_of(caplog):
    texts = table(120)["review"]
    with pytest.raises(InputError, match="120 different labels in 120 rows: is it an id"):
        TextDataset.from_table({"text": texts, "label": [f"row {i}" for i in range(120)]})
    with caplog.at_level(logging.WARNING):
        TextDataset.from_table({"text": texts, "label": ["Billing", "billing ", "other"] * 40})
    assert "labels 'Billing' and 'billing ' of column 'label' are different classes" in caplog.text
    with pytest.raises(InputError, match="row 1 of column 'text' .* half a character"):
        TextDataset.from_table({"text": ["a", "b\ud800"] * 30, "label": ["x", "y"] * 30})
    with pytest.raises(InputError, match="split_seed -1"):
        TextDataset.from_table({"text": texts, "label": ["x", "y"] * 60}, split_seed=-1)
    with pytest.raises(InputError, match="label noise needs classes"):
        TextDataset.from_table(instructions()).with_label_noise(0.5)


def test_spreadsheets_csv_is_read(tmp_path):
    path = tmp_path / "my.csv"
    path.write_bytes('\ufefftext;label\r\n"one; two";1\r\nthree;2\r\n'.encode())
    assert read_table(path) == {"text": ["one; two", "three"], "label": ["1", "2"]}
    with pytest.raises(InputError, match="there is no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is no table"):
        write_table({"a": [1]}, tmp_path / "my.txt")


def test_responses_are_predicted_exactly(asked):
    """The ridge proxy, its torch form and the plain solution agree; random picks lose to a search."""
    _, task = asked
    env = gym.make("DataSelect-v0", task=task, budget=0.2).unwrapped
    assert env.metric == "response_skill" and isinstance(env.proxy, RidgeProxy)
    rng = np.random.default_rng(0)
    counts = np.stack([np.bincount(rng.integers(0, env.plan.clusters, env.plan.picks), minlength=env.plan.clusters)
                       for _ in range(6)])  # fmt: skip
    counts = np.minimum(counts, env.plan.capacity)
    counts[0] = 0
    found = env.proxy.score(counts)
    assert found[0] == 0.0
    for row, value in zip(counts[1:], found[1:], strict=True):
        rows = env.plan.rows(row)
        assert value == pytest.approx(reward_of_rows(task, rows, "response_skill"), abs=1e-9)
        truth = task.reward.responses.astype(float)
        predicted = task.reward.features.astype(float) @ model_for(task, rows, "response_skill")
        mean = task.train.responses.mean(0, dtype=float)
        by_hand = 1 - ((predicted - truth) ** 2).sum() / ((truth - mean) ** 2).sum()
        assert value == pytest.approx(by_hand, abs=1e-9)
    torched = TorchRidgeProxy(task, env.plan, "response_skill", precision="float64", device="cpu").score(counts)
    assert torched == pytest.approx(found, abs=1e-8)
    assert search(env.proxy, "swap", evaluations=300).score > found.max()
    # The mean response has skill 0 where it is the held-out rows' too, and the truth has skill 1.
    outputs = Outputs(task, "response_skill")
    assert score_weights(task, model_for(task, np.arange(len(task.train)), "response_skill"), task.train, "response_skill") > 0
    assert outputs.width == task.train.responses.shape[1]


def test_instruction_tasks_are_like_any_other(asked, tmp_path):
    dataset, task = asked
    assert dataset.is_instructions and task.is_instructions and task.default_metric == "response_skill"
    path = task.save(tmp_path / "asked.npz")
    assert dsenv.load_task(path).digest == task.digest
    result = evaluate(lambda seen, info: int(np.flatnonzero(info["action_mask"])[0]), "DataSelect-v0", task=str(path))[0]
    assert result.metric == "response_skill" and set(result.scores["test"]) > {"accuracy", "response_skill"}
    replay(result)
    rows = dsenv.select(task, method="class_mix", budget=0.2).rows
    assert set(rows) <= set(dataset.train.ids.tolist())
    part = task.with_pool(np.arange(50))
    assert part.train.responses.shape == (50, task.train.responses.shape[1])
    env = gym.make("DataSelect-v0", task=task, reward_rows=0.5)
    env.reset(seed=0)
    with pytest.raises(InputError, match="unknown metric 'response_skill'"):
        gym.make("DataSelect-Synthetic-v0", metric="response_skill")
    with pytest.raises(InputError, match="instruction data"):
        dsenv.select_finalist(task)
    changed = TextDataset.from_table({**instructions(), "response": ["x"] * 240})
    assert changed.fingerprint != dataset.fingerprint


def test_a_causal_target_learns_the_responses(asked, llama):
    dataset, task = asked
    before = response_losses(load_target(Recipe(llama, device="cpu"), None), dataset.test)
    learned = dsenv.fine_tune(None, dataset, llama, seeds=[0], epochs=2, learning_rate=1e-2, device="cpu")
    run = learned.runs[0]
    assert run.accuracy is None and run.macro_f1 is None and run.loss < before.mean - 0.5
    low_rank = dsenv.fine_tune(None, dataset, llama, seeds=[0], epochs=1, learning_rate=1e-2, method="lora", device="cpu")
    assert low_rank.runs[0].loss < before.mean
    env = gym.make("DataSelect-v0", task=task).unwrapped
    proxy = FinetuneProxy(
        task, env.plan, "neg_response_loss", dataset, model=llama, learning_rate=1e-2, device="cpu", rows=1.0
    )
    counts = env.plan.complete(np.zeros(env.plan.clusters, np.int64))
    untrained, trained = proxy.score(np.stack([np.zeros_like(counts), counts]))
    assert trained > untrained and trained == proxy.score(counts[None])[0]
    made = gym.make("DataSelect-v0", task=task, proxy=proxy, metric="neg_response_loss", reward="final")
    assert made.reset(seed=0)[1]["score"] == untrained
    with pytest.raises(InputError, match="unknown metric 'accuracy'"):
        FinetuneProxy(task, env.plan, "accuracy", dataset, model=llama)
    with pytest.raises(InputError, match="'minilm' is no complete causal language model"):
        dsenv.fine_tune(None, dataset, "minilm", seeds=[0])


def test_a_model_that_reads_ahead_is_no_causal_target(asked, tmp_path):
    """BERT with its whole language model head would be asked for tokens that it sees."""
    from transformers import BertConfig, BertForMaskedLM

    from tests.test_finetuning import save_encoder

    save_encoder(tmp_path)
    vocabulary = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is no causal language model: what it predicts depends on later tokens"):
        dsenv.fine_tune(None, asked[0], str(tmp_path), seeds=[0], device="cpu")


def test_only_responses_are_learned_and_long_rows_keep_some(asked, llama):
    dataset, _ = asked
    target = load_target(Recipe(llama, max_length=24, device="cpu"), None)
    rows = dataset.train.take([0, 1, 2])
    columns = {"prompt": ["word " * 200, "a b", "word " * 200], "response": ["word " * 200, "word " * 200, "x"]}
    long = TextDataset.from_columns(dict.fromkeys(("train", "validation", "test"), columns))
    for given in (rows, long.train):
        encoded = tokenize_rows(target, given)
        for ids, labels in zip(encoded["input_ids"], encoded["labels"], strict=True):
            answer = [token for token in labels if token != -100]
            assert len(ids) == len(labels) <= 24 and answer == ids[len(ids) - len(answer) :] and 0 < len(answer) < len(ids)
    losses = response_losses(target, rows)
    assert (losses.tokens > 0).all() and (losses.nats > 0).all()


def test_an_interrupted_fine_tuning_goes_on_bit_for_bit(texts, llama, tmp_path, monkeypatch):
    import dsenv.training

    recipe = {"epochs": 3, "max_length": 16, "learning_rate": 1e-3, "device": "cpu"}
    rows = list(range(40))
    whole = dsenv.fine_tune(rows, texts, llama, seeds=[0, 1], **recipe)
    save = dsenv.training.save_checkpoint

    def stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    path = tmp_path / "result.json"
    dsenv.fine_tune(rows, texts, llama, seeds=[0], path=path, **recipe)
    monkeypatch.setattr(dsenv.training, "save_checkpoint", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            dsenv.fine_tune(rows, texts, llama, seeds=[0, 1], path=path, **recipe)
    monkeypatch.undo()
    fits = []
    monkeypatch.setattr(dsenv.finetuning, "fit", lambda *a, **k: fits.append(a[2]) or dsenv.training.fit(*a, **k))
    found = dsenv.fine_tune(rows, texts, llama, seeds=[0, 1], path=path, **recipe)
    assert fits == [1]
    for ours, theirs in zip(found.runs, whole.runs, strict=True):
        assert (ours.accuracy, ours.macro_f1, ours.fit.loss) == (theirs.accuracy, theirs.macro_f1, theirs.fit.loss)
        assert (ours.fit.steps, ours.fit.tokens_seen) == (theirs.fit.steps, theirs.fit.tokens_seen)
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    with pytest.raises(InputError, match="another fine-tuning"):
        dsenv.fine_tune(rows[1:], texts, llama, seeds=[0], path=path, **recipe)
    with pytest.raises(InputError, match="holds the last seed already"):
        dsenv.fine_tune(rows, texts, llama, seeds=[0], path=path, out=tmp_path / "model", **recipe)
    changed = dataclasses.replace(texts, test=texts.test.take(range(30)))
    with pytest.raises(InputError, match="another fine-tuning: dataset is"):
        dsenv.fine_tune(rows, changed, llama, seeds=[0], path=path, **recipe)
    with pytest.raises(InputError, match="another fine-tuning: epochs is 3 there and 1 now"):
        dsenv.fine_tune(rows, texts, llama, seeds=[0], path=path, **{**recipe, "epochs": 1})
    with pytest.raises(InputError, match="dataset is a dict"):
        dsenv.fine_tune(rows, {}, llama)
    with pytest.raises(InputError, match="seed -1"):
        dsenv.fine_tune(rows, texts, llama, seeds=[-1])
    other = tmp_path / "other.json"
    checkpoint = tmp_path / "other.json.seed0.checkpoint"
    checkpoint.write_bytes(b"half")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        dsenv.fine_tune(rows, texts, llama, seeds=[0], path=other, **recipe)


def test_a_checkpoint_of_weights_that_no_loss_reaches(tmp_path):
    import torch

    from dsenv.checkpoints import load_checkpoint, save_checkpoint

    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([used, unused], lr=0.1)
    used.sum().backward()
    optimizer.step()
    facts = {"run": "mine", "steps": 1, "tokens": 9, "losses": [0.5], "seconds": 0.1}
    save_checkpoint(tmp_path / "a", [used, unused], optimizer, "cpu", facts)
    fresh = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    other = torch.optim.AdamW(fresh, lr=0.1)
    assert load_checkpoint(tmp_path / "a", fresh, other, "cpu", "mine") == facts
    assert torch.equal(fresh[0], used) and torch.equal(fresh[1], unused) and fresh[1] not in other.state
    assert torch.equal(other.state[fresh[0]]["exp_avg"], optimizer.state[used]["exp_avg"])
    with pytest.raises(InputError, match="another training"):
        load_checkpoint(tmp_path / "a", fresh, other, "cpu", "yours")


def test_a_run_keeps_every_selection_and_result_apart(own, tmp_path):
    _, task = own
    run = RunFolder(tmp_path / "run")
    run.keep_task(task)
    small, large, other = (
        dsenv.select(task, method="random", budget=budget, seed=seed) for budget, seed in ((0.1, 0), (0.2, 0), (0.1, 1))
    )
    for selection in (small, large, other, small):
        run.keep_selection(selection)
    assert {name[:8] for name in run.selections} == {"random-0", "random-1"} and len(run.selections) == 3
    assert run.name_of(small) == "random-0" and run.name_of(large) == f"random-0-{large.digest[:6]}"
    recipe = {"target": "models/bert", "epochs": 1}
    results = [TargetResult("random", 9, (1.0,), recipe, (), selection=one.digest) for one in (small, large, other)]
    for result in [*results, dataclasses.replace(results[0], recipe={**recipe, "epochs": 2})]:
        run.keep_target(result)
    assert len(run.targets) == 4 and {run.name_of(one) for one in results} == set(run.selections)


def test_curves_for_tensorboard_and_wandb(texts, llama, tmp_path, monkeypatch):
    recipe = {"seeds": [0], "epochs": 1, "max_length": 16, "device": "cpu"}
    dsenv.fine_tune(list(range(40)), texts, llama, tracking=f"tensorboard:{tmp_path / 'tb'}", **recipe)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "tb").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert {"loss", "accuracy", "macro_f1"} <= set(events.Tags()["scalars"]) and len(events.Scalars("loss")) == 3
    for where in ("tensorboard", "tensorboard:", "mlflow:x"):
        with pytest.raises(InputError, match="allowed are tensorboard:FOLDER and wandb:PROJECT"):
            dsenv.fine_tune([0, 1], texts, llama, tracking=where, **recipe)


def test_a_selection_says_when_its_score_rose(own):
    _, task = own
    found = dsenv.select(task, method="swap", budget=0.1, evaluations=128)
    spent, scores = zip(*found.history, strict=True)
    assert list(spent) == sorted(spent) and spent[-1] <= found.evaluations and list(scores) == sorted(scores)
    assert scores[-1] == found.score
    assert json.loads(json.dumps(found.history))[0] == list(found.history[0])


@pytest.mark.libraries
def test_curves_for_wandb_stay_here(texts, llama, tmp_path):
    """W&B is a library of its own process: tried in one, offline."""
    pytest.importorskip("wandb", reason="wandb is not installed: extra 'tracking'")
    code = f"""
import dsenv
texts = dsenv.synthetic_texts(rows=300, held_out=60)
dsenv.fine_tune(list(range(40)), texts, {llama!r}, seeds=[0], epochs=1, max_length=16, device="cpu", tracking="wandb:mine")
"""
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=300)
    (kept,) = tmp_path.rglob("run-*.wandb")
    assert kept.stat().st_size > 0
