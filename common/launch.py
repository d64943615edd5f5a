"""Start a module on several ranks with torchrun, the same way on CPUs and GPUs."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import RunError
from common.ports import LOOPBACK
from common.process import supervised

ROOT = Path(__file__).resolve().parent.parent
EXCEPTION = r"(\w[\w.]*(?:Error|Exception|Interrupt)\b.*)"
RANK_ERROR = re.compile(rf"\[rank(\d+)\]: {EXCEPTION}")
EARLY_ERROR = re.compile(rf"{EXCEPTION}|.*: (?=No module named )(.*)")
LOST_PEER = re.compile(r"(?:closed|reset) by peer|Connection (?:refused|was likely closed)")
ROOT_CAUSE = re.compile(
    r"Root Cause.*?rank +: (?P<rank>\d+).*?exitcode +: (?P<status>-?\d+) "
    r"\(pid: \d+\)[^\S\n]*(?:\((?P<signal>SIG\w+)\))?",
    re.DOTALL,
)


def torchrun(
    module: str,
    args: Sequence[str] = (),
    *,
    procs: int,
    device: str,
    log: Path,
    on_line: Callable[[str], None] | None = None,
    max_restarts: int = 0,
    variables: Mapping[str, str] | None = None,
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
        Called with each line the ranks print, as it comes. Ranks share one pipe: a line stays whole
        when it is written at once, as ``print(..., flush=True)`` does on a buffered stream. (With
        ``PYTHONUNBUFFERED`` text and newline are two writes, and lines of two ranks run together.)
    max_restarts
        Times that torchrun starts all ranks again after one has failed. They then get a new store:
        torchrun would hand the second attempt the store of the first, in which the ranks find the
        addresses of dead ones (``TORCH_DISABLE_SHARE_RDZV_TCP_STORE``).
    variables
        More environment variables for the ranks.

    Raises
    ------
    RunError
        When a rank fails (once more than ``max_restarts``): with the first failing rank's error,
        signal or exit status, and the log's path.
    """
    env = environment(procs=procs, device=device) | dict(variables or {})
    if max_restarts:
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    recent: deque[str] = deque(maxlen=2000)
    with (
        tempfile.TemporaryDirectory(prefix="rendezvous-") as meeting,
        log.open("a", encoding="utf-8") as stream,
        supervised(
            command(
                module,
                args,
                procs=procs,
                endpoint=str(Path(meeting) / "store"),
                conf="store_type=file",
                log_dir=Path(meeting),
                max_restarts=max_restarts,
            ),
            env=env,
            name=f"torchrun {module}",
        ) as child,
    ):
        for line in child.output:
            stream.write(line)
            recent.append(line.rstrip())
            if on_line:
                on_line(line.rstrip())
        status = child.wait()
    if status != 0:
        raise RunError(f"{module} failed on {procs} ranks: {cause(recent)} (log: {log})")


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that only a ``RunError`` leaves behind: its message names a log in it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    keep = False
    try:
        yield folder
    except RunError:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder)


def environment(*, procs: int, device: str, interface: str = "lo") -> dict[str, str]:
    """Environment of torchrun with ``procs`` ranks on this host that talk over ``interface``.

    Parameters
    ----------
    procs, device
        See :func:`torchrun`.
    """
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // procs)),
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }
    env.pop("PYTHONUNBUFFERED", None)
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    return env


def command(
    module: str,
    args: Sequence[str],
    *,
    procs: int,
    endpoint: str,
    conf: str,
    log_dir: Path,
    nodes: int = 1,
    address: str = LOOPBACK,
    max_restarts: int = 0,
) -> list[str]:
    """torchrun for one of ``nodes`` hosts, reached by the others at ``address``.

    ``--standalone`` would look up the host's own name, which hangs where no resolver knows it, and
    would keep the rendezvous on a port open to the network; a file does as well on one host.
    ``--no-python`` because torchrun would start Python with ``-u``: see ``on_line`` above.

    Parameters
    ----------
    endpoint, conf
        Where the rendezvous is kept, and its ``--rdzv-conf``: a file, or host and port.
    log_dir
        A folder for torchrun's files, which it would leave in ``/tmp`` otherwise.
    """
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(nodes), "--nproc-per-node", str(procs)),
        *("--max-restarts", str(max_restarts), "--log-dir", str(log_dir)),
        *("--local-addr", address, "--rdzv-backend", "c10d", "--rdzv-conf", conf),
        *("--rdzv-endpoint", endpoint, "--rdzv-id", "run"),
        *("--no-python", sys.executable, "-m", module, *args),
    ]


def cause(lines: Sequence[str]) -> str:
    """What the first failing rank died of, from torchrun's output.

    The ranks that lose a failed peer raise too, often earlier than torchrun reports the failure, so
    an exception counts before a lost connection, and torchrun's root cause before that.
    """
    own: list[str] = []
    lost: list[str] = []
    for line in lines:
        if found := RANK_ERROR.match(line):
            (lost if LOST_PEER.search(line) else own).append(f"rank {found[1]}: {found[2]}")
    if own:
        return own[0]
    root = ROOT_CAUSE.search("\n".join(lines))
    rank = f"rank {root['rank']}" if root else "a rank"
    if root and root["signal"]:
        hint = " (often out of memory)" if root["signal"] == "SIGKILL" else ""
        return f"{rank}: killed by {root['signal']}{hint}"
    for said in lost:
        if said.startswith(f"{rank}: "):
            return said
    for line in lines:  # before a rank has joined the group, nothing marks its lines
        if (found := EARLY_ERROR.match(line)) and "ChildFailedError" not in line:
            return f"{rank}: {found[1] or found[2]}"
    if root:
        return f"{rank}: exit status {root['status']}"
    return lost[0] if lost else " | ".join(list(lines)[-3:]) or "no output"
