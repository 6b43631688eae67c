"""Many selections at once: a proxy copied to the processes of one machine, or to the nodes of a Ray cluster."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from dsenv.dataset import Ints
from dsenv.errors import DsenvError, InputError, one_of, require
from dsenv.metrics import Doubles
from dsenv.progress import track
from dsenv.proxies import Memory, Proxy, RowSample, check_samples, in_order
from dsenv.proxies.entries import name_selection

EXECUTORS = ("local", "process", "ray")
SWEEP = 4

Work = tuple[Ints, RowSample | None]


class PooledProxy:
    """A proxy whose selections are scored by many workers: the same scores in the same order, sooner.

    Every worker gets the proxy once. A selection whose worker was killed is scored again by a new one; an error of the proxy
    itself is raised as it is. Workers start with the first call and stay until ``close`` or the end of a ``with`` block. A
    script that uses processes starts its work below ``if __name__ == "__main__":``, because every worker imports the script.

    Processes take a second or more to start and about 1 ms a score. Ray takes several seconds and about 1 ms a score: it
    pays from about 10 ms a score, or where there are several machines, on all of which the proxy's module can be imported.
    For several machines start the nodes first: ``ray start --head`` on one, ``ray start --address=HOST:6379`` on the others.
    Ray lets only holders of a token in: make one file, copy it to every machine, and set ``RAY_AUTH_MODE=token`` and
    ``RAY_AUTH_TOKEN_PATH`` to it for every node and for the program that uses this class.

    Args:
        proxy: what scores; it must be possible to pickle it.
        executor: ``local``: in this process; ``process``: processes of this machine; ``ray``: Ray actors.
        workers: number of them; default: as many as there are processors, and GPUs where they are asked for.
        gpus_per_worker: whole GPUs, or a share of one; a worker sees only its own.
        retries: how often a selection may lose its worker and is scored again.
        address: of a Ray cluster, ``HOST:6379`` or ``auto``; default: Ray is started here and ended by ``close``.

    Raises:
        InputError: for a value that is not allowed.
        MissingExtraError: for ``ray`` where it is not installed.
    """

    def __init__(
        self,
        proxy: Proxy,
        executor: str = "local",
        workers: int | None = None,
        gpus_per_worker: float = 0,
        retries: int = 2,
        address: str | None = None,
    ) -> None:
        self.executor = one_of("executor", executor, EXECUTORS)
        for name, value, least in (("workers", 1 if workers is None else workers, 1), ("retries", retries, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} {value!r}: allowed are whole numbers from {least}")
        if gpus_per_worker < 0 or (gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker)):
            raise InputError(f"gpus_per_worker {gpus_per_worker!r}: allowed are whole numbers from 0 and shares of one GPU")
        if executor == "ray":
            require("ray", "ray")
        self.proxy, self.task, self.plan, self.metric = proxy, proxy.task, proxy.plan, proxy.metric
        self.workers, self.gpus_per_worker, self.retries, self.address = workers, gpus_per_worker, retries, address
        self._team: _Team | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """The proxy's name and settings: workers change no score."""
        return self.proxy.recipe

    def score(
        self, counts: npt.NDArray[np.integer], *, memory: Memory | None = None, samples: Sequence[RowSample] | None = None
    ) -> Doubles:
        """Return Φ of a batch of selections; counts (B, K) -> (B,). As in ``Proxy``.

        Raises:
            DsenvError: where a selection loses more workers than ``retries``.
        """
        if self.executor == "local":
            return self.proxy.score(counts, memory=memory, samples=check_samples(counts, samples))
        return in_order(self.score_each(counts, samples), len(counts))

    def score_each(
        self, counts: npt.NDArray[np.integer], samples: Sequence[RowSample] | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (number, Φ) of every selection of a batch (B, K) once, as soon as it is known, in any order.

        Raises:
            DsenvError: where a selection loses more workers than ``retries``.
        """
        batch = self.plan.check_batch(counts)
        samples = check_samples(batch, samples)
        if self.executor == "local":
            each = getattr(self.proxy, "score_each", None)
            yield from each(batch, samples) if each else enumerate(self.proxy.score(batch, samples=samples).tolist())
            return
        if self._team is None:
            self._team = _Processes(self) if self.executor == "process" else _Actors(self)
        scored = self._team.score_each([(row, samples[number] if samples else None) for number, row in enumerate(batch)])
        # A step of an environment shows no bar, a sweep does.
        yield from track(scored, "scores", total=len(batch)) if len(batch) > SWEEP * self._team.size else scored

    def close(self) -> None:
        """End the workers, and what was started for them; the next call starts new ones."""
        if self._team is not None:
            self._team.close()
            self._team = None

    def __enter__(self) -> PooledProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the workers out: a copy starts its own."""
        return {**self.__dict__, "_team": None}


class _Team(ABC):
    """Workers with at most one selection each, so that it is known which selection a dead worker had.

    Attributes:
        size: most workers at once.
        deaths: the errors that stand for a dead worker.
    """

    size: int
    deaths: tuple[type[BaseException], ...]

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._workers: list[_Process | _Actor] = []
        self._idle: list[int] = []
        self._busy: dict[Future[Any], tuple[int, bool]] = {}  # whose place, and whether it brings the proxy there
        self._active = False

    @abstractmethod
    def _begin(self, place: int) -> _Process | _Actor:
        """Return a new worker."""

    def _own(self, error: BaseException) -> BaseException:
        """Return the proxy's own error behind one of its worker."""
        return error

    def close(self) -> None:
        """End all workers, and what was started for them."""
        self._dismiss()

    def score_each(self, work: Sequence[Work]) -> Iterator[tuple[int, float]]:
        """Yield (number, score) of every piece of work once.

        Raises:
            InputError: while an earlier call is not read to its end.
        """
        if self._active:
            raise InputError("another sweep of this pool is not read to its end: finish it or close it first")
        self._active = True
        try:
            yield from self._score_each(work)
        finally:
            self._active = False

    def _score_each(self, work: Sequence[Work]) -> Iterator[tuple[int, float]]:
        while len(self._workers) < min(self.size, len(work)):
            self._start(len(self._workers))
        waiting = deque(range(len(work)))
        running: dict[Future[Any], int] = {}
        lost: Counter[int | None] = Counter()
        known: list[tuple[int, float]] = []
        while True:
            while waiting and self._idle:
                place, number = self._idle.pop(), waiting.popleft()
                future = self._workers[place].submit(work[number])
                self._busy[future], running[future] = (place, False), number
            yield from known  # with every worker at work
            known.clear()
            if not (waiting or running):
                return
            failure: BaseException | None = None
            dismissed = False
            for future in wait(self._busy, return_when=FIRST_COMPLETED).done:
                (place, loaded), done, error = self._busy.pop(future), running.pop(future, None), future.exception()
                if isinstance(error, self.deaths):
                    lost[done] += 1
                    if lost[done] > self._retries:
                        failure, dismissed = _too_many(None if done is None else work[done], lost[done], error), True
                        continue
                    self._workers[place].close()
                    self._start(place)
                    if done is not None:
                        waiting.append(done)
                elif loaded and error is not None:
                    failure, dismissed = self._own(error), True
                else:
                    self._idle.append(place)
                    if loaded:
                        lost[None] = 0
                    elif done is not None and error is not None:
                        failure = self._own(error)
                    elif done is not None:  # else of an earlier call that was not read to its end
                        known.append((done, float(future.result())))
            if dismissed:
                self._dismiss()
            if failure is not None:
                yield from known
                raise failure

    def _start(self, place: int) -> None:
        """Begin a worker in a place that is new, or whose worker is gone."""
        worker = self._begin(place)
        self._workers[place : place + 1] = [worker]
        self._busy[worker.loaded] = place, True

    def _dismiss(self) -> None:
        for worker in self._workers:
            worker.close()
        for kept in (self._workers, self._idle, self._busy):
            kept.clear()


def _too_many(work: Work | None, times: int, error: BaseException) -> DsenvError:
    if work is None:
        return DsenvError(
            f"workers died {times} times while they started ({error}): a script starts its work below "
            'if __name__ == "__main__":, and the proxy must fit into memory once for each worker'
        )
    return DsenvError(
        f"{name_selection(work[0])} lost its worker {times} times ({error}): something killed it, for want of memory "
        "perhaps; try fewer workers"
    )


class _Processes(_Team):
    deaths = (BrokenProcessPool,)

    def __init__(self, pool: PooledProxy) -> None:
        super().__init__(pool.retries)
        self._gpus, self._devices = pool.gpus_per_worker, _devices() if pool.gpus_per_worker else []
        if len(self._devices) < math.ceil(self._gpus):
            raise InputError(f"gpus_per_worker {self._gpus!r}: {len(self._devices)} GPUs can be seen here")
        processors = _processors()
        self.size = pool.workers or (min(processors, int(len(self._devices) / self._gpus)) if self._gpus else processors)
        self._threads = _threads(processors, self.size)
        with _pickling():
            self._pickled = pickle.dumps(pool.proxy)

    def _begin(self, place: int) -> _Process | _Actor:
        first = int(place * self._gpus)
        seen = [self._devices[(first + more) % len(self._devices)] for more in range(math.ceil(self._gpus))]
        return _Process(self._pickled, {**self._threads, **({"CUDA_VISIBLE_DEVICES": ",".join(seen)} if seen else {})})


class _Process:
    """One process in an executor of its own: a dead process breaks its executor, and no other one."""

    def __init__(self, pickled: bytes, variables: Mapping[str, str]) -> None:
        self._executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        with _environment(variables):  # BLAS and CUDA read it when they are loaded; the first task starts the process
            self.loaded: Future[Any] = self._executor.submit(_load, pickled)
        self._last = self.loaded

    def submit(self, work: Work) -> Future[Any]:
        try:
            self._last = self._executor.submit(_score, *work)
        except BrokenProcessPool as error:  # it died while it had nothing to do
            self._last = Future()
            self._last.set_exception(error)
        return self._last

    def close(self) -> None:
        if not self._last.done() and self.loaded.done() and not self.loaded.exception():
            with suppress(OSError):
                os.kill(self.loaded.result(), signal.SIGTERM)
        self._executor.shutdown(cancel_futures=True)


class _Actors(_Team):
    def __init__(self, pool: PooledProxy) -> None:
        super().__init__(pool.retries)
        ray = self._ray = require("ray", "ray")
        self.deaths = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)
        self._started = not ray.is_initialized()
        if self._started and pool.address is not None:
            ray.init(address=pool.address, log_to_driver=False)
        elif self._started:
            processors, size = _processors(), pool.workers or _processors()
            with _environment({"RAY_USAGE_STATS_ENABLED": "0", **_threads(processors, size)}):
                ray.init(address="local", num_cpus=size, include_dashboard=False, log_to_driver=False)
        found, self._gpus = ray.cluster_resources(), pool.gpus_per_worker
        if found.get("GPU", 0) < self._gpus:
            self.close()
            raise InputError(f"gpus_per_worker {self._gpus!r}: the Ray cluster has {found.get('GPU', 0):.0f} GPUs")
        fit = int(found["GPU"] / self._gpus) if self._gpus else found["CPU"]
        self.size = pool.workers or max(1, int(min(fit, found["CPU"])))
        with _pickling():
            self._proxy = ray.put(pool.proxy)

    def _begin(self, place: int) -> _Process | _Actor:
        return _Actor(self._ray, self._proxy, self._gpus)

    def _own(self, error: BaseException) -> BaseException:
        cause: BaseException | None = getattr(error, "cause", None)
        return cause if cause and isinstance(error, self._ray.exceptions.RayError) else error

    def close(self) -> None:
        super().close()
        if self._started:
            self._ray.shutdown()


