"""Silent failures of load tests and model servers: python -m labs.lab4_model_serving.traps."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.traps import Trap, show

if TYPE_CHECKING:
    from labs.lab4_model_serving.load_generator import Send
    from labs.lab4_model_serving.torchserve import TorchServe


def coordinated_omission() -> Trap:
    """A server stalls once for half a second; two load tests look at it."""
    import numpy as np

    from labs.lab4_model_serving.load_generator import run_closed_loop, run_open_loop

    def stalling_server() -> Send:
        # Answers in 2 ms, but answers nobody between 0.5 s and 1.0 s.
        started: list[float] = []

        async def send(i: int) -> None:
            loop = asyncio.get_running_loop()
            now = loop.time()
            started[:] = started or [now]
            stalled = 0.5 <= now - started[0] < 1.0
            await asyncio.sleep(started[0] + 1.0 - now if stalled else 0.002)

        return send

    closed = asyncio.run(run_closed_loop(stalling_server(), 1000, clients=2))
    opened = asyncio.run(run_open_loop(stalling_server(), np.arange(0, 2, 0.005)))
    return Trap(
        "A closed loop stops asking while the server stalls",
        wrong=("p99, 2 clients in a closed loop", f"{closed.summary.p99_ms:.0f} ms"),
        right=("p99, 200/s in an open loop", f"{opened.summary.p99_ms:.0f} ms"),
        why=(
            "Both saw the same stall of 500 ms. In the closed loop it hit one request a client: "
            f"{int((closed.latencies > 0.1).sum())} slow ones of {closed.n}. In the open loop it "
            f"hit everyone who came during it: {int((opened.latencies > 0.1).sum())} of {opened.n}."
        ),
    )


def ping_needs_a_token() -> Trap:
    """A health check that asks /ping as every tutorial says."""
    import httpx

    with _identity_server(batch_size=1, max_batch_delay_ms=1) as server:
        bare = httpx.get(f"{server.url}/ping", trust_env=False)
        allowed = httpx.get(f"{server.url}/ping", headers=server.headers, trust_env=False)
    return Trap(
        "With token authorization on, /ping answers 400 to a probe without a token",
        wrong=("GET /ping", f"{bare.status_code}, so the orchestrator restarts a healthy server"),
        right=("GET /ping with the token", f"{allowed.status_code} {allowed.json()['status']}"),
        why=(
            "The status is 400 and not 401, so it reads like a broken server. /metrics asks for no "
            "token: keep that port away from the outside. Give the probe the token, or probe TCP."
        ),
    )


def batch_delay_is_paid_when_traffic_is_low() -> Trap:
    """The same model and one client; only the batch settings differ."""
    with _identity_server(batch_size=4, max_batch_delay_ms=50) as server:
        waiting = _sequential_p50(server)
    with _identity_server(batch_size=1, max_batch_delay_ms=50) as server:
        direct = _sequential_p50(server)
    return Trap(
        "A batch delay is added to every request that finds no company",
        wrong=("p50 of one client, batch_size 4, delay 50 ms", f"{waiting:.1f} ms"),
        right=("p50 of one client, batch_size 1", f"{direct:.1f} ms"),
        why=(
            "The first request of a batch waits until the batch is full or the delay is over. At "
            "low traffic it is never full. Choose the delay from the latency budget, a few "
            "milliseconds, and measure at the lowest rate as well as at the highest."
        ),
    )


@contextmanager
def _identity_server(*, batch_size: int, max_batch_delay_ms: int) -> Iterator[TorchServe]:
    """TorchServe with a two-number model."""
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
        handler = Path(tensor_handler.__file__)
        archive = build_archive("linear", "1.0", handler, [onnx], folder / "store")
        spec = ModelSpec(
            "linear", archive, batch_size=batch_size, max_batch_delay_ms=max_batch_delay_ms
        )
        with torchserve(folder / "store", [spec], folder=folder) as server:
            yield server


def _sequential_p50(server: TorchServe, requests: int = 30) -> float:
    import time

    payload = {"inputs": {"x": [[1.0, 2.0]]}}
    seconds = []
    for _ in range(requests + 5):
        start = time.perf_counter()
        server.predict("linear", payload)
        seconds.append(time.perf_counter() - start)
    return 1000 * sorted(seconds[5:])[requests // 2]


TRAPS = (coordinated_omission, ping_needs_a_token, batch_delay_is_paid_when_traffic_is_low)

if __name__ == "__main__":
    show(TRAPS)
