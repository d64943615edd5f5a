"""What the load generator itself can do on this machine: the ceiling of every result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import require
from labs.lab4_model_serving.arrivals import poisson_schedule
from labs.lab4_model_serving.load_generator import load_http
from labs.lab4_model_serving.load_result import LoadResult
from labs.lab4_model_serving.reference_server import reference_server

TEXT_BODY = b'{"text": "what is the exchange rate between dollars and euros today"}'


@dataclass(frozen=True)
class Calibration:
    """Rates (requests/s) against a server that does nothing, and what came of each.

    ``rate`` is the highest at which the generator kept up: its lag and the latency stayed below the
    limit. A result of a real server near that rate is one of the generator.
    """

    rate: float
    lag_limit_ms: float
    tried: tuple[tuple[float, LoadResult], ...]

    @property
    def best(self) -> LoadResult | None:
        """The result at ``rate``."""
        return next((result for rate, result in self.tried if rate == self.rate), None)


def calibrate(
    *,
    low: float = 1000.0,
    high: float = 64_000.0,
    seconds: float = 0.5,
    lag_limit_ms: float = 5.0,
    refinements: int = 2,
    seed: int = 0,
) -> Calibration:
    """Load a server in another process that only answers, faster and faster.

    The rate doubles from ``low`` until the generator's lag p99 or the latency p99 is over the
    limit or something failed, then the last factor of two is bisected ``refinements`` times.

    Parameters
    ----------
    seconds
        Of each run; about ``2 + log2(rate / low) + refinements`` runs are made.
    """
    require(0 < low < high, "low, high", (low, high), "must satisfy 0 < low < high")
    require(seconds > 0, "seconds", seconds, "must be > 0")
    tried: list[tuple[float, LoadResult]] = []

    with reference_server() as url:

        def keeps_up(rate: float) -> bool:
            schedule = poisson_schedule(rate, seconds + 0.2, seed + len(tried))
            result = load_http(url, [TEXT_BODY], schedule, timeout=2.0, warmup=0.2)
            tried.append((rate, result))
            within = result.summary.p99_ms < lag_limit_ms
            return within and 1000 * result.lag_p99 < lag_limit_ms and not result.failed

        best, rate = 0.0, low
        while rate <= high and keeps_up(rate):
            best, rate = rate, 2 * rate
        for _ in range(refinements if best and rate <= high else 0):
            middle = float(np.sqrt(best * rate))
            best, rate = (middle, rate) if keeps_up(middle) else (best, middle)
    return Calibration(best, lag_limit_ms, tuple(tried))
