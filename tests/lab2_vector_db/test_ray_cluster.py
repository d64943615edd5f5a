import os
import signal
import subprocess
import sys

import psutil
import pytest

from common.errors import InputError
from labs.lab2_vector_db.ray_cluster import ray_cluster


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    """At once, and before Ray is asked, which tries for minutes and then ends the process."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match="no cluster answers there"), ray_cluster(cpus=1):
        pass


@pytest.mark.slow
def test_a_local_cluster_listens_on_loopback_only_and_wants_a_token():
    """What a shard holds is not for the network, and Ray runs whatever code it is sent."""
    with ray_cluster(cpus=1) as ray:
        own = {os.getpid()} | {child.pid for child in psutil.Process().children(recursive=True)}
        listening = {
            connection.laddr.ip
            for connection in psutil.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN and connection.pid in own
        }
        with ray_cluster(cpus=1) as again:
            assert again is ray
        assert ray.is_initialized(), "the inner block uses the outer one's cluster"
    assert not ray.is_initialized()
    assert listening
    assert all(ip.removeprefix("::ffff:").startswith("127.") for ip in listening), listening
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


SCRIPT = """
import sys, time
import numpy as np
from labs.lab2_vector_db import sharding
from labs.lab2_vector_db.index_types import Flat, Recipe
from labs.lab2_vector_db.partitioning import by_hash

vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
with sharding.ShardedIndex.build(vectors, Recipe(Flat()), by_hash(np.arange(100), 2)) as shards:
    print("ready", flush=True)
    if sys.argv[1] == "error":
        raise KeyError("of the caller")
    if sys.argv[1] == "stop a shard":
        import signal
        shards.signal(0, signal.SIGSTOP)
    elif sys.argv[1] == "wait":
        time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["error", "stop a shard", signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running_on_any_way_out(how, tmp_path):
    """A Ray process that outlives its run keeps its memory and its port."""
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how if isinstance(how, str) else "wait"],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
    )
    with process, log:
        children = []
        try:
            assert process.stdout.readline() == "ready\n", (tmp_path / "log").read_text()
            children = psutil.Process(process.pid).children(recursive=True)
            if not isinstance(how, str):
                process.send_signal(how)
            process.wait(20)
        finally:
            process.kill()
    assert len(children) >= 4, "two shards and Ray's own servers"
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, [child.cmdline()[:2] for child in alive]


@pytest.mark.slow
def test_shards_run_on_the_cluster_of_ray_address_and_leave_it_running():
    """The same code; the cluster is somebody else's and gets this repository's modules."""
    with ray_cluster(cpus=2) as ray:
        address = ray.get_runtime_context().gcs_address
        answer = subprocess.run(
            [sys.executable, "-c", SCRIPT, "end"],
            env={**os.environ, "RAY_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert answer.stdout == "ready\n", answer.stderr
        assert answer.returncode == 0, answer.stderr
        assert ray.get(ray.put(5)) == 5
        [node] = ray.nodes()
        assert node["Alive"]
