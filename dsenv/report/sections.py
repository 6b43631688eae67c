"""The sections of a report, each from the facts of a run; where a run lacks something, how to add it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from dsenv.evaluation import Result, versions
from dsenv.finetuning import TargetResult
from dsenv.report.cluster_map import ClusterMap
from dsenv.report.curve import agent_points, curve
from dsenv.report.markup import Bar, Cell, bars, code, isolated, plain, shortened, table
from dsenv.report.run_facts import METRIC_NAMES, RANDOM_DRAWS, TARGET_METRICS, Line, Measured, RunFacts, same_target

REFERENCES = {
    "random_rows": "random rows",
    "class_mix_rows": "class-mix rows",
    "proportional": "proportional picks",
    "full": "all rows",
    "full_class_weights": "all rows, class weights",
    "full_offsets": "all rows, class offsets",
}
SEQUENCES = 12
LONG = 14  # characters; a tile has longer ones in a smaller size
MAP_NOTE = (
    "A circle is a cluster, its area the rows in it, its colour the most frequent {label}; the disc inside is the share "
    "taken. Circles stand near the clusters' place in the first two components of the vectors, moved apart where they would "
    "overlap."
)
PANEL_NOTE = (
    "Point at a circle, tap it, or walk with the arrow keys: its rows, the mix of {label}s and the share taken appear "
    "here. Without scripts, the list of all clusters below says the same."
)


def headline(facts: RunFacts) -> str:
    """Return what was chosen, and what it scores beside plain choices."""
    if facts.chosen is None:
        return _missing("Nothing is selected yet", f"dsenv select {_run(facts)}/task.npz --method swap --run {_run(facts)}")
    one, scored = facts.selections[facts.chosen], facts.scored[facts.chosen]
    why = "what the finalists came to" if one.method.startswith("finalist") else "the highest Φ"
    among = f", {why} of the run's {len(facts.selections)} selections" if len(facts.selections) > 1 else ""
    tiles = [
        ("Rows chosen", f"{len(one.rows):,}", f"of {one.pool:,} in the pool"),
        ("Share", f"{len(one.rows) / max(1, one.pool):.1%}", f"from {int((facts.taken[facts.chosen] > 0).sum())} clusters"),
        ("Method", one.method, f"seed {one.seed}" + (f", {one.evaluations:,} evaluations" if one.evaluations else "")),
        ("Φ on reward rows", f"{scored.reward:.3f}", facts.metric_name),
    ]
    values = [
        Bar(facts.chosen or one.method, scored.reward),
        *(Bar(name, other.reward) for name, other in facts.baselines.items()),
    ]
    cards = [
        f"<section><h3>Proxy: {plain(facts.metric_name)}</h3>"
        f"<p>The ridge model trained on the rows, scored on reward rows; random rows: mean of {RANDOM_DRAWS} draws.</p>"
        + bars(values, f"Φ, {facts.metric_name}")
        + "</section>",
        _target_card(facts),
    ]
    return (
        f'<p class="lead">Chosen: <strong>{isolated(facts.chosen)}</strong>{plain(among)}.</p><ul class="tiles">'
        + "".join(
            f'<li><span class="name">{plain(name)}</span><span class="figure{" long" if len(figure) > LONG else ""}">'
            f"{isolated(shortened(figure, 60))}</span>"
            f'<span class="note">{plain(note)}</span></li>'
            for name, figure, note in tiles
        )
        + f'</ul><div class="cards">{"".join(cards)}</div>'
    )


def cluster_map(facts: RunFacts, drawn: ClusterMap) -> str:
    """Return the map, its panel and the list of all clusters."""
    options = "".join(
        f'<option value="{number}"{" selected" if name == facts.chosen else ""}>{plain(name)}</option>'
        for number, name in enumerate(facts.selections)
    )
    choice = f'<p class="choice"><label for="selection">Selection</label> <select id="selection">{options}</select></p>'
    texts = "" if drawn.dataset is not None else (
        f"<p class='missing'>Example texts are not shown: a task holds no texts. Add them with "
        f"{code(f'dsenv report {_run(facts)} --dataset DATASET')}</p>"
    )  # fmt: skip
    left_out = (
        f"<p class='missing'>Left out, of another variant, instance or task: {isolated(', '.join(facts.left_out))}.</p>"
        if facts.left_out
        else ""
    )
    return f"""{choice if facts.selections else ""}<p id="says" aria-live="polite">{plain(drawn.says())}</p>
