"""The command line: one function a command, in the order that a user meets them."""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Column, Table

from dsenv.errors import InputError, check_whole, ending_cleanly, one_of, require
from dsenv.progress import QUIET, progress

if TYPE_CHECKING:
    from dsenv.dataset import TextDataset
    from dsenv.task import SelectionTask

ALGORITHMS = {
    "dqn": ("stable_baselines3", "DQN"),
    "ppo": ("stable_baselines3", "PPO"),
    "maskable_ppo": ("sb3_contrib", "MaskablePPO"),
}

FEW_REWARD_ROWS = 200
log = logging.getLogger(__name__)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Data selection as an RL problem."
)
store = typer.Typer(no_args_is_help=True, help="Look into files of remembered scores, merge them, write them as JSON lines.")
app.add_typer(store, name="store")
out = Console()

DataDir = Annotated[str | None, typer.Option("--data-dir", help="folder of the datasets (default: DSENV_DATA_DIR)")]
DataName = Annotated[
    str, typer.Argument(help="a table *.csv, *.tsv, *.jsonl, *.parquet; a folder; a name below --data-dir; a hub name")
]
Text = Annotated[str | None, typer.Option("--text", help="column of the texts, or prompts (default: text)")]
Label = Annotated[str, typer.Option("--label", help="column of the labels")]
Response = Annotated[str | None, typer.Option("--response", help="column of responses to prompts, where there are no labels")]
SplitSeed = Annotated[int, typer.Option("--split-seed", help="of the splits that are cut where there are none")]
Encoder = Annotated[
    str, typer.Option(help="minilm (minilm-fast, minilm-int8), tfidf, or a sentence-transformers hub name or folder")
]
Reported = Annotated[str, typer.Option(help="accuracy or macro_f1")]
CacheDir = Annotated[Path | None, typer.Option(help="folder for vectors (default: DSENV_CACHE_DIR)")]
Run = Annotated[Path | None, typer.Option("--run", help="a folder that keeps what the run makes, for dsenv report")]
Tracking = Annotated[str | None, typer.Option("--track", help="tensorboard:FOLDER or wandb:PROJECT")]
TaskName = Annotated[
    str, typer.Argument(help="a bundled task (googleplay, googleplay:noisy, ...), synthetic, or a file *.npz")
]


def _show_version(asked: bool) -> None:
    if asked:
        out.print(importlib.metadata.version("dsenv-gym"), highlight=False)
        raise typer.Exit()


