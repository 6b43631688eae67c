"""The examples run as they stand, learn more than uniform picks and, where masks are, pick no exhausted cluster."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
MODULES = {
    "cleanrl_ppo": ["torch"],
    "sb3_dqn": ["stable_baselines3"],
    "sb3_contrib_maskable_ppo": ["sb3_contrib"],
    "rllib_ppo": ["ray", "dm_tree", "ormsgpack", "torch"],
    "torchrl_ppo": ["torchrl", "tensordict"],
    "tianshou_dqn": ["tianshou"],
    "minari_export": ["minari", "h5py", "jax"],
}
IMPORTED_AS = {"dm_tree": "tree"}
UNMASKED = {"sb3_dqn"}


def run(name, *arguments, python=sys.executable):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def need(name):
    missing = [module for module in MODULES[name] if importlib.util.find_spec(IMPORTED_AS.get(module, module)) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def test_every_example_is_short_and_tested():
    files = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert set(files) == {*MODULES, "d3rlpy_offline"}
    for name, text in files.items():
        assert len(text.splitlines()) < 60, name


@pytest.mark.libraries
@pytest.mark.parametrize("name", [name for name in MODULES if name != "minari_export"])
def test_example_learns(name):
    need(name)
    found = run(name)
    assert found["trained"] > found["uniform"] + 0.005  # more than two standard errors of uniform's mean
    if name not in UNMASKED:
        assert found["invalid"] == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    need("minari_export")
    folder = tmp_path_factory.mktemp("minari")
    return folder, run("minari_export", folder)


@pytest.mark.libraries
def test_minari_exports_into_the_folder_given(exported):
    folder, found = exported
    assert found["folder"] == str(folder.resolve()) and list(folder.rglob("*.hdf5"))
    assert found["invalid"] == 0 and found["best"] > found["uniform"] > 0


@pytest.mark.libraries
@pytest.mark.skipif("DSENV_D3RLPY_PYTHON" not in os.environ, reason="DSENV_D3RLPY_PYTHON names no interpreter with d3rlpy")
def test_d3rlpy_learns_offline(exported):
    found = run("d3rlpy_offline", exported[0], python=os.environ["DSENV_D3RLPY_PYTHON"])
    assert found["trained"] > found["uniform"] + 0.005 and found["invalid"] == 0
