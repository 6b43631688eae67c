"""Errors a user can meet, all under one base class, and the two checks that raise most of them."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

INTERRUPTED = 130  # exit status after Ctrl-C


class DsenvError(Exception):
    """Base class of every error that dsenv raises on purpose."""


class InputError(DsenvError, ValueError):
    """A value that was handed in cannot be used; the message names it and what is allowed."""


class TaskFileError(DsenvError, ValueError):
    """A task file is truncated, altered, or of another format version."""


class StoreError(DsenvError):
    """A store of scores cannot be read or written; the message names the file and what to do."""


class MissingExtraError(DsenvError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


def one_of(what: str, value: object, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        InputError: naming the value, the nearest match and everything allowed.
    """
    names = sorted(allowed)
    if isinstance(value, str) and value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown {what} {value!r}.{hint} Allowed: {', '.join(names)}")


def check_whole(what: str, value: object, least: int) -> None:
    """Refuse what is not a whole number from ``least``.

    Raises:
        InputError: naming the value and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{what} {value!r}: allowed are whole numbers from {least}")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        MissingExtraError: naming the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module!r} is needed here and cannot be imported ({error}); install it with: pip install 'dsenv-gym[{extra}]'"
        ) from error


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let a program end at Ctrl-C, a documented error or one of the system's, with one line instead of a traceback."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        sys.stderr.write("stopped; encoding, fine-tuning and finished runs are kept: the same command goes on from there\n")
        raise SystemExit(INTERRUPTED) from None
    except (DsenvError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
