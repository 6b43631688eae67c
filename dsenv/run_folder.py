"""A run's folder: one task, what was selected from it, what targets made of that, and the commands."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dsenv.errors import InputError
from dsenv.evaluation import Row, load_rows
from dsenv.files import atomic_write, locked
from dsenv.finetuning import TargetResult
from dsenv.selection import Selection
from dsenv.task import SelectionTask


class RunFolder:
    """``task.npz``, ``selections/*.json``, ``targets/*.json``, ``results.jsonl``, ``commands.txt``: each where there is one.

    Processes that keep things in one folder at once wait for each other, so that nothing is lost.

    Args:
        path: the folder; the first thing kept makes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def task(self) -> SelectionTask:
        """The task, at the variant that was selected from last.

        Raises:
            InputError: where the folder has none.
            TaskFileError: where its file is damaged.
        """
        self._check()
        return SelectionTask.load(self.path / "task.npz", self._variant)

    @property
    def task_name(self) -> str:
        """What ``task=`` of an environment takes.

        Raises:
            InputError: where the folder has no task.
        """
        self._check()
        variant = self._variant
        return f"{self.path / 'task.npz'}{':' if variant else ''}{variant}"

    @property
    def selections(self) -> dict[str, Selection]:
        """The selections by name, the last one written last."""
        return {path.stem: Selection.load(path) for path in self._files("selections")}

    @property
    def targets(self) -> dict[str, TargetResult]:
        """The results of targets by name, the last one written last."""
        return {path.stem: TargetResult.load(path) for path in self._files("targets")}

    @property
    def results(self) -> list[Row]:
        """The results of agents on the task (``dsenv evaluate --run RUN``)."""
        path = self.path / "results.jsonl"
        return load_rows(path) if path.is_file() else []

    @property
    def commands(self) -> list[str]:
        """The command lines that wrote here, oldest first."""
        path = self.path / "commands.txt"
        return path.read_text(encoding="utf-8", errors="backslashreplace").splitlines() if path.is_file() else []

    def keep_task(self, task: SelectionTask) -> None:
        """Keep the task.

        Raises:
            InputError: where the folder holds another.
        """
        path = self.path / "task.npz"
        with self._alone():
            if not path.is_file():
                task.save(path)
            elif SelectionTask.load(path).digest != task.digest:
                raise InputError(f"{str(self.path)!r} holds another task than {task.name!r}: give the run a folder of its own")

    def keep_selection(self, selection: Selection) -> Path:
        """Keep a selection of the task, by its method and seed, and a digest where other rows have that name."""
        with self._alone():
            known = self.selections
            name = name_in(known, selection)
            if name is None:
                name = f"{_file_name(selection.method)}-{selection.seed}"
                if name in known:
                    name += f"-{selection.digest[:6]}"
            return selection.save(self.path / "selections" / f"{name}.json")

    def name_of(self, chosen: Selection | TargetResult) -> str | None:
        """Return the name of the kept selection that has the same rows as another, or that a target was trained on."""
        return name_in(self.selections, chosen)

    def keep_target(self, result: TargetResult) -> Path:
        """Keep what a target made of chosen rows."""
        with self._alone():
            return result.save(self.target_file(self.name_of(result) or result.method, result.recipe))

    def target_file(self, chosen: str, recipe: Mapping[str, Any]) -> Path:
        """Return where a result is kept: by what chose the rows, the target, and the recipe where it is another."""
        name = f"{_file_name(chosen)}-{_file_name(Path(recipe['target']).name)}"
        path = self.path / "targets" / f"{name}.json"
        if path.is_file() and TargetResult.load(path).recipe != dict(recipe):
            digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:6]
            path = path.with_name(f"{name}-{digest}.json")
        return path

    def keep_command(self, words: Sequence[str]) -> None:
        """Keep a command line; one that stands there already moves to the end."""
        line = " ".join(words)
        with self._alone(), atomic_write(self.path / "commands.txt") as temporary:
            lines = [known for known in self.commands if known != line]
            temporary.write_text("".join(f"{known}\n" for known in [*lines, line]), encoding="utf-8")

    def _alone(self) -> AbstractContextManager[None]:
        return locked(self.path / "task.npz")

    @property
    def _variant(self) -> str:
        files = self._files("selections")
        return Selection.load(files[-1]).task.partition(":")[2] if files else ""

    def _check(self) -> None:
        if not (self.path / "task.npz").is_file():
            raise InputError(f"{str(self.path)!r} is no run: it has no task.npz, which dsenv select --run writes")

    def _files(self, kind: str) -> list[Path]:
        return sorted((self.path / kind).glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def name_in(selections: Mapping[str, Selection], chosen: Selection | TargetResult) -> str | None:
    """Return the name, among selections, of the last with the same method and rows; None where there is none."""
    digest = chosen.digest if isinstance(chosen, Selection) else chosen.selection
    same = [
        name for name, known in selections.items() if known.method == chosen.method and (known.digest == digest or not digest)
    ]
    return same[-1] if same else None


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")
