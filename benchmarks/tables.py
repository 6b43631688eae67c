"""Write the tables of the README and the documentation from what is committed: ``python -m benchmarks.tables``."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import (
    crash,
    determinism,
    end_to_end,
    fidelity,
    leaderboard,
    learning,
    proxy_variants,
    rlvr,
    scaling,
    soak,
    target_report,
    throughput,
)
from benchmarks.fuzz import __main__ as fuzz
from benchmarks.records import RESULTS, read_record
from benchmarks.verify import kinds
from dsenv.env import DataSelectEnv
from dsenv.errors import ending_cleanly
from dsenv.evaluation import reference_scores
from dsenv.registration import IDS
from dsenv.task import SelectionTask

NAMED = "guided"
LEADERBOARD_IDS = ("DataSelect-GooglePlayNoisy-v0", "DataSelect-GooglePlay-v0 paper")
ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "environments.md",
    *(ROOT / "docs" / name for name in ("agents.md", "proxies.md", "target.md", "target_head.md", "rlvr.md")),
    *(ROOT / "docs" / name for name in ("determinism.md", "reproducibility.md", "robustness.md")),
)


def ids() -> str:
    """Return the ids with the frozen reference scores of their task files: test rows, mean over 20 seeds."""
    lines = [
        "| id | K | picks | rows of pool | default reward | reported | random rows | class-mix rows | proportional | full |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for id, keywords in IDS.items():
        env = DataSelectEnv(**keywords)
        task: SelectionTask = env.task
        reference = task.facts.get("reference") or reference_scores(task, env.plan, env.metric)
        cells = []
        for name in ("random_rows", "class_mix_rows", "proportional", "full"):
            found = reference[name]["test"][task.reported]
            spread = f" ± {found['std']:.3f}" if found["std"] else ""
            cells.append(f"{found['mean']:.3f}{spread}")
        unit = "clusters" if env.plan.capacity.max() == 1 else f"× {env.plan.rows_per_pick}"
        rows = f"{reference['rows']} of {len(task.train)}"
        name = id.removeprefix("DataSelect-").removesuffix("-v0")
        cells = [name, str(env.plan.clusters), f"{env.plan.picks} {unit}", rows, env.metric, task.reported, *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rendered() -> dict[str, str]:
    """Return every table by its name in a page."""
    tables = {"ids": ids()}
    for key, block in sorted(read_record(RESULTS / "learning.json").items()):
        tables[f"learning {key.split()[0]}"] = learning.table(block)
    for block in read_record(RESULTS / "end_to_end.json").values():
        tables[f"end_to_end noise={block['options']['label_noise']}"] = end_to_end.table(block)
    tables["fidelity short"] = fidelity.short_table(read_record(RESULTS / "fidelity.json"))
    tables["fidelity"] = fidelity.table(read_record(RESULTS / "fidelity.json"))
    tables["proxy variants"] = proxy_variants.table(read_record(RESULTS / "proxy_variants.json"))
    tables["throughput"] = throughput.table(read_record(RESULTS / "throughput.json"))
    tables["determinism"] = determinism.table(read_record(RESULTS / "determinism.json"))
    tables["verify"] = kinds.table(read_record(RESULTS / "verify.json"))
    tables["fuzz"] = fuzz.table(read_record(RESULTS / "fuzz.json"))
    tables["crash"] = crash.table(read_record(RESULTS / "crash.json"))
    tables["soak"] = soak.table(read_record(RESULTS / "soak.json"))
    tables["scaling"] = scaling.table(read_record(RESULTS / "scaling.json"))
    record = read_record(RESULTS / "leaderboard.json")
    tables["leaderboard"] = leaderboard.table(record, ["headroom"])
    tables["leaderboard small"] = leaderboard.table(record, ["small"])
    tables["leaderboard large"] = leaderboard.table(record, ["large"])
    for id in LEADERBOARD_IDS:
        tables[f"leaderboard {id}"] = leaderboard.table(record, [id])
    differences = [row for row in record["difference"] if row["agent"] == NAMED and row["evaluations"] >= 1024]
    tables["leaderboard difference"] = leaderboard.difference_table(differences)
    tables["leaderboard variants"] = leaderboard.difference_table(record["variants"])
    tables["leaderboard transfer"] = leaderboard.transfer_table(record)
    record = read_record(RESULTS / "rlvr.json")
    tables["rlvr"] = rlvr.table(record)
    tables["rlvr short"] = rlvr.short_table(record)
    tables["rlvr difficulty"] = rlvr.difficulty_table(record)
    tables["rlvr third"] = rlvr.short_table(read_record(RESULTS / "rlvr_third.json"))
    tables["target time"] = target_report.time_table(read_record(RESULTS / "target_time.json"))
    return {**tables, **target_report.named_tables(read_record(RESULTS / "target.json"))}


def main() -> None:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end -->``."""
    tables = rendered()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, block in tables.items():
            pattern = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", flags=re.S)
            text, found = pattern.subn(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)  # type: ignore[misc]
            if found:
                print(f"{name}: written into {page.name}")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with ending_cleanly():
        main()
