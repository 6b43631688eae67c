"""The soak: a short one of every surface, and that it finds what leaks."""

import ast
import json
import os
import re
import subprocess
import sys
import threading

import pytest

from benchmarks import soak

STEPS = {"env": 2_000, "vector": 1_600, "rlvr": 800, "store": 6_400, "making": 100, "opening": 400}
FIELDS = {
    "steps",
    "seconds",
    "memory_mib",
    "memory_growth",
    "objects",
    "objects_growth",
    "files",
    "threads",
    "curve_mib",
    "faults",
}


@pytest.mark.slow
def test_a_short_soak_finds_nothing_that_grows():
    """In a process of its own; with a small memo, which is full at once."""
    code = f"""
import json, sys
import gymnasium as gym
from benchmarks import soak
soak.MEMO = gym.make(soak.ID).unwrapped.proxy._memo_size = 256
soak.INSTANCES = 10
for name, steps in {STEPS!r}.items():
    found = soak.measure(soak.SURFACES[name].work(), steps, samples=20)
    print(json.dumps([name, found]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=soak.RESULTS.parent.parent
    )
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert {name: block["faults"] for name, block in found.items()} == {name: [] for name in soak.SURFACES}
    for name, block in found.items():
        assert set(block) == FIELDS and STEPS[name] <= block["steps"] < 1.2 * STEPS[name]
        assert block["memory_mib"][1] > 30 and len(block["curve_mib"]) >= 3


def bytes_kept(kept):
    kept.append(bytearray(os.urandom(4096)) * 256)


def objects_kept(kept):
    kept.append([[] for _ in range(200)])


def files_kept(kept):
    kept.append(os.fdopen(os.open(os.devnull, os.O_RDONLY)))


def threads_kept(kept):
    ended = threading.Event()
    threading.Thread(target=ended.wait, daemon=True).start()
    kept.append(ended)


def nothing_kept(kept):
    len([[] for _ in range(200)])


def work(use, kept):
    yield 0
    while True:
        use(kept)
        yield 1


KINDS = {
    "memory": bytes_kept,
    "objects": objects_kept,
    "files": files_kept,
    "threads": threads_kept,
    "nothing": nothing_kept,
}


def faults_of(kind):
    kept = []
    try:
        return soak.measure(work(KINDS[kind], kept), 100, samples=20)["faults"]
    finally:
        for one in kept:
            getattr(one, "set", getattr(one, "close", int))()


def test_what_is_kept_is_found():
    """In a process of its own: in a large one a leak is a small share."""
    code = "import json; from tests.test_soak import KINDS, faults_of; print(json.dumps({k: faults_of(k) for k in KINDS}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=soak.RESULTS.parent.parent
    )
    for kind, faults in json.loads(done.stdout.splitlines()[-1]).items():
        words = [fault.split()[0] for fault in faults]
        assert kind in words if kind != "nothing" else words == [], (kind, faults)


def test_caches_are_bounded():
    """Of the package, however many tasks and instances a process meets."""
    found = []
    for path in sorted((soak.RESULTS.parent.parent / "dsenv").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                found += [ast.unparse(how) for how in node.decorator_list if re.search(r"\b(lru_)?cache\b", ast.unparse(how))]
    assert len(found) > 8 and all(re.fullmatch(r"lru_cache\(maxsize=\d+\)", how) for how in found), found


def test_what_grew_ends_with_an_error_and_is_stored(tmp_path, monkeypatch, capsys):
    grown = {"memory_mib": [50.0, 60.0], "memory_growth": 0.2, "faults": ["memory grew by 20.0%"]}
    block = {"seconds": 1.0, "objects_growth": 0.0, "files": [4, 4], "threads": [1, 1], **grown}
    asked = []
    monkeypatch.setattr(soak, "in_child", lambda name, steps: asked.append((name, steps)) or {**block, "steps": steps})
    path = tmp_path / "soak.json"
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            soak.main(["--steps", "20000", "--parts", "store", "making", "--json", str(path)])
        assert ended.value.code == 1
    assert asked == [("store", 20_000), ("making", 200)]  # the second call finds both stored
    assert "store: memory grew by 20.0%" in capsys.readouterr().out
    stored = json.loads(path.read_text())
    assert stored["making"]["machine"]["cores"] and stored["store"]["command"].endswith("--steps 20000 --parts store")


def test_the_committed_soak_is_long_and_found_nothing():
    record = json.loads((soak.RESULTS / "soak.json").read_text())
    assert set(record) == set(soak.SURFACES)
    for name, block in record.items():
        assert block["steps"] >= 1_000_000 * soak.SURFACES[name].share and block["faults"] == []
        assert block["memory_growth"] < soak.LIMIT and block["objects_growth"] < soak.LIMIT
