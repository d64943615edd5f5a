"""What the lab promises to show, each promise one metric of the run and one bound."""

from __future__ import annotations

from typing import Literal

from common.results import Claim


def _claim(
    name: str, text: str, metric: str, op: Literal["<", "<=", ">", ">=", "=="], target: float
) -> Claim:
    return Claim(f"L4.{name}", text, metric=metric, op=op, target=target)


CLAIMS = (
    _claim(
        "latency",
        "p99 < 50 ms at 1000+ QPS, TorchServe over HTTP from raw text",
        "serving.qps_at_slo",
        ">=",
        1000,
    ),
    _claim("goal", "our goal: 3000 QPS at p99 < 50 ms", "serving.qps_at_slo", ">=", 3000),
    _claim(
        "errors", "no failed request in the run that confirms the rate", "serving.errors", "==", 0
    ),
    _claim(
        "accuracy",
        "what is served (INT8 on CPUs, fp16 on GPUs) loses at most 0.5 points of accuracy",
        "serving.accuracy_drop",
        "<=",
        0.005,
    ),
    _claim(
        "parity",
        "TorchScript, torch.export and ONNX answer as PyTorch does, every logit",
        "parity.max_abs_error",
        "<",
        1e-3,
    ),
    _claim(
        "speedup",
        "what is served, batched, takes more requests in the SLO than eager PyTorch",
        "serving.speedup_vs_eager",
        ">",
        1,
    ),
    _claim(
        "goodput",
        "at 3 times the limit a bounded queue keeps every answer it gives in time (simulated)",
        "batching.goodput_bounded",
        ">=",
        0.95,
    ),
    _claim(
        "overload",
        "the lab's server at 3 times its rate for 30 s: what is accepted keeps p99 < 50 ms",
        "overload.accepted_p99_ms",
        "<",
        50,
    ),
    _claim(
        "shed",
        "and every request that is not answered gets 503 with Retry-After",
        "overload.not_told",
        "==",
        0,
    ),
    _claim(
        "recovery",
        "and the SLO holds again within 5 s of its end",
        "overload.recovery_s",
        "<=",
        5,
    ),
    _claim(
        "rollout",
        "a good version is promoted, a slow and a wrong one are sent back",
        "rollout.as_expected",
        "==",
        3,
    ),
    _claim(
        "switch",
        "no request fails while weights change and versions come and go",
        "rollout.failed_requests",
        "==",
        0,
    ),
    _claim(
        "worker",
        "a killed worker: the service is back by itself while it is watched",
        "faults.worker_back",
        "==",
        1,
    ),
    _claim(
        "jvm",
        "a killed JVM: the service is back by itself while it is watched",
        "faults.jvm_back",
        "==",
        1,
    ),
    _claim("wrong", "no wrong answer around either", "faults.wrong", "==", 0),
    _claim(
        "kill",
        "one of three echo replicas killed behind nginx: requests lost",
        "outages.killed_lost",
        "==",
        0,
    ),
    _claim(
        "drain",
        "one drained: requests lost by a client that repeats once",
        "outages.drained_lost",
        "==",
        0,
    ),
    _claim(
        "balancing",
        "least connections has at most half of round robin's p99 (simulated)",
        "balancing.ratio",
        "<=",
        0.5,
    ),
    _claim(
        "hysteresis",
        "an autoscaler with memory turns back at most a fifth as often (simulated)",
        "autoscaling.reversals_ratio",
        "<=",
        0.2,
    ),
    _claim(
        "scaling",
        "the autoscaler gives TorchServe more workers (of a handler that waits) under load",
        "torchserve_scaling.max_workers",
        ">",
        1,
    ),
    _claim(
        "histogram",
        "the p99 computed by hand from buckets is Prometheus'",
        "monitoring.prometheus_difference",
        "<=",
        1e-9,
    ),
    _claim(
        "buckets",
        "near 50 ms the p99 from buckets is off by at most 10 %",
        "monitoring.bucket_error_near_slo",
        "<=",
        0.10,
    ),
    _claim(
        "metrics_cost",
        "measuring a request costs at most 10 microseconds",
        "monitoring.observe_us",
        "<=",
        10,
    ),
    _claim(
        "generator",
        "the load generator sends at least 5,000 requests/s to a trivial server from one core",
        "generator.capacity",
        ">=",
        5000,
    ),
)
FAULTS = ("L4.worker", "L4.jvm", "L4.wrong", "L4.kill", "L4.drain")
FULL_SIZE = ("L4.latency", "L4.goal")
