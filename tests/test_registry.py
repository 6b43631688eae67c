"""Every registered id, one parametrised file: the contract with Gymnasium, Stable-Baselines3 and the design."""

import json
import multiprocessing
import pickle
import random
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import dsenv  # noqa: F401 - registers the ids
from dsenv.env import DataSelectEnv, EpisodeOver
from dsenv.errors import InputError
from dsenv.registration import IDS, OWN_TASK_ID
from dsenv.search import random_counts
from dsenv.selectors import select
from tests import golden
from tests.golden import play

ALL_IDS = [*IDS, OWN_TASK_ID]
# Warnings that the checkers give and that we mean to keep, each with its reason.
ALLOWED_WARNINGS = (
    "unconventional shape",  # SB3: the dict observation's (K, F) features are a table, not a picture
    "For Box action spaces",  # SB3 says this of every space it does not scale
    "Not able to test alternative render modes",  # Gymnasium: the environment was made without its spec
)


@pytest.fixture(params=ALL_IDS)
def id(request):
    return request.param


@pytest.fixture
def keywords(id, own_task_file):
    return {"task": own_task_file} if id == OWN_TASK_ID else {}


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


@pytest.mark.parametrize("observation", ["flat", "dict"])
def test_checkers(id, keywords, observation):
    env = gym.make(id, observation=observation, **keywords)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)  # it would open a window: test_rendering has a screen for that
        check_env_sb3(env.unwrapped)
    unexpected = [str(w.message) for w in caught if not any(text in str(w.message) for text in ALLOWED_WARNINGS)]
    assert unexpected == []


def test_spec_goes_through_json(id, keywords):
    env = gym.make(id, **keywords)
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert same(play(gym.make(spec), 3), play(env, 3))


def test_pickle_keeps_the_state(id, keywords):
    env = gym.make(id, **keywords).unwrapped
    env.reset(seed=1)
    env.step(0)
    copy = pickle.loads(pickle.dumps(env))
    assert same(copy.step(1), env.step(1))
    assert len(pickle.dumps(env)) < 80e6


def test_twin_rollouts_are_bit_equal_and_leave_global_generators_alone(id, keywords):
    before = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    first, second = gym.make(id, **keywords), gym.make(id, **keywords)
    assert same(play(first, 5), play(second, 5))
    assert same(play(first, 5), play(first, 5))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_a_constant_policy_ends_after_exactly_the_picks(id, keywords):
    env = gym.make(id, **keywords)
    env.reset(seed=0)
    for pick in range(1, env.unwrapped.plan.picks + 1):
        _, _, terminated, truncated, info = env.step(0)
        assert terminated == (pick == env.unwrapped.plan.picks) and not truncated
    assert info["counts"][0] == min(env.unwrapped.plan.picks, env.unwrapped.plan.capacity[0])
    assert info["rows"] == min(env.unwrapped.plan.picks * env.unwrapped.plan.rows_per_pick, env.unwrapped.plan.sizes[0])
    with pytest.raises(EpisodeOver):
        env.unwrapped.step(0)


def test_rewards_telescope_and_the_final_return_is_the_dense_return(id, keywords):
    dense = play(gym.make(id, **keywords), 7)
    final = play(gym.make(id, reward="final", **keywords), 7)
    gained = sum(step[1] for step in dense[1:])
    assert gained == pytest.approx(dense[-1][4]["score"] - dense[0][1]["score"], abs=1e-12)
    assert sum(step[1] for step in final[1:]) == pytest.approx(gained, abs=1e-12)
    assert [step[1] for step in final[1:-1]] == [0.0] * (len(final) - 2)
    assert {step[4]["score"] for step in final[1:-1]} == {final[0][1]["score"]}


def test_the_mask_agrees_with_what_step_does(id, keywords):
    env = gym.make(id, **keywords).unwrapped
    observation, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    few = rng.integers(env.action_space.n, size=3)  # few clusters, so that some are exhausted
    for _ in range(env.plan.picks):
        action = int(rng.choice(few))
        mask, rows = info["action_mask"], info["rows"]
        assert mask.dtype == np.int8 and np.array_equal(mask.astype(bool), env.action_masks())
        assert np.array_equal(mask.astype(bool), observation[: len(mask)] < 1)
        observation, _, _, _, info = env.step(action)
        assert (info["rows"] > rows) == bool(mask[action])


