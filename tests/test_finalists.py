"""Two-stage search: what is proposed, who is left, who decides, and that nothing is computed twice."""

import json

import numpy as np
import pytest

from dsenv.errors import InputError
from dsenv.finalists import Finalist, contenders, filters, head_score, label_margins, propose, select_finalist
from dsenv.synthetic import synthetic_task
from dsenv.task import SelectionTask, load_bundled
from dsenv.task_file import SELECTION


def test_filters_find_right_labels_and_target_sources():
    part = np.arange(0, 40_000, 8)
    noisy = load_bundled("googleplay:noisy").with_pool(part)
    right = load_bundled("googleplay").train.labels[part] == noisy.train.labels
    found = filters(noisy)
    assert list(found) == ["all rows", "all rows, head agrees", "all rows, head sure"]
    shares = [right[rows].mean() for rows in found.values()]
    assert shares[0] < 0.62 and shares[1] > 0.9 and shares[2] > shares[1]
    assert len(found["all rows, head agrees"]) > 0.5 * len(right)
    target = load_bundled("hateunion:target").with_pool(part)
    found = filters(target)
    wanted = target.reward.sources[0]
    assert (target.train.sources[found["target sources"]] == wanted).all()
    assert len(found["target sources"]) == (target.train.sources == wanted).sum()
    assert set(found["target sources, head agrees"]) < set(found["target sources"])


def test_proposals_are_different_and_of_one_size():
    task = synthetic_task()
    found = propose(task, count=7, evaluations=32)
    assert len(found) == 7 and {len(finalist.rows) for finalist in found} == {576}
    assert len({tuple(sorted(finalist.rows)) for finalist in found}) == 7
    assert all(len(set(finalist.rows.tolist())) == 576 for finalist in found)
    names = [finalist.how for finalist in found]
    assert names[:2] == ["random of all rows", "class_mix of all rows"] and len(names) == len(set(names))
    again = propose(task, count=7, evaluations=32)
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(found, again, strict=True))
    assert [finalist.how for finalist in propose(task, count=2)] == names[:2]
    most = propose(task, budget=0.9, count=3, evaluations=32)  # no part is large enough: of the whole pool
    assert {finalist.how.split(" of ")[1] for finalist in most} == {"all rows"}
    with pytest.raises(InputError, match="count 1"):
        propose(task, count=1)


def test_proposals_never_read_selection_rows():
    """At any instance: what decides between finalists must not have been searched on."""
    task = synthetic_task().at_instance(3)
    same = task.with_pool(np.arange(len(task.train)))  # the instance's cut and row order, stored
    labels = same.arrays["labels"].copy()
    decides = same.arrays["split"] == SELECTION
    labels[decides] = (labels[decides] + 1) % task.classes
    altered = SelectionTask({**same.arrays, "labels": labels}, same.facts)
    assert altered.instance == 0 and np.array_equal(altered.reward.labels, task.reward.labels)
    ours, theirs = (propose(one, count=9, evaluations=32) for one in (task, altered))
    assert [(one.how, one.digest) for one in ours] == [(one.how, one.digest) for one in theirs]
    assert any(
        one.digest not in {first.digest for first in propose(synthetic_task(), count=9, evaluations=32)} for one in ours
    )


def test_contenders_are_the_better_half_of_those_left():
    assert contenders([[], [], []]) == [0, 1, 2]
    assert contenders([[0.1], [0.5], [0.3]]) == [1, 2]
    assert contenders([[0.1], [0.5, 0.2], [0.3, 0.6]]) == [2]


def test_the_head_decides_on_selection_rows():
    task = synthetic_task()
    proposed = propose(task, count=6, evaluations=64)
    scores = [head_score(finalist, task) for finalist in proposed]
    chosen = select_finalist(task, count=6, evaluations=64)
    best = proposed[int(np.argmax(scores))]
    assert chosen.method == f"finalist: {best.how}"
    assert sorted(chosen.rows) == sorted(task.train_rows[best.rows].tolist())
    one_class = Finalist("one class", np.flatnonzero(task.train.labels == 0)[:50])
    assert max(scores) > 0.6 > head_score(one_class, task)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_target_decides_and_its_scores_are_kept(tiny, tiny_task, tmp_path, monkeypatch, interrupted):
    asked = []

    def scored(finalist, task, dataset, recipe, seed, sample):
        asked.append((finalist.how, seed))
        if interrupted and len(asked) == 3:
            raise KeyboardInterrupt
        return len(finalist.how) + seed / 10

    monkeypatch.setattr("dsenv.finalists.target_score", scored)
    keywords = {"count": 5, "evaluations": 16, "budget": 0.2, "picks": 12, "path": tmp_path / "scores.json"}
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            select_finalist(tiny_task, tiny, **keywords)
    chosen = select_finalist(tiny_task, tiny, **keywords)
    assert len(asked) == 5 + 3 + interrupted  # all, then the better half; the one that was interrupted again
    longest = max(dict(asked), key=len)
    assert chosen.method == f"finalist: {longest}" and len(chosen.rows) == 48
    assert select_finalist(tiny_task, tiny, **keywords).rows == chosen.rows and len(asked) == 8 + interrupted
    assert len(json.loads((tmp_path / "scores.json").read_text())["scores"]) == 8
    for changed in ({"seed": 1}, {"budget": 0.25}, {"epochs": 2}):
        with pytest.raises(InputError, match="scores of other finalists"):
            select_finalist(tiny_task, tiny, **{**keywords, **changed})


def test_bad_input(tiny, tiny_task):
    with pytest.raises(InputError, match="at least one seed"):
        select_finalist(tiny_task, tiny, seeds=[])
    with pytest.raises(InputError, match="unknown option of a recipe 'epoch'. Did you mean 'epochs'"):
        select_finalist(tiny_task, tiny, epoch=1)
    with pytest.raises(InputError, match="epochs: without dataset= no target is trained"):
        select_finalist(tiny_task, epochs=1)
    with pytest.raises(InputError, match="was not built from"):
        select_finalist(tiny_task, tiny.with_label_noise(0.2))


def test_a_part_of_the_pool_keeps_clusters_and_held_out_rows():
    task = load_bundled("googleplay:noisy").at_instance(2)
    rows = np.random.default_rng(0).permutation(len(task.train))[:3000]
    part, kept = task.with_pool(rows), np.sort(rows)
    assert np.array_equal(part.train.features, task.train.features[kept])
    assert np.array_equal(part.train_rows, task.train_rows[kept]) and part.facts["derivation"] == task.facts["derivation"]
    for split in ("reward", "selection", "test"):
        assert np.array_equal(part.dataset_rows(split), task.dataset_rows(split))
        assert np.array_equal(getattr(part, split).features, getattr(task, split).features)
    whole, cut = task.clustering("stratified"), part.clustering("stratified")
    for number in range(cut.clusters):
        inside = kept[np.flatnonzero(cut.cluster == number)[np.argsort(cut.position[cut.cluster == number])]]
        assert len(set(whole.cluster[inside])) == 1 and (np.diff(whole.position[inside]) > 0).all()
    for wrong in ([], [0, 0], [-1], [len(task.train)]):
        with pytest.raises(InputError, match="part of the pool"):
            task.with_pool(np.array(wrong, np.int64))


def test_label_margins_are_of_heads_that_have_not_seen_the_label():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    vectors = np.stack([labels * 4.0 - 2, rng.normal(size=200)], 1)
    margins = label_margins(vectors, labels, 2)
    assert (margins > 0.5).all()
    flipped = labels.copy()
    flipped[7] = 1 - labels[7]
    assert label_margins(vectors, flipped, 2)[7] < -0.5
