"""Whom to let in: a queue that is bounded by time, because what a user feels is time.

A bound in requests is right at one speed only: 256 waiting texts are 30 ms on an idle machine and
200 ms on a busy one. :class:`Admission` predicts when a request that came now would be answered,
from what waits before it and from how long batches have taken, and refuses it when that is later
than the promise. The prediction is multiplied by how wrong its like have been, so that it is the
tail, and not the mean, that keeps the promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.errors import require


@dataclass(frozen=True)
class ServiceTime:
    """A batch of n takes ``fixed_s + n * item_s`` seconds."""

    fixed_s: float
    item_s: float

    def __post_init__(self) -> None:
        require(
            self.fixed_s >= 0 and self.item_s >= 0 and 0 < self.fixed_s + self.item_s < math.inf,
            "fixed_s, item_s",
            (self.fixed_s, self.item_s),
            "must be >= 0, and one of them > 0",
        )

    def batch_s(self, n: int) -> float:
        """Seconds for a batch of n."""
        return self.fixed_s + n * self.item_s


class ServiceEstimate:
    """Fits a :class:`ServiceTime` while it serves: least squares that forgets.

    Sums over past batches, each weighted ``1 - forget`` to the power of its age in batches. While
    all batches had one size there is no slope to see; the time is then taken to be proportional
    to the size, which overstates larger batches and refuses rather too early than too late.
    """

    def __init__(self, forget: float = 0.05) -> None:
        require(0 < forget < 1, "forget", forget, "must be in (0, 1)")
        self._keep = 1 - forget
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    @property
    def known(self) -> bool:
        """Whether a batch was seen."""
        return self._weight > 0

    def add(self, n: int, seconds: float) -> None:
        """Learn from a batch of n that took ``seconds``."""
        keep, seconds = self._keep, max(seconds, 1e-7)
        self._weight = keep * self._weight + 1
        self._n = keep * self._n + n
        self._s = keep * self._s + seconds
        self._nn = keep * self._nn + n * n
        self._ns = keep * self._ns + n * seconds

    def service(self) -> ServiceTime:
        """The fit. Call it only when :attr:`known`."""
        mean_n, mean_s = self._n / self._weight, self._s / self._weight
        variance = self._nn / self._weight - mean_n**2
        if variance < 0.01 * mean_n**2:
            return ServiceTime(0.0, mean_s / mean_n)
        slope = (self._ns / self._weight - mean_n * mean_s) / variance
        item_s = min(max(slope, 0.0), mean_s / mean_n)
        return ServiceTime(max(mean_s - item_s * mean_n, 0.0), item_s)


class Quantile:
    """The q-quantile of a stream of positive numbers, in one number of memory.

    It goes up a little with each value above it and down a little with each one below, in the
    ratio q to 1 - q, so it rests where a share q lies below (Robbins and Monro, 1951). It never
    leaves [low, high], and it follows a stream that changes.
    """

    def __init__(self, q: float, *, start: float, low: float, high: float, step: float = 0.02):
        require(0 < q < 1, "q", q, "must be in (0, 1)")
        self.value, self._q, self._low, self._high, self._step = start, q, low, high, step

    def add(self, value: float) -> None:
        """Move towards ``value``."""
        push = self._q if value > self.value else self._q - 1
        self.value = min(max(self.value * math.exp(self._step * push), self._low), self._high)


class Admission:
    """Predicts when a request would be answered, and says whether that is soon enough.

    Parameters
    ----------
    slo_s
        From enqueued to answered (s); infinite admits everybody.
    max_batch, runners
        Of the batcher.

    Notes
    -----
    With ``ahead`` requests before it and R runners, a request is in round ``ahead // B``
    of full batches of S(B) seconds:

    .. math:: T = r + \\lfloor ahead / B \\rfloor \\, S(B) / R + S(\\min(B, ahead + 1))

    with r until a runner is free (half a batch, while all are busy). It is refused when
    :math:`m T > \\mathrm{SLO}`, m being the 99.5th percentile of (what it took) / (T) so far:
    aimed at the 99th itself, half of the errors would be on the wrong side.
    Nobody is refused who would be in the next batch: else one slow run would be believed for
    ever, because nothing would run that could correct it.

    A promise limits batches as well (:attr:`batch`): to a size that takes a third of it. One third
    to wait for the batch that runs, one for its own, one for what goes wrong. Where even one
    request takes longer, no size keeps the promise, and full batches at least answer the most.

    CoDel (Nichols and Jacobson, 2012) needs no model of the server: it drops at the *end* of the
    queue when waits have been above a target for a while. For a model server the drop comes too
    late: the client has waited, and could have asked another replica. Here the refusal costs
    nothing, and comes at once.
    """

    def __init__(self, slo_s: float, *, max_batch: int, runners: int = 1) -> None:
        require(slo_s > 0, "slo_s", slo_s, "must be > 0")
        self.slo_s, self._max_batch, self._runners = slo_s, max_batch, runners
        self.batch = max_batch
        """Requests of a batch at most, by what is known now."""
        self._estimate = ServiceEstimate()
        self._margin = Quantile(0.995, start=1.25, low=1.0, high=4.0)
        self._service: ServiceTime | None = None

    @property
    def service(self) -> ServiceTime | None:
        """What a batch is thought to take; None before the first one."""
        return self._service

    @property
    def margin(self) -> float:
        """The 99.5th percentile of actual over predicted times."""
        return self._margin.value

    def predicted_s(self, ahead: int, *, busy: bool) -> float:
        """Seconds until the answer to a request with ``ahead`` requests before it, as a mean."""
        if self._service is None:
            return 0.0
        rounds, service = ahead // self.batch, self._service
        full = service.batch_s(self.batch)
        own = service.batch_s(min(self.batch, ahead + 1))
        return (rounds + 0.5 * busy) * full / self._runners + own

    def admits(self, ahead: int, *, busy: bool) -> bool:
        """Whether a request with ``ahead`` before it would be answered within the promise."""
        if ahead < self.batch:
            return True
        return self._margin.value * self.predicted_s(ahead, busy=busy) <= self.slo_s

    def retry_after_s(self, ahead: int) -> float:
        """When what waits now will have been answered (s)."""
        return self._margin.value * self.predicted_s(ahead, busy=True)

    def ran(self, n: int, seconds: float) -> None:
        """Learn from a batch of n that took ``seconds``."""
        self._estimate.add(n, seconds)
        self._service = service = self._estimate.service()
        self.batch = self._max_batch
        spare = self.slo_s / 3 - service.fixed_s
        if service.item_s <= spare < service.item_s * self._max_batch:
            self.batch = int(spare / service.item_s)

    def answered(self, predicted_s: float, took_s: float) -> None:
        """Learn from a request that was thought to take ``predicted_s`` and took ``took_s``."""
        if predicted_s > 0:
            self._margin.add(took_s / predicted_s)