@pytest.mark.parametrize("id", golden.known())
def test_golden_rollout(id):
    """Clusters, splits, budget, reward and observation of -v0: a change here is a new version."""
    assert golden.faults([id]) == []


def test_every_registered_id_has_a_golden_rollout():
    """An id that was registered once stays, with what it stood for."""
    registered = {id for id, spec in gym.registry.items() if str(spec.entry_point).startswith("dsenv.")}
    assert set(json.loads(golden.GOLDEN.read_text())) == registered == set(golden.known())


def test_a_changed_rollout_is_found_and_its_entry_is_never_written_again(tmp_path):
    id, path = "DataSelect-Synthetic-v0", tmp_path / "golden.json"
    entries = json.loads(golden.GOLDEN.read_text())
    entries[id]["scores"][0] += 2e-6
    del entries["DataSelect-v0"]
    path.write_text(json.dumps(entries))
    assert golden.faults([id], path) == [f"{id} has changed (scores): mend that, or register a new version of the id"]
    assert golden.add(path) == ["DataSelect-v0"]
    assert json.loads(path.read_text())[id] == entries[id]
    entry = entries[id]
    for changed in (
        {"rows": 575},
        {"sizes": entry["sizes"][:-1]},
        {"shape": [51]},
        {"new": 1},
        {"counts": entry["counts"][::-1]},
    ):
        assert golden.differences({**entry, **changed}, entry) == list(changed)
    assert golden.differences({}, entry) == list(entry)


def first_scores(names):
    scores = []
    for name in names:
        env = gym.make(name)
        env.reset(seed=0)
        scores.append(env.step(0)[4]["score"])
    return scores


