"""Every way in for rows, and every way to be refused."""

import csv
import json

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from dsenv.dataset import TextDataset, largest_remainder, load_dataset
from dsenv.errors import InputError
from dsenv.synthetic import synthetic_texts
from tests.conftest import tiny_splits


def write_folder(folder, splits, suffix):
    folder.mkdir(exist_ok=True)
    for split, columns in splits.items():
        path = folder / f"{split}.{suffix}"
        records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        elif suffix == "jsonl":
            path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        else:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(columns))
                writer.writeheader()
                writer.writerows(records)
    return folder


@pytest.mark.parametrize("pairs", [False, True])
def test_all_ways_in_give_the_same_dataset(tmp_path, pairs):
    splits = tiny_splits(pairs)
    expected = TextDataset.from_columns(splits, name="rows").fingerprint
    for suffix in ("parquet", "csv", "jsonl"):
        assert TextDataset.from_folder(write_folder(tmp_path / suffix, splits, suffix)).fingerprint == expected
    frames = {split: pandas.DataFrame(columns) for split, columns in splits.items()}
    assert TextDataset.from_columns(frames).fingerprint == expected
    assert load_dataset(tmp_path / "csv").name == "csv"
    assert load_dataset("parquet", data_dir=tmp_path).fingerprint == expected
    assert TextDataset.from_hub(str(tmp_path / "csv")).fingerprint == expected


def test_the_environment_variable_names_the_data_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "mine", tiny_splits(), "jsonl")
    monkeypatch.delenv("DSENV_DATA_DIR", raising=False)
    with pytest.raises(InputError, match="DSENV_DATA_DIR and data_dir are not set"):
        load_dataset("mine")
    monkeypatch.setenv("DSENV_DATA_DIR", str(tmp_path))
    assert load_dataset("mine").name == "mine"
    with pytest.raises(InputError, match="no dataset 'yours'"):
        load_dataset("yours")


def test_hub_class_names_and_missing_hub(tmp_path):
    import datasets

    splits = tiny_splits()
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good", "so"]),
            "source": datasets.Value("string"),
        }
    )
    loaded = datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(columns, features=features) for split, columns in splits.items()}
    )
    dataset = TextDataset.from_columns(dict(loaded), meta={"label_names": ["bad", "good", "so"]})
    assert dataset.class_names == ("bad", "good", "so")
    assert dataset.fingerprint == TextDataset.from_columns(splits).fingerprint
    with pytest.raises(InputError, match="could not be loaded"):
        load_dataset("nobody/nothing-of-this-name")


def test_labels_become_ids(tmp_path):
    splits = tiny_splits()
    texts = TextDataset.from_columns(splits)
    assert texts.class_names == ("bad", "good", "so")
    assert [texts.class_names[i] for i in texts.train.labels] == splits["train"]["label"]
    stars = {s: {**c, "label": [{"bad": 1, "so": 3, "good": 5}[x] for x in c["label"]]} for s, c in splits.items()}
    assert TextDataset.from_columns(stars).class_names == ("1", "3", "5")
    numbered = {s: {**c, "label": [{"bad": 0, "so": 1, "good": 2}[x] for x in c["label"]]} for s, c in splits.items()}
    for columns in stars.values():
        columns["label"] = [x + 7 for x in columns["label"]]  # 8, 10, 12: texts would sort otherwise
    folders = [TextDataset.from_folder(write_folder(tmp_path / suffix, stars, suffix)) for suffix in ("csv", "parquet")]
    assert folders[0].class_names == ("8", "10", "12") and folders[0].fingerprint == folders[1].fingerprint
    named = TextDataset.from_columns(numbered, meta={"label_names": ["bad", "so", "good"]})
    assert named.class_names == ("bad", "so", "good") and named.train.labels.tolist() == numbered["train"]["label"]


def change(split, column, row, value):
    splits = tiny_splits()
    splits[split][column][row] = value
    return splits


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({k: v for k, v in tiny_splits().items() if k != "train"}, "no 'train' split; found: validation, test"),
        ({**tiny_splits(), "test": {"text": ["a"]}}, "no column 'label'. Name the label column .*; found: 'text'"),
        ({**tiny_splits(), "train": {"label": [0]}}, "no column 'text'"),
        (change("train", "text", 4, "  "), "row 4 of column 'text' of split 'train' of 'own' is empty"),
        (change("train", "text", 4, None), "row 4 .* is None, not a text"),
        (change("test", "label", 2, "great"), "row 2 of split 'test' .* has the label 'great' .* allowed: bad, good, so"),
        (change("train", "label", 2, 1.5), "whole numbers or all be texts"),
        ({**tiny_splits(), "train": {**tiny_splits()["train"], "label": ["bad"] * 240}}, "label 'good'|one class only"),
        ({s: {**c, "label": ["bad"] * len(c["label"])} for s, c in tiny_splits().items()}, "one class only"),
        ({**tiny_splits(), "train": {"text": ["a", "b"], "label": ["x"]}}, "different lengths"),
        ({**tiny_splits(), "train": {"text": [], "label": []}}, "has no rows"),
        (
            {**tiny_splits(), "test": {k: v for k, v in tiny_splits()["test"].items() if k != "source"}},
            "in some splits and not",
        ),
    ],
)
def test_bad_rows_are_named(splits, says):
    with pytest.raises(InputError, match=says):
        TextDataset.from_columns(splits)