<div class="map">
<div>{drawn.svg()}
{drawn.legend()}
<p class="note" id="map-note">{MAP_NOTE.format(label=facts.label_word)}</p></div>
<div id="panel" aria-live="polite"><p class="note">{PANEL_NOTE.format(label=facts.label_word)}</p></div>
</div>{texts}{left_out}
<details id="clusters"><summary>All {facts.clustering.clusters} clusters</summary><div class="clusters">
{drawn.details()}
</div></details>"""


def order(facts: RunFacts, drawn: ClusterMap) -> str:
    """Return which cluster was picked when, of agents; and how often each was, of searches, which have no order."""
    parts = []
    ordered: list[tuple[str, Result]] = []
    unordered: list[tuple[str, Result]] = []
    for agent, row in _last_results(facts).items():
        (unordered if _without_order(row) else ordered).append((agent, row))
    for agent, row in ordered[:SEQUENCES]:
        runs: list[tuple[int, int]] = []
        for action in row.actions:
            if runs and runs[-1][0] == action:
                runs[-1] = (action, runs[-1][1] + 1)
            else:
                runs.append((action, 1))
        tiles = _tiles(drawn, runs, "ol")
        said = f"seed {row.seed}, {len(row.actions)} picks in order, Φ {row.score:.3f}"
        parts.append(f"<h3>{isolated(agent)} <span class='note'>{plain(said)}</span></h3>{tiles}")
    if not ordered:
        parts.append(
            "<p>No agent of this run picks in an order: a search scores whole selections, which are worth the same in any "
            "order. Below is how often each cluster was picked.</p>"
        )
    elif unordered or facts.selections:
        parts.append("<p>A search scores whole selections and has no order. Below is how often it picked each cluster.</p>")
    names = sorted(facts.selections, key=lambda name: name != facts.chosen)
    for name in names[:SEQUENCES]:
        one = facts.selections[name]
        counted = one.counts is not None and len(one.counts) == facts.clustering.clusters
        counts = np.asarray(one.counts) if counted else facts.taken[name]
        what = f"{int(counts.sum())} picks" if counted else "chosen row by row: rows of each cluster"
        runs = [(int(k), int(counts[k])) for k in np.argsort(-counts, kind="stable") if counts[k]]
        opened = " open" if name == facts.chosen else ""
        parts.append(
            f"<details{opened}><summary>{isolated(name)} <span class='note'>{plain(what)}, most first</span></summary>"
            f"{_tiles(drawn, runs, 'ul')}</details>"
        )
    if len(names) > SEQUENCES:
        parts.append(f"<p class='note'>And {len(names) - SEQUENCES} selections more.</p>")
    if not facts.results:
        parts.append(_agents_missing(facts))
    return "\n".join(parts)


def learning(facts: RunFacts) -> str:
    """Return the learning curve."""
    drawn = curve(facts)
    if not drawn:
        return _missing(
            "No search and no agent has spent evaluations here",
            f"dsenv select {_run(facts)}/task.npz --method swap --run {_run(facts)}",
        )
    several = any(point.seeds > 1 for own in agent_points(facts).values() for point in own)
    note = " Points are means over seeds with their 95% interval." if several else ""
    return f"{drawn}<p class='note'>Best Φ so far of every search. Grey levels need no search.{note}</p>"


def leaderboard(facts: RunFacts) -> str:
    """Return every selection, agent and baseline, best first, and the task's reference scores."""
    lines = facts.lines
    normal = any(line.normalised is not None for line in lines)
    recorded = any(line.recorded is not None for line in lines)
    head = ["selection or agent", f"Φ: {facts.metric_name}", f"ridge, test {facts.final_name}"]
    head += ["normalised"] * normal + ["its own score"] * recorded + ["rows", "evaluations", "seconds", "seeds"]
    rows = [_line(facts, line, normal, recorded) for line in lines]
    parts = [table("Φ on reward rows, best first", head, rows)]
    notes = ["Φ is computed here alike for every selection: the ridge model of its rows, on reward rows."]
    if normal:
        notes.append("Normalised: 0 = proportional picks, 1 = best known at the leaderboard's release.")
    if any(line.kind == "bundled" for line in lines):
        notes.append(
            f"Bundled rows are the package's summary of {facts.problem}: means over seeds, each on an instance of its own, "
            "so compare them by the normalised score."
        )
    elif facts.problem is not None:
        notes.append(f"The bundled leaderboard of {facts.problem} is of another budget or other picks: not comparable.")
    elif any(row.keywords.get("instance", 0) != facts.task.instance for row in facts.results):
        notes.append("Seeds of agents are on instances of the task of their own.")
    if recorded:
        notes.append("Its own score: what the search saw, with another proxy or metric.")
    if facts.results_left_out:
        notes.append(f"{facts.results_left_out} results of another task, variant or metric are left out.")
    parts.append(f"<p class='note'>{plain(' '.join(notes))}</p>")
    if facts.failures:
        failed = "; ".join(f"{row.agent}, seed {row.seed}: {row.failed}" for row in facts.failures[:5])
        parts.append(f"<p class='missing'>{len(facts.failures)} runs of agents failed: {isolated(shortened(failed, 400))}</p>")
    if not facts.results:
        parts.append(_agents_missing(facts))
    parts.append(_references(facts))
    return "\n".join(parts)