@app.callback()
def _start(
    quiet: Annotated[bool, typer.Option("--quiet", envvar=QUIET, help="no progress, warnings and results alone")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    if quiet:
        os.environ[QUIET] = "1"
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(
        level=level, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True), show_path=False)]
    )
    for noisy in ("sentence_transformers", "faiss", "httpx", "datasets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def tasks() -> None:
    """List the bundled tasks with their sources, licences and reference scores (test rows, 20 seeds)."""
    from dsenv.task import bundled_tasks, load_bundled

    table = Table(Column("task", no_wrap=True), "pool", "classes", "reported", "random rows", "class-mix rows", "full data")
    for name in bundled_tasks():
        base = load_bundled(name)
        for variant in ("", *base.metadata.get("variants", {})):
            task = base.at_variant(variant)
            reference = task.facts.get("reference", {})
            cells = []
            for baseline in ("random_rows", "class_mix_rows", "full"):
                found = reference.get(baseline, {}).get("test", {}).get(task.reported)
                cells.append(f"{found['mean']:.3f}" if found else "-")
            table.add_row(task.name, str(len(task.train)), str(task.classes), task.reported, *cells)
    out.print(table)
    for name in bundled_tasks():
        out.print(f"{name}: sources, with the licence each states", style="bold", highlight=False)
        for source in sorted({_source(source) for source in load_bundled(name).metadata["sources"]}):
            out.print(f"  {source}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def build(
    dataset: DataName,
    save: Annotated[Path, typer.Option("--out", help="the task file to write")] = Path("task.npz"),
    data_dir: DataDir = None,
    encoder: Encoder = "minilm",
    clusters: Annotated[int | None, typer.Option(help="K (default: 64, or as many as there are rows)")] = None,
    max_rows: Annotated[int, typer.Option(help="larger pools are cut by a stratified sample")] = 60_000,
    reported: Reported = "accuracy",
    label_noise: Annotated[float, typer.Option(help="share of training labels to flip")] = 0.0,
    target_source: Annotated[str | None, typer.Option(help="keep only this source in validation and test")] = None,
    seed: int = 0,
    text: Text = None,
    label: Label = "label",
    response: Response = None,
    split_seed: SplitSeed = 0,
    cache_dir: CacheDir = None,
    compare: Annotated[Path | None, typer.Option(help="a task file of the same dataset, from another machine say")] = None,
) -> None:
    """Build a task file from a dataset: encode, reduce, cut, cluster."""
    from dsenv.building import build_task, compare_tasks
    from dsenv.dataset import load_dataset
    from dsenv.task import SelectionTask

    if save.suffix != ".npz":
        raise InputError(f"a task file's name ends in .npz, not {save.name!r}")
    rows = load_dataset(dataset, data_dir, text=text, label=label, response=response, split_seed=split_seed)
    if label_noise:
        rows = rows.with_label_noise(label_noise, seed)
    if target_source:
        rows = rows.with_target_source(target_source)
    other = SelectionTask.load(compare) if compare else None
    task = build_task(
        rows, encoder=encoder, clusters=clusters, max_rows=max_rows, reported=reported, seed=seed, cache_dir=cache_dir
    )
    task.save(save)
    out.print(f"{save}: {len(task.train)} rows, {task.clustering('stratified').clusters} clusters, digest {task.digest}")
    if other is not None:
        for name, value in compare_tasks(task, other).items():
            out.print(f"  {name}: {value}")


@app.command()
def select(
    data: Annotated[
        str,
        typer.Argument(
            help="your rows: a table *.csv, *.tsv, *.jsonl, *.parquet or a folder; or a task: a file *.npz, a bundled name"
        ),
    ],
    method: Annotated[
        str,
        typer.Option(help="a search: swap, guided, ... (dsenv.search), or a selector: herding, less, ... (dsenv.selectors)"),
    ] = "swap",
    budget: Annotated[float, typer.Option(help="share of the training rows")] = 0.05,
    evaluations: Annotated[int, typer.Option(help="proxy evaluations that a search may spend")] = 4096,
    metric: Annotated[str | None, typer.Option(help="what the proxy measures (default: the task's own)")] = None,
    unit: Annotated[str, typer.Option(help="rows, or cluster: a pick adds the whole cluster")] = "rows",
    clustering: Annotated[str, typer.Option(help="stratified or kmeans")] = "stratified",
    text: Text = None,
    label: Label = "label",
    response: Response = None,
    split_seed: SplitSeed = 0,
    encoder: Encoder = "minilm",
    reported: Reported = "accuracy",
    cache_dir: CacheDir = None,
    dataset: Annotated[
        str | None, typer.Option(help="what the task was built from, for selectors that read texts and for rows as --out")
    ] = None,
    data_dir: DataDir = None,
    model: Annotated[
        str | None, typer.Option(help="checkpoint of less, trak, ask_llm, ufo, data_whisperer: a hub name or a folder")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the method; the task of a table is always built with seed 0")] = 0,
    run: Run = None,
    track: Tracking = None,
    save: Annotated[
        Path, typer.Option("--out", help="selection *.json, or the chosen rows as *.csv, *.tsv, *.jsonl, *.parquet")
    ] = Path("selection.json"),
) -> None:
    """Choose rows with a search or a selector; writes their row numbers, or the rows themselves."""
    from dsenv.building import build_task
    from dsenv.dataset import load_dataset
    from dsenv.env import load_task
    from dsenv.metrics import METRICS
    from dsenv.picks import check_budget
    from dsenv.run_folder import RunFolder
    from dsenv.search import SEARCHES
    from dsenv.selectors import SELECTORS
    from dsenv.selectors import select as choose
    from dsenv.tables import SUFFIXES, is_table
    from dsenv.task import RESPONSE_SKILL
    from dsenv.tracking import check_tracking, tracker

    if save.suffix != ".json" and not is_table(save):
        raise InputError(f"--out {str(save)!r}: allowed are a selection *.json, or rows as *.csv, *.tsv, *.jsonl, *.parquet")
    one_of("method", method, [*SEARCHES, *SELECTORS])
    if metric is not None:
        one_of("metric", metric, [*METRICS, RESPONSE_SKILL])
    check_budget(budget)
    check_tracking(track)
    columns: dict[str, Any] = {"text": text, "label": label, "response": response, "split_seed": split_seed}
    rows: TextDataset | None = None
    if is_table(data) or Path(data).is_dir():
        if dataset is not None:
            raise InputError(f"--dataset {dataset!r} goes with a task; {data!r} has the rows itself")
        dataset, rows = data, load_dataset(data, data_dir, **columns)
        task = build_task(rows, encoder=encoder, reported=reported, cache_dir=cache_dir)
    else:
        if Path(data).suffix and ".npz" not in data:
            raise InputError(f"{data!r} is no task (a file *.npz, a bundled name) and no table: *{', *'.join(SUFFIXES)}")
        task = load_task(data)
        if dataset is not None:
            rows = load_dataset(dataset, data_dir, **columns).derive(task.facts["derivation"])
            task.check_dataset(rows)
    if is_table(save) and dataset is None:
        raise InputError(f"--out {str(save)!r} takes rows, and a task has no texts: give --dataset, or --out selection.json")
    source = _rows_file(str(dataset), data_dir) if is_table(save) else None
    folder = None if run is None else RunFolder(run)
    if folder is not None:
        folder.keep_task(task)
    if rows is not None and data == dataset:
        _describe(rows, task)
    found = choose(
        task,
        method=method,
        budget=budget,
        evaluations=evaluations,
        seed=seed,
        metric=metric,
        dataset=rows,
        options=None if model is None else {"model": model},
        unit=unit,
        clustering=clustering,
    )
    if source is not None:
        _write_rows(found.rows, source, save)
    else:
        found.save(save)
    if folder is not None:
        folder.keep_selection(found)
        folder.keep_command(_words())
    with tracker(track, f"{method} seed {seed}") as tell:
        for spent, best in found.history:
            tell(spent, score=best)
    measured = metric or task.default_metric
    reached = "" if found.score is None else f", {measured} {found.score:.4f} on reward rows, {found.evaluations} evaluations"
    out.print(f"{save}: {len(found.rows)} of {found.pool} rows{reached}", soft_wrap=True)


@app.command()
def finalists(
    task: TaskName,
    dataset: Annotated[
        str | None, typer.Argument(help="what the task was built from: then the target decides, else a logistic head")
    ] = None,
    target: Annotated[str, typer.Option(help="minilm, a hub name or a folder")] = "minilm",
    data_dir: DataDir = None,
    budget: Annotated[float, typer.Option(help="share of the training rows")] = 0.05,
    count: Annotated[int, typer.Option(help="finalists, at most")] = 30,
    evaluations: Annotated[int, typer.Option(help="proxy evaluations of each search")] = 4096,
    epochs: Annotated[int | None, typer.Option(help="of the fine-tunes that decide (default: 1)")] = None,
    max_length: Annotated[int, typer.Option(help="tokens a row")] = 128,
    device: str = "auto",
    text: Text = None,
    label: Label = "label",
    split_seed: SplitSeed = 0,
    seed: int = 0,
    scores: Annotated[
        Path | None, typer.Option(help="file for the target's scores, where a stopped run goes on (default: beside --out)")
    ] = None,
    run: Run = None,
    save: Annotated[Path, typer.Option("--out", help="the selection file to write")] = Path("selection.json"),
) -> None:
    """Choose rows in two stages: searches in parts of the pool propose, the selection rows decide."""
    from dsenv.dataset import load_dataset
    from dsenv.env import load_task
    from dsenv.finalists import select_finalist
    from dsenv.run_folder import RunFolder

    loaded, rows = load_task(task), None
    folder = None if run is None else RunFolder(run)
    if folder is not None:
        folder.keep_task(loaded)
    recipe: dict[str, Any] = {}
    if dataset is not None:
        columns: dict[str, Any] = {"text": text, "label": label, "split_seed": split_seed}
        rows = load_dataset(dataset, data_dir, **columns).derive(loaded.facts["derivation"])
        scores = scores or save.with_suffix(".scores.json")
        recipe = {"max_length": max_length, "device": device, **({} if epochs is None else {"epochs": epochs})}
    found = select_finalist(
        loaded, rows, target, budget=budget, count=count, evaluations=evaluations, seed=seed, path=scores, **recipe
    )
    found.save(save)
    if folder is not None:
        folder.keep_selection(found)
        folder.keep_command(_words())
    out.print(f"{save}: {len(found.rows)} of {found.pool} rows, {found.method}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    agent: Annotated[str, typer.Argument(help="a search, module:function (evaluator, rng), or with --policy a policy")],
    ids: Annotated[list[str] | None, typer.Option("--id", help="problem; may be given several times")] = None,
    evaluations: Annotated[
        list[int] | None,
        typer.Option(help="budget of proxy evaluations; several give a result each (default: 4096; a policy: spent, 0)"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="number of seeds, from 0; a seed draws the instance too")] = 3,
    policy: Annotated[
        bool, typer.Option("--policy", help="AGENT is a policy: module:function (observation, info), or SB3's *.zip")
    ] = False,
    algorithm: Annotated[str, typer.Option(help="class of the *.zip: dqn, ppo or maskable_ppo")] = "maskable_ppo",
    trust_sb3_zip: Annotated[bool, typer.Option("--trust-sb3-zip", help="load a *.zip; it may run code of its maker")] = False,
    reward: Annotated[str, typer.Option(help="final or dense: what a policy's observation shows of the score")] = "final",
    unit: Annotated[str | None, typer.Option(help="rows or cluster (default: the problem's)")] = None,
    clustering: Annotated[str | None, typer.Option(help="stratified or kmeans (default: the problem's)")] = None,
    budget: Annotated[float | None, typer.Option(help="share of the training rows (default: the problem's)")] = None,
    name: Annotated[str | None, typer.Option(help="of the agent in the results (default: AGENT)")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="a run's folder: its task is the problem, its results.jsonl takes the rows")
    ] = None,
    save: Annotated[Path | None, typer.Option("--out", help="JSON lines to write (default: results.jsonl)")] = None,
) -> None:
    """Run an agent or a policy on problems and write replayable results, as the leaderboard has them."""
    from dsenv.evaluation import Result, Row, find_agent, load_rows, run_agent, save_results
    from dsenv.evaluation import evaluate as play
    from dsenv.files import locked
    from dsenv.leaderboard import environment_of
    from dsenv.registration import OWN_TASK_ID
    from dsenv.run_folder import RunFolder

    check_whole("seeds", seeds, 1)
    if (ids is None) == (run is None) or (run is not None and save is not None):
        raise InputError("evaluate takes problems (--id, perhaps --out), or the task of a run (--run), not both")
    save = save or (Path("results.jsonl") if run is None else run / "results.jsonl")
    changed: dict[str, Any] = {"unit": unit, "clustering": clustering, "budget": budget}
    changed = {key: value for key, value in changed.items() if value is not None}
    work = [(id, seed, environment_of(id, seed)) for seed in range(seeds) for id in ids or []]
    partial = save.with_name(f"{save.name}.partial")  # of a run that was stopped; a finished one begins anew
    folder = None if run is None else RunFolder(run)
    if folder is not None:
        own = {"task": folder.task_name}
        work = [(str(run), seed, (OWN_TASK_ID, own)) for seed in range(seeds)]
    model: Any = None
    if policy or agent.endswith(".zip"):
        model, seen = _load_policy(agent, algorithm, trust_sb3_zip)
        changed = {**changed, **seen, "reward": reward}
    else:
        searched, variant = find_agent(agent)
    with locked(save, wait=0):
        found: list[Row] = []
        kept = load_rows(partial) if partial.is_file() else []
        earlier = [] if folder is None else folder.results
        for id, seed, (registered, problem) in work:
            keywords = {**problem, **changed}
            budgets = evaluations or ([0] if model is not None else [4096])
            named = (registered, keywords, name or agent, seed)
            rows = [row for row in kept if (row.id, row.keywords, row.agent, row.seed) == named and row.budget in budgets]
            if not rows:
                with progress(f"{agent} on {id}, seed {seed}", max(budgets)) as scored:
                    if model is not None:
                        spent = max(budgets)
                        rows = [*play(model, registered, agent=name or agent, seeds=[seed], evaluations=spent, **keywords)]
                    else:
                        rows = [*run_agent(searched, registered, name=name or agent, seed=seed, evaluations=budgets,
                                           scored=scored, variant=variant, **keywords)]  # fmt: skip
            found += rows
            save_results([*found, *(row for row in kept if row not in found)], partial)
            for row in rows:
                if not isinstance(row, Result):
                    continue
                test = f"test accuracy {row.scores['test']['accuracy']:.4f}, macro-F1 {row.scores['test']['macro_f1']:.4f}"
                out.print(f"{id} seed {seed}, {row.evaluations} evaluations: score {row.score:.4f}, {test}", highlight=False)
        mine = {(row.agent, row.seed, row.budget) for row in found}
        save_results([*(row for row in earlier if (row.agent, row.seed, row.budget) not in mine), *found], save)
        partial.unlink()
        if folder is not None:
            folder.keep_command(_words())


@app.command()
def replay(results: Annotated[Path, typer.Argument(help="JSON lines of results")]) -> None:
    """Play every result again and check its counts and scores."""
    from dsenv.evaluation import Result, load_rows
    from dsenv.evaluation import replay as play

    rows = load_rows(results)
    found = [row for row in rows if isinstance(row, Result)]
    for result in found:
        play(result)
    failed = f"; {len(rows) - len(found)} failed runs have none" if len(rows) > len(found) else ""
    out.print(f"{len(found)} results replayed: all as they say{failed}")


@app.command()
def leaderboard(
    files: Annotated[
        list[Path] | None, typer.Argument(help="results *.jsonl, summaries *.json; default: the bundled summary")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="problems, headroom or small (default: these two and those of *.jsonl)")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="show every problem")] = False,
) -> None:
    """Show normalised scores by evaluations; rows of your own stand beside the committed summary."""
    from dsenv.evaluation import load_rows
    from dsenv.leaderboard import SUMMARY, load_constants, load_leaderboard, problem_of

    shown = list(files or [])
    if SUMMARY.is_file() and all(path.suffix == ".jsonl" for path in shown):
        shown.append(SUMMARY)
    if not shown:
        raise InputError(
            "no summary is bundled: give results *.jsonl, or a summary such as benchmarks/results/leaderboard.json"
        )
    found = load_leaderboard(shown, load_constants())
    if not found["summary"]:
        raise InputError(f"no results in {', '.join(map(str, shown))}")
    known = list(dict.fromkeys(row["id"] for row in found["summary"]))
    own = {problem_of(row) for path in shown if path.suffix == ".jsonl" for row in load_rows(path)}
    wanted = [one_of("id", id, known) for id in ids or []]
    if not wanted:
        wanted = [id for id in known if every or id in own or id in ("headroom", "small")] or known
    for id in wanted:
        out.print(_scores_table(id, [row for row in found["summary"] if row["id"] == id]))
    for row in found["difference"]:
        if row["split"] == "reward" and not ids:
            interval = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            out.print(f"{row['agent']} - {row['against']} at {row['evaluations']}: {interval}", highlight=False, markup=False)


