"""GRPO: published oracles, the gradient against finite differences, and what a run costs, repeats and goes on from."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from dsenv.errors import InputError
from dsenv.rlvr import policy as policy_module
from dsenv.rlvr.arithmetic import LEVELS, arithmetic_questions
from dsenv.rlvr.controllers import make_controller
from dsenv.rlvr.grpo import GRPO
from dsenv.rlvr.loss import advantages, kl_estimate, objective
from dsenv.rlvr.policy import Policy
from dsenv.rlvr.replay import ReplayBuffer, Rollouts, join
from dsenv.rlvr.runs import train
from dsenv.rlvr.snapshots import load_snapshot, save_snapshot
from dsenv.rlvr.training import Settings, TrainingStopped

SMALL = {"batch": 6, "group": 4, "steps": 1, "learning_rate": 3e-4}
THIRD = 48 * np.array([2, 10, 34, 42, 50, 2]) + np.array([0, 1, 2, 3, 4, 5])  # third levels: neither solved nor out of reach


@pytest.fixture(scope="module")
def questions():
    whole = arithmetic_questions()
    return replace(whole, test=whole.test.take(range(0, len(whole.test), 12)))


def made(questions, seed=0, **settings):
    return GRPO(Policy(), questions, Settings(**{**SMALL, **settings}), seed)


def weights(training):
    return [weight.detach().clone() for weight in training.policy.model.parameters()]


def gradients(training, batch):
    """What an update would step along."""
    training.optimizer.step = lambda: None
    training.update(batch, 0)
    return [weight.grad.clone() for weight in training.policy.model.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def ids_of(training, round=0):
    thirds = np.flatnonzero(training.questions.train.cluster % LEVELS == 2)  # third levels: neither solved nor out of reach
    return np.random.default_rng(round).choice(thirds, training.settings.round_questions, replace=False)


# arXiv 2506.05316, worked by hand


def test_advantages():
    rewards = np.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert advantages(rewards, "centred").tolist() == [[0.75, -0.25, -0.25, -0.25], [0] * 4, [0] * 4]
    assert advantages(rewards)[0] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert not advantages(rewards)[1:].any()
    with pytest.raises(InputError, match="unknown advantages 'centered'. Did you mean 'centred'"):
        advantages(rewards, "centered")


def test_the_mean_squared_advantage_is_that_of_the_theorem():
    """E[mean A²] = p (1 - p)(1 - 1/G), summed over all outcomes; and the share of groups that have signal."""
    group, p = 4, 0.5
    outcomes = np.array([[(number >> place) & 1 for place in range(group)] for number in range(2**group)], float)
    chance = np.prod(np.where(outcomes, p, 1 - p), axis=1)
    assert chance @ (advantages(outcomes, "centred") ** 2).mean(1) == pytest.approx(0.1875)
    group = 8
    outcomes = np.array([[(number >> place) & 1 for place in range(group)] for number in range(2**group)], float)
    found = Rollouts(np.arange(256), *(np.zeros((256, 8, 1)) for _ in range(3)), outcomes)
    for p, expected in ((0.5, 0.9921875), (0.9, 0.569533)):
        chance = np.prod(np.where(outcomes, p, 1 - p), axis=1)
        assert chance @ found.signal == pytest.approx(expected, abs=1e-6)


def value(behaviour, start, current, advantage=1.0, clip=0.2):
    logs = (torch.tensor(number).log() for number in (current, start, behaviour))
    return objective(*logs, torch.tensor(advantage), clip).item()


def test_the_replay_objective():
    assert value(0.2, 0.2, 0.3) == pytest.approx(1.2)
    assert value(0.1, 0.2, 0.3) == pytest.approx(2.4)  # the band lies around π_o / π_b, not around 1
    assert value(0.1, 0.2, 0.22) == pytest.approx(2.2)  # inside the band
    assert value(0.2, 0.2, 0.1, advantage=-1.0) == pytest.approx(-0.8)
    assert value(0.2, 0.2, 0.3, advantage=-1.0) == pytest.approx(-1.5)  # a bad token that became likelier is not clipped


def test_the_divergence_estimate_is_zero_at_home_and_unbiased():
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    found = kl_estimate(policy.log(), reference.log())
    assert (policy * found).sum() == pytest.approx((policy * (policy / reference).log()).sum().item())
    assert not kl_estimate(policy.log(), policy.log()).any()


def test_the_buffer_keeps_the_newest_groups_with_signal():
    def groups(ids, rewards):
        count = len(ids)
        stamp = np.full((count, 2, 1), float(ids[0]))
        return Rollouts(np.array(ids), stamp, np.ones((count, 2)), stamp, np.array(rewards, float))

    buffer = ReplayBuffer(3)
    buffer.add(groups([5, 6, 7], [[1, 0], [1, 1], [0, 0]]))
    assert buffer.groups.questions.tolist() == [5]
    buffer.add(groups([8, 5], [[1, 0], [1, 1]]))
    assert buffer.groups.questions.tolist() == [8]  # 5 is always answered now: its older group is dropped, too
    buffer.add(groups([9, 8, 9], [[1, 0], [1, 0], [0, 1]]))
    assert buffer.groups.questions.tolist() == [8, 9] and buffer.groups.rewards.tolist() == [[1, 0], [0, 1]]
    buffer.add(groups([3, 4], [[1, 0], [1, 0]]))
    assert buffer.groups.questions.tolist() == [9, 3, 4]
    drawn = buffer.draw(2, np.random.default_rng(0))
    assert len(drawn) == 2 and len(set(drawn.questions.tolist())) == 2
    assert len(buffer.draw(9, np.random.default_rng(0))) == 3


# the update


def losses(training, batch, stale_start=None, reference=None):
    """The loss of a batch by plain loops over completions, as a function of the weights as they are now."""
    total, tokens = 0.0, 0
    found = advantages(batch.rewards, training.settings.advantages)
    for row, question in enumerate(batch.questions):
        prompt = training.policy.prompt_ids([training.questions.train.prompts[question]])[0]
        for member in range(training.settings.group):
            length = batch.lengths[row, member]
            written = batch.tokens[row, member, :length]
            ids = torch.tensor([[*prompt, *written]])
            models = [training.policy.model] + ([] if reference is None else [reference])
            logits = [model(ids).logits[0, len(prompt) - 1 : -1] / training.settings.temperature for model in models]
            current, *other = (one.log_softmax(-1)[torch.arange(length), torch.tensor(written)] for one in logits)
            behaviour = torch.as_tensor(batch.logprobs[row, member, :length], dtype=current.dtype)
            begun = current.detach() if stale_start is None else stale_start[row][member]
            total = total - objective(current, begun, behaviour, float(found[row, member]), training.settings.clip).sum()
            if reference is not None:
                total = total + training.settings.kl * kl_estimate(current, other[0].detach()).sum()
            tokens += int(length)
    return total / tokens


def test_the_gradient_is_that_of_the_loss_and_of_finite_differences(questions):
    training = made(questions)
    training.policy.model.double()
    batch = training.roll_out(ids_of(training))
    older = replace(batch, logprobs=batch.logprobs - 0.1)  # as if drawn from another policy
    assert batch.signal.any() and not batch.signal.all()
    training.optimizer.step = lambda: None
    training.settings = replace(training.settings, max_grad_norm=1e6)
    training.update(older, len(older))
    ours = [weight.grad.clone() for weight in training.policy.model.parameters()]
    training.optimizer.zero_grad()
    losses(training, older).backward()
    for weight, gradient in zip(training.policy.model.parameters(), ours, strict=True):
        assert torch.allclose(weight.grad, gradient, atol=1e-7)
    start = []
    with torch.no_grad():
        for row, question in enumerate(batch.questions):
            prompt = training.policy.prompt_ids([questions.train.prompts[question]])
            found = training.policy.logprobs(prompt, batch.tokens[row][None], 1.0)
            start.append([found[member, : batch.lengths[row, member]].double() for member in range(4)])
        ends, size = [], 1e-3
        norm = torch.cat([gradient.ravel() for gradient in ours]).norm()
        for step in (size, -2 * size):
            for weight, gradient in zip(training.policy.model.parameters(), ours, strict=True):
                weight += step * gradient / norm
            ends.append(losses(training, older, start).item())
    assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(norm.item(), rel=1e-3)


def test_the_gradient_with_a_divergence_term(questions):
    """Every group is in the pass, and the reference is the policy that training began with."""
    training = made(questions, kl=0.3, learning_rate=1e-3, warmup=1, temperature=0.8)
    initial = copy.deepcopy(training.policy.model)
    training.round(ids_of(training))
    assert training.costs.gradient_passes == training.costs.scored == 24
    batch = training.roll_out(ids_of(training, 1))
    training.optimizer.step = lambda: None
    training.settings = replace(training.settings, max_grad_norm=1e6)
    training.update(batch, 0)
    ours = [weight.grad.clone() for weight in training.policy.model.parameters()]
    training.optimizer.zero_grad()
    losses(training, batch, reference=initial).backward()
    for weight, gradient in zip(training.policy.model.parameters(), ours, strict=True):
        assert torch.allclose(weight.grad, gradient, atol=1e-6)
    assert not equal(weights(training), [weight.detach() for weight in initial.parameters()])


def test_later_minibatches_are_clipped_around_where_the_update_began(questions):
    """The gradient of the second minibatch is the plain loop's with π_o from before the first step."""
    training = made(questions, batch=8, minibatches=2, learning_rate=3e-2, warmup=1, max_grad_norm=1e6)
    many = training.roll_out(np.arange(48 * 2, 48 * 3))
    batch = many.take(np.argsort(~many.signal, kind="stable")[:8])
    assert batch.signal.sum() >= 4
    with torch.no_grad():
        found = training._logprobs(batch).reshape(8, 4, -1)
    start = [[found[row, member, : batch.lengths[row, member]] for member in range(4)] for row in range(8)]
    step, gradients, parts = training.optimizer.step, [], []
    take = training._step

    def watch(*given):
        parts.append(given[4])
        if len(parts) == 2:
            places = np.sort(parts[1])
            training.optimizer.zero_grad()
            losses(training, batch.take(places), [start[row] for row in places]).backward()
            gradients.append([weight.grad.clone() for weight in training.policy.model.parameters()])
        take(*given)

    def keep():
        gradients.append([weight.grad.clone() for weight in training.policy.model.parameters()])
        step()

    training._step, training.optimizer.step = watch, keep
    training.update(batch, 8)  # taken as replayed: π_o is computed anew, and equals what was stored
    first, expected, second = gradients
    assert training.costs.scored == 4 * batch.signal.sum() and training.costs.steps == 2
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, second, strict=True))
    with torch.no_grad():
        unclipped = losses(training, batch.take(np.sort(parts[1])))
    assert torch.isfinite(unclipped) and any((a != 0).any() for a in first)


