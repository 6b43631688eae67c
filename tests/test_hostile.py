"""Hostile and broken input: nothing but documented errors, no allocation before sizes are checked, paths confined."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import __main__ as program
from benchmarks.fuzz import samples, surface
from benchmarks.fuzz.surface import Surface, Tally
from benchmarks.fuzz.surfaces import all_surfaces
from dsenv.building import build_task, build_task_from_vectors
from dsenv.checkpoints import load_checkpoint
from dsenv.dataset import TextDataset, find_folder
from dsenv.env import DataSelectEnv
from dsenv.errors import DsenvError, InputError, StoreError, TaskFileError
from dsenv.evaluation import ReplayError, Result, evaluate_counts, load_rows, replay
from dsenv.proxies.entries import _signed, read_lines
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.surrogate import SurrogateProxy
from dsenv.run_folder import RunFolder
from dsenv.selection import Selection
from dsenv.selectors import select
from dsenv.tables import read_table
from dsenv.task import SelectionTask
from dsenv.task_file import task_digest

NAMES = (
    "task file",
    "selection",
    "results",
    "target result",
    "leaderboard",
    "constants",
    "store",
    "exported scores",
    "table *.csv",
    "table *.jsonl",
    "table *.parquet",
    "meta.json",
    "checkpoint",
    "surrogate",
    "vector cache",
    "task, signed",
    "task, members",
    "store, signed",
    "columns",
    "build",
    "vectors",
    "environment",
    "replay",
    "answers",
    "names of folders",
    "command line",
)
SLOW = {"build": 15, "command line": 15, "columns": 40, "task, signed": 60, "store, signed": 30, "surrogate": 60}
TEXTS = ["good app", "bad app", "kind help", "rude help"]


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    return {found.name: found for found in all_surfaces(tmp_path_factory.mktemp("surfaces"))}


@pytest.fixture
def watched():
    before = signal.getsignal(signal.SIGALRM)
    surface.watch_time()
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_nothing_but_documented_errors(name, surfaces, watched):
    assert set(surfaces) == set(NAMES)
    tally = Tally()
    surface.draw(surfaces[name], tally, SLOW.get(name, 150), seed=3)
    assert not tally.findings and tally.tried


def test_genuine_files_are_read(surfaces):
    for found in surfaces.values():
        for data in found.seeds() if found.seeds else []:
            found.run(data)


def test_findings_are_found(watched, monkeypatch, tmp_path):
    def broken(value):
        if value > 3:
            raise KeyError("not documented")
        if value == 3:
            while True:
                pass
        raise InputError("documented")

    monkeypatch.setattr(surface, "HANG_SECONDS", 0.2)
    tally = Tally()
    for value in (1, 2, 3, 4, 5):
        tally.attempt(Surface("broken", broken), value)
    assert tally.tried == 5 and tally.refused == 2
    assert {place.partition(" ")[0]: finding["count"] for place, finding in tally.findings.items()} == {
        "KeyError": 2,
        "HangError": 1,
    }


def test_a_process_that_dies_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = program._fuzz("selection", tmp_path / "a", 1.0, 0, guided=False)
    assert "ended with status 1" in found["findings"]["process"]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["selection", "environment"])
def test_the_program_fuzzes_in_processes_of_their_own(name, tmp_path):
    out = tmp_path / "fuzz.json"
    assert program.main(["--seconds", "3", "--surface", name, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["inputs"] == record["surfaces"][name]["tried"] > 20 and record["findings"] == 0
    assert record["surfaces"][name]["engine"] == ("atheris" if name == "selection" else "hypothesis")


def write_task(path, arrays, facts, compression=zipfile.ZIP_DEFLATED, digest=None):
    said = digest or bytes.fromhex(task_digest(arrays, facts))
    stored = {
        **arrays,
        "metadata": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "digest": np.frombuffer(said, np.uint8),
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in stored.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    return path


def header(shape, dtype="|i1"):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": False, "shape": shape})
    return content.getvalue()


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (header((10**12, 64)), "does not fit its 0 bytes"),
        (header((2**62, 2**62)), "does not fit its 0 bytes"),
        (header((4,), "|O") + b"cos\nsystem\n(S'true'\ntR.", "of type object is unknown"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': " + b"(" * 100 + b"\n", "not a readable task file"),
        (b"\x93NUMPY\x03\x00" + header((1,))[8:], "version"),
        (b"", "not a readable task file"),
        (b"\x93NUMPY\x01\x00\x0b\x00{'descr': (", "not a readable task file"),
    ],
)
def test_headers_of_task_files_are_checked_before_anything_is_allocated(member, says, tmp_path):
    path = tmp_path / "task.npz"
    samples.task().save(path)
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held["vectors.npy"] = member
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    with pytest.raises(TaskFileError, match=says):
        SelectionTask.load(path)


def test_archives_that_grow_or_share_bytes_are_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("vectors.npy", header((2**20, 8)) + bytes(2**23))
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (2**32 - 2).to_bytes(4, "little")  # says that it becomes 4 GiB
    path.write_bytes(data)
    with pytest.raises(TaskFileError, match="bytes become 4294967294"):
        SelectionTask.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("vectors.npy", header((1,)) + b"a")
    with pytest.raises(TaskFileError, match="not an array as dsenv writes it"):
        SelectionTask.load(path)


def wrong_arrays():
    task = samples.task()
    pool = len(task.arrays["train_rows"])
    labels, split = task.arrays["labels"].copy(), task.arrays["split"].copy()
    labels[0] = 99
    split[split == 1] = 2
    cluster, position = (task.arrays[f"{part}_stratified"].copy() for part in ("cluster", "position"))
    cluster[:] = 1
    position[0] += 1
    scale = task.arrays["column_scale"].copy()
    scale[0] = np.nan
    rows = task.arrays["train_rows"].copy()
    rows[1] = rows[0]
    return [
        ({"labels": labels}, "labels has values from 0 to 99"),
        ({"split": split}, "no reward rows"),
        ({"cluster_stratified": cluster}, "cluster 0 of 'stratified' is empty"),
        ({"position_stratified": position}, "does not number the rows"),
        ({"column_scale": scale}, "not finite"),
        ({"train_rows": rows}, "a row twice"),
        ({"train_rows": rows[: pool - 1]}, "which does not fit train_rows"),
        ({"vectors": task.arrays["vectors"][:, :3]}, "does not fit"),
        ({"vectors": np.zeros((len(labels), 5000), np.int8), "column_scale": np.ones(5000, np.float32)}, "5000 columns"),
        ({"nobody:labels": labels}, "no variant that the metadata names"),
        ({"rolled:labels": labels}, r"\(variant 'rolled'\)"),
        ({"responses": task.arrays["vectors"]}, "'response_scale' is missing"),
        ({"sources": None}, "'sources' is missing"),
    ]


@pytest.mark.parametrize(("change", "says"), wrong_arrays())
def test_signed_task_files_must_hold_a_task(change, says, tmp_path):
    task = samples.task()
    arrays = {name: array for name, array in {**task.arrays, **change}.items() if array is not None}
    with pytest.raises(TaskFileError, match=says):
        SelectionTask.load(write_task(tmp_path / "task.npz", arrays, task.metadata))
    with pytest.raises(InputError, match=says):
        SelectionTask(arrays, task.metadata).save(tmp_path / "never.npz")
    assert not (tmp_path / "never.npz").exists()


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"class_names": []}, "class_names"),
        ({"class_names": "abc"}, "class_names"),
        ({"class_names": [1, 2]}, "class_names"),
        ({"regularisation": 0}, "regularisation"),
        ({"regularisation": "1"}, "regularisation"),
        ({"reported": "f1"}, "reported"),
        ({"clusterings": ["none"]}, "clusterings"),
        ({"clusterings": []}, "clusterings"),
        ({"name": None}, "name"),
        ({"variants": {"a b": {}}}, "no identifier"),
        ({"variants": {"x": {"reported": 3}}}, "reported"),
        ({"variants": []}, "variants"),
        ({"fingerprint": {}}, "fingerprint"),
        ({"derivation": []}, "derivation"),
        ({"rows": {"pool": -1}}, "rows"),
    ],
)
def test_signed_metadata_must_fit(facts, says, tmp_path):
    task = samples.task()
    arrays = {name: array for name, array in task.arrays.items() if ":" not in name}
    with pytest.raises(TaskFileError, match=says):
        SelectionTask.load(write_task(tmp_path / "task.npz", arrays, {**task.metadata, "variants": {}, **facts}))


def test_deep_and_foreign_metadata(tmp_path):
    task = samples.task()
    deep = np.frombuffer(b'{"a":' + b"[" * 100_000, np.uint8)
    path = tmp_path / "task.npz"
    np.savez(path, **task.arrays, metadata=deep, digest=np.zeros(32, np.uint8))
    with pytest.raises(TaskFileError, match="not a readable task file"):
        SelectionTask.load(path)
    with pytest.raises(TaskFileError, match=f"it says {'00' * 32}"):
        SelectionTask.load(write_task(path, task.arrays, task.metadata, digest=bytes(32)))
    odd = replace(task, metadata={**task.metadata, "title": "half \ud800"})
    assert SelectionTask.load(odd.save(path)).metadata["title"] == "half \ud800"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": []}, "holds no rows"),
        ({"rows": [1, 1]}, "a row twice"),
        ({"rows": [-1]}, ">= 0"),
        ({"rows": [2**63]}, "<="),
        ({"rows": [True]}, "got `bool`"),
        ({"rows": [1.5]}, "got `float`"),
        ({"rows": "12"}, "array"),
        ({"counts": [-1]}, ">= 0"),
        ({"history": [[1]]}, "length 2"),
        ({"score": "x"}, "score"),
        ({"method": None}, "method"),
        ({"seed": -1}, "seed"),
    ],
)
def test_selections_of_wrong_types(change, says, tmp_path):
    path = tmp_path / "selection.json"
    path.write_text(json.dumps({**samples.as_json(samples.selection()), **change}))
    with pytest.raises(InputError, match=f"not a readable selection.*{says}"):
        Selection.load(path)


@pytest.mark.parametrize(
    "data", [b"", b"[" * 200_000, b'{"derivation":' + b"[" * 200_000, b"\xff", b'{"rows": [NaN]}', b"null", b"9" * 9999]
)
def test_broken_json(data, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a readable selection"):
        Selection.load(path)
    with pytest.raises(InputError, match="line 1 of .*not a result|not a readable file of results" if data else "none"):
        load_rows(path)
        raise InputError("none")


def test_only_plain_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", "/dev/zero", "a\0b", "x" * 5000):
        for read in (Selection.load, load_rows, SelectionTask.load):
            with pytest.raises(DsenvError):
                read(path)
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.parquet")
    for name in ("pipe.csv", "pipe.parquet"):
        with pytest.raises(InputError, match="it is a folder, a pipe or a device"):
            read_table(tmp_path / name)
    with pytest.raises(StoreError, match="a pipe"):
        list(read_lines(tmp_path / "pipe"))
    with pytest.raises(InputError, match="a pipe"):
        SurrogateProxy.load(tmp_path / "pipe", samples.task(), samples.environment().plan)


def test_results_of_metrics_that_no_ridge_has_come_back(tmp_path):
    result = replace(samples.result(), metric="neg_response_loss")
    assert Result.from_json(result.to_json()) == result
    with pytest.raises(InputError, match="reported is 'recall'"):
        Result.from_json(genuine_result(reported="recall"))


def test_damaged_commands_and_analysed_stores_stay_in_use(tmp_path):
    (tmp_path / "commands.txt").write_bytes(b"\xff\n")
    RunFolder(tmp_path).keep_command(["dsenv", "report"])
    assert RunFolder(tmp_path).commands == ["\\xff", "dsenv report"]
    path = samples.store(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ANALYZE")
        connection.commit()
    with ScoreStore(path) as opened:
        assert opened.info().scores == len(samples.entries())


def genuine_result(**change):
    return json.dumps({**samples.as_json(samples.result()), **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": {}}, "no accuracy of the reward rows"),
        ({"scores": {"reward": {"accuracy": 1}}}, "of the reward rows"),
        ({"metric": "response_skill"}, "no response_skill of the reward rows"),
        ({"actions": [-1]}, ">= 0"),
        ({"score": None}, "score"),
        ({"keywords": []}, "keywords"),
        ({"versions": {"a": 1}}, "versions"),
    ],
)
def test_results_of_wrong_types(change, says):
    with pytest.raises(InputError, match=says):
        Result.from_json(genuine_result(**change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "antigravity:Nope-v0"}, "no registered data selection environment"),
        ({"id": "CartPole-v1"}, "no registered"),
        ({"id": ":x"}, "no registered"),
        ({"id": "DataSelectRLVR-Simulator-v0"}, "no registered"),
        ({"keywords": {"max_episode_steps": 3}}, "no keyword 'max_episode_steps'"),
        ({"keywords": {"x": 3}}, "no keyword 'x'"),
        ({"keywords": {"proxy": {}}}, "allowed are names and a Proxy"),
        ({"keywords": {"unit": ["rows"]}}, "unit"),
        ({"keywords": {"picks": [2]}}, "picks"),
        ({"keywords": {"budget": {}}}, "budget"),
        ({"actions": [10**18] * 64}, "not a cluster"),
    ],
)
def test_replay_imports_nothing_and_takes_no_other_keywords(change, says):
    with pytest.raises(ReplayError, match=says):
        replay(Result.from_json(genuine_result(**change)))


def test_replay_writes_nothing(tmp_path):
    env = DataSelectEnv("synthetic")
    counts = env.plan.complete(np.zeros(env.plan.clusters, np.int64))
    result = evaluate_counts("DataSelect-Synthetic-v0", counts, agent="x", cache_dir=str(tmp_path / "cache"))
    replay(result)
    assert not (tmp_path / "cache").exists()


def test_a_result_that_could_not_be_written_is_refused_before_the_work():
    with pytest.raises(InputError, match="task .* is not UTF-8"):
        evaluate_counts("DataSelect-v0", [0], agent="x", task="\udcff.npz")
    with pytest.raises(InputError, match="agent .* is not UTF-8"):
        evaluate_counts("DataSelect-Synthetic-v0", [0], agent="\udcff")


def test_stores_with_views_triggers_or_rows_of_other_types(tmp_path):
    for number, statement in enumerate(
        (
            "CREATE VIEW v AS WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x FROM r) SELECT x FROM r",
            "CREATE TRIGGER t AFTER INSERT ON scores BEGIN DELETE FROM recipes; END",
            "CREATE TABLE other (x)",
        )
    ):
        path = samples.store(tmp_path / f"{number}.sqlite")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
        for write in (False, True):
            with pytest.raises(StoreError, match="its tables are others"):
                ScoreStore(path, write=write)
    path = samples.store(tmp_path / "rows.sqlite")
    rows = [
        (None, None, None, None, None, None),
        (1, 2, 3, 4, 5, 6),
        (b"a", b"b", "c", b"", 1.0, 1.0),
        (b"a", b"b", "c", b"\x07a", 1.0, 1.0),
        (b"a", b"b", "c", b"\x04abc", 1.0, 1.0),
        (b"a", b"b", b"\xff", b"\x01a", 1.0, 1.0),
        ("a", b"b", "c", b"\x01a", float("inf"), 1.0),
    ]
    with closing(sqlite3.connect(path)) as connection:
        for row in rows:
            values = _signed(*row)
            connection.execute(
                "INSERT INTO scores (task, recipe, sample, counts, score, seconds, checksum) VALUES (?,?,?,?,?,?,?)", values
            )
        for facts in ("[", "3", b"\xff", None, 7):
            connection.execute("INSERT INTO recipes VALUES (?,?,?,?)", _signed(b"x", repr(facts).encode(), facts))
        connection.commit()
    with ScoreStore(path, write=False) as opened:
        found = opened.info()
        assert found.scores == len(samples.entries()) and found.damaged == len(rows)
        assert opened.export(tmp_path / "out.jsonl") == len(samples.entries())


def test_a_store_whose_index_is_out_of_order_takes_no_score_that_it_would_not_give_back(tmp_path):
    genuine = samples.store(tmp_path / "a.sqlite").read_bytes()
    refused = 0
    for number, (row, key) in enumerate(product([entry.key.digest for entry in samples.entries()], repeat=2)):
        path, data = tmp_path / f"{number}.sqlite", bytearray(genuine)
        data[data.index(row) + 40] ^= 0xFF  # of the row, whose checksum does not fit then
        data[data.rindex(key)] ^= 0xFF  # of the index, which stands behind the table
        path.write_bytes(data)
        with ScoreStore(path) as opened:
            for entry in samples.entries():
                try:
                    opened.put([entry])
                except StoreError as error:
                    assert "is damaged" in str(error)
                    refused += 1
                else:
                    assert opened.get([entry.key]) == {entry.key: entry.score}
    assert refused


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"task": "zz", "recipe": "", "facts": {}}',
        '{"task": 3, "recipe": "", "facts": {}}',
        '{"task": "aa", "recipe": "bb", "sample": "", "counts": [-1], "score": 1, "seconds": 1}',
        '{"task": "aa", "recipe": "bb", "sample": "", "counts": [4294967296], "score": 1, "seconds": 1}',
        '{"task": "aa", "recipe": "bb", "sample": "", "counts": [[1]], "score": 1, "seconds": 1}',
        '{"task": "aa", "recipe": "bb", "sample": "", "counts": [1], "score": NaN, "seconds": 1}',
        "[" * 100_000,
    ],
)
def test_exported_lines_of_wrong_types(line, tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(StoreError, match="line 1 is not an exported score"):
        list(read_lines(path))


def test_small_files_that_say_they_are_huge_tables(tmp_path):
    ragged = tmp_path / "ragged.jsonl"
    ragged.write_text("".join(f'{{"c{i}": 1}}\n' for i in range(9_000)))
    with pytest.raises(InputError, match="9000 columns in 9000 rows"):
        read_table(ragged)
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(20_000_000, np.int8)), pyarrow.array(["x"]))
    parquet.write_table(pyarrow.table({"text": same}), tmp_path / "same.parquet")
    assert (tmp_path / "same.parquet").stat().st_size < 100_000
    with pytest.raises(InputError, match="20000000 rows"):
        read_table(tmp_path / "same.parquet")
    (tmp_path / "none.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    "name", ["../outside", "inside/../../outside", "owner/../../outside", "a/b/c", "x" * 5000, "a\0/b", "owner/na me"]
)
def test_names_lead_to_no_folder_outside(name, tmp_path, monkeypatch):
    (tmp_path / "data" / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "data" / "inside")
    with pytest.raises(InputError, match="no dataset"):
        find_folder(name if name != "../outside" else "../../data/../outside/..x", tmp_path / "data")
    assert find_folder("inside", tmp_path / "data") == tmp_path / "data" / "inside"
    assert find_folder("owner/name.v-1", tmp_path / "data") is None


@pytest.mark.parametrize("meta", [{"sources": "web"}, {"sources": ["web"]}, {"title": 3}, {"licence": []}])
def test_meta_of_wrong_types(meta):
    with pytest.raises(InputError, match="what is known of 'own' cannot be used"):
        TextDataset.from_columns({"train": {"text": TEXTS * 20, "label": [0, 1] * 40}}, meta=meta)


@pytest.mark.parametrize(
    ("labels", "says"),
    [(["\ud800", "b"], "half a character"), ([10**5000, 1], "16610 bits"), ([float("inf"), 1.5], "must all be whole")],
)
def test_labels_that_no_file_can_hold(labels, says):
    with pytest.raises(InputError, match=says):
        TextDataset.from_columns({"train": {"text": TEXTS * 20, "label": labels * 40}})


VECTORS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": [2**40, 1] * 20}, "class ids are 0 to C - 1"),
        ({"labels": [[0], [1, 2]]}, "no column"),
        ({"labels": [0.5] * 40}, "whole numbers"),
        ({"vectors": VECTORS.astype("U5")}, "the type <U5"),
        ({"vectors": "text"}, "no numbers"),
        ({"vectors": {}}, "no numbers"),
        ({"vectors": np.where(VECTORS > 2, np.nan, VECTORS)}, "NaN or infinity"),
        ({"vectors": VECTORS[:1]}, r"allowed is \(40, d\)"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "allowed are 0 to 2147483647"),
        ({"class_names": 3}, "list of names"),
        ({"clusters": 2.5}, "clusters"),
        ({"dimensions": 10**9}, "allowed are 1 to 4096"),
        ({"max_rows": "9"}, "max_rows"),
        ({"sources": "web"}, "names by split"),
    ],
)
def test_vectors_labels_and_options_of_wrong_kinds(change, says):
    given = {"vectors": VECTORS, "labels": [0, 1] * 20, **change}
    vectors, labels = (
        {split: given.pop(name) if split == "train" else whole for split in ("train", "validation", "test")}
        for name, whole in (("vectors", VECTORS), ("labels", [0, 1] * 20))
    )
    with pytest.raises(InputError, match=says):
        build_task_from_vectors(vectors, labels, **given)


def test_seeds_and_actions_of_wrong_kinds():
    with pytest.raises(InputError, match="dataset 0.5"):
        DataSelectEnv("synthetic", proxy="finetune", dataset=0.5)
    env = DataSelectEnv("synthetic")
    with pytest.raises(InputError, match="seed -1"):
        env.reset(seed=-1)
    env.reset(seed=0)
    for action in (None, True, np.True_, 1.0, "1", [1], 10**30, -1, float("nan")):
        with pytest.raises(InputError, match="not a cluster"):
            env.step(action)


def test_checkpoints_that_do_not_fit(tmp_path):
    torch = pytest.importorskip("torch")
    weights, optimizer = samples.weights()
    path = samples.checkpoint(tmp_path / "a")
    from safetensors.torch import load_file, save_file

    held, facts = load_file(path), {"run": "mine", "steps": 1, "tokens": 9, "losses": [0.5], "seconds": 0.1}
    before = torch.get_rng_state(), [weight.clone() for weight in weights]
    for change, said, says in (
        ({"0 weight": torch.ones(9)}, facts, "0 weight does not fit"),
        ({"1 exp_avg": torch.ones(9)}, facts, "1 exp_avg does not fit"),
        ({"random": torch.full_like(held["random"], 255)}, facts, "no random state"),
        ({"random": torch.ones(3)}, facts, "no random state"),
        ({}, {**facts, "steps": -1}, "steps"),
        ({}, {**facts, "losses": "x"}, "losses"),
        ({}, {}, "required field"),
    ):
        save_file({**held, **change}, path, {"facts": json.dumps(said)})
        with pytest.raises(InputError, match=says):
            load_checkpoint(path, weights, optimizer, "cpu", "mine")
    assert torch.equal(torch.get_rng_state(), before[0]) and all(map(torch.equal, weights, before[1]))
    save_file({name: tensor for name, tensor in held.items() if name != "random"}, path, {"facts": json.dumps(facts)})
    with pytest.raises(InputError, match="no random state"):
        load_checkpoint(path, weights, optimizer, "cpu", "mine")


def test_signed_surrogates_must_fit(tmp_path):
    pytest.importorskip("torch")
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    from dsenv.proxies.surrogate import _digest

    env, path = samples.environment(), samples.surrogate(tmp_path / "a.safetensors")
    held = load_file(path)
    with safe_open(path, "numpy") as file:
        facts = file.metadata()["surrogate"]
    scores = held["scored.scores"].copy()
    scores[0] = np.nan
    for change, says in (
        ({"weights.out.weight": np.ones((3, 3), np.float32)}, "weights do not fit"),
        ({"weights.out.weight": np.full_like(held["weights.out.weight"], np.nan)}, "not finite"),
        ({"scored.scores": scores}, "do not fit each other"),
        ({"scored.held_out": held["scored.held_out"][:3]}, "do not fit each other"),
        ({"scored.counts": held["scored.counts"] + 100}, "cannot be picked"),
        ({"scored.counts": held["scored.counts"][:, :2]}, "shape"),
    ):
        arrays = {name: np.ascontiguousarray(array) for name, array in {**held, **change}.items()}
        save_file(arrays, path, {"surrogate": facts, "sha256": _digest(arrays, facts)})
        with pytest.raises(InputError, match=says):
            SurrogateProxy.load(path, samples.task(), env.plan)


WORDS = ["good", "bad", "kind", "rude", "app", "help", "مرحبا", "שלום"]
STRANGE = {
    "emoji": lambda words, i: f"{'🎈' * (i % 7)} {words} 🚀",
    "right to left": lambda words, i: f"مرحبا بالعالم \u202e שלום {words}",
    "NUL": lambda words, i: f"go\0od {words}",
    "100,000 letters": lambda words, i: f"{words} {'z' * 100_000 if i % 40 == 0 else ''}",
    "controls": lambda words, i: f"a\x1b[31m\x07 {words}",
    "combining": lambda words, i: f"e\u0301\u0301\u0301 {words}",
    "markup": lambda words, i: f"<script>alert({i})</script> [red]{words}",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_texts_go_all_the_way(kind, tmp_path):
    rng = np.random.default_rng(0)
    texts = [STRANGE[kind](f"{' '.join(rng.choice(WORDS, 5))} {i}", i) for i in range(120)]
    task = build_task(texts, ["good", "bad"] * 60, encoder="tfidf", cache_dir=tmp_path)
    found = select(SelectionTask.load(task.save(tmp_path / "task.npz")), method="swap", budget=0.1, evaluations=32)
    found.save(tmp_path / "selection.json")
    assert Selection.load(tmp_path / "selection.json") == found and len(set(found.rows)) == len(found.rows) > 0


def test_texts_whose_vectors_are_all_the_same(tmp_path):
    with pytest.raises(InputError, match="same"):
        build_task([f"good app {i}" for i in range(90)], ["a", "b"] * 45, encoder="tfidf", cache_dir=tmp_path)


def test_a_thousand_classes(tmp_path):
    texts = [f"good app {i % 13} is {i % 7} {i}" for i in range(4_000)]
    task = build_task(texts, [f"class {i % 1000}" for i in range(4_000)], encoder="tfidf", cache_dir=tmp_path)
    assert task.classes == 1000
    task = SelectionTask.load(task.save(tmp_path / "task.npz"))
    assert len(select(task, method="greedy", budget=0.1, evaluations=32).rows) > 0


@pytest.mark.parametrize(
    ("texts", "labels"),
    [(["one"], ["a"]), (["one", "two"], ["a", "b"]), (["same"] * 90, ["a", "b"] * 45), (["x", "y"] * 45, ["a", "b"] * 45)],
)
def test_too_little_to_cut(texts, labels, tmp_path):
    with pytest.raises(InputError, match=r"one class only|cannot be cut into train, validation, test"):
        build_task(texts, labels, encoder="tfidf", cache_dir=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no names that are not UTF-8")
def test_file_names_and_terminals_that_are_not_utf8(tmp_path):
    samples.table(tmp_path / "table.csv")
    named = os.fsencode(tmp_path) + b"/\xff.csv"
    (tmp_path / "table.csv").rename(os.fsdecode(named))
    words = [
        sys.executable.encode(),
        b"-m",
        b"dsenv.cli",
        b"--quiet",
        b"select",
        named,
        b"--encoder",
        b"tfidf",
        b"--evaluations",
        b"16",
    ]
    words += [b"--out", os.fsencode(tmp_path) + b"/s\xff.json", b"--run", os.fsencode(tmp_path) + b"/run\xff"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "DSENV_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(words, capture_output=True, env=ascii_only, check=False)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    selection = Selection.load(os.fsdecode(tmp_path) + "/s\udcff.json")
    assert selection.task == "?" and b"s\\udcff.json" in done.stdout
    run = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    assert "\\udcff.csv" in (run / "commands.txt").read_text(encoding="utf-8")
