"""The cluster map as SVG, and what stands behind each circle as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Rows, TextDataset
from dsenv.rendering import cluster_positions
from dsenv.report.markup import attribute, isolated, plain, shortened, track
from dsenv.report.run_facts import RunFacts

WIDTH, HEIGHT, EDGE = 720.0, 460.0, 8.0
COVERED = 0.2  # of the map's area, by circles
LARGEST, SMALLEST = 44.0, 5.0
COLOURS = 6
TAKEN_TEXTS, OTHER_TEXTS = 3, 2
TEXTS_IN_ALL = 1500
TEXT_LENGTH = 180
PAIRS = 3e7  # of circles that are compared in all: seconds
NAMED = 3  # selections that took a row; more are counted
MIXED = 5  # labels shown of a cluster; the rest are one bar

Doubles = npt.NDArray[np.float64]


class ClusterMap:
    """The clusters of a run as circles.

    Args:
        facts: of the run.
        dataset: what the task was built from, for example texts.

    Attributes:
        majority: (K,) each cluster's most frequent class.
        radii: (K,) of the circles.
        centres: (K, 2) where they stand, moved apart from where the first two components put them.
        colours: the class of a colour ``c0``, ``c1``, ...; other classes are grey.
    """

    def __init__(self, facts: RunFacts, dataset: TextDataset | None) -> None:
        self.facts, self.dataset = facts, dataset
        self.majority = facts.labels.argmax(1)
        sizes = facts.clustering.sizes.astype(np.float64)
        scale = np.sqrt(COVERED * WIDTH * HEIGHT / np.pi / sizes.sum())
        self.radii: Doubles = np.clip(scale * np.sqrt(sizes), SMALLEST, LARGEST)
        self.centres = spread(cluster_positions(facts.task, facts.clustering), self.radii)
        rows = np.bincount(self.majority, sizes, facts.task.classes)
        leading = np.argsort(-rows, kind="stable")[:COLOURS]
        self.colours = sorted(int(label) for label in leading if rows[label])

    def colour(self, label: int) -> str:
        """Return the name of a class's colour."""
        return f"c{self.colours.index(label)}" if label in self.colours else "other"

    def share(self, name: str) -> Doubles:
        """Return (K,) the share that a selection takes of each cluster."""
        return np.asarray(self.facts.taken[name] / self.facts.clustering.sizes)

    def svg(self) -> str:
        """Return the map; small circles stand above large ones."""
        shown = self.facts.chosen
        share = np.zeros(len(self.radii)) if shown is None else self.share(shown)
        lines = [
            f'<svg id="map" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="listbox" aria-describedby="map-note" '
            'aria-label="Clusters of the pool: choose one with the arrow keys">'
        ]
        for place, k in enumerate(np.argsort(-self.radii, kind="stable").tolist()):
            x, y = self.centres[k]
            radius, inner = self.radii[k], self.radii[k] * np.sqrt(share[k])
            lines.append(
                f'<g class="circle {self.colour(int(self.majority[k]))}" id="circle-{k}" data-cluster="{k}" role="option" '
                f'aria-selected="false" tabindex="{-1 if place else 0}" aria-label="{attribute(self.describe(k, share[k]))}">'
                f"<title>{plain(self.describe(k, share[k]))}</title>"
                f'<circle class="outer" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
                f'<circle class="inner" cx="{x:.1f}" cy="{y:.1f}" r="{inner:.1f}"/></g>'
            )
        return "\n".join([*lines, "</svg>"])

    def describe(self, cluster: int, share: float) -> str:
        """Return a cluster in words."""
        label = shortened(self.facts.task.class_names[self.majority[cluster]], 60)
        return f"Cluster {cluster}, {self.facts.clustering.sizes[cluster]:,} rows, mostly {label}, {share:.0%} taken"

    def legend(self) -> str:
        """Return the classes of the colours."""
        names = self.facts.task.class_names
        items = [f'<li><span class="swatch c{i}"></span>{isolated(names[label])}</li>' for i, label in enumerate(self.colours)]
        if set(self.majority.tolist()) - set(self.colours):
            items.append(f'<li><span class="swatch other"></span>another {self.facts.label_word}</li>')
        return f'<ul class="legend" aria-label="Colours: most frequent label">{"".join(items)}</ul>'

    def details(self) -> str:
        """Return every cluster's rows, label mix, shares taken and example texts; what the panel shows is copied from here."""
        examples = self._examples()
        return "\n".join(self._detail(k, examples.get(k, [])) for k in range(self.facts.clustering.clusters))

    def data(self) -> dict[str, Any]:
        """Return what the page's script draws from: circles, and the share taken of each by every selection."""
        return {
            "selections": list(self.facts.selections),
            "share": [self.share(name).round(4).tolist() for name in self.facts.selections],
            "says": [self._says(name) for name in self.facts.selections],
            "x": self.centres[:, 0].round(1).tolist(),
            "y": self.centres[:, 1].round(1).tolist(),
            "r": self.radii.round(1).tolist(),
        }

    def _says(self, name: str) -> str:
        one, scored = self.facts.selections[name], self.facts.scored[name]
        clusters = int((self.facts.taken[name] > 0).sum())
        return (
            f"{len(one.rows):,} of {one.pool:,} rows from {clusters} of {len(self.radii)} clusters; "
            f"Φ ({self.facts.metric_name}) {scored.reward:.4f}"
        )

    def says(self) -> str:
        """Return the sentence on the selection that the map shows first."""
        return "Nothing is selected yet." if self.facts.chosen is None else self._says(self.facts.chosen)

    def _detail(self, cluster: int, examples: Sequence[tuple[int, str]]) -> str:
        facts = self.facts
        names, size = facts.task.class_names, int(facts.clustering.sizes[cluster])
        order = np.argsort(-facts.labels[cluster], kind="stable")
        mix = [(names[c], self.colour(int(c)), int(facts.labels[cluster, c])) for c in order if facts.labels[cluster, c]]
        if len(mix) > MIXED + 1:
            rest = sum(count for _, _, count in mix[MIXED:])
            mix = [*mix[:MIXED], (f"{len(mix) - MIXED} others", "other", rest)]
        bars = "".join(
            f'<div class="{colour}"><dt>{isolated(name)}</dt><dd><span class="box">{track(0, 100 * count / size)}</span>'
            f'<span class="value">{count / size:.0%}</span></dd></div>'
            for name, colour, count in mix
        )
        taken = "".join(
            f'<li data-selection="{number}">{isolated(name)}: {facts.taken[name][cluster]:,} rows '
            f"({facts.taken[name][cluster] / size:.0%})</li>"
            for number, name in enumerate(facts.selections)
        )
        mixed = "Groups of responses" if facts.task.is_instructions else "Labels"
        texts = "".join(self._example(number, text) for number, text in examples)
        return (
            f'<article class="cluster" id="cluster-{cluster}"><h3>Cluster {cluster}</h3><p class="size">{size:,} rows, mostly '
            f'{isolated(names[self.majority[cluster]])}</p><h4>{mixed}</h4><dl class="bars mix">{bars}</dl>'
            + (f'<h4>Taken</h4><ul class="taken">{taken}</ul>' if taken else "")
            + (f'<h4>Some of its rows</h4><ul class="texts">{texts}</ul>' if texts else "")
            + "</article>"
        )

    def _example(self, number: int, text: str) -> str:
        takers = [place for place, rows in enumerate(self._rows.values()) if number in rows]
        names = [name for name, rows in self._rows.items() if number in rows]
        said = f"taken by {', '.join(names) if len(names) <= NAMED else f'{len(names)} selections'}" if names else "not taken"
        label = self.facts.task.class_names[self.facts.task.train_labels[number]]
        return (
            f'<li data-taken="{" ".join(map(str, takers))}"><span class="mark">{isolated(said)}</span>'
            f'<span class="text" dir="auto">{isolated(text)}</span> '
            f'<span class="note">{self.facts.label_word}: {isolated(label)}</span></li>'
        )

    @cached_property
    def _rows(self) -> dict[str, frozenset[int]]:
        return {name: frozenset(self.facts.numbers(one).tolist()) for name, one in self.facts.selections.items()}

    def _examples(self) -> dict[int, list[tuple[int, str]]]:
        """Row numbers and texts of a few rows of each cluster: of those that the chosen selection takes, and of others."""
        if self.dataset is None:
            return {}
        facts, rows = self.facts, self.dataset.train
        clusters = facts.clustering.clusters
        room = max(1, TEXTS_IN_ALL // clusters)
        taken = self._rows[facts.chosen] if facts.chosen is not None else frozenset()
        ids = facts.task.train_rows
        order = np.lexsort((facts.clustering.position, facts.clustering.cluster))
        found: dict[int, list[tuple[int, str]]] = {}
        for k, numbers in enumerate(np.split(order, np.cumsum(facts.clustering.sizes)[:-1])):
            inside = [n for n in numbers.tolist() if n in taken][:TAKEN_TEXTS]
            outside = [n for n in numbers.tolist() if n not in taken][: OTHER_TEXTS + TAKEN_TEXTS - len(inside)]
            shown = sorted((inside + outside)[:room], key=lambda n: n not in taken)
            found[k] = [(n, _text(rows, int(ids[n]))) for n in shown]
        return found


def spread(positions: Doubles, radii: Doubles) -> Doubles:
    """Return (K, 2) centres inside the map, near ``positions`` but moved apart where circles of ``radii`` would overlap."""
    low, high = positions.min(0), positions.max(0)
    room = np.array([WIDTH, HEIGHT]) - 2 * EDGE
    lowest, highest = EDGE + radii[:, None], EDGE + room - radii[:, None]
    share = (positions - low) / np.where(high > low, high - low, 1)
    share = np.where(high > low, share, 0.5)
    share[:, 1] = 1 - share[:, 1]
    home = lowest + share * (highest - lowest)
    turn = np.arange(len(radii)) * 2.399963  # golden angle: circles on one spot leave it in different directions
    centres = home + 0.01 * np.stack([np.cos(turn), np.sin(turn)], 1)
    wanted = radii[:, None] + radii + 2.5
    rounds = int(np.clip(PAIRS / len(radii) ** 2, 60, 400))
    for number in range(rounds):
        gap = centres[:, None] - centres
        distance = np.maximum(np.sqrt((gap**2).sum(2)), 1e-9)
        push = np.maximum(wanted - distance, 0)
        np.fill_diagonal(push, 0)
        if number > rounds // 2 and not push.any():
            break
        centres = centres + 0.5 * ((push / distance)[:, :, None] * gap).sum(1)
        if number < rounds // 2:
            centres = centres + 0.02 * (home - centres)
        centres = np.clip(centres, lowest, highest)
    return np.asarray(centres)


def _text(rows: Rows, place: int) -> str:
    """A row's text, with its second text or its response."""
    seconds = rows.pairs or rows.responses
    parts = [rows.texts[place], *([seconds[place]] if seconds else [])]
    return " → ".join(shortened(part, TEXT_LENGTH) for part in parts)