def test_the_objective_of_stale_data_against_finite_differences():
    rng = np.random.default_rng(0)
    current, start, behaviour = (torch.tensor(rng.uniform(-3, -0.1, 200)) for _ in range(3))
    advantage = torch.tensor(rng.standard_normal(200))
    current.requires_grad_()
    objective(current, start, behaviour, advantage).sum().backward()
    with torch.no_grad():
        high, low = (objective(current + step, start, behaviour, advantage) for step in (1e-6, -1e-6))
    assert ((high - low) / 2e-6).numpy() == pytest.approx(current.grad.numpy(), rel=1e-5, abs=1e-8)
    assert 20 < (current.grad == 0).sum() < 180  # some tokens are outside the band


def test_groups_without_signal_change_nothing_but_the_mean(questions, monkeypatch):
    """Leaving them out of the pass is exact; with a divergence term they are in it."""
    one, other = made(questions), made(questions)
    batch = one.roll_out(ids_of(one))
    assert 0 < batch.signal.sum() < 6
    ours = gradients(one, batch)
    monkeypatch.setattr(Rollouts, "signal", property(lambda rollouts: np.ones(len(rollouts), bool)))
    theirs = gradients(other, batch)
    assert one.costs.gradient_passes < other.costs.gradient_passes == 24
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_parts_of_a_pass_add_up(questions, monkeypatch):
    one, other = made(questions), made(questions)
    batch = one.roll_out(np.flatnonzero(questions.train.cluster % LEVELS == 2)[::11])
    ours = gradients(one, batch)
    monkeypatch.setitem(policy_module.BATCH_TOKENS, "cpu", 100)
    theirs = gradients(other, batch)
    assert batch.signal.sum() > 1 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_training_raises_the_chance_of_what_was_right(questions):
    training = made(questions, learning_rate=1e-3, warmup=1, batch=32, group=8)
    ids = ids_of(training)
    batch = training.roll_out(ids)
    training.update(batch, 0)
    with torch.no_grad():
        after = training._logprobs(batch).numpy().reshape(batch.logprobs.shape[0], 8, -1)
    longest = after.shape[-1]
    mask = np.arange(longest) < batch.lengths[..., None]
    change = ((after - batch.logprobs[..., :longest]) * mask).sum(-1)
    weighted = (change * advantages(batch.rewards))[batch.signal]
    assert weighted.mean() > 0


