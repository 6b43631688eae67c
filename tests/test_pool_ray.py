"""The pool on Ray: two nodes with a token, in a network of their own; a worker is killed, and no score is lost."""

import fcntl
import importlib.util
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from dsenv.errors import DsenvError, InputError
from dsenv.proxies.entries import name_selection
from dsenv.proxies.pool import PooledProxy
from dsenv.proxies.store import ScoreStore
from dsenv.proxies.stored import StoredProxy
from tests.test_pool import FragileProxy
from tests.test_store import ROOT, TinyProxy, selections

# A network and a process table of their own: no port is in the way, and nothing outlives the test.
APART = ("unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
HEAD = "127.0.0.1:6399"
pytestmark = pytest.mark.ray


class SlowProxy(TinyProxy):
    """Notes in a folder which process of which node scores, a file for each process."""

    def __init__(self, folder):
        super().__init__(seconds=0.3)
        self.folder = folder

    def train(self, counts):
        import ray

        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(ray.get_runtime_context().get_node_id() + "\n")
        return super().train(counts)


def bring_loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = 0x1 | 0x40  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", up))  # SIOCSIFFLAGS


def start_node(folder, *options):
    command = [Path(sys.executable).parent / "ray", "start", "--block", "--num-cpus=1", "--disable-usage-stats", *options]
    log = (folder / "nodes.log").open("a")
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)


def wait_for_nodes(number):
    import ray

    until = time.monotonic() + 90
    while True:
        try:
            ray.init(address=HEAD, log_to_driver=False)
            if len([node for node in ray.nodes() if node["Alive"]]) == number:
                return
        except (ConnectionError, RuntimeError, ValueError):
            if time.monotonic() > until:
                raise
        finally:
            ray.shutdown()
        assert time.monotonic() < until, "the nodes do not come up"
        time.sleep(0.5)


def score_on_two_nodes(folder):
    counts = selections(24)
    expected = TinyProxy().score(counts)
    seen = folder / "seen"
    seen.mkdir()
    with ScoreStore(folder / "s.db") as store, PooledProxy(SlowProxy(seen), "ray", workers=2, address=HEAD) as pool:
        stored = StoredProxy(pool, store)
        found, killed = [], None
        for number, value in stored.score_each(counts):
            found.append((number, value))
            if len(found) == 6:
                killed = int(next(iter(seen.iterdir())).name)
                os.kill(killed, signal.SIGKILL)
        assert sorted(number for number, _ in found) == list(range(24)), found
        assert all(value == expected[number] for number, value in found)
        lines = [path.read_text().split() for path in seen.iterdir()]
        assert len(lines) == 3 and killed is not None, lines  # two workers, and the one that took the killed one's place
        assert len({node for worker in lines for node in worker}) == 2, lines
        assert sum(map(len, lines)) in (24, 25), lines  # the killed worker's selection was perhaps not begun
        np.testing.assert_array_equal(stored.score(counts), expected)
        np.testing.assert_array_equal(pool.score(counts[:6]), expected[:6])
        assert stored.misses == 24


def drive_without_a_cluster(folder):
    os.environ["RAY_TMPDIR"] = str(folder)
    import ray

    counts = selections(8)
    expected = TinyProxy().score(counts)
    for proxy, error, says in (
        (FragileProxy(wrong=counts[2]), ValueError, "no rows of their kind in 3 picks"),
        (FragileProxy(counts[1]), DsenvError, f"{name_selection(counts[1])} lost its worker 2 times"),
    ):
        with PooledProxy(proxy, "ray", workers=2, retries=1) as pool:
            try:
                pool.score(counts)
            except error as raised:
                assert says in str(raised) and type(raised) is error, raised
            else:
                raise AssertionError(says)
            np.testing.assert_array_equal(pool.score(counts[3:]), expected[3:])
            try:
                PooledProxy(proxy, "ray", gpus_per_worker=1).score(counts)
            except InputError as raised:
                assert "the Ray cluster has 0 GPUs" in str(raised)
            assert ray.is_initialized()
        assert not ray.is_initialized()


def drive_two_nodes(folder):
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"), RAY_USAGE_STATS_ENABLED="0")
    (folder / "token").write_text(secrets.token_hex(32))
    nodes = [
        start_node(
            folder, "--head", "--port=6399", "--include-dashboard=false", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1"
        )
    ]
    try:
        wait_for_nodes(1)
        nodes.append(start_node(folder, f"--address={HEAD}", "--node-ip-address=127.0.0.1"))
        wait_for_nodes(2)
        score_on_two_nodes(folder)
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.wait(30)


@pytest.mark.parametrize("drive", ["drive_two_nodes", "drive_without_a_cluster"])
def test_no_score_is_lost(drive):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare gives no network of its own here")
    # The names of Ray's sockets are longer than the paths of pytest leave room for.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray") as folder:
        code = f"from tests.test_pool_ray import *; bring_loopback_up(); {drive}(Path({folder!r}))"
        environment = {**os.environ, "HOME": folder}  # where Ray may put a token
        command = [*APART, sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
        log = Path(folder) / "nodes.log"
        assert done.returncode == 0, done.stderr + done.stdout + (log.read_text() if log.exists() else "")
