"""Where files go and how they are written: the cache folder, atomic writes, one writer at a time."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from dsenv.errors import InputError

LEFT_OVER_SECONDS = 24 * 3600.0
WAIT_SECONDS = 60.0
LONGEST_NAME = 200  # letters of a name that are repeated in the temporary one
OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Return the cache folder: the argument, else ``DSENV_CACHE_DIR``, else the platform's cache folder.

    Nothing is created here; the first write creates it.
    """
    if cache_dir is not None:
        return Path(cache_dir)
    if "DSENV_CACHE_DIR" in os.environ:
        return Path(os.environ["DSENV_CACHE_DIR"])
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(base) / "dsenv"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces ``path`` only if the block ends without an error.

    After a kill, or a crash of the machine, ``path`` is what it was, or new and whole. The temporary path is in a folder
    ``.NAME.XXXXXXXX.tmp`` of its own beside ``path``. A killed process leaves the folder; nothing reads it, and a later write
    of the same path removes it once it is a day old.

    Raises:
        OSError: where nothing can be written (no right, a full disk); it names ``path``.
    """
    path = Path(path)
    folder = path.with_name(f".{path.name[:LONGEST_NAME]}.{secrets.token_hex(4)}.tmp")
    temporary = folder / "content"
    with _naming(path, folder, temporary):
        _make_folder(path.parent)
        _remove_left_over(path)
        folder.mkdir()
        try:
            yield temporary
            temporary.chmod(folder.stat().st_mode & 0o666)  # some libraries write files that nobody else may read
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what stays is a left-over, and hides no error
    with suppress(OSError):  # some file systems refuse to sync a folder
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: str | Path | None, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Keep other processes out of blocks for the same path; one that ends, killed or not, lets the next in.

    The lock is an empty file ``.NAME.lock`` beside ``path``. It goes with the block; one that a killed process has left
    hinders nobody.

    Args:
        path: what the block writes; it need not be there yet. None locks nothing.
        wait: seconds to wait for another process; 0 refuses at once.

    Raises:
        InputError: where another process is in its block for longer.
        OSError: where the lock cannot be made; it names ``path``.
    """
    if path is None:
        yield
        return
    from filelock import FileLock, Timeout  # not at the top: it takes a tenth of a second

    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as held:
        with _naming(path, lock):
            _make_folder(path.parent)
            try:
                held.enter_context(FileLock(lock, timeout=wait))
            except Timeout:
                raise InputError(
                    f"{str(path)!r} is being written by another process: wait until it has ended, or give another path"
                ) from None
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows keeps an open file
                lock.unlink(missing_ok=True)  # who waits for it sees that it is gone, and makes a new one


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error


def _remove_left_over(path: Path) -> None:
    """Remove what killed writers of a path have left, once nobody can be at work on it."""
    for folder in path.parent.glob(f".{glob.escape(path.name[:LONGEST_NAME])}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError):  # another process was faster, or it is another user's
            if time.time() - max(each.stat().st_mtime for each in (folder, *folder.iterdir())) > LEFT_OVER_SECONDS:
                shutil.rmtree(folder)


@contextmanager
def _naming(path: Path, *own: Path) -> Iterator[None]:
    """Let an error of the system that names no file, or one of our own beside it, name ``path``."""
    try:
        yield
    except OSError as error:
        ours = error.filename in (*own, *map(str, own)) or (error.filename is None and error.errno in OF_A_DISK)
        if error.errno is None or not ours:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except SafetensorError as error:  # of a full disk, say
        raise OSError(f"{str(path)!r} cannot be written: {error}") from error
