"""Run a function on two gloo ranks, and hand its answers to the tests."""

from __future__ import annotations

import inspect
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.ports import free_port
from common.process import supervised
from tests.fork_server import forked

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, os, sys, traceback
sys.path.insert(0, {root!r})
{source}
if __name__ == "__main__":
    from labs.lab1_fsdp_advanced.distributed import process_group
    with process_group("cpu") as ranks:
        try:
            answer = {name}(ranks, *sys.argv[2:])
        except BaseException as error:
            traceback.print_exc()
            answer = {{"error": f"{{type(error).__name__}}: {{error}}"}}
            try:  # the first to fail says why; the others have only lost it
                with open(sys.argv[1] + ".error", "x") as stream:
                    json.dump(answer, stream)
            except FileExistsError:
                pass
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        if ranks.is_main:
            with open(sys.argv[1], "w") as stream:
                json.dump(answer, stream)
    from labs.lab1_fsdp_advanced.distributed import leave
    leave()
"""


class Answers:
    """What the ranks measured. A failure on a rank fails the tests that read an answer."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        if "error" in self._values:
            pytest.fail(f"a rank failed with {self._values['error']}", pytrace=False)
        return self._values[name]


def start(
    function: Callable[[Any], dict[str, Any]],
    folder: Path,
    *,
    server: Path | None,
    procs: int,
    arguments: tuple[str, ...] = (),
    timeout: float = 60,
) -> Answers:
    """Run ``function(ranks, *arguments)`` on ``procs`` ranks: rank 0's answer, or a rank's error.

    The function's source is copied into a script, so it must import what it uses. The ranks are
    started as torchrun would, without its launcher, which takes as long as a rank itself; and they
    are forks of a Python that has torch imported, unless there is no ``server``.
    """
    name = f"{function.__name__}-{len(list(folder.iterdir()))}"
    script, output = folder / f"{name}.py", folder / f"{name}.json"
    source = textwrap.dedent(inspect.getsource(function))
    script.write_text(SCRIPT.format(root=str(ROOT), source=source, name=function.__name__))
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env |= {"WORLD_SIZE": str(procs), "LOCAL_WORLD_SIZE": str(procs)}
    log = folder / f"{name}.log"
    command = [str(script), str(output), *arguments]
    with ExitStack() as stack:
        ranks = []
        for rank in map(str, range(procs)):
            own = env | {"RANK": rank, "LOCAL_RANK": rank}
            started = (
                forked(command, server=server, log=log, env=own, cwd=Path.cwd(), grace_s=0)
                if server
                else supervised([sys.executable, *command], log=log, env=own, grace_s=0)
            )
            ranks.append(stack.enter_context(started))
        deadline = time.monotonic() + timeout
        while any(rank.poll() is None for rank in ranks):
            # A rank that failed leaves the others in a collective that never ends.
            if any(rank.poll() for rank in ranks) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
    if (error := Path(f"{output}.error")).exists():
        return Answers(json.loads(error.read_text()))
    if not output.exists():
        return Answers({"error": f"no answer within {timeout:.0f} s: {log.read_text()[-2000:]}"})
    return Answers(json.loads(output.read_text()))


@pytest.fixture(scope="module")
def on_ranks(
    tmp_path_factory: pytest.TempPathFactory, server: Path | None
) -> Callable[..., Answers]:
    """``on_ranks(function, *arguments, procs=2, timeout=60)``: see :func:`start`."""
    folder = tmp_path_factory.mktemp("ranks")

    def run(
        function: Callable[..., dict[str, Any]],
        *arguments: object,
        procs: int = 2,
        timeout: float = 60,
    ) -> Answers:
        given = tuple(map(str, arguments))
        return start(function, folder, server=server, procs=procs, arguments=given, timeout=timeout)

    return run
