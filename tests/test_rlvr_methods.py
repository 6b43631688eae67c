"""Controllers after published methods, and the trained agent: published oracles, gradients, charges, states."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta

from dsenv.errors import InputError
from dsenv.rlvr.arithmetic import LEVELS, arithmetic_questions
from dsenv.rlvr.controllers import CONTROLLERS, make_controller
from dsenv.rlvr.controllers.agent import WEIGHTS, cluster_inputs, cluster_scores, read_weights
from dsenv.rlvr.controllers.bandits import upper_bounds
from dsenv.rlvr.controllers.cropi import influences, merged_ranks
from dsenv.rlvr.controllers.learnalign import learnability, learnalign_scores
from dsenv.rlvr.controllers.lfr import focused
from dsenv.rlvr.controllers.likelihood import teaching
from dsenv.rlvr.controllers.pass_rates import variation
from dsenv.rlvr.grpo import GRPO
from dsenv.rlvr.history import ClusterHistory
from dsenv.rlvr.loss import reweighted_advantages
from dsenv.rlvr.policy import Policy
from dsenv.rlvr.runs import train
from dsenv.rlvr.simulator import Simulator
from dsenv.rlvr.training import Settings
from dsenv.selectors.ufo import ufo_scores
from tests.test_rlvr_controllers import play, simulated

SUBSETS = ("learnalign", "cropi", "ufo", "pass_rates")


@pytest.fixture(scope="module")
def questions():
    return arithmetic_questions()


@pytest.fixture(scope="module")
def training(questions):
    """A real policy with small groups; what these tests call does not train it."""
    return GRPO(Policy(), questions, Settings(batch=6, group=4, steps=1, max_grad_norm=1e6), 0)


@pytest.fixture(scope="module")
def groups(training):
    thirds = np.flatnonzero(training.questions.train.cluster % LEVELS == 2)
    return training.roll_out(thirds[:: len(thirds) // 40])


def cosines(rows):
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units @ units.T


# formulas, worked by hand


def test_learnalign():
    gradients, rates = np.array([[1.0, 0], [0, 1], [2, 0]]), [0.5, 0.5, 0.25]
    expected = pytest.approx([0.03645833, 0.02083333, 0.02734375], abs=1e-6)
    assert learnalign_scores(gradients, rates) == expected
    assert learnalign_scores(gradients * [[7], [0.01], [3]], rates) == expected
    assert learnalign_scores([[1, 0], [0, 0]], [0.5, 1.0]) == pytest.approx([1 / 32, 0])


def test_learnalign_is_the_sum_over_all_pairs():
    rng = np.random.default_rng(0)
    gradients, rates = rng.standard_normal((9, 5)), rng.integers(0, 9, 9) / 8
    values = 8 / 7 * rates * (1 - rates)
    pairs = values[:, None] * values * cosines(gradients)
    assert learnalign_scores(gradients, rates, 8) == pytest.approx(pairs.mean(1))


def test_learnability():
    assert learnability([0.5, 0, 1]).tolist() == [0.25, 0, 0]
    assert learnability([0.5], 8) == pytest.approx([0.285714], abs=1e-6)
    rng = np.random.default_rng(0)
    rates = (rng.random((200_000, 8)) < 0.3).mean(1)
    assert learnability(rates, 8).mean() == pytest.approx(0.21, abs=2e-3) and learnability(rates).mean() < 0.19
    with pytest.raises(InputError, match="allowed are rates from 0 to 1"):
        learnability([1.5])


def test_ranks_are_merged():
    a, b, c = 0, 1, 2
    influence = np.zeros((3, 2))
    influence[[a, b, c], 0] = [0.9, 0.5, -1]
    influence[[c, a, b], 1] = [0.9, 0.5, -1]
    assert merged_ranks(influence, 2)[[a, c, b]].tolist() == [1.5, 1.0, 0.5]


def test_influence_is_a_cosine_of_numbers_or_of_signs():
    gradients, validation = np.array([[3.0, 4], [0, 0], [-1, 0]]), np.array([[1.0, 0], [0, 2]])
    assert influences(gradients, validation).tolist() == [[0.6, 0.8], [0, 0], [-1, 0]]
    assert influences([[5.0, -0.1]], [[0.1, 3]], sign=True) == pytest.approx(np.zeros((1, 1)))


def test_reweighted_advantages():
    found = reweighted_advantages(np.array([[1.0, 0]]), np.log([[3.0, 1]]))
    assert found == pytest.approx(np.array([[1 / np.sqrt(3), -np.sqrt(3)]]), abs=1e-5)
    assert reweighted_advantages(np.array([[1.0, 0, 0, 0]]), np.full((1, 4), -5.0)) == pytest.approx(
        np.array([[np.sqrt(3), *[-1 / np.sqrt(3)] * 3]]), abs=1e-5
    )
    assert np.abs(reweighted_advantages(np.ones((1, 3)), np.array([[0.0, 1, 2]]))).max() < 1e-9


def test_ufo():
    assert ufo_scores(np.log([0.5, 0.9, 0.1])) == pytest.approx([1, 0.84, 0.84], abs=1e-6)


def test_variation():
    assert variation([0.5, 0.2, 1.0]) == pytest.approx([1, 2, 0])
    with pytest.raises(InputError, match="above 0"):
        variation([0.0])


def test_upper_bounds():
    found = upper_bounds(np.array([1.0, 0]), np.array([9.0, 1]), 1.0)
    assert found == pytest.approx([1.505809, 1.517427], abs=1e-6) and found.argmax() == 1
    assert np.isinf(upper_bounds(np.zeros(2), np.array([3.0, 0]), 0.0)[1])


def test_focus():
    assert focused([10, 20, 30, 40, 50], 0.4).tolist() == [3, 4]
    assert focused([10, 20, 30, 40, 50], 1.0).tolist() == [0, 1, 2, 3, 4]


def test_what_a_belief_expects_a_question_to_teach():
    def integral(right, wrong, hard):
        return quad(lambda p: p * (1 - p) ** hard * beta.pdf(p, right + 0.1, wrong + 0.4), 0, 1)[0]

    right, wrong = np.array([0.0, 3, 40]), np.array([8.0, 5, 2])
    for hard in (1.0, 2.0):
        expected = [integral(*counts, hard) for counts in zip(right, wrong, strict=True)]
        assert teaching(right, wrong, hard) == pytest.approx(expected, rel=1e-4)


# gradients and answers of the real policy


def test_a_group_s_gradient_is_that_of_an_update_on_it(training, groups):
    before = training.costs.choosing_passes
    found = training.gradients(groups)
    signal = groups.signal
    assert 3 < signal.sum() < len(groups) and training.costs.choosing_passes - before == signal.sum() * 4
    assert not found[~signal].any() and found[signal].any(1).all()
    other = GRPO(Policy(), training.questions, training.settings, 0)
    other.optimizer.step = lambda: None
    for place in np.flatnonzero(signal)[:3]:
        other.update(groups.take([place]), 0)
        stepped = torch.cat([-weight.grad.flatten() for weight in other.policy.model.parameters()]).numpy()
        assert np.abs(found[place] - stepped).max() < 1e-5 * np.abs(stepped).max()


def test_reference_questions_have_gradients_of_their_own_prompts(training):
    thirds = np.flatnonzero(training.questions.reference.cluster % LEVELS == 2)
    found = training.roll_out(thirds[:24], "reference")
    clipped, acg = (training.gradients(found, "reference", form=form) for form in ("clipped", "acg"))
    assert found.signal.sum() > 2
    # Fresh rollouts: all ratios are 1, and the forms differ by how the deviation of a group of four is estimated.
    assert np.allclose(acg, np.sqrt(4 / 3) * clipped, atol=1e-4 * np.abs(acg).max())


def test_without_projection_influence_is_the_exact_cosine(training, groups):
    exact = training.gradients(groups)[groups.signal].astype(np.float64)
    whole = training.gradients(groups, coordinates=exact.shape[1], dimensions=exact.shape[1])[groups.signal]
    assert np.allclose(influences(whole, exact[:2]), cosines(exact)[:, :2], atol=1e-5)
    some = training.gradients(groups, coordinates=20_000)[groups.signal]
    assert some.shape[1] == 20_000 and np.isin(some[0], exact[0].astype(np.float32)).all()
    projected = training.gradients(groups, coordinates=60_000, dimensions=2048)[groups.signal]
    between = np.triu_indices(len(exact), 1)
    assert projected.shape[1] == 2048
    assert np.corrcoef(cosines(projected)[between], cosines(exact)[between])[0, 1] > 0.8


def test_the_form_acg_reweights_and_does_not_clip(training, groups):
    group = groups.take(np.flatnonzero(groups.signal)[:1])
    fresh = {form: training.gradients(group, form=form)[0] for form in ("clipped", "acg")}
    assert np.allclose(fresh["acg"], np.sqrt(4 / 3) * fresh["clipped"], atol=1e-4 * np.abs(fresh["acg"]).max())
    mask = np.arange(group.tokens.shape[-1]) < group.lengths[..., None]
    # Drawn by a policy that gave every token a probability e times larger: the clipped form leaves out what is wrong.
    stale = replace(group, logprobs=np.where(mask, group.logprobs + 1, 0))
    forms = {form: training.gradients(stale, form=form)[0] for form in ("clipped", "acg")}
    assert np.allclose(forms["acg"], fresh["acg"] / np.e, atol=1e-4 * np.abs(fresh["acg"]).max())
    wrong = mask & (group.rewards[..., None] == 0)
    staler = replace(stale, logprobs=stale.logprobs + 9 * wrong)
    assert np.allclose(training.gradients(staler)[0], forms["clipped"], atol=1e-4 * np.abs(forms["clipped"]).max())
    with pytest.raises(InputError, match="form 'exact'"):
        training.gradients(group, form="exact")
    with pytest.raises(InputError, match="dimensions 0"):
        training.gradients(group, dimensions=0)


def test_reading_an_answer_gives_the_probability_that_it_is_drawn_with(training, groups):
    before = training.costs.choosing_passes
    found = training.answer_logprobs(groups.questions)
    assert training.costs.choosing_passes - before == len(groups)
    compared = 0
    for place, read in enumerate(found):
        assert len(read) == len(training.questions.train.answers[groups.questions[place]]) + 1
        for k in np.flatnonzero(groups.rewards[place]):
            drawn = groups.logprobs[place, k, : groups.lengths[place, k]]
            assert np.allclose(read, drawn, atol=1e-4)
            compared += 1
    assert compared > 10
    read = np.exp([one.sum() for one in found])
    assert groups.pass_rates.mean() == pytest.approx(read.mean(), abs=3 * np.sqrt(0.25 / groups.rewards.size))


def test_an_answer_that_no_completion_can_hold_is_refused(questions):
    short = GRPO(Policy(max_new_tokens=3), questions, Settings(batch=2, group=2, steps=1))
    with pytest.raises(InputError, match="allowed are 1 to 2"):
        short.answer_logprobs(np.arange(len(questions.train)))


# controllers, on the simulator


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_choice_charges_no_more_than_it_announces(questions, name):
    training = simulated(questions)
    controller = make_controller(name, training)
    spent = []
    for _ in range(30):
        before, announced = training.costs.charged, controller.next_charge()
        ids = controller.choose()
        spent.append(training.costs.charged - before)
        assert spent[-1] <= announced
        controller.learn(training.round(ids))
    costly = {"dots", "likelihood", *SUBSETS}
    assert (sum(spent) > 0) == (name in costly)
    assert training.costs.charged == 30 * training.settings.round_rollouts + sum(spent)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_what_a_controller_keeps_is_enough_to_go_on(questions, name):
    whole, again = simulated(questions), simulated(questions)
    controller = make_controller(name, whole)
    played = play(controller, 11)
    kept = {key: np.array(value) for key, value in controller.state().items()}
    for ids in played:
        again.round(ids)
    again.draws = whole.draws
    other = make_controller(name, again)
    other.restore(kept)
    assert np.array_equal(play(other, 10), play(controller, 10))


def rates_asked(questions, name, rounds, late, **options):
    """Pass rates of what is asked late, by a controller of a policy that does not change."""
    training = simulated(questions)
    training.update = lambda batch, stale: None
    chosen = play(make_controller(name, training, **options), rounds)
    return training.pass_rates(questions.train.take(np.concatenate(chosen[-late:])))


@pytest.mark.parametrize("name", ["learnalign", "pass_rates", "ufo", "ucb", "thompson", "lfr", "likelihood", "dots"])
def test_late_questions_have_more_to_teach_than_uniform_ones(questions, name):
    def taught(rates):
        return float(np.mean(rates * (1 - rates)))

    late = 20 if name == "lfr" else 10  # of 32 rounds: the focus of its first 28, and its review
    assert taught(rates_asked(questions, name, 30, late)) > 1.5 * taught(rates_asked(questions, "uniform", 30, late))


def test_cropi_asks_for_what_pulls_where_the_validation_questions_do(questions):
    """Validation questions of one kind alone: after the warm-up, its questions are asked more than others'."""
    one_kind = questions.reference.take(np.flatnonzero(questions.reference.cluster < LEVELS))
    training = simulated(replace(questions, reference=one_kind))
    chosen = play(make_controller("cropi", training, keep=16, warmup=12, explore=0.0, validation=24), 20)
    kinds = questions.train.cluster[np.concatenate(chosen[12:])] // LEVELS
    assert np.mean(kinds == 0) > 0.9
    before = np.mean(questions.train.cluster[np.concatenate(chosen[:12])] // LEVELS == 0)
    assert before < 0.25 and training.costs.reference_rollouts == 24 * 8


def test_staged_controllers_score_again(questions):
    for name in SUBSETS:
        once, staged = simulated(questions), simulated(questions)
        play(make_controller(name, once, stage=0, keep=32), 24)
        play(make_controller(name, staged, stage=6, keep=32), 24)
        assert staged.costs.charged > once.costs.charged


def test_passes_are_folded_by_score(questions):
    training = simulated(questions, batch=64)
    controller = make_controller("ufo", training, candidates=128, keep=64, folds=3)
    first, second = play(controller, 2)
    assert np.array_equal(first, second) and len(set(first.tolist())) == 64
    scores = dict(zip(controller.chosen.tolist(), controller.scores.tolist(), strict=True))
    followed = np.array([scores[i] for i in first.tolist()])
    ups = np.split(followed, [22, 43])
    assert all(np.all(np.diff(up) >= 0) for up in ups) and abs(ups[0].mean() - ups[2].mean()) < followed.std()


@pytest.mark.parametrize("folds", [0, 3])
def test_passes_ask_every_kept_question_equally_often(questions, folds):
    """With every second round uniform, and with a number that is no multiple of a round's."""
    training = simulated(questions)
    controller = make_controller("cropi", training, keep=64, warmup=12, stage=0, explore=0.5, folds=folds)
    rounds = play(controller, 12 + 16)[12:]
    assert len(controller.chosen) == 64
    kept = np.concatenate([ids for ids in rounds if np.isin(ids, controller.chosen).all()])
    assert len(kept) == 8 * 32 and set(np.bincount(kept)[controller.chosen]) == {4}
    training = simulated(questions)
    controller = make_controller("ufo", training, candidates=100, keep=48, folds=folds)
    asked = np.bincount(np.concatenate(play(controller, 12)))[controller.chosen]
    assert asked.sum() == 12 * 32 and (set(asked) == {8} or not folds)  # in random orders, a third of each pass is left out


def test_learn_focus_and_review(questions):
    training = simulated(questions)
    controller = make_controller("lfr", training, learn=12, focus=6, review=2, share=0.1)
    clusters = [questions.train.cluster[ids] for ids in play(controller, 20)]
    assert len(np.unique(clusters[:12])) > 50 and len(np.unique(clusters[18:])) > 25
    assert len(np.unique(clusters[12])) <= 6 and set(clusters[12]) <= set(range(56))
    with pytest.raises(InputError, match="measure 'perplexity'"):
        make_controller("lfr", training, measure="perplexity")


@pytest.mark.parametrize("name", ["learnalign", "cropi", "pass_rates"])
def test_where_nothing_can_be_learned_questions_are_uniform_and_it_is_logged(questions, name, caplog):
    training, plain = simulated(questions), simulated(questions)
    training.skills[:] = plain.skills[:] = -50
    chosen = play(make_controller(name, training, warmup=2), 6)
    assert np.array_equal(chosen, play(make_controller("uniform", plain), 6))
    assert "candidates may be chosen, questions are uniform" in caplog.text


def test_bad_options_are_named(questions):
    training = simulated(questions)
    for name, options, message in (
        ("learnalign", {"keep": 300}, "candidates 256: allowed are numbers from keep, 300"),
        ("cropi", {"explore": 1.0}, "explore 1.0"),
        ("cropi", {"warmup": 0}, "warmup 0"),
        ("cropi", {"form": "exact"}, "form 'exact'"),
        ("learnalign", {"coordinates": 0}, "coordinates 0"),
        ("thompson", {"prior": float("nan")}, "prior nan"),
        ("pass_rates", {"low": 0.9, "high": 0.1}, "pass rates from 0.9 to 0.1"),
        ("ucb", {"memory": 0.0}, "memory 0.0: allowed are numbers above 0 up to 1"),
        ("ucb", {"exploration": -1.0}, "exploration -1.0"),
        ("thompson", {"deviation": 0.0}, "deviation 0.0"),
        ("lfr", {"share": 2.0}, "share 2.0"),
        ("likelihood", {"weight": 0.0}, "weight 0.0"),
        ("ppo", {"weights": "missing.safetensors"}, "'missing.safetensors' is no agent"),
    ):
        with pytest.raises(InputError, match=message):
            make_controller(name, training, **options)


def test_a_run_that_cannot_pay_the_next_choice_says_so(questions, caplog):
    """Four rounds of warm-up, then 256 candidates would take up to 4,096."""
    training = Simulator(questions, Settings())
    points = train(training, make_controller("learnalign", training), rollouts=4096)
    assert points[-1].rollouts == 1024 and "ends at 1024 of 4096 rollouts: choosing again may take 4096" in caplog.text


# the trained agent


def test_the_agent_sees_what_the_environment_shows_and_computes_what_was_trained(questions):
    from agents.questions import Networks, make_env

    env = make_env("simulator")
    observation, _ = env.reset(seed=0)
    history = ClusterHistory(env.questions, env.horizon)
    networks = Networks(56)
    torch.nn.init.normal_(networks.actor[-1].weight)
    rng = np.random.default_rng(0)
    for _ in range(12):
        seen = history.observe(env.training.rounds)
        assert np.allclose(np.concatenate(list(seen.values())), observation[:-2], atol=1e-6)
        weights = {name: value.numpy() for name, value in networks.actor.state_dict().items()}
        with torch.no_grad():
            expected = networks.forward_actor(torch.as_tensor(observation)[None])[0].numpy()
        assert np.allclose(cluster_scores(weights, cluster_inputs(seen)), expected, atol=1e-5)
        action, done = int(rng.integers(56)), []
        original = env.training.round
        env.training.round = lambda ids, original=original, done=done: done.append(original(ids)) or done[0]
        observation = env.step(action)[0]
        env.training.round = original
        history.see(done[0], env.training.rounds)


def test_an_agent_is_trained_written_and_read(tmp_path, monkeypatch, capsys):
    from agents import questions as script

    monkeypatch.setattr(script, "ENVIRONMENTS", 1)
    path = tmp_path / "agent.safetensors"
    monkeypatch.setattr("sys.argv", ["questions", "--steps", "320", "--out", str(path)])
    script.main()
    weights = read_weights(path)
    shipped = read_weights(WEIGHTS)
    assert {name: array.shape for name, array in weights.items()} == {name: array.shape for name, array in shipped.items()}
    assert np.abs(weights["2.weight"]).max() > 0 and "'simulated_rounds': 320" in capsys.readouterr().out


def test_the_shipped_agent_beats_uniform_in_the_simulator(questions):
    skills = {}
    for name in ("ppo", "uniform"):
        training = simulated(questions, batch=8, steps=4)
        play(make_controller(name, training), 64)
        skills[name] = training.pass_rates(questions.test).mean()
    assert skills["ppo"] > skills["uniform"] + 0.02


# runs of the real policy


@pytest.mark.parametrize("name", ["learnalign", "cropi", "likelihood"])
def test_a_run_that_is_stopped_goes_on_and_stays_within_its_budget(questions, tmp_path, name):
    few = replace(questions, test=questions.test.take(range(0, 896, 16)))
    options = {
        "learnalign": {"candidates": 12, "keep": 8, "warmup": 1, "stage": 3},
        "cropi": {"warmup": 3, "stage": 3, "keep": 8},
    }

    def run(rollouts, snapshot=None):
        training = GRPO(Policy(), few, Settings(batch=8, group=4, steps=1), 0)
        controller = make_controller(name, training, **options.get(name, {}))
        points = train(training, controller, rollouts=rollouts, every=128, snapshot=snapshot)
        assert training.costs.charged <= rollouts and points[-1].rollouts == training.costs.charged
        return [(point.rollouts, point.test, point.signal) for point in points], training.costs

    whole, costs = run(900)
    run(512, tmp_path / "run.safetensors")
    assert run(900, tmp_path / "run.safetensors")[0][-1] == whole[-1]
    assert costs.choosing_passes > 0
