"""The RLVR environments: the contract of the first family, on the simulator and on the embedded policy."""

import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import dsenv  # noqa: F401 - registers the ids
from dsenv.env import EpisodeOver
from dsenv.errors import InputError
from dsenv.registration import RLVR_IDS
from dsenv.rlvr.arithmetic import LEVELS, arithmetic_questions
from dsenv.rlvr.env import DataSelectRLVREnv
from dsenv.rlvr.policy import Policy
from dsenv.rlvr.simulator import Simulator
from dsenv.rlvr.training import Settings
from tests.golden import play
from tests.test_registry import ALLOWED_WARNINGS, same
from tests.test_rlvr_questions import problems, write_folder

SIMULATOR, ARITHMETIC = "DataSelectRLVR-Simulator-v0", "DataSelectRLVR-Arithmetic-v0"
SHORT = {"batch": 4, "group": 4, "steps": 1, "budget": 64}


@pytest.fixture(params=[SIMULATOR, ARITHMETIC])
def made(request):
    return lambda **keywords: gym.make(request.param, **{**SHORT, **keywords})


@pytest.mark.parametrize("observation", ["flat", "dict"])
def test_checkers(made, observation):
    env = made(observation=observation, render_mode="ansi")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
        check_env_sb3(env.unwrapped)
    unexpected = [str(w.message) for w in caught if not any(text in str(w.message) for text in ALLOWED_WARNINGS)]
    assert unexpected == []


def test_the_spec_goes_through_json_and_a_seed_repeats(made):
    env = made()
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    first = play(env, 3)
    assert same(play(gym.make(spec), 3), first) and same(play(env, 3), first)
    assert not same(play(env, 4), first)


def test_an_episode_is_its_budget(made):
    env = made(budget=79).unwrapped
    env.reset(seed=0)
    for number in range(1, 5):
        observation, _, terminated, truncated, info = env.step(3)
        assert info["rollouts"] == 16 * number and terminated == (number == 4) and not truncated
    assert info["counts"].tolist() == [4 if k == 3 else 0 for k in range(56)]
    assert (
        observation[112 + 3] == pytest.approx(16 / 48) and observation[168] == 0 and observation[169] == np.float32(env.score)
    )
    with pytest.raises(EpisodeOver):
        env.step(0)
    env.reset(seed=0)
    assert env.training.costs.charged == 0


def test_rewards_telescope_and_the_final_return_is_the_dense_return(made):
    dense, final = play(made(), 7), play(made(reward="final"), 7)
    gained = sum(step[1] for step in dense[1:])
    assert gained == pytest.approx(dense[-1][4]["score"] - dense[0][1]["score"], abs=1e-12)
    assert sum(step[1] for step in final[1:]) == pytest.approx(gained, abs=1e-12)
    assert [step[1] for step in final[1:-1]] == [0.0] * (len(final) - 2)
    assert (
        final[-1][4]["evaluation_rollouts"] < dense[-1][4]["evaluation_rollouts"] or dense[-1][4]["evaluation_rollouts"] == 0
    )


def test_what_is_observed_is_what_was_rolled_out(made):
    env = made(observation="dict").unwrapped
    first, info = env.reset(seed=1)
    assert (first["difficulty"] == 0.5).all() and (first["staleness"] == 1).all() and not first["trained"].any()
    seen = []
    train = env.training.round
    env.training.round = lambda ids: seen.append(train(ids)) or seen[-1]
    observation, _, _, _, info = env.step(7)
    assert (env.questions.train.cluster[seen[0].questions] == 7).all()
    assert observation["difficulty"][7] == pytest.approx(1 - seen[0].pass_rates.mean())
    assert info["signal"] == seen[0].signal.mean()
    assert observation["staleness"][7] == 0 and observation["trained"][7] == pytest.approx(4 / 48)
    assert observation["action_mask"].tolist() == [1] * 56 and env.action_masks().all()
    env.step(7)
    assert not set(seen[0].questions.tolist()) & set(seen[1].questions.tolist())
    observation = env.step(8)[0]
    assert observation["staleness"][7] == pytest.approx(1 / 4)


@pytest.mark.parametrize("policy", ["simulator", "arithmetic"])
def test_other_test_questions_change_nothing(policy):
    """The test part is replaced, questions, answers and clusters; an episode is the same to the last bit."""
    questions = arithmetic_questions()
    other = replace(
        questions, test=replace(arithmetic_questions(9).test, prompts=[f">{i}=" for i in range(len(questions.test))])
    )
    assert same(*(play(DataSelectRLVREnv(one, policy=policy, **SHORT), 2) for one in (questions, other)))


def test_rendering(made):
    env = made(render_mode="ansi")
    env.reset(seed=0)
    env.step(4)
    lines = env.render().splitlines()
    assert len(lines) == 57 and lines[0].startswith("round 1 of 4, pass rate 0.") and lines[5].startswith("add 5 ")


def test_a_simulator_of_one_s_own_is_taken():
    questions, settings = arithmetic_questions(), Settings(batch=4, steps=1)
    own = Simulator(questions, settings, uneven=True)
    env = DataSelectRLVREnv(questions, policy=own, batch=4, steps=1, budget=320)
    assert env.training is own
    with pytest.raises(InputError, match="other questions or settings"):
        DataSelectRLVREnv(questions, policy=own, batch=8, steps=1)


def test_embedding_clusters():
    env = gym.make(ARITHMETIC, clusters="embedding", **SHORT).unwrapped
    assert 20 <= env.action_space.n <= 32
    kinds = np.array([prompt[0] in "<>" for prompt in env.questions.train.prompts])
    shares = [kinds[env.questions.train.cluster == k].mean() for k in range(env.action_space.n)]
    assert np.mean([min(share, 1 - share) for share in shares]) < 0.05  # no cluster mixes letters and numbers
    play(env, 0)


