"""Controllers and the difficulty predictor: published oracles, what is charged, and that nobody sees the test questions."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from dsenv.errors import InputError
from dsenv.rlvr.arithmetic import LEVELS, arithmetic_questions
from dsenv.rlvr.controllers import CONTROLLERS, make_controller
from dsenv.rlvr.difficulty import DifficultyPredictor, calibrated, recalibrate, sampling_scores
from dsenv.rlvr.grpo import GRPO
from dsenv.rlvr.policy import Policy
from dsenv.rlvr.questions import Questions
from dsenv.rlvr.simulator import Simulator
from dsenv.rlvr.training import Settings
from dsenv.selectors.gumbel import gumbel_top


@pytest.fixture(scope="module")
def questions():
    return arithmetic_questions()


def simulated(questions, seed=0, **settings):
    return Simulator(questions, Settings(**{"batch": 32, "steps": 1, **settings}), seed)


def play(controller, rounds):
    chosen = []
    for _ in range(rounds):
        chosen.append(controller.choose())
        controller.learn(controller.training.round(chosen[-1]))
    return chosen


# arXiv 2506.05316, worked by hand


def test_sampling():
    assert softmax(sampling_scores(np.array([0.5, 0.6, 0.9]), 0.5, 0.1)) == pytest.approx(
        [0.721399, 0.265388, 0.013213], abs=1e-6
    )
    far = softmax(sampling_scores(np.array([0.5, 0.9]), 0.5, 1e-3))
    assert np.isfinite(far).all() and far[0] == pytest.approx(1)


def test_the_draw_follows_the_weights():
    predictions = np.array([0.5, 0.6, 0.9])
    rng = np.random.default_rng(0)
    first = [gumbel_top(sampling_scores(predictions, 0.5, 0.1), 2, rng)[0] for _ in range(4000)]
    assert np.bincount(first, minlength=3) / 4000 == pytest.approx(softmax(sampling_scores(predictions, 0.5, 0.1)), abs=0.03)


def test_without_similarity_the_prediction_is_the_mean():
    """All dot products of questions and reference questions are 0: attention is uniform and the calibration the identity."""
    vectors = np.zeros((6, 8), np.float32)
    vectors[:3, 0] = [1, -1, 0]
    predictor = DifficultyPredictor(vectors)
    values = np.array([0.1, 0.4, 0.9])
    assert predictor.predict(np.array([3, 4]), np.array([3, 4, 5]), values) == pytest.approx([values.mean()] * 2, abs=1e-6)


def test_calibration():
    p = torch.tensor([0.2, 0.5, 0.9, 0.0, 1.0]).double()
    assert calibrated(p, 1.0, 0.0)[:3].tolist() == pytest.approx([0.2, 0.5, 0.9])
    assert calibrated(p, 1.0, 0.0)[3:].tolist() == pytest.approx([1e-4, 1 - 1e-4])
    assert calibrated(torch.tensor([0.8]).double(), 2.0, 0.0).item() == pytest.approx(2 / 3)
    assert calibrated(torch.tensor([0.5]).double(), 1.0, np.log(3)).item() == pytest.approx(0.75)


def test_recalibration_is_least_squares_within_bounds():
    predicted, measured = np.array([0.2, 0.4, 0.6]), np.array([0.1, 0.5, 0.9])
    assert recalibrate(predicted, predicted, measured) == pytest.approx(measured)
    assert recalibrate(np.array([0.0, 0.9]), predicted, measured).tolist() == [0.0, 1.0]
    assert recalibrate(predicted, predicted, measured[::-1]).tolist() == predicted.tolist()
    assert recalibrate(predicted, np.full(3, 0.3), measured).tolist() == predicted.tolist()


def test_the_predictor_learns_what_attention_alone_does_not_see():
    """Half of the numbers of an embedding are noise; trained, it predicts new questions better than untrained."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, 260)
    vectors = np.concatenate([np.eye(4)[kinds] * 2, rng.standard_normal((260, 12))], 1).astype(np.float32)
    rates = np.array([0.05, 0.35, 0.65, 0.95])[kinds]
    predictor = DifficultyPredictor(vectors, seed=1)
    asked = np.arange(200, 260)

    def error():
        return np.abs(predictor.predict(asked, np.arange(40), rates[:40]) - rates[asked]).mean()

    untrained = error()
    for start in range(0, 200, 40):
        part = np.arange(start, start + 40)
        predictor.fit(part, rates[part], 60)
    assert error() < 0.6 * untrained
    assert predictor.predict_each(np.arange(40), rates[:40]).shape == (40,)
    state = predictor.state()
    other = DifficultyPredictor(vectors, seed=1)
    other.restore(state)
    for one in (predictor, other):
        one.fit(np.arange(40), rates[:40], 3)
    assert np.array_equal(predictor.predict(asked, np.arange(9), rates[:9]), other.predict(asked, np.arange(9), rates[:9]))
    with pytest.raises(InputError, match="1 measured questions"):
        predictor.fit(np.arange(1), rates[:1], 1)


