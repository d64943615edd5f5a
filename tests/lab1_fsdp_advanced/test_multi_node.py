"""Two nodes train as one process does, and what crosses between them is what the formula says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.errors import InputError, RunError
from labs.lab1_fsdp_advanced import multi_node
from labs.lab1_fsdp_advanced.model import Shape
from labs.lab1_fsdp_advanced.multi_node import (
    Node,
    compare,
    launch_nodes,
    missing_privilege,
    table,
    two_nodes,
)
from labs.lab1_fsdp_advanced.multi_node_worker import STEPS, crossing
from labs.lab1_fsdp_advanced.sharding import Strategy

ROOT = Path(__file__).resolve().parents[2]
Found = dict[str, list[dict[str, Any]]]
LAYOUTS = ["2 x 1", "2 x 2"]
STRATEGIES = ["FULL_SHARD", "HYBRID_SHARD"]


def namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name.startswith("lab1-")]


def mine() -> list[str]:
    return [name for name in namespaces() if name.startswith(f"lab1-{os.getpid()}-")]


@pytest.fixture(scope="module")
def privilege() -> None:
    if reason := missing_privilege():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def found(privilege: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    yield compare(tmp_path_factory.mktemp("nodes"))
    assert mine() == []


def job(found: Found, layout: str, strategy: str, micro_batches: int = 1) -> dict[str, Any]:
    wanted = (strategy, micro_batches)
    jobs = {(each["strategy"], each["micro_batches"]): each for each in found[layout]}
    return jobs[wanted]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_two_nodes_lose_as_much_as_one_process(
    found: Found, layout: str, strategy: str, micro_batches: int
) -> None:
    """Where the ranks are must not change what they learn.

    The norms as well: Adam and clipping hide a gradient that is too large by a constant factor.
    """
    alone = job(found, "1", "FULL_SHARD", micro_batches)
    assert len(alone["losses"]) == STEPS
    assert alone["losses"][-1] < alone["losses"][0] - 0.1, (
        "a model that does not learn proves nothing"
    )
    there = job(found, layout, strategy, micro_batches)
    assert there["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert there["norms"] == pytest.approx(alone["norms"], rel=1e-4)


@pytest.mark.slow
def test_hybrid_shards_inside_a_node_and_replicates_across(found: Found) -> None:
    """A row is a shard group; a row over two nodes would gather weights through the network."""
    assert job(found, "2 x 2", "HYBRID_SHARD")["ranks"] == [[0, 1], [2, 3]]
    assert job(found, "2 x 1", "HYBRID_SHARD")["ranks"] == [[0], [1]]
    assert job(found, "2 x 2", "FULL_SHARD")["ranks"] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_the_bytes_on_the_cable_are_those_of_the_formula(
    found: Found, layout: str, strategy: str, micro_batches: int
) -> None:
    """Never fewer; a few per cent more are headers, acknowledgements, the loss and the norm."""
    measured = job(found, layout, strategy, micro_batches)
    ratio = measured["crossed"] / measured["formula"]
    assert 1.0 <= ratio < 1.1, f"{measured['crossed']:.0f} for {measured['formula']:.0f} bytes"


@pytest.mark.slow
def test_accumulation_costs_the_network_nothing_under_hybrid(found: Found) -> None:
    """FULL_SHARD gathers every micro-batch through the network. This is why HYBRID exists."""
    one, four = (job(found, "2 x 2", "HYBRID_SHARD", count)["crossed"] for count in (1, 4))
    assert four == pytest.approx(one, rel=0.05)
    assert job(found, "2 x 2", "FULL_SHARD", 4)["crossed"] > 5 * four


@pytest.mark.slow
def test_the_table_shows_every_job(found: Found) -> None:
    lines = table(found).splitlines()
    assert len(lines) == 2 + sum(map(len, found.values()))
    assert sum("HYBRID_SHARD" in line for line in lines) == 4


def test_the_formula_counts_gathers_and_scatters() -> None:
    shape = Shape(64, 2, 4, 32, 256, kv_heads=2)
    whole, root = 4 * shape.parameters, 4 * (2 * 256 * 64 + 64)
    blocks = whole - root

    def bytes_of(strategy: Strategy, **given: int) -> float:
        counts = {"nodes": 2, "procs": 2, "micro_batches": 1} | given
        return crossing(shape, strategy, **counts)

    assert bytes_of(Strategy.FULL_SHARD) == 1.5 * (3 * blocks + 2 * root)
    assert bytes_of(Strategy.FULL_SHARD, scatter=2) == 1.5 * (4 * blocks + 3 * root)
    assert bytes_of(Strategy.FULL_SHARD, micro_batches=3) == 1.5 * (7 * blocks + 4 * root)
    assert bytes_of(Strategy.HYBRID_SHARD, micro_batches=3, procs=8) == 2 * whole
    assert bytes_of(Strategy.FULL_SHARD, nodes=1) == 0
    with pytest.raises(InputError, match="must be FULL_SHARD or HYBRID_SHARD"):
        bytes_of(Strategy.NO_SHARD)


@pytest.mark.slow
def test_a_failing_rank_is_named_with_its_node_and_the_other_node_ends(
    privilege: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first node waits for the second; it must not wait for ever, nor take the blame."""
    (tmp_path / "faulty_node.py").write_text(
        textwrap.dedent("""
        import torch, torch.distributed as dist
        dist.init_process_group("gloo")
        if dist.get_rank() == 1:
            raise ValueError("no rows left for this rank")
        dist.all_reduce(torch.ones(1))
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with two_nodes() as nodes, pytest.raises(RunError) as failure:
        launch_nodes("faulty_node", nodes=nodes, log_folder=tmp_path)
    assert str(failure.value) == (
        "faulty_node failed on 2 nodes x 1: node 1, rank 1: ValueError: no rows left for this rank "
        f"(log: {tmp_path / 'node-1.log'})"
    )
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [words for words in commands if words[-2:] == ["-m", "faulty_node"]]
    assert mine() == []


def test_a_failing_block_removes_the_namespaces(privilege: None) -> None:
    with pytest.raises(KeyboardInterrupt), two_nodes() as nodes:
        assert set(mine()) == {node.namespace for node in nodes}
        raise KeyboardInterrupt
    assert mine() == []


def test_only_the_cable_joins_the_nodes(privilege: None) -> None:
    with two_nodes() as (first, second):
        for here, there in ((first, second), (second, first)):
            listed = subprocess.run(
                here.inside(["ip", "-o", "route", "get", there.address]),
                capture_output=True,
                text=True,
                check=True,
            )
            assert f"dev {multi_node.INTERFACE}" in listed.stdout
            outside = here.inside(["ip", "route", "get", "192.0.2.1"])
            assert subprocess.run(outside, capture_output=True, check=False).returncode != 0


def test_what_a_killed_process_left_is_removed_by_the_next(privilege: None) -> None:
    script = """
        import time
        from labs.lab1_fsdp_advanced.multi_node import two_nodes
        with two_nodes():
            print("up", flush=True)
            time.sleep(60)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    stale = {name for name in namespaces() if f"-{child.pid}-" in name}
    assert len(stale) == 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with two_nodes():
        assert not stale & set(namespaces())


def test_without_root_the_reason_and_the_fix_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_node.shutil, "which", lambda _: "/sbin/ip")
    monkeypatch.setattr(multi_node.os, "geteuid", lambda: 1000)
    assert missing_privilege() == "network namespaces need root, and this is user 1000; use sudo"


def test_without_ip_the_program_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multi_node.shutil, "which", lambda _: None)
    assert multi_node.main() == 2
    assert "install the package iproute2" in capsys.readouterr().err


def test_a_node_without_ranks_is_refused(tmp_path: Path) -> None:
    nodes = [Node(0, "none", "10.211.0.1")]
    with pytest.raises(InputError, match="procs_per_node = 0 must be > 0"):
        launch_nodes("any", nodes=nodes, procs_per_node=0, log_folder=tmp_path)
