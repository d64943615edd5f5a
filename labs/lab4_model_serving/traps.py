"""Silent failures of model servers and load tests: python -m labs.lab4_model_serving.traps."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from common.traps import Trap, show
from labs.lab4_model_serving.torchserve_traps import (
    ping_needs_a_token,
    the_launcher_orphans_the_jvm,
)


def coordinated_omission() -> Trap:
    """A real server stalls once for half a second; two load tests look at it."""
    from labs.lab4_model_serving.closed_loop import one_stall
    from labs.lab4_model_serving.percentiles import quantile

    closed, corrected, opened = one_stall()
    slow = [int((result.latencies > 0.1).sum()) for result in (closed, opened)]
    return Trap(
        "A closed loop stops asking while the server stalls",
        wrong=("p99, 2 clients in a closed loop", f"{closed.summary.p99_ms:.0f} ms"),
        right=("p99, 350/s in an open loop", f"{opened.summary.p99_ms:.0f} ms"),
        why=(
            f"Both saw the same stall of 500 ms. In the closed loop it hit one request a client, "
            f"{slow[0]} of {closed.n}; in the open loop everyone who came during it or met the "
            f"queue it left, {slow[1]} of {opened.n}. HdrHistogram's correction puts back what "
            f"the clients did not send: {len(corrected) - closed.n} requests, and a p99 of "
            f"{1000 * quantile(corrected, 0.99):.0f} ms."
        ),
    )


def p99_of_fifty_requests() -> Trap:
    """A server that misses its SLO is load-tested 1,000 times with 50 requests, then with 3,000."""
    import numpy as np

    from labs.lab4_model_serving.percentiles import minimum_samples, percentile_interval, quantile

    rng = np.random.default_rng(0)
    over = 0.015  # of the requests take more than 50 ms; the SLO allows 0.01

    def load_test(n: int) -> np.ndarray:
        return np.where(rng.random(n) < over, rng.uniform(50, 150, n), rng.uniform(5, 50, n))

    passed = {n: np.mean([quantile(load_test(n), 0.99) < 50 for _ in range(1000)])
              for n in (50, 3000)}  # fmt: skip
    interval = percentile_interval(load_test(50), 0.99)
    return Trap(
        "The p99 of 50 requests is their maximum, and luck",
        wrong=("p99 < 50 ms in tests of 50 requests", f"{passed[50]:.0%} of them"),
        right=("p99 < 50 ms in tests of 3,000", f"{passed[3000]:.1%} of them"),
        why=(
            f"{over:.1%} of this server's requests take more than 50 ms, so its true p99 is above "
            "the limit. Of 50 requests often none is among them. The 95 % interval of such a p99 "
            f"begins at {interval.low:.0f} ms and has no end: below 368 requests there is no upper "
            f"limit, and it takes {minimum_samples(0.99)} to show a p99 at 99 % confidence."
        ),
    )


def a_session_for_every_request() -> Trap:
    """The same model and the same requests; only the place of the session differs."""
    import time

    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from labs.lab4_model_serving.ort_options import open_session

    width, layers, requests = 768, 6, 20
    rng = np.random.default_rng(0)
    weights = rng.normal(0, width**-0.5, (layers, width, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)],
        "layers",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(each, f"w{i}") for i, each in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = {"x0": rng.normal(size=(1, width)).astype(np.float32)}
    with tempfile.TemporaryDirectory(prefix="trap-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        opened = open_session(path)
        opened.run(None, x)
        start = time.perf_counter()
        for _ in range(requests):
            open_session(path).run(None, x)
        each_opens = 1000 * (time.perf_counter() - start) / requests
        start = time.perf_counter()
        for _ in range(requests):
            opened.run(None, x)
        one_for_all = 1000 * (time.perf_counter() - start) / requests
    return Trap(
        "A session opened inside the request handler",
        wrong=("a request that opens its session", f"{each_opens:.1f} ms"),
        right=("a request with the worker's session", f"{one_for_all:.2f} ms"),
        why=(
            f"The answers are the same, at {each_opens / one_for_all:.0f} times the price: opening "
            "reads the weights, optimizes the graph, packs matrices and starts threads. Open one "
            "session a worker, before the worker says that it is ready; run() may be called from "
            "several threads."
        ),
    )


def a_trace_that_froze_a_length() -> Trap:
    """A classifier that averages over its tokens, traced at 8 tokens and asked at others."""
    import warnings

    import torch

    from labs.lab4_model_serving.torchscript import script, trace

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(1000, 32)
            self.head = torch.nn.Linear(32, 20)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.words(ids).sum(dim=1) / float(ids.shape[1]))

    torch.manual_seed(0)
    model = Mean().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a TracerWarning among the others of a build's log
        traced = trace(model, [torch.randint(0, 1000, (2, 8))])
    scripted = script(model)

    def kept(module: torch.nn.Module, length: int) -> float:
        ids = torch.randint(0, 1000, (2000, length))
        with torch.no_grad():
            same = module(ids).argmax(1) == model(ids).argmax(1)
        return float(same.float().mean())

    example, other = kept(traced, 8), kept(traced, 32)
    return Trap(
        "A trace keeps the length of its example",
        wrong=("decisions kept at 32 tokens, traced at 8", f"{other:.3f}"),
        right=("decisions kept at 32 tokens, scripted", f"{kept(scripted, 32):.3f}"),
        why=(
            f"float(ids.shape[1]) was 8 when the trace was made, and is 8 for ever. At 8 tokens it "
            f"keeps {example:.3f}, so a check on the example's own shape passes. torch.export "
            "refuses to capture this; the parity report asks at several shapes."
        ),
    )


def int4_without_accuracy_level() -> Trap:
    """One 1024 x 4096 layer, one row at a time; the files differ by one attribute."""
    import numpy as np

    from labs.lab4_model_serving.int4 import quantize_int4
    from labs.lab4_model_serving.precision_crossover import (
        linear_layer,
        measure_crossover,
        row_batcher,
    )

    rows = np.random.default_rng(1).normal(size=(8, 1024)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="trap-") as temporary:
        folder = Path(temporary)
        fp32 = linear_layer(folder / "fp32.onnx")
        models = {
            "default": quantize_int4(fp32, folder / "default.onnx", accuracy_level=0),
            "level 4": quantize_int4(fp32, folder / "level4.onnx", accuracy_level=4),
        }
        bytes_ = {name: path.stat().st_size for name, path in models.items()}
        found = measure_crossover(models, row_batcher(rows), batches=(1,), rounds=15)
    default, level4 = (found.cell(name, 1).median_us for name in models)
    return Trap(
        "INT4 without accuracy_level unpacks every weight to float32",
        wrong=("time a row, the attribute left out", f"{default:.0f} us"),
        right=("time a row, accuracy_level=4", f"{level4:.0f} us"),
        why=(
            f"Both files hold the same integers ({bytes_['default']:,} and {bytes_['level 4']:,} "
            "bytes). MatMulNBits multiplies in float32 unless the node says 4; then it rounds "
            "activations to int8, block by block, and multiplies integers. The quantizer leaves "
            "the attribute out by default, and no message tells."
        ),
    )


def delay_counted_from_dequeue() -> Trap:
    """Two batchers, the same 5 ms of delay, the same arrivals, at half of what they could do."""
    from labs.lab4_model_serving.batching_policies import EXAMPLE, poisson
    from labs.lab4_model_serving.queueing import decide_from_dequeue, simulate, stability_limit

    arrivals = poisson(0.5 * stability_limit(EXAMPLE, 32), 10_000, seed=0)
    run = partial(simulate, arrivals, EXAMPLE.batch_s, max_batch=32, max_delay_s=0.005)
    late, ours = run(rule=decide_from_dequeue), run()
    return Trap(
        "A batch delay that begins when a worker is free is paid after the wait, not during it",
        wrong=("p99, delay from the first dequeue", f"{1000 * late.quantile_s(0.99):.1f} ms"),
        right=("p99, delay from enqueue", f"{1000 * ours.quantile_s(0.99):.1f} ms"),
        why=(
            "While a batch runs, the requests behind it have their delay anyway. Counted from "
            "dequeue it begins when the worker is free again, and the worker idles through it "
            f"(batches of {late.batches.mean():.0f} instead of {ours.batches.mean():.0f}, which "
            "nobody needed at half load). TorchServe's pollBatch counts so: set maxBatchDelay to "
            "a millisecond or two, or the delay to 0 and let batches form while a run lasts."
        ),
    )


def unbounded_queue_under_overload() -> Trap:
    """Twice the load that a server can take, for three seconds, with and without a bound."""
    from labs.lab4_model_serving.batching_policies import compare_bounds

    none, _, bounded = compare_bounds(loads=(2.0,), seconds=3.0)
    return Trap(
        "Without a bound, an overloaded server works at full speed for nobody",
        wrong=(
            "no bound: answers/s, of them within 50 ms",
            f"{none.throughput[0]:.0f}, {none.goodput[0]:.0f}",
        ),
        right=(
            "a queue of 50 ms: answers/s, of them within 50 ms",
            f"{bounded.throughput[0]:.0f}, {bounded.goodput[0]:.0f}",
        ),
        why=(
            "Throughput is the same, and a dashboard of requests per second shows nothing. But the "
            f"queue grows for as long as it lasts: p99 is {none.p99_s[0]:.1f} s, every client has "
            f"given up, and many ask again. With the bound {100 * bounded.refused[0]:.0f} % are "
            "told 503 at once and the others are in time. Watch goodput: answers within the "
            "promise."
        ),
    )


def canary_judged_on_too_few_requests() -> Trap:
    """300 rollouts of a version with 0.5 % slow requests; two rules look after each request."""
    import numpy as np

    from labs.lab4_model_serving.rollout_policy import Guardrails, Window, decide

    rollouts, most, true_share, bad_share = 300, 1000, 0.005, 0.05
    draws = np.random.default_rng(0).random((rollouts, most))
    slow, bad = (np.cumsum(draws < share, axis=1) for share in (true_share, bad_share))
    n = np.arange(1, most + 1)
    rails = Guardrails(p99_ms=50, least_samples=30)
    old = Window(requests=50_000, slow=250, labelled=0)
    # "Its p99 is above the limit": more than 1 % of the requests so far are slow.
    plain = (slow / n > 0.01)[:, 29:].any(axis=1)

    def sent_back_after(row: np.ndarray) -> float:
        for i in np.flatnonzero(np.diff(row, prepend=0)):  # harm begins with a slow request
            new = Window(requests=int(n[i]), slow=int(row[i]))
            if decide(new, old, rails, samples=most, last=False).action == "rollback":
                return float(n[i])
        return float("inf")

    honest = np.isfinite([sent_back_after(row) for row in slow]).mean()
    needed = np.median([sent_back_after(row) for row in bad[:50]])
    return Trap(
        "A canary judged by its p99 so far is sent back although it keeps the limit",
        wrong=("good versions sent back, p99 so far", f"{100 * plain.mean():.0f} %"),
        right=("good versions sent back, by an interval", f"{100 * honest:.1f} %"),
        why=(
            "The p99 of 50 requests is their slowest one, and a controller that looks after every "
            "request takes the worst of a thousand looks. A confidence sequence holds at all looks "
            "at once: the chance of ever sending a good version back stays below alpha, 5 %. "
            f"Yet a version with 5 % slow requests goes back after {needed:.0f} (median)."
        ),
    )


def autoscaling_on_a_rate_that_the_bottleneck_caps() -> Trap:
    """Load grows five times; one controller reads the served rate, the other what is in flight."""
    from dataclasses import replace

    from labs.lab4_model_serving.autoscaler import Policy
    from labs.lab4_model_serving.autoscaling_simulation import arrivals, simulate, step_load

    # A replica takes 0.1 s a request: it answers 10/s at most. Somebody measured 11/s on a larger
    # machine and made that the target.
    policy = Policy(target=11.0, min_replicas=2, max_replicas=20, down_window_s=120)
    times = arrivals(step_load(15, 80, start_s=120, end_s=420), 600, highest=80, seed=0)
    by_rate = simulate(times, policy, service_s=0.1, seconds=600, signal="served_rate")
    by_work = simulate(times, replace(policy, target=2.0), service_s=0.1, seconds=600)
    return Trap(
        "A signal that the bottleneck caps never asks for help",
        wrong=(
            "target 11 answers/s a replica",
            f"{by_rate.trace.replicas.max()} replicas at most, "
            f"{by_rate.share_within(1000):.0%} within 1 s, {by_rate.refused:,} refused",
        ),
        right=(
            "target 2 in flight a replica",
            f"{by_work.trace.replicas.max()} replicas at most, "
            f"{by_work.share_within(1000):.0%} within 1 s, {by_work.refused:,} refused",
        ),
        why=(
            "A full replica answers 10/s however many wait, which reads as 91 % of the target: all "
            "is well. CPU is capped in the same way when a replica waits for a GPU, a lock or "
            "another service. Scale on what grows without bound when capacity is short: requests "
            "in flight, queue depth, time in the queue."
        ),
    )


def mean_of_p99s() -> Trap:
    """Three replicas have a p99 of 20 ms, the fourth of 120 ms and a quarter of the traffic."""
    import numpy as np

    from labs.lab4_model_serving.histogram import fleet_p99
    from labs.lab4_model_serving.monitoring_study import request_latencies
    from labs.lab4_model_serving.serving_metrics import REQUEST_BOUNDS

    rng = np.random.default_rng(0)
    p99s = (0.02, 0.02, 0.02, 0.12)
    found = fleet_p99([request_latencies(p99, 20_000, rng) for p99 in p99s], REQUEST_BOUNDS)
    return Trap(
        "The mean of the replicas' p99s is no p99 of anything",
        wrong=("avg of four p99s", f"{1000 * found.mean_of_p99s:.0f} ms"),
        right=(
            "p99 of all requests",
            f"{1000 * found.exact:.0f} ms "
            f"(from added buckets {1000 * found.from_merged_buckets:.0f} ms)",
        ),
        why=(
            "Below 50 ms, says the mean. A p99 has forgotten its distribution and its number of "
            "requests, so p99s cannot be combined, be they of avg(histogram_quantile(...)) or of "
            "summaries. Add the buckets and then ask: histogram_quantile(0.99, "
            "sum by (le) (rate(..._bucket[5m]))). With little traffic on the slow replica the mean "
            "is wrong in the other direction."
        ),
    )


TRAPS = (
    coordinated_omission,
    p99_of_fifty_requests,
    a_session_for_every_request,
    a_trace_that_froze_a_length,
    int4_without_accuracy_level,
    delay_counted_from_dequeue,
    unbounded_queue_under_overload,
    ping_needs_a_token,
    the_launcher_orphans_the_jvm,
    canary_judged_on_too_few_requests,
    autoscaling_on_a_rate_that_the_bottleneck_caps,
    mean_of_p99s,
)

if __name__ == "__main__":
    show(TRAPS)