def test_label_outside_the_declared_range():
    splits = tiny_splits()
    for columns in splits.values():
        columns["label"] = [{"bad": 0, "so": 1, "good": 2}[x] for x in columns["label"]]
    splits["validation"]["label"][7] = 3
    for names in (5, "abc", ["a", "a"]):
        with pytest.raises(InputError, match="a list of different names"):
            TextDataset.from_columns(splits, meta={"label_names": names})
    with pytest.raises(InputError, match="row 7 of split 'validation' .* label 3 in column 'label'; allowed: 0 to 2"):
        TextDataset.from_columns(splits, meta={"label_names": ["a", "b", "c"]})


def test_unreadable_folders(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        TextDataset.from_folder(tmp_path / "none")
    folder = write_folder(tmp_path / "d", tiny_splits(), "csv")
    (folder / "test.csv").unlink()
    (folder / "train.csv").rename(folder / "train.txt")
    with pytest.raises(InputError, match="must hold one of train"):
        TextDataset.from_folder(folder)
    (folder / "train.txt").rename(folder / "train.csv")
    (folder / "test.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match="cannot be read"):
        TextDataset.from_folder(folder)
    (folder / "test.parquet").unlink()
    (folder / "test.jsonl").write_text('{"text": "a", "label": 1}\n[1, 2]\n', encoding="utf-8")
    with pytest.raises(InputError, match="must be a JSON object"):
        TextDataset.from_folder(folder)
    rows = '{"text": "a", "label": "bad", "source": "web"}\n{"text": "b", "source": "web"}\n'
    (folder / "test.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(InputError, match="row 1 of column 'label' of split 'test' of 'd' is empty"):
        TextDataset.from_folder(folder)
    (folder / "test.jsonl").write_text('{"text": "a", "label": "bad", "source": null}\n', encoding="utf-8")
    with pytest.raises(InputError, match="row 0 of column 'source' .* is None"):
        TextDataset.from_folder(folder)
    (folder / "test.jsonl").unlink()
    (folder / "test.csv").write_text("text,label,source\na,bad,web,more\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 0 .* more cells than the header"):
        TextDataset.from_folder(folder)
    (folder / "test.csv").unlink()
    (folder / "test.jsonl").write_bytes(b'{"label": "bad", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match="row 0 of column 'text' of .*test.jsonl' is not UTF-8"):
        TextDataset.from_folder(folder)
    (folder / "meta.json").write_text("[", encoding="utf-8")
    (folder / "test.jsonl").write_text('{"text": "a", "label": "bad", "source": "web"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="meta.json. is not a readable JSON object"):
        TextDataset.from_folder(folder)


def test_label_noise(tiny):
    noisy = tiny.with_label_noise(0.4, seed=3)
    flipped = noisy.train.labels != tiny.train.labels
    assert flipped.sum() == round(0.4 * len(tiny.train)) and noisy.fingerprint != tiny.fingerprint
    assert np.array_equal(noisy.train.labels, tiny.with_label_noise(0.4, seed=3).train.labels)
    assert not np.array_equal(noisy.train.labels, tiny.with_label_noise(0.4, seed=4).train.labels)
    assert np.array_equal(noisy.test.labels, tiny.test.labels)
    assert tiny.derive(noisy.derivation).fingerprint == noisy.fingerprint
    for wrong in (-0.1, 1.1):
        with pytest.raises(InputError, match="allowed are 0 to 1"):
            tiny.with_label_noise(wrong)


def test_target_source(tiny):
    target = tiny.with_target_source("web")
    assert set(target.test.sources) == {"web"} and len(target.train) == len(tiny.train)
    assert tiny.derive(target.derivation).fingerprint == target.fingerprint
    with pytest.raises(InputError, match="sources: shop, web"):
        tiny.with_target_source("radio")


def test_synthetic_texts_are_what_they_say():
    first, again = synthetic_texts(rows=600, held_out=90), synthetic_texts(rows=600, held_out=90)
    assert first.fingerprint == again.fingerprint != synthetic_texts(rows=600, held_out=90, seed=1).fingerprint
    duplicated = {t for t, s in zip(first.train.texts, first.train.sources, strict=True) if s in ("support", "design")}
    assert len(duplicated) <= 2 * 3 * 3
    assert np.bincount(first.train.labels)[1] < 0.3 * len(first.train)
    with pytest.raises(InputError, match="at least 60"):
        synthetic_texts(rows=10)


def test_largest_remainder():
    assert largest_remainder(np.array([1.0, 1.0, 1.0]), 5).tolist() == [2, 2, 1]
    assert largest_remainder(np.array([5.0, 3.0, 2.0]), 10).tolist() == [5, 3, 2]
    assert largest_remainder(np.array([0.0, 1.0]), 3).tolist() == [0, 3]


@pytest.mark.slow
def test_real_datasets_load(data_dir):
    for name, classes in (
        ("googleplay", 3),
        ("banking77", 77),
        ("infotabs", 3),
        ("goemotions", 28),
        ("hateunion", 2),
        ("sick", 3),
    ):
        dataset = load_dataset(name, data_dir)
        assert len(dataset.class_names) == classes and dataset.meta["sources"]
        assert (dataset.train.pairs is not None) == (name in ("infotabs", "sick"))