def targets(facts: RunFacts) -> str:
    """Return what targets made of chosen rows."""
    if not facts.targets:
        return _targets_missing(facts)
    measured = {name: facts.measures(result) for name, result in facts.targets.items()}
    names = [name for name, _ in TARGET_METRICS if any(name in found for found in measured.values())]
    compared = [name for name in names if any(_has_difference(found.get(name)) for found in measured.values())]
    head = ["rows of", "target", "rows", *(f"test {name}" for name in names), *(f"{name} minus all rows" for name in compared)]
    head += ["epochs", "seeds", "seconds", "tokens"]
    rows: list[list[str | Cell]] = []
    for key, result in sorted(facts.targets.items(), key=lambda item: not _is_chosen(facts, item[1])):
        found, look = measured[key], "strong" if _is_chosen(facts, result) else ""
        row: list[str | Cell] = [Cell(_rows_of(facts, result), look=look), _target_name(result), f"{result.rows:,}"]
        row += [_measured(found.get(name)) for name in names]
        row += [_difference(found.get(name)) for name in compared]
        seconds = float(np.mean([run.fit.seconds for run in result.runs])) if result.runs else 0.0
        tokens = float(np.mean([run.fit.tokens_seen for run in result.runs])) if result.runs else 0.0
        row += [str(result.recipe.get("epochs", "")), str(len(result.runs))]
        rows.append([*row, f"{seconds:,.1f}", f"{tokens:,.0f}"])
    notes = ["Test rows; 95% Student interval over seeds where there are three or more."]
    if compared:
        notes.append("Differences are paired by seed, with the same target.")
    elif not any(result.method == "all rows" for result in facts.targets.values()):
        notes.append("No result on all rows is here to compare with.")
    parts = [
        table("Fine-tuned targets; seconds and tokens of a seed's training", head, rows, 2),
        f"<p class='note'>{plain(' '.join(notes))}</p>",
    ]
    if not any(result.method == "all rows" for result in facts.targets.values()):
        parts.append(_targets_missing(facts, "all", "All rows are not fine-tuned on here"))
    return "\n".join(parts)


