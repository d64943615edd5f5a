"""The benchmark on the accelerator: its arithmetic, and each part once on the CPU."""

import pytest

from common.errors import InputError
from labs.lab4_model_serving.bench_gpu import (
    Bench,
    Point,
    draw_curve,
    point,
    report_direct,
)
from labs.lab4_model_serving.bundle import Bundle
from labs.lab4_model_serving.predictor import Predictor

TEXTS = ["what is on my calendar", "set an alarm", "how much money have i", "word"]


class Recorder:
    """What the report needs of a run."""

    def __init__(self) -> None:
        self.metrics: dict[str, float | None] = {}
        self.reasons: dict[str, str] = {}
        self.figures: list[str] = []

    def metric(self, name: str, value: float | None, *, reason: str = "", **about: object) -> None:
        self.metrics[name] = value
        self.reasons[name] = reason

    def figure(self, name: str, figure: object, *, caption: str) -> None:
        self.figures.append(name)


def measured(batch: int, qps: float, p99_ms: float) -> Point:
    return Point("fp16", batch, 1, 100, qps, p99_ms / 2, p99_ms)


def test_the_fastest_batch_within_the_limit_is_reported() -> None:
    """The largest batch is the fastest, and of no use if nobody waits that long."""
    run = Recorder()
    report_direct(run, [measured(1, 1e3, 1), measured(64, 4e4, 20), measured(512, 9e4, 80)])  # type: ignore[arg-type]
    assert run.metrics["direct.best_qps"] == 4e4
    assert run.metrics["direct.fp16.threads_1.batch_512.qps"] == 9e4
    assert run.figures == ["batch_curve"]


def test_no_batch_within_the_limit_is_no_rate() -> None:
    """With the reason, and never a number that means something else."""
    run = Recorder()
    report_direct(run, [measured(512, 9e4, 80), measured(256, 8e4, 51)])  # type: ignore[arg-type]
    assert run.metrics["direct.best_qps"] is None
    assert "50 ms" in run.reasons["direct.best_qps"]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_point_counts_whole_batches_of_all_threads(tiny_bundle: Bundle, threads: int) -> None:
    """Texts a second: batches times their size over the time of all threads together."""
    found = point("fp32", Predictor(tiny_bundle), TEXTS, 4, threads, 0.1)
    assert found.n >= threads
    assert 0 < found.p50_ms <= found.p99_ms
    # Never more than every thread busy all the time with batches as fast as the fastest half.
    assert found.qps <= 2.5 * 4 * threads / (found.p50_ms / 1000)


def test_the_curve_has_a_line_for_each_precision_and_number_of_threads() -> None:
    """Two axes: what is gained, and what it costs in latency."""
    points = [
        Point(p, b, t, 9, 1e3 * b, 1, 2) for p in ("fp32", "fp16") for b in (1, 8) for t in (1, 4)
    ]
    rate, latency = draw_curve(points).axes
    assert len(rate.get_lines()) == 4
    assert len(latency.get_lines()) == 5  # and the limit


@pytest.mark.parametrize(
    ("options", "named"),
    [({"batches": (0, 8)}, "batches"), ({"workers": ()}, "workers"), ({"high": 1.0}, "high")],
)
def test_impossible_wishes_are_refused(options: dict[str, object], named: str) -> None:
    """With the option's name."""
    with pytest.raises(InputError, match=named):
        Bench(**options)  # type: ignore[arg-type]
