"""A Ray cluster for the length of a block: the one of ``RAY_ADDRESS``, or a private local one.

Ray is imported here and nowhere else, and only when a cluster is asked for.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError

MIB = 2**20
LEAST_OBJECT_STORE = 80 * MIB  # Ray's own limit is 75 MiB
# "0" makes Ray take 127.0.0.1 for its own address, on Linux too, and bind its servers to that.
LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def ray_cluster(*, cpus: int, object_store_bytes: int = LEAST_OBJECT_STORE) -> Iterator[Any]:
    """The module ``ray``, connected; what was started for it is gone after the block.

    With ``RAY_ADDRESS`` set, that cluster is used, its nodes get the code of this repository, and
    only the connection ends with the block. A local cluster listens on 127.0.0.1 alone, wants a
    token on every call, has no dashboard and reports no usage. Inside another block, or where Ray
    is connected already, that connection is used and left as it is.

    Parameters
    ----------
    cpus
        Cores that a local cluster lends out, or that a given one must have.
    object_store_bytes
        Shared memory of a local cluster, for what is sent to actors.

    Raises
    ------
    InputError
        When the cluster of ``RAY_ADDRESS`` does not answer or is too small.
    RunError
        When Ray was imported before with settings that would open a local cluster to the network.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    connect = _given(ray, address, cpus) if address else _local(ray, cpus, object_store_bytes)
    with connect:
        yield ray


@contextmanager
def _given(ray: Any, address: str, cpus: int) -> Iterator[None]:
    code = {"py_modules": [str(ROOT / "common"), str(ROOT / "labs")]}
    try:
        try:
            ray.init(
                address=address, runtime_env=code, log_to_driver=False,
                logging_level=logging.ERROR,
            )  # fmt: skip
        except ConnectionError as error:
            raise InputError(
                f"RAY_ADDRESS = {address!r}: no cluster answers there ({error}); start one with "
                "`ray start --head`, or unset it for a local one"
            ) from error
        there = ray.cluster_resources().get("CPU", 0)
        if there < cpus:
            raise InputError(
                f"the cluster at {address} has {there:g} CPUs, {cpus} are needed; use fewer "
                "shards or threads, or add a node"
            )
        yield
    finally:
        ray.shutdown()


@contextmanager
def _local(ray: Any, cpus: int, object_store_bytes: int) -> Iterator[None]:
    # The names of sockets below it may not exceed 107 bytes: TMPDIR can be too long for that.
    folder = tempfile.mkdtemp(prefix="labs-ray-", dir="/tmp")
    try:
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=max(object_store_bytes, LEAST_OBJECT_STORE),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
            yield
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ray() -> Any:
    """Import Ray, which reads its settings once: from the environment, when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not os.environ.get("RAY_ADDRESS"):
        if "ray" in sys.modules and os.environ.get(LOOPBACK_ONLY) != "0":
            raise RunError(
                "ray was imported before, by something else: a cluster started now would listen on "
                f"every network without a token; set {LOOPBACK_ONLY}=0 and RAY_AUTH_MODE=token "
                "before it is imported"
            )
        os.environ.setdefault(LOOPBACK_ONLY, "0")
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    return ray