def answer(names, queue):
    queue.put(first_scores(names))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_bare_and_prefixed_ids_work_in_child_processes(method):
    """The child imports dsenv with this module; where nothing imports it, see the test below."""
    names = [*IDS, *(f"dsenv:{name}" for name in IDS)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python >= 3.12 warns of any fork with threads
        child = context.Process(target=answer, args=(names, queue))
        child.start()
    assert queue.get(timeout=120) == pytest.approx(2 * first_scores(IDS), abs=1e-12)
    child.join()


@pytest.mark.parametrize("prefix", ["", "dsenv:"])
def test_every_id_can_be_made_in_a_fresh_process(prefix):
    code = (
        "import gymnasium as gym\n"
        + ("import dsenv\n" if not prefix else "")
        + f"for id in {list(IDS)!r}: gym.make({prefix!r} + id).reset(seed=0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasium_vectorises(mode):
    vec = gym.make_vec("dsenv:DataSelect-Synthetic-v0", num_envs=3, vectorization_mode=mode)
    observation, info = vec.reset(seed=0)
    assert observation.shape == (3, 50) and info["action_mask"].shape == (3, 48)
    for _ in range(70):
        observation, reward, *_ = vec.step(np.zeros(3, np.int64))
    assert np.isfinite(observation).all() and np.isfinite(reward).all()
    vec.close()


def test_small_ids_have_their_optimum_in_the_table():
    for id in (name for name in IDS if "Small" in name):
        env = gym.make(id).unwrapped
        counts, best = env.proxy.best()
        assert env.plan.picks == 4 and env.plan.clusters == 20 and env.task.tables.shape == (5, 6196)
        assert env.proxy.score(counts[None])[0] == best
        rng = np.random.default_rng(0)
        assert env.proxy.score(np.stack([random_counts(env.plan, rng) for _ in range(500)])).max() <= best
        with pytest.raises(InputError, match="instance 0 only"):
            gym.make(id, instance=1)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"metric": "acuracy"}, "Did you mean 'accuracy'"),
        ({"observation": "flatt"}, "Did you mean 'flat'"),
        ({"reward": "sparse"}, "dense, final"),
        ({"unit": "row"}, "Did you mean 'rows'"),
        ({"clustering": "k-means"}, "kmeans"),
        ({"proxy": "forest"}, "ridge, table"),
        ({"proxy": "table"}, "not tabulated"),
        ({"budget": 0}, "above 0 up to 1"),
        ({"budget": -0.1}, "-0.1"),
        ({"budget": 1.5}, "1.5"),
        ({"budget": float("nan")}, "nan"),
        ({"budget": 1e-6}, "less than one row"),
        ({"picks": 10**6}, "allowed are 1 to"),
        ({"picks": 0}, "allowed are 1 to"),
        ({"instance": -1}, "-1"),
        ({"render_mode": "window"}, "ansi, human, rgb_array"),
        ({"task": None}, "task is missing"),
        ({"task": "googleplai"}, "Did you mean 'googleplay'"),
        ({"task": "googleplay:nois"}, "Did you mean 'noisy'"),
        ({"task": "missing.npz"}, "not a readable task file"),
    ],
)
def test_bad_keywords_are_named(keywords, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        DataSelectEnv(**{"task": "synthetic", **keywords})


def test_unknown_ids_and_keywords_raise():
    with pytest.raises(gym.error.NameNotFound):
        gym.make("DataSelect-GooglePlaay-v0")
    with pytest.raises(TypeError, match="budgett"):
        gym.make("DataSelect-Synthetic-v0", budgett=0.1)


def test_reset_options_start_warm():
    env = DataSelectEnv("synthetic")
    counts = np.zeros(48, np.int64)
    counts[:10] = 1
    _, info = env.reset(options={"counts": counts})
    assert info["score"] == pytest.approx(float(env.proxy.score(counts[None])[0]))
    steps = 0
    over = False
    while not over:
        over = env.step(0)[2]
        steps += 1
    assert steps == env.plan.picks - 10
    too_many = counts.copy()
    too_many[0] = env.plan.capacity[0] + 1
    for wrong, says in (
        (counts * 7, "an episode has|leave none|cannot be picked"),
        (too_many, "cannot be picked"),
        (counts[:5], "shape"),
        (-counts, "cannot be picked"),
    ):
        with pytest.raises(InputError, match=says):
            env.reset(options={"counts": wrong})
    with pytest.raises(InputError, match="unknown reset options"):
        env.reset(options={"count": counts})


def test_actions_outside_the_space_are_refused():
    env = DataSelectEnv("synthetic")
    env.reset(seed=0)
    for action in (-1, 48, 1.5, "a", None):
        with pytest.raises(InputError, match="allowed are 0 to 47"):
            env.step(action)


def test_whole_cluster_picks_follow_the_paper():
    env = DataSelectEnv("synthetic", unit="cluster")
    assert env.plan.picks == 2  # max(1, floor(0.05 * 48 + 1e-9))
    env.reset()
    *_, info = env.step(3)
    assert info["rows"] == env.plan.sizes[3] and info["action_mask"][3] == 0
    assert DataSelectEnv("synthetic", unit="cluster", budget=0.5).plan.picks == 24
    paper = DataSelectEnv("googleplay", unit="cluster", clustering="kmeans")
    assert (paper.plan.picks, paper.plan.clusters) == (3, 64)


def test_an_own_task_is_made_from_the_object_or_the_file(tiny_task, own_task_file):
    first = gym.make(OWN_TASK_ID, task=tiny_task, budget=0.2)
    assert first.unwrapped.task is tiny_task
    assert same(play(first, 2), play(gym.make(OWN_TASK_ID, task=own_task_file, budget=0.2), 2))
    with pytest.raises(InputError, match="task is missing"):
        gym.make(OWN_TASK_ID)


def test_instances_redraw_order_and_cut_but_not_clusters():
    stored, other = DataSelectEnv("googleplay").task, DataSelectEnv("googleplay", instance=1).task
    for name in ("stratified", "kmeans"):
        assert np.array_equal(stored.clustering(name).cluster, other.clustering(name).cluster)
        assert not np.array_equal(stored.clustering(name).position, other.clustering(name).position)
    assert not np.array_equal(stored.reward.labels, other.reward.labels)
    both = np.sort(np.concatenate([stored.reward.features[:, 0], stored.selection.features[:, 0]]))
    assert np.array_equal(both, np.sort(np.concatenate([other.reward.features[:, 0], other.selection.features[:, 0]])))
    assert np.array_equal(stored.test.labels, other.test.labels)
    assert DataSelectEnv(other).task is other and DataSelectEnv(other, instance=0).task.instance == 0
    assert select(other, method="class_mix").instance == 1 and select(other, method="class_mix", instance=2).instance == 2