def test_costs_are_counted(questions):
    training = made(questions, fresh=0.5, steps=2, minibatches=2)
    found = training.round(THIRD)
    costs = training.costs
    assert (costs.rollouts, costs.reference_rollouts, costs.charged, costs.steps) == (24, 0, 24, 4)
    assert costs.gradient_passes == 4 * found.signal.sum() > 0
    training.roll_out(np.arange(5), "reference")
    training.pass_rates(questions.reward)
    training.measure(np.arange(3), np.random.default_rng(0))
    assert (costs.rollouts, costs.reference_rollouts, costs.evaluation_rollouts) == (24, 20, len(questions.reward) + 12)
    before = costs.scored
    training.round(ids_of(training, 1))
    assert costs.scored > before  # π_o of what was replayed
    assert costs.training_seconds > 0 and costs.seconds["evaluate"] > 0


def test_replay_trains_on_stored_log_probabilities(questions):
    """The batch after a replayed draw holds what was stored when the tokens were drawn, not what they are worth now."""
    training = made(questions, fresh=0.5, batch=12, learning_rate=1e-3, warmup=1)
    first = training.round(ids_of(training))
    seen = []
    update = training.update
    training.update = lambda batch, stale: (seen.append((batch, stale)), update(batch, stale))
    training.round(ids_of(training, 1))
    batch, stale = seen[0]
    assert stale == first.signal.sum() > 0 and len(batch) == 6 + stale
    for place in range(len(batch) - stale, len(batch)):
        origin = np.flatnonzero(first.questions == batch.questions[place])[0]
        assert np.array_equal(batch.logprobs[place], first.logprobs[origin])
        assert np.array_equal(batch.tokens[place], first.tokens[origin])


