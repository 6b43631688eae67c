"""All surfaces."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym

from benchmarks.fuzz.commands import command_surfaces
from benchmarks.fuzz.data import data_surfaces
from benchmarks.fuzz.files import file_surfaces
from benchmarks.fuzz.play import play_surfaces
from benchmarks.fuzz.signed import signed_surfaces
from benchmarks.fuzz.surface import Surface


def all_surfaces(folder: Path) -> list[Surface]:
    """Return every surface; what they read and write lies in the folder."""
    gym.logger.min_level = gym.logger.ERROR
    return [
        *file_surfaces(folder), *signed_surfaces(folder), *data_surfaces(folder), *play_surfaces(), *command_surfaces(folder),
    ]  # fmt: skip