@app.command()
def finetune(
    selection: Annotated[str, typer.Argument(help="a selection file, or 'all' for every training row")],
    dataset: DataName,
    target: Annotated[str, typer.Option(help="minilm, a hub name or a folder; encoder or causal")] = "minilm",
    data_dir: DataDir = None,
    method: Annotated[str, typer.Option(help="full or lora")] = "full",
    epochs: int = 3,
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    max_length: Annotated[int, typer.Option(help="tokens a row")] = 128,
    order: Annotated[str, typer.Option(help="shuffled, or given: as the selection has its rows, every epoch")] = "shuffled",
    seeds: Annotated[int, typer.Option(help="number of seeds, from 0")] = 1,
    device: str = "auto",
    text: Text = None,
    label: Label = "label",
    response: Response = None,
    split_seed: SplitSeed = 0,
    run: Run = None,
    track: Tracking = None,
    save: Annotated[
        Path | None, typer.Option("--out", help="the result file (JSON), written after every seed; a stopped command goes on")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="folder for the fine-tuned model")] = None,
) -> None:
    """Fine-tune a target on a selection and score it on the test rows."""
    from dsenv.dataset import load_dataset
    from dsenv.finetuning import fine_tune
    from dsenv.run_folder import RunFolder
    from dsenv.selection import Selection
    from dsenv.tables import is_table
    from dsenv.training import make_recipe

    if is_table(selection):
        raise InputError(f"{selection!r} is a table: give the selection (dsenv select --out selection.json), or 'all'")
    chosen = None if selection == "all" else Selection.load(selection)
    rows = load_dataset(dataset, data_dir, text=text, label=label, response=response, split_seed=split_seed)
    if chosen is not None:
        rows = rows.derive(chosen.derivation)
    if Path(target).is_dir():
        target = os.path.normpath(target)
    recipe = {
        "method": method, "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
        "max_length": max_length, "order": order, "device": device,
    }  # fmt: skip
    path = save
    folder = None if run is None else RunFolder(run)
    if folder is not None and save is None:
        name = "all rows" if chosen is None else folder.name_of(chosen) or f"{chosen.method}-{chosen.seed}"
        path = folder.target_file(name, asdict(make_recipe(target, **recipe)))
    result = fine_tune(chosen, rows, target, seeds=range(seeds), out=model, path=path, tracking=track, **recipe)
    for tried in result.runs:
        scored = (
            f"test accuracy {tried.accuracy:.4f}, macro-F1 {tried.macro_f1:.4f}"
            if tried.loss is None
            else f"test loss {tried.loss:.4f} nats a token"
        )
        spent = f"{tried.fit.seconds:.0f} s training, {tried.fit.tokens_seen} tokens"
        out.print(f"seed {tried.seed}: {result.rows} rows, {scored}, {spent}", soft_wrap=True)
    if folder is not None:
        if save is not None:
            folder.keep_target(result)
        folder.keep_command(_words())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    dataset: Annotated[
        str | None, typer.Option(help="what the task was built from, for example texts: a file, a folder or a name")
    ] = None,
    data_dir: DataDir = None,
    text: Text = None,
    label: Label = "label",
    response: Response = None,
    split_seed: SplitSeed = 0,
    save: Annotated[Path | None, typer.Option("--out", help="the page to write (default: report.html in the folder)")] = None,
) -> None:
    """Write what a run's folder holds as one HTML page that needs no network."""
    from dsenv.dataset import load_dataset
    from dsenv.report import write_report

    columns: dict[str, Any] = {"text": text, "label": label, "response": response, "split_seed": split_seed}
    rows = None if dataset is None else load_dataset(dataset, data_dir, **columns)
    out.print(f"{write_report(run, save, rows)}: open it in a browser", soft_wrap=True, highlight=False)


