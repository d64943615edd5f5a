"""Start a module on several ranks with torchrun, the same way on CPUs and GPUs."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import RunError
from common.process import supervised

ROOT = Path(__file__).resolve().parent.parent


def torchrun(
    module: str,
    args: Sequence[str] = (),
    *,
    procs: int,
    device: str,
    log: Path,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run ``python -m module args`` on ``procs`` ranks of this host and wait.

    Parameters
    ----------
    procs
        Ranks. On CPU the cores are shared out between them (``OMP_NUM_THREADS``).
    device
        ``"cpu"`` or ``"cuda"``; on CPU the ranks see no GPU.
    log
        File that receives everything the ranks print.
    on_line
        Called with each line the ranks print, as it comes.

    Raises
    ------
    RunError
        When a rank fails: with the failing rank's error and the log's path.
    """
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // procs)),
    }
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(procs), "--max-restarts", "0", "-m", module, *args]
    recent: deque[str] = deque(maxlen=400)
    with (
        log.open("a", encoding="utf-8") as stream,
        supervised(command, env=env, name=f"torchrun {module}") as child,
    ):
        for line in child.output:
            stream.write(line)
            recent.append(line.rstrip())
            if on_line:
                on_line(line.rstrip())
        status = child.wait()
    if status != 0:
        raise RunError(f"{module} failed on {procs} ranks: {_cause(recent)} (log: {log})")


def _cause(lines: Sequence[str]) -> str:
    """The first rank's exception in torchrun's output, else its last lines."""
    for line in lines:
        if found := re.match(r"\[rank(\d+)\]: (\w[\w.]*(?:Error|Exception|Interrupt)\b.*)", line):
            return f"rank {found[1]}: {found[2]}"
    return " | ".join(list(lines)[-3:]) or "no output"