def test_a_seed_repeats_and_a_restart_forgets(questions):
    training = made(questions, seed=3, fresh=0.5)
    begun = weights(training)
    for number in range(3):
        training.round(ids_of(training, number))
    first = weights(training)
    assert not equal(begun, first)
    training.restart(3)
    assert equal(begun, weights(training)) and training.costs.charged == training.rounds == len(training.buffer) == 0
    for number in range(3):
        training.round(ids_of(training, number))
    assert equal(first, weights(training))
    training.restart(4)
    training.round(ids_of(training))
    assert not equal(first, weights(training))


@pytest.mark.parametrize("name", ["uniform", "difficulty", "dots"])
def test_an_interrupted_run_goes_on_as_if_it_was_not(questions, name, tmp_path):
    options = {"reference": 8, "refresh": 2} if name == "dots" else {}
    whole = made(questions, fresh=0.5)
    curve = train(whole, make_controller(name, whole, **options), rollouts=320, every=64)
    half = made(questions, fresh=0.5)
    path = tmp_path / "run.safetensors"

    class Stop(Exception):
        pass

    def stop(point):
        if point.rollouts > 200:
            raise Stop

    with pytest.raises(Stop):
        controller = make_controller(name, half, **options)
        train(half, controller, rollouts=320, every=64, snapshot=path, snapshot_seconds=0, shown=stop)
    again = made(questions, fresh=0.5)
    resumed = train(again, make_controller(name, again, **options), rollouts=320, every=64, snapshot=path, snapshot_seconds=0)
    assert equal(weights(whole), weights(again))
    assert [(p.rounds, p.rollouts, p.test, p.by_cluster, p.correlation) for p in curve] == [
        (p.rounds, p.rollouts, p.test, p.by_cluster, p.correlation) for p in resumed
    ]
    assert again.costs.gradient_passes == whole.costs.gradient_passes and again.costs.evaluation_rollouts > 0
    done = made(questions, fresh=0.5)
    assert train(done, make_controller(name, done, **options), rollouts=320, every=64, snapshot=path) == resumed


def test_snapshots_of_something_else_are_refused(questions, tmp_path):
    training = made(questions)
    path = save_snapshot(tmp_path / "a.safetensors", training, make_controller("uniform", training))
    for other, controller, what in (
        (made(questions, seed=1), "uniform", "seed"),
        (made(questions, clip=0.1), "uniform", "settings"),
        (made(questions), "difficulty", "controller"),
        (GRPO(Policy(max_new_tokens=9), questions, Settings(**SMALL)), "uniform", "policy"),
        (made(arithmetic_questions(1)), "uniform", "question set"),
    ):
        with pytest.raises(InputError, match=f"is of another {what}"):
            load_snapshot(path, other, make_controller(controller, other))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="is no snapshot or is damaged"):
        load_snapshot(path, training, make_controller("uniform", training))