@store.command()
def info(path: Annotated[Path, typer.Argument(help="a store of scores")]) -> None:
    """Count what a store holds: scores of each task and recipe, and damaged entries."""
    from dsenv.proxies.store import ScoreStore

    with ScoreStore(path, write=False) as opened:
        found = opened.info()
    named = (Column(name, no_wrap=True) for name in ("recipe", "task", "metric", "proxy"))
    table = Table(*named, "scores", "samples", "seconds")
    for held in found.recipes:
        cells = [str(held.facts.get(name, "?")) for name in ("task", "metric")]
        proxy = str(held.facts.get("recipe", {}).get("proxy", "?"))
        table.add_row(held.recipe[:8], *cells, proxy, str(held.scores), str(held.samples), f"{held.seconds:.0f}")
    out.print(table)
    for held in found.recipes:
        out.print(f"{held.recipe[:8]}: {json.dumps(held.facts)}", soft_wrap=True, markup=False, highlight=False)
    out.print(f"{path}: {found.scores} scores, {found.damaged} damaged entries, {found.bytes} bytes", soft_wrap=True)


@store.command()
def merge(
    merged: Annotated[Path, typer.Argument(metavar="OUT", help="the store to add to; made where there is none")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="stores, or exported JSON lines *.jsonl")],
) -> None:
    """Add the scores of other stores, or of exported lines, to a store."""
    from dsenv.proxies.store import ScoreStore

    for path in paths:
        if not path.is_file():
            raise InputError(f"no store of scores {str(path)!r}")
    with ScoreStore(merged) as opened:
        added = opened.merge(*paths)
    out.print(f"{merged}: {added} scores added", soft_wrap=True)