def reproduce(facts: RunFacts) -> str:
    """Return the commands, digests, seeds and versions."""
    parts = []
    commands = facts.run.commands
    if commands:
        listed = "\n".join(plain(command) for command in commands)
        box = "class='scroll' tabindex='0' role='region' dir='ltr' aria-label='Commands'"
        parts.append(f"<h3>Commands</h3><pre {box}><code>{listed}</code></pre>")
    else:
        parts.append(_missing("No command was kept", f"dsenv select TASK --run {_run(facts)}"))
    task = facts.task
    derivation = json.dumps(task.facts["derivation"], ensure_ascii=False) if task.facts["derivation"] else "none"
    rows = [
        ("task", task.name),
        ("task digest (SHA-256)", task.digest),
        ("dataset fingerprint (SHA-256)", str(task.facts["fingerprint"])),
        ("derivation of the dataset", derivation),
        ("instance", str(task.instance)),
        ("encoder", str(task.facts.get("encoder", "unknown"))),
        ("seed of the task", str(task.facts.get("seed", "unknown"))),
        ("λ of the ridge model", f"{task.regularisation:g}"),
    ]
    chosen = [f"{name}: {one.seed}" for name, one in facts.selections.items()]
    tuned = [f"{_rows_of(facts, one)}: {_numbers(run.seed for run in one.runs)}" for one in facts.targets.values()]
    agents = {row.agent for row in facts.results}
    played = [f"{name}: {_numbers({row.seed for row in facts.results if row.agent == name})}" for name in sorted(agents)]
    for what, seeds in (("selections", chosen), ("targets", tuned), ("agents", played)):
        rows += [(f"seeds of the {what}", "; ".join(seeds))] if seeds else []
    built = task.metadata.get("versions")
    if isinstance(built, dict):
        rows.append(("versions that built the task", _versions(built)))
    ran = {_versions(row.versions) for row in facts.results if row.versions}
    rows += [("versions that ran agents", text) for text in sorted(ran)]
    rows.append(("versions that wrote this report", _versions(versions())))
    listed = "".join(f"<div><dt>{isolated(name)}</dt><dd>{isolated(value)}</dd></div>" for name, value in rows)
    parts.append(f"<h3>Digests, seeds, versions</h3><dl class='facts'>{listed}</dl>")
    return "\n".join(parts)


def _target_card(facts: RunFacts) -> str:
    shown = [result for result in facts.targets.values() if _is_chosen(facts, result)]
    if not shown:
        return f"<section><h3>Target</h3>{_targets_missing(facts)}</section>"
    result = shown[-1]
    named = facts.final_name
    found = {id(one): facts.measures(one) for one in facts.targets.values() if same_target(one, result)}
    metric = named if named in found[id(result)] else next(iter(found[id(result)]), None)
    if metric is None:
        return f"<section><h3>Target</h3>{_targets_missing(facts)}</section>"
    beside = [one for one in facts.targets.values() if same_target(one, result) and one is not result]
    rows = [_bar(_rows_of(facts, one), found[id(one)][metric]) for one in [result, *beside] if metric in found[id(one)]]
    seeds = len(result.runs)
    ranges = "; lines: 95% intervals" if any(bar.low is not None for bar in rows) else ""
    if len({one.recipe.get("epochs") for one in [result, *beside]}) > 1:
        ranges += "; numbers of epochs differ (On the target)"
    if metric == "loss":
        ranges += "; nats a token of the responses, the lower the better"
    return (
        f"<section><h3>Target: {plain(metric)}</h3><p>{isolated(_target_name(result))} fine-tuned on the rows, scored on test "
        f"rows; {seeds} {'seed' if seeds == 1 else 'seeds'}{ranges}.</p>{bars(rows, f'Target, {metric}')}</section>"
    )


def _bar(name: str, found: Measured) -> Bar:
    interval = found.interval
    return Bar(name, found.value, *((None, None) if interval is None else (interval.low, interval.high)))


def _line(facts: RunFacts, line: Line, normal: bool, recorded: bool) -> list[str | Cell]:
    tag = "" if line.kind == "selection" else line.kind
    look = "strong" if line.kind == "selection" and line.name == facts.chosen else tag
    cells: list[str | Cell] = [
        Cell(line.name, tag=tag, look=look),
        f"{line.reward:.4f}",
        _number(line.final, ".3f"),
    ]
    cells += [_number(line.normalised, ".3f")] * normal + [_number(line.recorded, ".4f")] * recorded
    rest = ((line.rows, ",d"), (line.evaluations, ",d"), (line.seconds, ",.1f"), (line.seeds, "d"))
    return [*cells, *(_number(value, form) for value, form in rest)]


