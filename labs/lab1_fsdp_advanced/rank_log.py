"""Logs of many ranks: one file each, the rank in every line, the main rank on the console.

``print`` from eight ranks is a page on which nobody can tell who said what. A file a rank can be
read alone, or merged by time: ``sort -m rank-*.log``.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORMAT = "%(asctime)s.%(msecs)03d [rank {rank}/{world}] %(levelname)s %(name)s: %(message)s"


@contextmanager
def rank_log(
    folder: Path, rank: int, world: int, *, level: int = logging.INFO
) -> Iterator[logging.Logger]:
    """Send the root logger's records to ``folder/rank-N.log`` for the length of a block.

    Rank 0's records go to standard error as well, and so do every rank's from ``ERROR`` up.
    Warnings, and exceptions that nobody catches, of this thread and of all others, are records too:
    a rank that dies in its data loader's thread says so in its own file.

    Parameters
    ----------
    level
        Records below it are dropped.

    Yields
    ------
    logging.Logger
        The logger ``"rank"``; those of other modules work as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(folder / f"rank-{rank}.log", encoding="utf-8")
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(level if rank == 0 else logging.ERROR)
    # ISO time first, so that the files of the ranks can be merged by sorting.
    form = FORMAT.format(rank=rank, world=world)
    formatter = logging.Formatter(form, datefmt="%Y-%m-%dT%H:%M:%S")
    root = logging.getLogger()
    before, hook = root.level, threading.excepthook
    for handler in (file, console):
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    logger = logging.getLogger("rank")

    def in_thread(failed: threading.ExceptHookArgs) -> None:
        trace = (failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
        name = failed.thread.name if failed.thread else "unknown"
        logger.critical("uncaught in thread %s", name, exc_info=trace)

    threading.excepthook = in_thread
    try:
        yield logger
    except Exception:
        logger.critical("uncaught", exc_info=True)
        raise
    finally:
        threading.excepthook = hook
        logging.captureWarnings(False)
        root.setLevel(before)
        for handler in (file, console):
            root.removeHandler(handler)
            handler.close()
