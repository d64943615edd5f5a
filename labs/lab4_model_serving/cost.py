"""What a million predictions cost, and how many replicas a peak needs.

The rate at which a replica was measured is not the rate to run it at: near it the queue is long,
and nothing is left for a burst or a death. So a fleet is bought for the peak, with headroom, in
whole replicas, plus spares; and paid for every hour, of which most are not the peak.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise

PRICES = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True)
class Instance:
    """A machine that can be rented."""

    name: str
    hourly: float
    """Price of an hour, in the currency of the table."""
    vcpus: int
    memory_gib: float
    gpu: str = ""
    """Its GPU; empty for none."""
    source: str = ""


@dataclass(frozen=True)
class PriceTable:
    """Prices at a date. They are examples: edit the file before you decide anything."""

    currency: str
    as_of: str
    region: str
    instances: dict[str, Instance]

    def __getitem__(self, name: str) -> Instance:
        if name not in self.instances:
            raise InputError(f"no price for {name!r}; the table has {', '.join(self.instances)}")
        return self.instances[name]


def read_prices(path: Path = PRICES) -> PriceTable:
    """Read and check a price table.

    Raises
    ------
    InputError
        The file is missing or no TOML; a field is missing; a price is not a positive number. The
        message names the instance.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no price table at {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from error
    for name in ("currency", "as_of", "region", "instance"):
        if name not in content:
            raise InputError(f"{path} has no {name!r}")
    instances = {}
    for i, row in enumerate(content["instance"]):
        name = row.get("name", f"number {i + 1}")
        for needed in ("name", "hourly", "vcpus", "memory_gib"):
            if needed not in row:
                raise InputError(f"{path}: instance {name!r} has no {needed!r}; add it")
        for number in ("hourly", "vcpus", "memory_gib"):
            value = row[number]
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (good and 0 < value < math.inf):
                raise InputError(f"{path}: {number} of {name!r} is {value!r}; it must be > 0")
        if unknown := set(row) - set(Instance.__dataclass_fields__):
            raise InputError(f"{path}: instance {name!r} has an unknown {sorted(unknown)[0]!r}")
        if name in instances:
            raise InputError(f"{path}: {name!r} is there twice")
        instances[name] = Instance(**row)
    if not instances:
        raise InputError(f"{path} holds no instance")
    head = {name: str(content[name]) for name in ("currency", "as_of", "region")}
    return PriceTable(**head, instances=instances)


def like_this(prices: PriceTable, *, cpus: float, gpu: str = "") -> Instance | None:
    """The cheapest instance like the machine that a rate was measured on; None for none.

    Parameters
    ----------
    cpus
        Its cores. They must be the same where it serves on them, and do not count with a GPU.
    gpu
        The name of the GPU that serves; empty for a CPU.
    """
    alike = [
        each
        for each in prices.instances.values()
        if each.gpu == gpu and (gpu or each.vcpus == round(cpus))
    ]
    return min(alike, key=lambda each: each.hourly, default=None)


@dataclass(frozen=True)
class FleetCost:
    """A fleet for a peak, and what its answers cost."""

    replicas: int
    hourly: float
    per_million: float
    """Price of a million requests at the mean rate."""
    utilisation_at_peak: float
    """Share of the measured rate that each replica runs at in the peak, all alive."""
    mean_utilisation: float


@exercise(
    "4.15",
    points=5,
    title="What a million requests cost",
    hint="Bought for the peak, in whole replicas, plus spares. Paid by the hour. Divided by the "
    "requests that come, which is the mean rate and not the peak.",
)
def fleet_cost(
    *,
    peak_rate: float,
    mean_rate: float,
    replica_qps: float,
    hourly: float,
    utilisation: float = 0.6,
    spare: int = 1,
) -> FleetCost:
    r"""Replicas for a peak, and the price of a million requests.

    .. math::
        n = \left\lceil \frac{\text{peak}}{u\,q} \right\rceil + s, \qquad
        \text{price} = 10^6 \cdot \frac{n\,p}{3600\,\text{mean}}

    Parameters
    ----------
    peak_rate
        Highest offered requests per second to be served within the latency limit.
    mean_rate
        Requests per second over the whole time that is paid for, at most ``peak_rate``.
    replica_qps
        Requests per second that one replica was *measured* at within the limit, in an open loop.
        The reciprocal of a latency is something else: batches and threads overlap requests.
    hourly
        Price of one replica for an hour.
    utilisation
        Share of ``replica_qps`` to plan with, in (0, 1].
    spare
        Replicas more than the peak needs: 1 survives a death, or a rolling update, in the peak.

    Returns
    -------
    FleetCost
        ``replicas`` is a whole number, at least ``1 + spare``.

    Raises
    ------
    InputError
        A rate, price or share that is out of range.
    """
    _check(peak_rate, mean_rate, replica_qps, hourly, utilisation, spare)
    replicas = whole(peak_rate / (replica_qps * utilisation)) + spare
    cost_per_hour = replicas * hourly
    return FleetCost(
        replicas=replicas,
        hourly=cost_per_hour,
        per_million=cost_per_hour / (mean_rate * 3600) * 1e6,
        utilisation_at_peak=peak_rate / (replicas * replica_qps),
        mean_utilisation=mean_rate / (replicas * replica_qps),
    )


def whole(x: float) -> int:
    """``ceil`` that forgives rounding: 6.000000000000001 replicas are 6."""
    return max(1, math.ceil(x - 1e-9 * max(1.0, x)))


def _check(
    peak_rate: float,
    mean_rate: float,
    replica_qps: float,
    hourly: float,
    utilisation: float,
    spare: int,
) -> None:
    for name, value in (
        ("peak_rate", peak_rate),
        ("mean_rate", mean_rate),
        ("replica_qps", replica_qps),
        ("hourly", hourly),
    ):
        require(0 < value < math.inf, name, value, "must be > 0 and finite")
    require(mean_rate <= peak_rate, "mean_rate", mean_rate, f"must be <= peak_rate = {peak_rate}")
    require(0 < utilisation <= 1, "utilisation", utilisation, "must be in (0, 1]", "try 0.6")
    require(spare >= 0, "spare", spare, "must be >= 0")


@dataclass(frozen=True)
class Option:
    """A way to serve: an instance type and the rate measured on it."""

    name: str
    hourly: float
    replica_qps: float


@dataclass(frozen=True)
class Comparison:
    """Options over the load: ``hourly`` and ``per_million`` are [options, rates]."""

    options: tuple[Option, ...]
    rates: NDArray[np.float64]
    """Peak requests per second."""
    hourly: NDArray[np.float64]
    per_million: NDArray[np.float64]

    def cheapest(self) -> list[str]:
        """Name of the cheapest option at each rate; the first of equal ones."""
        return [self.options[i].name for i in self.hourly.argmin(axis=0)]

    def break_even(self, small: str, large: str) -> float | None:
        """The least rate of the grid from which on ``large`` never costs more than ``small``.

        Whole replicas make the costs two staircases, which may cross several times; only the last
        crossing is worth a decision. None when ``large`` costs more at the highest rate.
        """
        names = [option.name for option in self.options]
        for name in (small, large):
            require(name in names, "option", name, f"must be one of {names}")
        dearer = self.hourly[names.index(large)] > self.hourly[names.index(small)] + 1e-12
        if dearer[-1]:
            return None
        first = int(np.flatnonzero(dearer)[-1]) + 1 if dearer.any() else 0
        return float(self.rates[first])


def compare(
    options: Sequence[Option],
    rates: NDArray[np.float64],
    *,
    peak_to_mean: float = 2.0,
    utilisation: float = 0.6,
    spare: int = 1,
) -> Comparison:
    """Cost of each option over the load.

    Parameters
    ----------
    rates : float array [n]
        Peak requests per second, ascending.
    peak_to_mean
        Peak rate over mean rate, at least 1.
    """
    require(len(options) > 0, "options", list(options), "must name at least one")
    require(peak_to_mean >= 1, "peak_to_mean", peak_to_mean, "must be >= 1")
    costs = [
        [
            fleet_cost(
                peak_rate=float(rate),
                mean_rate=float(rate) / peak_to_mean,
                replica_qps=option.replica_qps,
                hourly=option.hourly,
                utilisation=utilisation,
                spare=spare,
            )
            for rate in rates
        ]
        for option in options
    ]
    return Comparison(
        tuple(options),
        np.asarray(rates, dtype=np.float64),
        np.array([[cost.hourly for cost in row] for row in costs]),
        np.array([[cost.per_million for cost in row] for row in costs]),
    )


def daily_rates(mean_rate: float, peak_to_mean: float = 2.0) -> NDArray[np.float64]:
    """Requests per second in each hour of a day, [24]: a sine with this mean and peak (20 h)."""
    require(1 <= peak_to_mean <= 2, "peak_to_mean", peak_to_mean, "must be in [1, 2] for a sine")
    hours = np.arange(24)
    return mean_rate * (1 + (peak_to_mean - 1) * np.cos(2 * np.pi * (hours - 20) / 24))


def autoscaled_replica_hours(
    rates: NDArray[np.float64], replica_qps: float, *, utilisation: float = 0.6, spare: int = 1
) -> tuple[int, int]:
    """Replica hours of a fleet that follows the load hour by hour, and of one that does not.

    The first is what an autoscaler can save at best: it knows each hour before it comes.
    """
    require(replica_qps > 0, "replica_qps", replica_qps, "must be > 0")
    needed = [whole(float(rate) / (replica_qps * utilisation)) + spare for rate in rates]
    return sum(needed), len(needed) * max(needed)