@store.command()
def export(
    path: Annotated[Path, typer.Argument(help="a store of scores, a damaged one too")],
    save: Annotated[Path, typer.Option("--out", help="the JSON lines to write")] = Path("scores.jsonl"),
) -> None:
    """Write every score of a store that can be read as JSON lines."""
    from dsenv.proxies.store import ScoreStore

    with ScoreStore(path, write=False) as opened:
        written = opened.export(save)
    out.print(f"{save}: {written} scores", soft_wrap=True)


def _describe(rows: TextDataset, task: SelectionTask) -> None:
    """Say which classes were read, and whether the reward rows are few."""
    counts = Counter(rows.train.labels.tolist()).most_common(8)
    classes = ", ".join(f"{rows.class_names[k]} {count / len(rows.train):.0%}" for k, count in counts)
    log.info("%s: %d training rows: %s", rows.name, len(rows.train), "responses" if rows.is_instructions else classes)
    if len(task.reward) < FEW_REWARD_ROWS:
        log.warning("%d reward rows are few: a search may fit their chance; see what a target makes of it", len(task.reward))


def _rows_file(dataset: str, data_dir: str | None) -> Path:
    """Return the file of a dataset's training rows.

    Raises:
        InputError: for a dataset on the hub.
    """
    from dsenv.dataset import find_folder, split_files
    from dsenv.tables import is_table

    if is_table(dataset):
        return Path(dataset)
    folder = find_folder(dataset, data_dir)
    if folder is None:
        raise InputError(f"rows of a hub dataset ({dataset!r}) stay there: give --out selection.json")
    return split_files(folder, "train")[0]


