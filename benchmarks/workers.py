"""Worker processes of a benchmark: they end with it, and a killed one is told in a line."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from dsenv.errors import DsenvError
from dsenv.proxies.pool import end_with_parent


@contextmanager
def worker_processes(count: int, begin: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yield new processes; they end with this one, killed or not.

    Args:
        count: how many.
        begin: what each does first.

    Raises:
        DsenvError: where one of them is killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(begin,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise DsenvError(
                "a worker process was killed, for want of memory perhaps; finished runs are kept: the same command goes on "
                "from there, and fewer --jobs need less memory"
            ) from error
        except BaseException:  # Ctrl-C: what runs now is lost, and nobody waits for what is queued
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin(begin: Callable[[], None] | None) -> None:
    end_with_parent()
    if begin is not None:
        begin()
