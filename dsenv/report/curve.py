"""The learning curve: best Φ against evaluations, as SVG that stretches and labels that do not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dsenv.report.markup import isolated, plain
from dsenv.report.run_facts import RunFacts, over_seeds
from dsenv.stats import Interval

COLOURS = 6
DASHES = ("", "8 4", "3 4")
LEVEL_DASHES = ("2 3", "7 3", "14 4")
DEPTH = 1.0  # below the plain choices, the chart goes as far down as the best stands above them
BOX = 1000.0  # units of the drawing on both axes; it is stretched to its place on the page


@dataclass(frozen=True)
class Point:
    """What an agent has at a number of evaluations, over its seeds."""

    evaluations: int
    value: float
    interval: Interval | None
    seeds: int


def agent_points(facts: RunFacts) -> dict[str, list[Point]]:
    """Return the points of each agent, evaluations ascending."""
    scores: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in facts.results:
        scores[row.agent][row.budget or row.evaluations].append(row.score)
    found = {}
    for agent, by_budget in scores.items():
        found[agent] = [Point(budget, *over_seeds(values), len(values)) for budget, values in sorted(by_budget.items())]
    return found


def curve(facts: RunFacts) -> str:
    """Return the chart, or nothing where there is no search and no agent."""
    lines = {name: _line(one.history, one.evaluations) for name, one in facts.selections.items() if one.history}
    points = agent_points(facts)
    if not lines and not points:
        return ""
    levels = {name: scored.reward for name, scored in facts.baselines.items()}
    values = [value for line in lines.values() for _, value in line] + list(levels.values())
    for own in points.values():
        values += [end for point in own for end in (_low(point), _high(point))]
    last = max(*(line[-1][0] for line in lines.values()), *(point.evaluations for own in points.values() for point in own), 10)
    high = max(values)
    lowest = min(levels.values()) - DEPTH * (high - min(levels.values()))
    low = min(value for value in values if value >= lowest)
    room = 0.06 * (high - low) or 0.01
    frame = _Frame(last, low - room, high + room)
    drawn, legend = [], []
    for (name, level), dash in zip(levels.items(), LEVEL_DASHES, strict=False):
        style = f' stroke-dasharray="{dash}"'
        drawn.append(f'<path class="level" d="M0 {frame.y(level):.1f}H{BOX:.0f}"{style}/>')
        legend.append(_key(f'<path class="level" d="M0 4H28"{style}/>', name, f"{level:.3f}"))
    for number, (name, line) in enumerate(lines.items()):
        look, dash = f"c{number % COLOURS}", DASHES[number // COLOURS % len(DASHES)]
        style = f' stroke-dasharray="{dash}"' if dash else ""
        drawn.append(f'<path class="line {look}" d="{frame.steps(line)}"{style}/>')
        drawn.append(f'<path class="tip {look}" d="M{frame.x(line[-1][0]):.1f} {frame.y(line[-1][1]):.1f}h0"/>')
        legend.append(_key(f'<path class="line {look}" d="M0 4H28"{style}/>', name, f"{line[-1][1]:.3f} at {line[-1][0]:,}"))
    for number, (agent, own) in enumerate(points.items(), len(lines)):
        look = f"c{number % COLOURS}"
        drawn += [_mark(frame, point, look) for point in own]
        seeds = own[-1].seeds
        below = ", below the chart" if own[-1].value < frame.low else ""
        said = f"{own[-1].value:.3f} at {own[-1].evaluations:,}, {seeds} {'seed' if seeds == 1 else 'seeds'}{below}"
        legend.append(_key(f'<path class="dot {look}" d="M14 4h0"/>', agent, said))
    return f"""<figure class="chart" aria-label="Best Φ against evaluations">
<p class="axis-name">Φ ({plain(facts.metric_name)}), reward rows</p>
<div class="plot"><svg viewBox="0 0 {BOX:.0f} {BOX:.0f}" preserveAspectRatio="none" aria-hidden="true">
{frame.grid()}
{chr(10).join(drawn)}
</svg>{frame.labels()}</div>
<p class="axis-name end">evaluations of the proxy (log scale)</p>
<ul class="legend">{"".join(legend)}</ul>
</figure>"""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers between two values, about ``count`` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]


class _Frame:
    """Where values lie in the drawing."""

    def __init__(self, last: int, low: float, high: float) -> None:
        self.last, self.low, self.high = last, low, high
        self.decades = [10**power for power in range(math.floor(math.log10(last)) + 1)]
        self.ticks = nice_ticks(low, high)

    def x(self, evaluations: float) -> float:
        return BOX * (0.02 + 0.96 * math.log(max(1.0, evaluations)) / math.log(self.last))

    def y(self, value: float) -> float:
        return BOX * (1 - (value - self.low) / (self.high - self.low))

    def steps(self, line: Sequence[tuple[int, float]]) -> str:
        (first, value), *rest = line
        path = f"M{self.x(first):.1f} {self.y(value):.1f}"
        return path + "".join(f"H{self.x(at):.1f}V{self.y(value):.1f}" for at, value in rest)

    def grid(self) -> str:
        across = [f'<path class="grid" d="M0 {self.y(tick):.1f}H{BOX:.0f}"/>' for tick in self.ticks]
        return "".join([*across, *(f'<path class="grid" d="M{self.x(tick):.1f} 0V{BOX:.0f}"/>' for tick in self.decades)])

    def labels(self) -> str:
        digits = max((len(f"{tick:.6f}".rstrip("0").partition(".")[2]) for tick in self.ticks), default=1)
        up = [f'<span class="tick y" style="top:{self.y(t) / BOX:.2%}">{t:.{digits}f}</span>' for t in self.ticks]
        across = [f'<span class="tick x" style="left:{self.x(t) / BOX:.2%}">{t:,}</span>' for t in self.decades]
        return "".join([*up, *across])


def _line(history: Sequence[tuple[int, float]], evaluations: int) -> list[tuple[int, float]]:
    line = [(int(at), float(value)) for at, value in history]
    return [*line, (evaluations, line[-1][1])] if evaluations > line[-1][0] else line


def _low(point: Point) -> float:
    return point.interval.low if point.interval else point.value


def _high(point: Point) -> float:
    return point.interval.high if point.interval else point.value


def _mark(frame: _Frame, point: Point, look: str) -> str:
    x = frame.x(point.evaluations)
    bar = f'<path class="line {look}" d="M{x:.1f} {frame.y(_low(point)):.1f}V{frame.y(_high(point)):.1f}"/>'
    return (bar if point.interval else "") + f'<path class="dot {look}" d="M{x:.1f} {frame.y(point.value):.1f}h0"/>'


def _key(drawn: str, name: str, said: str) -> str:
    key = f'<svg class="key" viewBox="0 0 28 8" aria-hidden="true">{drawn}</svg>'
    return f'<li>{key}<span>{isolated(name)} <span class="note">{plain(said)}</span></span></li>'
