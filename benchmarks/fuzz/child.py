"""One surface in a process of its own: ``python -m benchmarks.fuzz.child NAME FOLDER SECONDS SEED [guided]``.

Where inputs are guided by the lines that they reach, the code under test is imported under instrumentation: nothing of it
may be imported before.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

TALLY_SECONDS = 2.0


def main() -> None:
    """Try inputs until the time is over; the tally is a file in the folder."""
    name, folder, seconds, seed = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    if sys.argv[5:] == ["guided"]:
        import atheris

        with atheris.instrument_imports(include=["dsenv"]):
            pass
    from benchmarks.fuzz.surface import Tally, draw_until, edits, limit_memory, watch_time
    from benchmarks.fuzz.surfaces import all_surfaces

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    surface = next(found for found in all_surfaces(folder) if found.name == name)
    tally, written = Tally(), 0.0

    def keep(*, now: bool = False) -> None:
        nonlocal written
        if now or time.monotonic() - written > TALLY_SECONDS:
            temporary = folder / "tally.tmp"
            temporary.write_text(json.dumps(tally.to_json()), encoding="utf-8")
            temporary.replace(folder / "tally.json")
            written = time.monotonic()

    watch_time()
    limit_memory()
    if sys.argv[5:] != ["guided"]:
        draw_until(surface, tally, seconds, seed, keep)
        keep(now=True)
        return
    assert surface.seeds is not None
    corpus = folder / "corpus"
    corpus.mkdir()
    genuine = surface.seeds()
    for number, data in enumerate(genuine):
        (corpus / str(number)).write_bytes(data)
    until = time.monotonic() + seconds
    near = edits(genuine, sys.maxsize, seed)

    def one(data: bytes) -> None:
        tally.attempt(surface, data)
        tally.attempt(surface, next(near))  # guided inputs gather around what is refused
        keep()
        if time.monotonic() > until:
            keep(now=True)
            os._exit(0)  # libFuzzer has no other end that runs Python

    longest = 2 * max(map(len, genuine)) + 256
    options = [f"-seed={seed + 1}", f"-max_len={longest}", "-len_control=0", "-timeout=0", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