def test_the_simulator_needs_the_core_alone():
    code = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "faiss", "sklearn", "datasets", "tokenizers"}:
            raise ModuleNotFoundError(f"refused: {name}")
sys.meta_path.insert(0, Refuse())
import gymnasium, dsenv
env = gymnasium.make("DataSelectRLVR-Simulator-v0")
env.reset(seed=0)
env.step(3)
try:
    gymnasium.make("DataSelectRLVR-Arithmetic-v0")
except dsenv.errors.MissingExtraError as error:
    assert "dsenv-gym[finetune]" in str(error)
else:
    raise SystemExit("made without the extra")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bad_input_is_named(llama, tmp_path):
    make = DataSelectRLVREnv
    for keywords, text in (
        ({"budget": 255}, "budget 255: a round takes 256 rollouts, allowed are budgets from that"),
        ({"budgt": 3}, "unknown keyword 'budgt'|unknown keyword 'budgt'. Allowed"),
        ({"observation": "flt"}, "unknown observation 'flt'. Did you mean 'flat'"),
        ({"reward": 3}, "unknown reward 3"),
        ({"clusters": "embeddings"}, "Did you mean 'embedding'"),
        ({"policy": None}, "policy is missing for questions 'arithmetic'"),
        ({"policy": "simulator", "clusters": "embedding"}, "the simulator has no embeddings"),
        ({"render_mode": "human"}, "unknown render_mode 'human'"),
        ({"questions": "nothing"}, "no dataset 'nothing'"),
    ):
        with pytest.raises(InputError, match=text):
            make(**keywords)
    env = make(policy="simulator")
    env.reset()
    for action in (-1, 56, 1.5, None):
        with pytest.raises(InputError, match="is not a cluster: allowed are 0 to 55"):
            env.step(action)
    with pytest.raises(InputError, match="unknown reset options 'counts'"):
        env.reset(options={"counts": [1]})
    with pytest.raises(InputError, match="policy is missing"):
        gym.make("DataSelectRLVR-GSM8K-v0", questions=arithmetic_questions())
    folder = write_folder(tmp_path / "long", train=problems(40), test=problems(8, 100))
    with pytest.raises(InputError, match="prompt 'Solve .* with a context of 512 and 500 new tokens reads 1 to 12"):
        make(folder, policy=llama, max_new_tokens=500, **SHORT)
    with pytest.raises(InputError, match="'train' is empty"):
        make(folder, policy=llama, max_prompt_tokens=10, **SHORT)


def test_questions_of_gsm8k_with_a_tiny_checkpoint(llama, tmp_path):
    """Prompts, sampling, checking, a step and the choice of questions, end to end; random weights solve nothing."""
    folder = write_folder(tmp_path / "sums", train=problems(60), test=problems(6, 200))
    env = gym.make("DataSelectRLVR-GSM8K-v0", questions=str(folder), policy=llama, max_new_tokens=6, **SHORT)
    trace = play(env, 0)
    assert env.action_space.n == 6 and trace[-1][4]["score"] == 0.0 and trace[-1][4]["rollouts"] == 64


def test_the_real_gsm8k_with_the_real_tiny_llama(data_dir, stories):
    policy = Policy(str(stories[1]), max_new_tokens=8)
    env = gym.make(
        "DataSelectRLVR-GSM8K-v0", policy=policy, max_prompt_tokens=200, batch=4, group=2, steps=1, budget=16, reward="final"
    )
    assert 500 < len(env.unwrapped.questions.train) < 6717
    trace = play(env, 0)
    assert trace[-1][4]["score"] == 0.0 and trace[-1][4]["signal"] == 0.0  # a model of children's stories


@pytest.mark.slow
def test_ppo_trains_on_the_simulator_and_is_tried_on_the_real_environment():
    simulator = gym.make(SIMULATOR)
    agent = PPO("MlpPolicy", simulator, gamma=1.0, n_steps=400, batch_size=100, seed=0, device="cpu")

    def gained(env, policy, seeds):
        found = []
        for seed in seeds:
            observation, info = env.reset(seed=seed)
            first, over = info["score"], False
            while not over:
                observation, _, over, _, info = env.step(policy(observation))
            found.append(info["score"] - first)
        return float(np.mean(found))

    rng = np.random.default_rng(0)
    uniform = gained(simulator, lambda observation: int(rng.integers(56)), range(5))
    agent.learn(40_000)
    trained = gained(simulator, lambda observation: int(agent.predict(observation)[0]), range(5))
    assert trained > 1.3 * uniform
    real = gym.make(ARITHMETIC)
    found = gained(real, lambda observation: int(agent.predict(observation)[0]), [0])
    assert -0.5 < found < 0.5 and real.unwrapped.training.costs.charged == 80 * 256


@pytest.mark.slow
def test_questions_neither_solved_nor_out_of_reach_raise_the_pass_rate_of_the_real_environment():
    """Third levels and then fourth ones, of the kinds that the policy is able of: what a good agent has to find out."""
    env = gym.make(ARITHMETIC)
    _, info = env.reset(seed=0)
    first, rounds, over = info["score"], 0, False
    while not over:
        kinds = [0, 1, 4, 5, 6]
        _, _, over, _, info = env.step(kinds[rounds % 5] * LEVELS + (2 if rounds < 20 or rounds % 2 else 3))
        rounds += 1
    assert rounds == 80 and info["score"] > first + 0.03


def test_ids_are_registered():
    assert set(RLVR_IDS) <= set(gym.registry)
