"""Train over two nodes, with two network namespaces of this machine in their place.

Each namespace has its own interfaces, addresses and ports; a pair of virtual interfaces (veth) is
the only cable between them. Whatever the ranks of one node tell those of the other goes through it
and is counted there. Launcher, rendezvous and backend are a real cluster's; the speed is not.

``python -m labs.lab1_fsdp_advanced.multi_node`` compares FULL_SHARD and HYBRID_SHARD on 2 x 1 and
2 x 2 ranks with one process. It needs Linux, root and ``ip`` (package iproute2).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import EXIT_OK, InputError, RunError, exit_status, require
from common.launch import LOST_PEER, cause, command, environment, scratch_folder, torchrun
from common.process import Child, supervised

INTERFACE = "eth0"
PORT = 29500  # torchrun's usual one; a namespace's ports are its own
ADDRESSES = ("10.211.0.1", "10.211.0.2")
NAMED = re.compile(r"lab1-(\d+)-\d+-\d")
WORKER = "labs.lab1_fsdp_advanced.multi_node_worker"
CONSEQUENCE = re.compile(rf"{LOST_PEER.pattern}|Rendezvous\w*Error|Dist\w*Error|SIGTERM")
GRACE_S = 5.0
"""How long the other nodes may take to end by themselves once one has failed."""

_numbers = itertools.count()


@dataclass(frozen=True)
class Node:
    """A network namespace that plays a host, and its address on the cable."""

    number: int
    namespace: str
    address: str

    def inside(self, arguments: Sequence[str]) -> list[str]:
        """The command that runs ``arguments`` on this node."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two namespaces and the cable between them, removed on every way out.

    A process that was killed cannot clean up. The names carry its id, so the next one does.

    Raises
    ------
    InputError
        When this machine or this user cannot make them, with the reason and the fix.
    """
    if sys.platform != "linux":
        raise InputError(f"network namespaces need Linux, and this is {sys.platform}")
    if shutil.which("ip") is None:
        raise InputError("network namespaces need the command ip; install the package iproute2")
    if os.geteuid() != 0:
        raise InputError(f"network namespaces need root, and this is user {os.geteuid()}; use sudo")
    _remove_stale()
    prefix = f"lab1-{os.getpid()}-{next(_numbers)}"
    first, second = (Node(i, f"{prefix}-{i}", address) for i, address in enumerate(ADDRESSES))
    with ExitStack() as made:
        for node in (first, second):
            made.callback(_remove, node.namespace)  # first: it may be there half when _ip fails
            _ip("netns", "add", node.namespace)
        # Both ends are born inside: nothing appears in this machine's own list of interfaces, and
        # the cable goes when the first of its namespaces does.
        end = ("name", INTERFACE, "netns")
        _ip("link", "add", *end, first.namespace, "type", "veth", "peer", *end, second.namespace)
        for node in (first, second):
            _ip("-n", node.namespace, "address", "add", f"{node.address}/30", "dev", INTERFACE)
            for name in ("lo", INTERFACE):
                _ip(*node.inside(["ip", "link", "set", name, "up"])[1:])
        yield first, second


def missing_privilege() -> str | None:
    """Why :func:`two_nodes` cannot work here, or None: found by trying."""
    try:
        with two_nodes():
            return None
    except InputError as error:
        return str(error)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise InputError(
            f"ip {' '.join(arguments)}: {said}; in a container, network namespaces take "
            "--cap-add SYS_ADMIN --cap-add NET_ADMIN"
        )
    return done.stdout


def _remove(namespace: str) -> None:
    if (Path("/run/netns") / namespace).exists():
        subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _remove_stale() -> None:
    for name in _ip("netns", "list").split():
        if (found := NAMED.fullmatch(name)) and not Path(f"/proc/{found[1]}").exists():
            _remove(name)


def launch_nodes(
    module: str,
    args: Sequence[str] = (),
    *,
    nodes: Sequence[Node],
    procs_per_node: int = 1,
    device: str = "cpu",
    log_folder: Path,
) -> None:
    """Run ``python -m module args`` on every node under its own torchrun, and wait for all.

    What a scheduler does on a cluster: the same command on each host, and the agents meet at the
    first host's address. That host keeps the rendezvous (``is_host``; torchrun would ask a resolver
    whether the address is its own). With the c10d rendezvous ``--node-rank`` is ignored: nodes are
    numbered in the order of their addresses, so the first node has rank 0 here.

    Parameters
    ----------
    nodes
        In the order of their addresses.
    log_folder
        Receives ``node-<number>.log``: everything that the ranks of the node print.

    Raises
    ------
    RunError
        When a rank fails, with node, rank, error and log. The other nodes end, too.
    """
    require(procs_per_node > 0, "procs_per_node", procs_per_node, "must be > 0", "try 1")
    env = environment(procs=procs_per_node * len(nodes), device=device, interface=INTERFACE)
    ended: dict[int, int] = {}
    logs = [log_folder / f"node-{node.number}.log" for node in nodes]
    with ExitStack() as running:
        children: list[Child] = []
        for node, log in zip(nodes, logs, strict=True):
            files = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="torchrun-")))
            started = command(
                module,
                args,
                procs=procs_per_node,
                nodes=len(nodes),
                address=node.address,
                endpoint=f"{nodes[0].address}:{PORT}",
                conf=f"is_host={int(node is nodes[0])}",
                log_dir=files,
            )
            name = f"torchrun {module} on node {node.number}"
            children.append(
                running.enter_context(supervised(node.inside(started), env=env, log=log, name=name))
            )
        deadline = None
        while len(ended) < len(children) and (deadline is None or time.monotonic() < deadline):
            for index, child in enumerate(children):
                status = child.poll()
                if status is not None and index not in ended:
                    ended[index] = status  # in the order in which they end
                    if status != 0 and deadline is None:
                        deadline = time.monotonic() + GRACE_S
            time.sleep(0.05)
    failed = [index for index, status in ended.items() if status != 0]
    if not failed:
        return
    # The node that lost its peer often ends first; the one to name is the one with a cause.
    causes = {index: cause(logs[index].read_text("utf-8").splitlines()) for index in failed}
    guilty = min(failed, key=lambda index: bool(CONSEQUENCE.search(causes[index])))
    raise RunError(
        f"{module} failed on {len(nodes)} nodes x {procs_per_node}: node {nodes[guilty].number}, "
        f"{causes[guilty]} (log: {logs[guilty]})"
    )


def compare(folder: Path, layouts: Sequence[int] = (1, 2)) -> dict[str, list[dict[str, Any]]]:
    """Train on one process and on 2 x n ranks for each n of ``layouts``.

    Returns
    -------
    dict
        Layout ("1", "2 x 1", ...) -> what ``multi_node_worker.measure`` found of each job.
    """
    found = {}
    with two_nodes() as nodes:
        output = folder / "one.json"
        torchrun(WORKER, [str(output)], procs=1, device="cpu", log=folder / "one.log")
        found["1"] = json.loads(output.read_text(encoding="utf-8"))
        for procs in layouts:
            output = folder / f"2x{procs}.json"
            args = [str(output), INTERFACE]
            launch_nodes(WORKER, args, nodes=nodes, procs_per_node=procs, log_folder=folder)
            found[f"2 x {procs}"] = json.loads(output.read_text(encoding="utf-8"))
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line a job: losses beside one process, and bytes on the cable beside the formula."""
    lines = [
        "nodes                    replicas   micro-    last   difference from   kB on the cable",
        "x ranks  strategy        x shards  batches    loss       one process   found  formula",
    ]
    alone = {job["micro_batches"]: job["losses"] for job in found["1"]}
    for layout, jobs in found.items():
        for job in jobs:
            losses = job["losses"]
            away = max(abs(a - b) for a, b in zip(losses, alone[job["micro_batches"]], strict=True))
            line = f"{layout:8} {job['strategy']:14} {' x '.join(map(str, job['mesh'])):>9}"
            line += f" {job['micro_batches']:8}  {losses[-1]:.4f} {away:17.1e}"
            if "crossed" in job:
                line += f" {job['crossed'] / 1e3:7.0f} {job['formula'] / 1e3:8.0f}"
            lines.append(line)
    return "\n".join(lines)


def main() -> int:
    def show() -> int:
        with scratch_folder("two-nodes-") as folder:
            print(table(compare(folder)))
        return EXIT_OK

    return exit_status(show)


if __name__ == "__main__":
    sys.exit(main())
