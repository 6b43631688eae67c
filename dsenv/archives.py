"""Arrays in a zip archive, as ``np.savez`` writes them: read so that a file can neither lie about sizes nor run code.

Sizes and shapes stand in headers; they are checked against the file's own size before anything of their size is allocated.
Every member has a CRC-32, so damage is seen. No pickle is ever read.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.lib.format as npy
import numpy.typing as npt

MOST_MEMBERS = 1000
DEFLATE = 1032  # bytes that one compressed byte becomes, at most

Arrays = dict[str, npt.NDArray[Any]]
Shape = tuple[int, ...]

# What zipfile, zlib and numpy raise for bytes that are no archive of arrays.
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, IndexError, AttributeError, TypeError, NotImplementedError, RuntimeError,
    OverflowError, MemoryError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(path: Path, kinds: Callable[[str], str]) -> Arrays:
    """Return the arrays of an archive by name.

    Args:
        path: of the file.
        kinds: by an array's name, the kinds of numpy's types that it may have ("if"); "" refuses the name.

    Raises:
        ValueError: where the file cannot be read, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = _read_headers(archive, path.stat().st_size, kinds)
            arrays: Arrays = {}
            for name in names:
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = npy.read_array(member, allow_pickle=False)
            return arrays
    except _UNREADABLE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _read_headers(archive: zipfile.ZipFile, size: int, kinds: Callable[[str], str]) -> list[str]:
    """Return the names of all arrays, where each fits the bytes that the archive has for it."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS or len({member.filename for member in members}) < len(members):
        raise ValueError(f"{len(members)} members: allowed are up to {MOST_MEMBERS}, of different names")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members share bytes")
    names = []
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name == member.filename or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"member {member.filename!r} is not an array as dsenv writes it")
        if member.file_size > DEFLATE * member.compress_size + DEFLATE:
            raise ValueError(f"{name} says that {member.compress_size} bytes become {member.file_size}")
        _check_header(archive, member, name, kinds(name))
        names.append(name)
    return names


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, kinds: str) -> None:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has the version {version} of numpy's format")
        shape, _, dtype = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
        begins = file.tell()
    if dtype.kind not in kinds or dtype.subdtype is not None:
        raise ValueError(f"the array {name!r} of type {dtype} is unknown")
    if math.prod(shape) * dtype.itemsize != member.file_size - begins:
        raise ValueError(f"{name} of shape {shape} and type {dtype} does not fit its {member.file_size - begins} bytes")
