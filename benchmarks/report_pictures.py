"""Make a run of synthetic reviews, write its report and take the pictures of docs/report.md.

``python -m benchmarks.report_pictures --target``; without ``--target`` nothing is fine-tuned. Needs the extras ``build`` and
``browser`` (and ``finetune`` and ``minilm`` with ``--target``) and a Chromium on the path.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.building import build_task
from dsenv.dataset import TextDataset
from dsenv.errors import InputError, require
from dsenv.evaluation import command, evaluate, run_agent, save_results
from dsenv.finetuning import fine_tune
from dsenv.report import write_report
from dsenv.run_folder import RunFolder
from dsenv.search import SEARCHES
from dsenv.selectors import select
from dsenv.synthetic import synthetic_texts

DOCS = Path(__file__).parent.parent / "docs"
ROWS, HELD_OUT = 4000, 300
SEEDS = 3
CLUSTERS = 40
CHOSEN_EPOCHS, ALL_EPOCHS = 6, 1  # few rows are seen more often; all rows still take more steps
SIZES = {1280: 1560, 400: 1900}
MOST_BYTES = 300_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def random_picks(observation: Any, info: dict[str, Any]) -> int:
    """Pick a cluster that has rows left; which one depends on the picks left, as a policy's choice would."""
    rng = np.random.default_rng(round(1e6 * float(observation[-2])))
    return int(rng.choice(np.flatnonzero(info["action_mask"])))


def make_run(run: RunFolder, dataset: TextDataset, target: bool) -> None:
    """Select, evaluate and, where asked for, fine-tune."""
    folder = run.path
    task = build_task(dataset, encoder="tfidf", clusters=CLUSTERS, cache_dir=folder / "cache")
    run.keep_task(task)
    found = {}
    for method in ("random", "class_mix", "greedy", "swap"):
        found[method] = select(task, method=method, evaluations=2048)
        run.keep_selection(found[method])
    rows = []
    for seed in range(SEEDS):
        instance: dict[str, Any] = {"task": str(folder / "task.npz"), "instance": seed}
        rows += run_agent(
            SEARCHES["annealing"], "DataSelect-v0", name="annealing", evaluations=[128, 512, 2048], seed=seed, **instance
        )
        rows += evaluate(random_picks, "DataSelect-v0", agent="random_picks", seeds=[seed], evaluations=1, **instance)
    save_results(rows, folder / "results.jsonl")
    if target:
        best = max((found["greedy"], found["swap"]), key=lambda selection: selection.score or 0.0)
        for chosen in (best, found["random"], None):
            epochs = ALL_EPOCHS if chosen is None else CHOSEN_EPOCHS
            run.keep_target(fine_tune(chosen, dataset, seeds=range(SEEDS), epochs=epochs, max_length=24))
    run.keep_command([command().replace(Path(sys.argv[0]).name, "python -m benchmarks.report_pictures", 1)])


def take_pictures(page: Path, folder: Path) -> None:
    """Save the page's beginning at each width.

    Raises:
        InputError: where there is no Chromium.
        MissingExtraError: without the extra ``browser``.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise InputError(f"no browser: one of {', '.join(BROWSERS)} has to be on the path")
    with require("playwright.sync_api", "browser").sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width, height in SIZES.items():
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            tab.goto(page.resolve().as_uri())
            path = folder / f"report_{width}.png"
            tab.screenshot(path=path)
            size = path.stat().st_size
            print(f"{path.name}: {size / 1000:.0f} kB")
            if size > MOST_BYTES:
                raise InputError(f"{path.name} has {size} bytes; allowed are {MOST_BYTES}")
        browser.close()


def main(given: Sequence[str] | None = None) -> None:
    """Make the run, and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="store_true", help="fine-tune MiniLM too: minutes")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the pictures")
    parser.add_argument("--run", type=Path, help="folder of the run; one that is there is drawn again (default: temporary)")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(arguments.run or Path(folder) / "reviews")
        dataset = synthetic_texts(rows=ROWS, held_out=HELD_OUT)
        if not (run.path / "task.npz").is_file():
            make_run(run, dataset, arguments.target)
        take_pictures(write_report(run, dataset=dataset), arguments.out)


if __name__ == "__main__":
    main()
