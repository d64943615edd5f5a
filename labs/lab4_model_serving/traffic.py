"""Who answers a request, and what was seen of the answers: the data plane's half of a rollout.

The choice is a hash, so it is the same in every replica without shared state, and a user stays with
a version. The windows count, for each version, what a controller decides by: requests, failures,
slow ones, and wrong ones once their true label is known.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab4_model_serving.rollout_policy import Window


def unit_hash(*parts: str) -> float:
    """A number strictly between 0 and 1 that only these parts, in this order, decide.

    BLAKE2b of the parts with their lengths, so that ("ab", "c") and ("a", "bc") differ. Python's
    own ``hash`` differs from process to process, and CRC-32 is linear: with another salt of the
    same length every hash changes by the same XOR, so two "independent" samples are not.
    """
    content = b"".join(b"%d:%b" % (len(each), each) for each in (part.encode() for part in parts))
    number = int.from_bytes(blake2b(content, digest_size=8).digest())
    return ((number >> 12) + 0.5) / 2**52


@exercise(
    "4.12",
    points=10,
    title="A sticky choice by weight",
    hint="Give every version a draw of its own, -ln(u) / weight with u = unit_hash(salt, version, "
    "key). The smallest wins: a race of exponential clocks, won with probability weight / total.",
)
def choose_version(key: str, weights: Mapping[str, float], salt: str) -> str:
    r"""The version that answers ``key``: always the same one, and each as often as its weight says.

    Raising the weight of one version moves keys to it and none between the others; with two
    versions a canary that grows never gives a user back. Another salt is another, independent
    assignment: otherwise the same users would be the first to meet every new version.

    Parameters
    ----------
    key
        A user, or a request where there is none.
    weights
        Version to weight, >= 0; they need not add up to 1. A version of weight 0 gets nothing.
    salt
        Of this rollout.

    Returns
    -------
    str
        One of the versions, v with probability :math:`w_v / \sum_j w_j` over the keys.

    Raises
    ------
    InputError
        No weight is above 0, or one is negative or not finite.

    References
    ----------
    Weighted rendezvous hashing: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit
    Rates", IEEE/ACM Transactions on Networking 6(1), 1998; the exponential race gives the weights.
    """
    check_weights(weights)
    # BEGIN SOLUTION
    return min(
        (version for version, weight in weights.items() if weight > 0),
        key=lambda version: -math.log(unit_hash(salt, version, key)) / weights[version],
    )
    # END SOLUTION


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise :class:`InputError` unless all are >= 0 and finite, and one is above 0."""
    bad = [each for each in weights.items() if not (math.isfinite(each[1]) and each[1] >= 0)]
    if bad or not any(weight > 0 for weight in weights.values()):
        raise InputError(f"weights = {dict(weights)} must be >= 0, and one of them above 0")


@dataclass
class _Counts:
    requests: int = 0
    errors: int = 0
    slow: int = 0
    labelled: int = 0
    wrong: int = 0
    sum_s: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=2048))


class TrafficWindows:
    """What was seen of each version since the last :meth:`reset`. For one event loop.

    Only requests whose version was chosen by weight belong here: who asks for a version by name is
    no random sample.

    Parameters
    ----------
    slow_s
        A request above this is slow, and so is one that failed.
    remember
        Answers that wait for their true label; the oldest is forgotten.
    """

    def __init__(self, slow_s: float = 0.05, *, remember: int = 50_000) -> None:
        require(remember >= 1, "remember", remember, "must be >= 1")
        self._remember = remember
        self._answers: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self.reset(slow_s)

    def reset(self, slow_s: float) -> str:
        """Begin anew; returns the new window's id. Labels of earlier answers are still welcome."""
        require(slow_s > 0, "slow_s", slow_s, "must be > 0 seconds")
        self.slow_s = slow_s
        self.id = secrets.token_hex(8)
        self._counts: dict[str, _Counts] = {}
        return self.id

    def observe(
        self, request_id: str, version: str, seconds: float, label: str | None = None
    ) -> None:
        """Count one request; ``label`` is what was answered, None when it failed."""
        counts = self._counts.setdefault(version, _Counts())
        counts.requests += 1
        counts.slow += label is None or seconds > self.slow_s
        if label is None:
            counts.errors += 1
            return
        counts.sum_s += seconds
        counts.recent.append(seconds)
        self._answers[request_id] = (version, label)
        if len(self._answers) > self._remember:
            self._answers.popitem(last=False)

    def feedback(self, request_id: str, label: str) -> bool:
        """Tell the true label of an answer, once; False for one that is not known (any more)."""
        answered = self._answers.pop(request_id, None)
        if answered is None:
            return False
        version, given = answered
        counts = self._counts.setdefault(version, _Counts())
        counts.labelled += 1
        counts.wrong += given != label
        return True

    def windows(self) -> dict[str, Window]:
        """Version to what was seen of it. Percentiles are over the last 2,048 answers."""
        return {version: _window(counts) for version, counts in self._counts.items()}


def _window(counts: _Counts) -> Window:
    recent = np.sort(np.asarray(counts.recent)) * 1000
    n = len(recent)
    return Window(
        requests=counts.requests,
        errors=counts.errors,
        slow=counts.slow,
        labelled=counts.labelled,
        wrong=counts.wrong,
        mean_ms=1000 * counts.sum_s / n_answered
        if (n_answered := counts.requests - counts.errors)
        else None,
        p50_ms=float(recent[int(n * 0.5)]) if n else None,
        p99_ms=float(recent[int(n * 0.99)]) if n else None,
    )