def _references(facts: RunFacts) -> str:
    reference = facts.task.facts.get("reference")
    if not isinstance(reference, dict):
        return ""
    blocks = [one["test"] for one in reference.values() if isinstance(one, dict) and "test" in one]
    metrics = [name for name in METRIC_NAMES if any(name in one for one in blocks)]
    rows: list[list[str | Cell]] = []
    for key, name in REFERENCES.items():
        if key in reference:
            cells = [reference[key].get(split, {}).get(metric) for metric in metrics for split in ("reward", "test")]
            rows.append([name, *(_spread(cell) for cell in cells)])
    head = ["rows", *(f"{METRIC_NAMES[metric]}, {split}" for metric in metrics for split in ("reward", "test"))]
    caption = f"Reference scores frozen with the task: {reference.get('rows', 0):,} rows, {reference.get('seeds', 0)} seeds"
    note = "<p class='note'>The ridge model's; mean ± standard deviation.</p>"
    return f"<h3>Reference scores</h3>{table(caption, head, rows)}{note}"


def _tiles(drawn: ClusterMap, runs: Sequence[tuple[int, int]], element: str) -> str:
    names = drawn.facts.task.class_names
    items = []
    for k, count in runs:
        said = f"cluster {k}, mostly {shortened(names[drawn.majority[k]], 40)}"
        times = f"<small>×{count:,}</small>" if count > 1 else ""
        items.append(f'<li class="{drawn.colour(int(drawn.majority[k]))}"><abbr title="{plain(said)}">{k}</abbr>{times}</li>')
    return f'<{element} class="picks">{"".join(items)}</{element}>'


def _last_results(facts: RunFacts) -> dict[str, Result]:
    """The result of each agent's largest budget and first seed."""
    found: dict[str, Result] = {}
    for row in facts.results:
        known = found.get(row.agent)
        if known is None or (-row.evaluations, row.seed) < (-known.evaluations, known.seed):
            found[row.agent] = row
    return found


def _without_order(row: Result) -> bool:
    """Whether the actions are a finished selection's, cluster after cluster, as ``evaluate_counts`` picks them."""
    picked = row.actions[: sum(row.counts)]
    return list(picked) == sorted(picked)


def _is_chosen(facts: RunFacts, result: TargetResult) -> bool:
    return facts.chosen is not None and facts.name_of(result) == facts.chosen


def _rows_of(facts: RunFacts, result: TargetResult) -> str:
    return facts.name_of(result) or result.method


def _target_name(result: TargetResult) -> str:
    name = str(result.recipe.get("target", "")).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return f"{name} (LoRA)" if result.recipe.get("method") == "lora" else name


def _measured(found: Measured | None) -> Cell:
    if found is None:
        return Cell("")
    interval = found.interval
    return Cell(f"{found.value:.3f}", "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]")


def _has_difference(found: Measured | None) -> bool:
    return found is not None and found.difference is not None


def _difference(found: Measured | None) -> Cell:
    if found is None or found.difference is None:
        return Cell("")
    interval = found.difference_interval
    return Cell(f"{found.difference:+.3f}", "" if interval is None else f"[{interval.low:+.3f}, {interval.high:+.3f}]")


def _spread(found: object) -> str:
    if not isinstance(found, dict):
        return ""
    return f"{found['mean']:.3f} ± {found['std']:.3f}" if found["std"] else f"{found['mean']:.3f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(round(value, 6) + 0, form)  # no -0.000


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _run(facts: RunFacts) -> str:
    return facts.run.path.name or "RUN"


def _missing(what: str, command: str) -> str:
    return f"<p class='missing'>{plain(what)}. Add it with {code(command)}</p>"


def _targets_missing(facts: RunFacts, rows: str = "", what: str = "No target is fine-tuned here yet") -> str:
    chosen = rows or f"{_run(facts)}/selections/{facts.chosen or 'swap-0'}.json"
    return _missing(what, f"dsenv finetune {chosen} DATASET --target minilm --seeds 3 --run {_run(facts)}")


def _agents_missing(facts: RunFacts) -> str:
    return _missing("No agent has been evaluated here", f"dsenv evaluate guided --seeds 3 --run {_run(facts)}")
