"""Latency percentiles, always with n and how they were taken."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@contextmanager
def no_garbage_collection(*, collect: bool = False) -> Iterator[None]:
    """Switch the cyclic collector off for the length of a measurement.

    With many objects alive a full collection stops this process for 100 ms or more, which would be
    reported as the latency of what is measured.

    Parameters
    ----------
    collect
        Collect once before, so that a long block begins with the memory that it needs.
    """
    enabled = gc.isenabled()
    if collect:
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class LatencySummary:
    """Percentiles in milliseconds of ``n`` latencies; ``how`` says how they were taken."""

    n: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    how: str

    @classmethod
    def of(cls, seconds: ArrayLike, *, how: str) -> LatencySummary:
        """Summarise latencies.

        Parameters
        ----------
        seconds : array of shape [n]
            At least one latency, in seconds.
        how
            For example ``"open loop, Poisson, from the scheduled time"``.

        Notes
        -----
        The q-quantile is ``sorted[int(n * q)]`` (MLPerf Inference rules), an observed latency and
        never an interpolated one. A p99 needs at least 662 latencies for 99 % confidence.

        Raises
        ------
        ValueError
            For an empty array, or one with a value that no clock gives (negative, NaN, infinite).
        """
        ordered = np.sort(np.ravel(np.asarray(seconds, dtype=np.float64))) * 1000
        n = ordered.size
        if n == 0:
            raise ValueError("no latencies to summarise: nothing was measured")
        if not np.isfinite(ordered).all() or ordered[0] < 0:
            raise ValueError(
                f"latencies must be finite and >= 0 s, not {ordered[0] / 1000} to "
                f"{ordered[-1] / 1000}; count what failed apart"
            )

        def quantile(q: float) -> float:
            return float(ordered[min(int(n * q), n - 1)])

        return cls(
            n=n,
            mean_ms=float(ordered.mean()),
            p50_ms=quantile(0.50),
            p95_ms=quantile(0.95),
            p99_ms=quantile(0.99),
            max_ms=float(ordered[-1]),
            how=how,
        )