def _write_rows(rows: Sequence[int], source: Path, path: Path) -> None:
    """Write rows of the training table with their numbers, in a column ``row`` (``row_number``, where there is one)."""
    from dsenv.tables import read_table, write_table

    table = read_table(source)
    number = next(name for name in ("row", "row_number", "dsenv_row") if name not in table)
    write_table({number: list(rows), **{name: [column[row] for row in rows] for name, column in table.items()}}, path)


def _words() -> list[str]:
    """The command line, without the folders of files elsewhere; a word that is not UTF-8 is escaped."""

    def short(word: str) -> str:
        word = word.encode("utf-8", "backslashreplace").decode()
        option, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        return f"{option}{equals}{Path(value).name if Path(value).is_absolute() else value}"

    return ["dsenv", *(shlex.quote(short(word)) for word in sys.argv[1:])]


def _source(source: Any) -> str:
    if isinstance(source, dict):
        return f"{source.get('repo', source.get('source', '?'))} ({source.get('licence_as_stated', 'none stated')})"
    return json.dumps(source)


def _load_policy(name: str, algorithm: str, trusted: bool) -> tuple[Any, dict[str, Any]]:
    """Return a policy and the keywords of the environment that it can see."""
    from dsenv.evaluation import import_function

    if not name.endswith(".zip"):
        if ":" not in name:
            raise InputError(f"policy {name!r}: give module:function, or a file *.zip of Stable-Baselines3")
        return import_function(name), {}
    module, kind = ALGORITHMS[one_of("algorithm", algorithm, ALGORITHMS)]
    if not trusted:
        raise InputError(f"{name!r} may run any code of its maker when it is loaded: give --trust-sb3-zip if you trust it")
    if not Path(name).is_file():
        raise InputError(f"no file {name!r}")
    sys.path.insert(0, str(Path.cwd()))  # the networks it was made of are imported by name
    model = getattr(require(module, "agents"), kind).load(name, device="cpu")
    return model, {"observation": "dict"} if hasattr(model.observation_space, "spaces") else {}


