"""Silent failures of TorchServe, each met on a real one (see :mod:`traps`)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.traps import Trap

if TYPE_CHECKING:
    from labs.lab4_model_serving.torchserve import TorchServe


def ping_needs_a_token() -> Trap:
    """A health check that asks /ping as every tutorial says."""
    import httpx

    from labs.lab4_model_serving.health import probe

    with _identity_server(batch_sizes={"1.0": 1}, max_batch_delay_ms=1) as server:
        bare = httpx.get(f"{server.url}/ping", trust_env=False)
        found = probe(server.url, server.headers)
    return Trap(
        "With token authorization on, /ping answers 400 to a probe without a token",
        wrong=("GET /ping", f"{bare.status_code}, so the orchestrator restarts a healthy server"),
        right=("health.probe with the token", f"alive {found.alive}, ready {found.ready}"),
        why=(
            "The status is 400 and not 401, so it reads like a broken server; an expired token "
            "does the same to a server that ran for an hour. Ask two questions: whatever answers "
            "is alive, and ready is what answers the probe that carries the token."
        ),
    )


def the_launcher_orphans_the_jvm() -> Trap:
    """`torchserve --start` as its manual says, from a service manager that then stops it."""
    import sys

    import psutil

    from common.ports import LOOPBACK
    from common.process import supervised
    from labs.lab4_model_serving.torchserve_config import choose_ports, environment

    ports = choose_ports(None)
    with tempfile.TemporaryDirectory(prefix="trap-", dir="/tmp") as temporary:
        folder = Path(temporary)
        config = folder / "config.properties"
        addresses = ("inference", "management", "metrics")
        config.write_text(
            "".join(f"{n}_address=http://{LOOPBACK}:{getattr(ports, n)}\n" for n in addresses)
            + f"grpc_inference_port={ports.grpc_inference}\n"
            + f"grpc_management_port={ports.grpc_management}\n"
        )
        launch = [sys.executable, "-m", "ts.model_server", "--start", "--ncs"]
        launch += ["--model-store", str(folder), "--ts-config", str(config)]
        # The launcher ends by itself; what it leaves ends with the guard, and so with this block.
        waiting = (
            "import subprocess, sys, time;"
            "print(subprocess.run(sys.argv[1:]).returncode, flush=True); time.sleep(60)"
        )
        env = environment(folder, {"TEMP": temporary})
        command = [sys.executable, "-c", waiting, *launch]
        with supervised(command, env=env, cwd=folder, name="launcher") as child:
            for line in child.output:
                if line.strip().isdigit():
                    break
            below = psutil.Process(child.pid).children(recursive=True)
            left = [p for p in below if "java" in p.name()]
            launchers = [p for p in below if "ts.model_server" in " ".join(p.cmdline()[:3])]
        gone = sum(process.is_running() for process in left)
    return Trap(
        "TorchServe's launcher starts a JVM and ends: what you stop is not what serves",
        wrong=("after its launcher ended", f"{len(launchers)} launchers, {len(left)} JVM serving"),
        right=("JVM under a guard, after the block", f"{gone} processes"),
        why=(
            "A service manager that watches the launcher sees it end, reports success or starts "
            "another one, and the port is taken. A kill of the launcher's pid reaches nobody. Run "
            "the JVM itself in the foreground (here under common.process.supervised, in a "
            "container as its only process), so that stopping, and dying, mean something."
        ),
    )


@contextmanager
def _identity_server(
    *, batch_sizes: dict[str, int], max_batch_delay_ms: int
) -> Iterator[TorchServe]:
    """TorchServe with a two-number model, a version for each batch size."""
    import torch

    from labs.lab4_model_serving import tensor_handler
    from labs.lab4_model_serving.archive import build_archive
    from labs.lab4_model_serving.export import export_onnx
    from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

    with tempfile.TemporaryDirectory(prefix="trap-") as temporary:
        folder = Path(temporary)
        onnx = export_onnx(
            torch.nn.Linear(2, 2),
            {"x": torch.zeros(2, 2)},
            folder / "model.onnx",
            output_names=["y"],
            dynamic={"x": {0: "batch"}},
        )
        handler, store = Path(tensor_handler.__file__), folder / "store"
        specs = [
            ModelSpec(
                "linear",
                build_archive("linear", version, handler, [onnx], store),
                version,
                batch_size=size,
                max_batch_delay_ms=max_batch_delay_ms,
                default=version == "1.0",
            )
            for version, size in batch_sizes.items()
        ]
        with torchserve(store, specs, folder=folder) as server:
            yield server
