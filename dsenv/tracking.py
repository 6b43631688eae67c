"""Curves of long work for TensorBoard or Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dsenv.errors import InputError, MissingExtraError, require

TRACKERS = ("tensorboard", "wandb")


class Tracker(Protocol):
    """Takes named numbers at a step."""

    def __call__(self, step: int, **values: float) -> None:
        """Keep values of a step: rows trained on, evaluations or rollouts spent."""


def check_tracking(where: str | None) -> None:
    """Refuse what ``tracker`` cannot write to.

    Raises:
        InputError: for anything but ``tensorboard:FOLDER``, ``wandb:PROJECT`` and None.
    """
    kind, _, place = (where or "").partition(":")
    if where is not None and (kind not in TRACKERS or not place):
        raise InputError(f"tracking {where!r}: allowed are tensorboard:FOLDER and wandb:PROJECT")


@contextmanager
def tracker(where: str | None, name: str) -> Iterator[Tracker]:
    """Yield a tracker that writes to ``where`` until the block ends.

    Args:
        where: ``tensorboard:FOLDER``; ``wandb:PROJECT`` (W&B's own environment variables decide the rest: with
            ``WANDB_MODE=offline`` nothing leaves the machine); None: nowhere.
        name: of the run.

    Raises:
        InputError: for anything else.
        MissingExtraError: without the extra ``tracking``.
    """
    if where is None:
        yield lambda step, **values: None
        return
    check_tracking(where)
    kind, _, place = where.partition(":")
    if kind == "wandb":
        library = require("wandb", "tracking")
        try:
            run = library.init(project=place, name=name)
        except library.errors.Error as error:
            raise InputError(f"tracking {where!r}: W&B says {error}; WANDB_MODE=offline needs no login") from error
        try:
            yield lambda step, **values: run.log(values, step=step)
        finally:
            run.finish()
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        extra = "pip install 'dsenv-gym[tracking,finetune]'"
        raise MissingExtraError(f"TensorBoard's files cannot be written: {error}; {extra}") from error
    writer: Any = SummaryWriter(str(Path(place) / name))

    def write(step: int, **values: float) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    try:
        yield write
    finally:
        writer.close()
