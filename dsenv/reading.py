"""Files that may come from anybody: only plain files are opened, and JSON is checked against a type before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from dsenv.errors import InputError

LARGEST = 2**63 - 1
Whole = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]  # what an int64 array holds, from 0
Read = TypeVar("Read")


def check_file(path: str | Path, what: str) -> None:
    """Refuse what is no plain file: a folder, a pipe or a device, so that no read waits or never ends.

    Raises:
        InputError: naming the path, what it should be, and what it is.
    """
    try:
        if Path(path).is_file():
            return
        reason = "it is a folder, a pipe or a device" if Path(path).exists() else "there is no such file"
    except OSError as error:  # no right to look, a name that is too long
        reason = str(error)
    raise InputError(f"{str(path)!r} is not a readable {what}: {reason}")


def read_bytes(path: str | Path, what: str) -> bytes:
    """Return the bytes of a plain file.

    Args:
        path: of the file.
        what: it should be, for the error ("selection").

    Raises:
        InputError: where there is no such file, or it cannot be read.
    """
    check_file(path, what)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} is not a readable {what}: {error}") from error


def parse_json(data: bytes | str, kind: type[Read], where: str) -> Read:
    """Return a JSON value as a dataclass or another type, whose fields' types and bounds are checked.

    Numbers that are not finite and texts that are not UTF-8 are refused; fields that the type does not have are left out.

    Args:
        data: the JSON.
        kind: what to return.
        where: it stands, for the error.

    Raises:
        InputError: where the value is not of that type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {error}") from error


def read_json(path: str | Path, kind: type[Read], what: str) -> Read:
    """Return what a JSON file holds, as ``parse_json`` does.

    Raises:
        InputError: where there is no such file, or it holds something else.
    """
    return parse_json(read_bytes(path, what), kind, f"{str(path)!r} is not a readable {what}")


def convert(value: Any, kind: type[Read]) -> Read:
    """Return a value that JSON was read to as another type, checked as ``parse_json`` does.

    Raises:
        ValueError: where it is not of that type; the message names the place in it.
    """
    try:
        return msgspec.convert(value, kind)
    except RecursionError as error:
        raise ValueError(str(error)) from error