class _Actor:
    """An actor that Ray does not restart: a node that is gone may leave it no place, and the others do its work."""

    def __init__(self, ray: Any, proxy: Any, gpus: float) -> None:
        self._ray = ray
        self._actor = ray.remote(_Scorer).options(num_cpus=1, num_gpus=gpus, max_restarts=0).remote()
        self.loaded: Future[Any] = self._actor.load.remote(proxy).future()

    def submit(self, work: Work) -> Any:
        return self._actor.score.remote(*work).future()

    def close(self) -> None:
        self._ray.kill(self._actor)


class _Scorer:
    """A worker's copy of the proxy."""

    proxy: Proxy

    def load(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def score(self, counts: Ints, sample: RowSample | None) -> float:
        return float(self.proxy.score(counts[None], samples=None if sample is None else [sample])[0])


_scorer = _Scorer()


def _load(pickled: bytes) -> int:
    """Keep the proxy in this worker process; returns the process id."""
    end_with_parent()
    _scorer.load(pickle.loads(pickled))
    return os.getpid()


def _score(counts: Ints, sample: RowSample | None) -> float:
    return _scorer.score(counts, sample)


def end_with_parent() -> None:
    """Let this worker process end when the one that started it is gone; an executor leaves it waiting for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(processors: int, workers: int) -> dict[str, str]:
    """Return a worker's share of the processors as BLAS and torch read it, unless it is set by hand."""
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, processors // workers))}


def _devices() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    return [str(number) for number in range(require("torch", "finetune").cuda.device_count())]


@contextmanager
def _pickling() -> Iterator[None]:
    try:
        yield
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(f"every worker needs a copy of the proxy, and it cannot be pickled: {error}") from error


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that start inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