# controllers, on the simulator


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("fresh", [1.0, 0.5])
def test_every_controller_chooses_rounds(questions, name, fresh):
    training = simulated(questions, steps=2, fresh=fresh)
    chosen = play(make_controller(name, training), 12)
    for ids in chosen:
        assert ids.shape == (training.settings.round_questions,) and ids.min() >= 0 and ids.max() < len(questions.train)
        assert len(set(ids.tolist())) == len(ids) or name == "cropi"  # which keeps as many as have something to teach
    again = simulated(questions, steps=2, fresh=fresh)
    assert np.array_equal(play(make_controller(name, again), 12), chosen)
    other = simulated(questions, seed=1, steps=2, fresh=fresh)
    assert not np.array_equal(play(make_controller(name, other), 12), chosen)
    scored = {"learnalign": 256 * 8, "pass_rates": 256 * 8}.get(name, 0)
    assert training.costs.rollouts == 12 * training.settings.round_rollouts + scored
    assert (training.costs.reference_rollouts > 0) == (name == "dots")  # cropi first after its warm-up


class Unread(Questions):
    """Questions that complain when anything but their number is read."""

    def __getattribute__(self, name):
        if name in ("prompts", "answers", "cluster", "take") and not inspect.stack()[1].filename.endswith(OPEN_TO):
            raise AssertionError(f"{name} of hidden questions was read")
        return super().__getattribute__(name)


OPEN_TO = (
    "dsenv/rlvr/questions.py",
    "dsenv/rlvr/grpo.py",
)  # parts must be disjoint; prompts of reward questions are made ready


@pytest.mark.parametrize("name", CONTROLLERS)
def test_no_controller_reads_test_or_reward_questions(questions, name):
    hidden = {part: Unread(**vars(questions.parts[part])) for part in ("test", "reward")}
    blind = replace(questions, **hidden)
    with pytest.raises(AssertionError, match="was read"):
        simulated(blind).pass_rates(blind.reward)
    training = GRPO(Policy(), blind, Settings(batch=4, group=2, steps=1))
    with pytest.raises(AssertionError, match="was read"):
        assert blind.test.answers
    small = {"candidates": 8, "keep": 4}
    options = {"dots": {"reference": 4}, "learnalign": small, "pass_rates": small, "ufo": small, "cropi": {"warmup": 1}}
    play(make_controller(name, training, **options.get(name, {})), 6 if name == "learnalign" else 3)
    assert training.costs.evaluation_rollouts == 0


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_pool_smaller_than_a_round_repeats_questions(questions, name):
    few = replace(questions, train=questions.train.take(range(0, 2688, 192)))
    chosen = play(make_controller(name, simulated(few)), 4)
    assert all(ids.shape == (32,) and set(ids.tolist()) <= set(range(14)) for ids in chosen)


def test_uniform_passes_over_the_pool(questions):
    training = simulated(questions)
    passes = np.concatenate(play(make_controller("uniform", training), 168)).reshape(2, -1)
    assert all(sorted(one.tolist()) == list(range(2688)) for one in passes) and not np.array_equal(*passes)


def test_the_filter_asks_for_what_is_neither_solved_nor_out_of_reach(questions):
    training = simulated(questions, batch=64)
    training.update = lambda batch, stale: None  # nothing changes, so rates are what they are
    controller = make_controller("difficulty", training, patience=50)
    play(controller, 20)
    late = np.concatenate(play(controller, 10))
    rates = training.pass_rates(questions.train.take(late))
    assert np.mean((rates > 0.05) & (rates < 0.95)) > 0.95
    with pytest.raises(InputError, match="pass rates from 0.9 to 0.1"):
        make_controller("difficulty", training, low=0.9, high=0.1)


