"""Small parts of the lab's story that are no topic of their own: the texts and the figures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.data.docstrings import topics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from labs.lab4_model_serving.load_generator import LoadResult, RateSearch

TEST_SHARE = 0.2
CLASSES = 12
MAX_CHARACTERS = 4000


@dataclass(frozen=True)
class Split:
    """Texts and label numbers, and the label names in the order of the numbers."""

    labels: list[str]
    train_texts: list[str]
    train_labels: NDArray[np.int64]
    test_texts: list[str]
    test_labels: NDArray[np.int64]


def split_texts(table: pd.DataFrame, *, limit: int, seed: int) -> Split:
    """Docstrings of the largest libraries, shuffled and split 80 : 20.

    Parameters
    ----------
    table
        The table "docstrings".
    limit
        Texts at most.

    Raises
    ------
    InputError
        Fewer than ``CLASSES`` libraries have enough docstrings.
    """
    kept = topics(table, n=CLASSES)
    kept = kept.sample(n=min(limit, len(kept)), random_state=seed)
    labels = sorted(kept["label"].unique())
    numbers = kept["label"].map({label: i for i, label in enumerate(labels)}).to_numpy(np.int64)
    texts = kept["text"].str.slice(0, MAX_CHARACTERS).tolist()
    n_test = int(len(texts) * TEST_SHARE)
    return Split(labels, texts[n_test:], numbers[n_test:], texts[:n_test], numbers[:n_test])


def quantile(values: NDArray[np.float64], q: float) -> float:
    """An observed quantile, ``sorted[int(n * q)]``."""
    return float(np.sort(values)[min(int(len(values) * q), len(values) - 1)])


def mean_queue_ms(metrics: str) -> float:
    """Mean time a request waited for its batch (ms), from TorchServe's Prometheus counters."""

    def total(name: str) -> float:
        found = re.findall(rf"^{name}\{{[^}}]*\}} (\S+)", metrics, re.MULTILINE)
        return sum(float(value) for value in found)

    requests = total("ts_inference_requests_total")
    return total("ts_queue_latency_microseconds") / 1000 / requests if requests else 0.0


def latency_figure(result: LoadResult) -> Figure:
    """Latency by percentile; the axis stretches the tail."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    counted = np.where(np.isinf(result.latencies), result.timeout, result.latencies)
    ordered = np.sort(counted) * 1000
    above = 1 - np.arange(result.n) / result.n
    axes.plot(1 / above, ordered)
    axes.set_xscale("log")
    axes.set_xticks([2, 10, 20, 100, 1000], ["p50", "p90", "p95", "p99", "p99.9"])
    axes.set_xlim(1, max(result.n, 1001))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency from the scheduled time (ms)")
    axes.grid(alpha=0.3)
    return figure


def rate_figure(search: RateSearch, limit_ms: float) -> Figure:
    """p50 and p99 of every rate that was tried, up to four times the limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    tried = sorted(search.tried, key=lambda pair: pair[0])
    rates = [rate for rate, _ in tried]
    axes.plot(rates, [result.summary.p50_ms for _, result in tried], "o-", label="p50")
    axes.plot(rates, [result.summary.p99_ms for _, result in tried], "o-", label="p99")
    axes.axhline(limit_ms, linestyle="--", color="grey", label=f"limit {limit_ms:g} ms")
    axes.set_ylim(bottom=0, top=4 * limit_ms)
    axes.set_xlabel("offered rate (requests/s)")
    axes.set_ylabel("latency (ms)")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