def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(questions):
    training = made(questions)
    training.round(THIRD)
    begun = weights(training)
    honest = training.policy.logprobs
    training.policy.logprobs = lambda *given: honest(*given) * float("nan")
    with pytest.raises(TrainingStopped, match="the loss of round 2 is nan with learning_rate 0.0003"):
        training.round(THIRD)
    training.policy.logprobs = honest
    hook = training.policy.model.lm_head.register_full_backward_hook(lambda module, got, given: (got[0] * float("inf"),))
    with pytest.raises(TrainingStopped, match="the gradient of round 2 is (nan|inf)"):
        training.round(THIRD)
    hook.remove()
    assert equal(begun, weights(training))
    training.round(THIRD)
    assert not equal(begun, weights(training))


def test_a_stopped_run_goes_on_with_a_smaller_learning_rate(questions, tmp_path):
    training = made(questions)
    training.round(ids_of(training))
    path = save_snapshot(tmp_path / "run.safetensors", training, make_controller("uniform", training))
    slower = made(questions, learning_rate=1e-5)
    load_snapshot(path, slower, make_controller("uniform", slower))
    assert equal(weights(training), weights(slower)) and slower.rounds == 1


def test_a_state_in_memory_is_a_copy(questions):
    training = made(questions, fresh=0.5)
    training.round(ids_of(training))
    state, counts, then = training.state(), training.counts(), weights(training)
    training.round(ids_of(training, 1))
    after = weights(training)
    training.put_state(state, counts)
    assert equal(then, weights(training)) and training.rounds == 1 and training.costs.charged == 12
    training.round(ids_of(training, 1))
    assert equal(after, weights(training))
    training.put_state(state, counts)
    assert equal(then, weights(training)) and training.costs.charged == 12


def test_bad_settings_and_rounds_are_named(questions):
    for bad, text in (
        ({"group": 1}, "group 1: allowed are whole numbers from 2"),
        ({"fresh": 0}, "fresh 0: allowed are numbers above 0 up to 1"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"kl": -1}, "kl -1"),
        ({"batch": 2.5}, "batch 2.5"),
    ):
        with pytest.raises(InputError, match=text):
            Settings(**bad)
    training = made(questions)
    with pytest.raises(InputError, match="a round takes 6 question ids"):
        training.round(np.arange(5))
    with pytest.raises(InputError, match="question 2688: allowed are 0 to 2687"):
        training.round(np.arange(2683, 2689))
    with pytest.raises(InputError, match="a budget of 23 rollouts: the first round may take 24"):
        train(training, make_controller("uniform", training), rollouts=23)
    with pytest.raises(InputError, match="a budget of 40 rollouts: the first round may take 56"):
        train(training, make_controller("dots", training, reference=8), rollouts=40)
    with pytest.raises(InputError, match="minibatches 9: allowed are 1 to the batch's 6 questions"):
        Settings(batch=6, minibatches=9)
    with pytest.raises(InputError, match="unknown part 'test'"):
        training.roll_out(np.arange(3), "test")


def test_points_are_taken_at_equal_rollouts(questions):
    """With and without replay and reference rollouts, and at the end of the budget and of the steps."""
    for name, fresh, options in (("uniform", 1.0, {}), ("uniform", 0.5, {}), ("dots", 1.0, {"reference": 5, "refresh": 3})):
        training = made(questions, fresh=fresh)
        controller = make_controller(name, training, **options)
        points = train(training, controller, rollouts=230, steps=12, every=100)
        rollouts = [point.rollouts for point in points]
        largest = training.settings.round_rollouts + 20
        for mark in (0, 100, 200, 230):
            assert any(mark - largest < found <= mark for found in rollouts)
        assert any(point.steps == 12 for point in points) and len(points) <= 7
        assert points[-1].steps >= 12 and points[-1].rollouts > 230 - largest


def test_joined_groups_stand_one_behind_the_other(questions):
    training = made(questions)
    a, b = training.roll_out(np.arange(2)), training.roll_out(np.arange(2, 5))
    assert join([a, b]).questions.tolist() == [0, 1, 2, 3, 4] and np.array_equal(join([a, b]).rewards[2:], b.rewards)