def test_dots_asks_for_pass_rates_near_its_target(questions):
    training = simulated(questions)
    training.update = lambda batch, stale: None
    controller = make_controller("dots", training, reference=64, refresh=4, memory=4)
    asked = np.concatenate(play(controller, 10)[2:])
    everything = training.pass_rates(questions.train)
    assert np.abs(everything[asked] - 0.5).mean() < 0.55 * np.abs(everything - 0.5).mean()
    assert np.corrcoef(controller.predictions, everything)[0, 1] > 0.9
    assert training.costs.reference_rollouts == 3 * 64 * 8  # before rounds 0, 4 and 8


def test_the_published_form_measures_before_every_round_and_uses_nothing_else(questions):
    training = simulated(questions)
    published = {"reference": 256, "refresh": 1, "memory": 1, "own_rollouts": False, "temperature": 1e-3}
    controller = make_controller("dots", training, **published)
    play(controller, 3)
    assert training.costs.reference_rollouts == 3 * 256 * 8
    assert len(controller.measured) == 256 and controller.measured.min() >= len(questions.train)


def test_bad_options_are_named(questions):
    training = simulated(questions)
    with pytest.raises(InputError, match="unknown controller 'dot'. Did you mean 'dots'"):
        make_controller("dot", training)
    with pytest.raises(InputError, match="reference 1000: allowed are 2 to the 672 reference questions"):
        make_controller("dots", training, reference=1000)
    with pytest.raises(InputError, match="temperature 0"):
        make_controller("dots", training, temperature=0)
    with pytest.raises(InputError, match="controller 'uniform': .*unexpected keyword argument 'low'"):
        make_controller("uniform", training, low=1)


# the simulator


def test_the_simulator_learns_most_at_one_half(questions):
    training = simulated(questions, batch=48)
    rates = training.pass_rates(questions.train)
    level_rates = [rates[questions.train.cluster == level].mean() for level in range(LEVELS)]
    assert np.all(np.diff(level_rates) < 0) and level_rates[0] > 0.9 and level_rates[-1] < 0.02
    gains = []
    for level in range(LEVELS):
        training.restart(0)
        training.round(np.flatnonzero(questions.train.cluster == level))
        gains.append(training.skills[0])
        assert 0 < training.skills[1] < training.skills[0]
        p = rates[questions.train.cluster == level]
        assert training.skills[0] == pytest.approx(0.02 * (p * (1 - p)).sum() * 7 / 8)
    assert int(np.argmax(gains)) == int(np.argmin(np.abs(np.array(level_rates) - 0.5)))


def test_kinds_may_differ_in_what_they_teach(questions):
    seen = []
    for seed in range(6):
        uneven, even = (Simulator(questions, Settings(batch=48, steps=1), seed, uneven=flag) for flag in (True, False))
        for one in (uneven, even):
            one.round(np.flatnonzero(questions.train.cluster == 2))
        assert uneven.skills == pytest.approx(uneven.gains[0] * even.skills) and even.skills.min() > 0
        assert uneven.gains.min() >= 0 and uneven.gains.max() <= 2
        found = uneven.roll_out(np.arange(2688))
        assert (
            uneven.gradients(found).any(1).tolist()
            == (found.signal & (uneven.gains[uneven.kind_of[questions.train.cluster]] > 0)).tolist()
        )
        seen.append(uneven.gains)
    assert 0.15 < np.mean(np.stack(seen) == 0) < 0.55
    uneven.restart(0)
    assert np.array_equal(uneven.gains, seen[0])


def test_simulated_groups_have_the_share_of_signal_of_the_theorem(questions):
    training = simulated(questions, group=8)
    training.pass_rates = lambda asked: np.full(len(asked), 0.9)
    found = training.roll_out(np.arange(2688).repeat(6))
    assert found.signal.mean() == pytest.approx(0.569533, abs=0.02)
    assert found.rewards.mean() == pytest.approx(0.9, abs=0.01)


def test_replay_in_the_simulator(questions):
    plain, replaying = simulated(questions, batch=32), simulated(questions, batch=32, fresh=0.5)
    for training in (plain, replaying):
        play(make_controller("uniform", training), 20)
    assert replaying.costs.rollouts == plain.costs.rollouts / 2 and replaying.costs.steps == plain.costs.steps
    assert replaying.skills.mean() > 0.6 * plain.skills.mean()