def _scores_table(id: str, rows: list[dict[str, Any]]) -> Table:
    marks = sorted({row["evaluations"] for row in rows})
    by_agent: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_agent.setdefault(row["agent"], {}).setdefault(row["evaluations"], row)
    columns = [Column(f"{mark:,}", justify="right") for mark in marks]
    known = [
        (name, digits)
        for name, digits in (("test", 3), ("regret", 4), ("seconds", 0))
        if any(row[name] is not None for row in rows)
    ]
    names = [name for name, _ in known]
    table = Table(Column("agent", no_wrap=True), *columns, *names, Column("seeds", no_wrap=True), title=id)
    for agent, cells in sorted(by_agent.items(), key=lambda item: -_rank(item[1][max(item[1])])):
        last = cells[max(cells)]
        numbers = [_number(last[name], digits) for name, digits in known]
        failed = max(row.get("failed", 0) for row in cells.values())
        seeds = f"{last['seeds']}{f', {failed} failed' if failed else ''}"
        table.add_row(escape(agent), *(_cell(cells.get(mark)) for mark in marks), *numbers, seeds)
    return table


def _rank(row: dict[str, Any]) -> float:
    return float(next((row[name] for name in ("iqm", "score") if row[name] is not None), float("-inf")))


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["iqm"] is None:
        return "failed" if row["score"] is None else f"Φ {row['score']:.4f}"
    return f"{row['iqm']:.3f}\n\\[{row['low']:.2f}, {row['high']:.2f}]"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main() -> None:
    """Run the command line; a documented error is one line, not a traceback.

    What a terminal or a pipe cannot write (an ASCII locale, a file's name that is not UTF-8) is shown escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with ending_cleanly():
        app()


if __name__ == "__main__":
    main()
