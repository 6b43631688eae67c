"""A run's folder to one page that anybody can open: no network, no server, nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from string import Template

from dsenv.dataset import TextDataset
from dsenv.files import atomic_write
from dsenv.report.cluster_map import ClusterMap
from dsenv.report.markup import embedded, plain
from dsenv.report.run_facts import RunFacts
from dsenv.report.sections import cluster_map, headline, leaderboard, learning, order, reproduce, targets
from dsenv.run_folder import RunFolder

__all__ = ["write_report"]

PARTS = Path(__file__).parent


def write_report(run: RunFolder | str | Path, out: str | Path | None = None, dataset: TextDataset | None = None) -> Path:
    """Write what a run's folder holds as one HTML page.

    Args:
        run: the folder.
        out: the page to write; default: ``report.html`` in the folder.
        dataset: what the task was built from, for example texts; the task's derivation is applied to it.

    Returns:
        Where the page is.

    Raises:
        InputError: where the folder has no task, holds something unreadable, or the dataset is another.
        TaskFileError: where the task's file is damaged.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    facts = RunFacts(folder)
    path = folder.path / "report.html" if out is None else Path(out)
    page = _page(facts, None if dataset is None else facts.check(dataset))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return path


def _page(facts: RunFacts, dataset: TextDataset | None) -> str:
    drawn = ClusterMap(facts, dataset)
    style, script = ((PARTS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    task = facts.task
    groups = "groups of similar responses" if task.is_instructions else "classes"
    about = (
        f"{len(task.train_labels):,} rows, {task.classes} {groups}, {facts.clustering.clusters} clusters"
        f"; reported metric: {facts.final_name}"
    )
    return Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        script=script,
        data=embedded(drawn.data()),
        name=plain(task.name),
        title=plain(task.facts.get("title") or task.name),
        about=plain(about),
        headline=headline(facts),
        map=cluster_map(facts, drawn),
        order=order(facts, drawn),
        learning=learning(facts),
        leaderboard=leaderboard(facts),
        targets=targets(facts),
        reproduce=reproduce(facts),
    )
