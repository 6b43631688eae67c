"""Sphinx configuration: the pages are Markdown, and what the package says of itself is asked of it at build time.

``sphinx-build -W --keep-going -b html docs docs/_build/html``
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dsenv
from dsenv.env import DataSelectEnv
from dsenv.registration import IDS, OWN_TASK_ID, RLVR_IDS
from dsenv.task import bundled_tasks, load_bundled

project, release = "dsenv", dsenv.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"dsenv {release}"
highlight_language = "text"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
napoleon_custom_sections = [
    ("Arguments", "params_style"),
    *("Observation", "Action", "Reward", "Episode end", "Info", "Autoreset", "Version history"),
]

ROOT = Path(__file__).parent.parent
# Pages of the site that are files of the repository.
SHOWN = {"overview": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def ids() -> str:
    """Return the registered ids of the first family."""
    rows = []
    for id, keywords in IDS.items():
        env = DataSelectEnv(**keywords)
        spent = "clusters" if keywords.get("unit") == "cluster" else f"× {env.plan.rows_per_pick} rows"
        counts = [env.plan.clusters, f"{env.plan.picks} {spent}", len(env.task.train), env.task.classes]
        rows.append([f"`{id}`", f"`{json.dumps(keywords)}`", *counts, env.metric, env.task.reported])
    rows.append([f"`{OWN_TASK_ID}`", "`task=` is yours to give", *[""] * 6])
    return table(["id", "keywords", "K", "picks", "pool", "classes", "Φ, the default reward", "reported"], rows)


def rlvr_ids() -> str:
    """Return the registered ids of the second family."""
    return table(["id", "keywords"], [[f"`{id}`", f"`{json.dumps(keywords)}`"] for id, keywords in RLVR_IDS.items()])


def composition() -> str:
    """Return what the bundled task files hold."""
    rows = []
    for name, path in bundled_tasks().items():
        task = load_bundled(name)
        shares = task.class_shares
        halves = f"{len(task.reward)} + {len(task.selection)}"
        facts = [len(task.train), halves, len(task.test), task.classes, f"{shares.min():.3f} to {shares.max():.3f}"]
        variants = ", ".join(task.metadata["variants"])
        kept = f"{task.metadata['explained_variance']:.2f}"
        rows.append([name, *facts, kept, variants, f"{path.stat().st_size / 1e6:.1f}"])
    head = "file|pool|reward + selection|test|classes|class shares|variance kept|variants|MB"
    return table(head.split("|"), rows)


def sources() -> str:
    """Return where the rows of the bundled task files come from, with the licence that each source states."""
    rows = []
    for name in bundled_tasks():
        for source in load_bundled(name).metadata["sources"]:
            cells = [source.get("source", ""), source["repo"], f"`{source['commit'][:12]}`", source["licence_as_stated"]]
            rows.append([name, *cells])
    return table(["file", "part", "repository", "commit", "licence as stated"], rows)


def api() -> str:
    """Return autodoc's directives for the public names."""
    blocks = []
    for name in dsenv.__all__[1:]:
        kind, members = ("class", "\n   :members:") if inspect.isclass(getattr(dsenv, name)) else ("function", "")
        blocks.append(f"```{{eval-rst}}\n.. auto{kind}:: dsenv.{name}{members}\n```")
    return "\n\n".join(blocks)


GENERATED: dict[str, Callable[[], str]] = {
    "ids": ids,
    "rlvr ids": rlvr_ids,
    "composition": composition,
    "sources": sources,
    "api": api,
}


def linked(text: str, folder: str) -> str:
    """Return a page whose links work on the site: pages by their name there, other files of the repository by their path."""

    def replace(found: re.Match[str]) -> str:
        label, target, anchor = found.groups(default="")
        path = os.path.normpath(Path(folder) / target)
        pages = {file: f"{page}.md" for page, file in SHOWN.items()}
        if path in pages:
            return f"[{label}]({pages[path]}{anchor})"
        if Path(path).parts[0] == "docs":
            return f"[{label}]({os.path.relpath(path, 'docs')}{anchor})"
        named = label.strip("`") == path
        return (f"`{path}`" if named else f"{label} (`{path}`)") if (ROOT / path).exists() else found.group()

    return LINK.sub(replace, text)


def complete(app: Any, page: str, source: list[str]) -> None:
    """Put what is generated, or shown from elsewhere, into a page as it is read."""
    file = SHOWN.get(page)
    text = source[0] if file is None else (ROOT / file).read_text(encoding="utf-8")
    text = re.sub(r"^<!-- generated: (.+) -->$", lambda found: GENERATED[found[1]](), text, flags=re.M)
    source[0] = linked(text, "docs" if file is None else "")


def mend_docstring(app: Any, kind: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Undo what napoleon reads into a property's colon, and keep |u - v| from being a substitution."""
    if kind == "property" and (types := [line for line in lines if line.startswith(":type: ")]):
        lines[:] = [f"{types[0].removeprefix(':type: ')}: {lines[0]}", *(line for line in lines[1:] if line not in types)]
    lines[:] = [re.sub(r"(``.*?``)|\|", lambda bar: bar[1] or r"\|", line) for line in lines]


def mend_signature(app: Any, kind: str, name: str, found: Any, options: Any, signature: str, returns: str) -> Any:
    """Write the default of a dataclass's field so that the signature can be parsed."""
    return signature and signature.replace("<factory>", "..."), returns


def always_read(app: Any, env: Any, *changes: set[str]) -> list[str]:
    """Return the pages that depend on more than their own file."""
    return [*SHOWN, "api", "datasheet", "environments"]


def setup(app: Any) -> None:
    """Connect the hooks."""
    app.connect("source-read", complete)
    app.connect("env-get-outdated", always_read)
    app.connect("autodoc-process-docstring", mend_docstring, priority=600)  # after napoleon
    app.connect("autodoc-process-signature", mend_signature)
