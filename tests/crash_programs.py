"""Programs that are killed in test_crash: quick to import, for they run in processes of their own."""

import time
from pathlib import Path

from dsenv.evaluation import Failure, save_results
from dsenv.files import locked

ROWS = [Failure("id", {}, "x", seed, 1, "no") for seed in range(30)]


def begins_anew(inputs, process):
    """Keeps nothing of what a killed one has stored."""
    for count in range(1, len(ROWS)):
        save_results(ROWS[:count], "results.jsonl")
        time.sleep(0.01)


def writes_in_place(inputs, process):
    """Writes a line in two halves."""
    for _ in range(3):
        with Path("results.jsonl").open("w", encoding="utf-8") as file:
            for line in (row.to_json() + "\n" for row in ROWS):
                for part in (line[:50], line[50:]):
                    file.write(part)
                    file.flush()
                    time.sleep(0.001)


def hold(path, taken):
    """Stay in a lock."""
    with locked(path):
        taken.set()
        time.sleep(60)
