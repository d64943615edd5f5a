"""Break the live service under load, on purpose, and say what its users saw.

Each drill sends feeds in an open loop, breaks something, mends it, and reports the service-level
numbers before, during and after, beside two counts that must be zero: acknowledged reactions that
are not in the log, and answers of status 5xx beyond the declared budget. A fallback feed is no
error: it is what the service promises when a part of it is away.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import httpx
import numpy as np
from numpy.typing import NDArray

from common.errors import RunError
from labs.lab4_model_serving.load_generator import load_http, poisson_schedule
from labs.lab4_model_serving.load_result import LoadResult

BUDGET = 0.001
"""Share of the feeds of a drill that may be answered with 5xx, or not at all."""
EVENT_EVERY_S = 0.1
FIRST_ANSWER_S = 10.0
PHASES = ("before", "during", "after")


@dataclass(frozen=True)
class Fault:
    """Something to break: ``inject`` breaks it, ``heal`` mends it; both return at once.

    ``heal`` may do nothing where the service recovers by itself; ``note`` says what happens.
    """

    name: str
    inject: Callable[[], object]
    heal: Callable[[], object]
    note: str
    showed: Callable[[Drill], bool] = lambda drill: drill.phases[1].fallbacks > 0
    """Whether the drill shows that the fault was there: by default, fallbacks during it."""
    mended_s: float = 0.0
    """Seconds that the phase after the fault lasts at least: what is started again needs some."""


@dataclass(frozen=True)
class Phase:
    """Feeds of one phase: how many, how fast, and what they were."""

    name: str
    n: int
    errors: int
    fallbacks: int
    p50_ms: float
    p99_ms: float

    @property
    def fallback_share(self) -> float:
        return self.fallbacks / self.n if self.n else 0.0


@dataclass(frozen=True)
class Drill:
    """What a drill showed.

    Attributes
    ----------
    showed
        Whether the fault had the effect that it must have: a fault that was not there proves
        nothing.
    errors
        Feeds answered with 5xx or not at all.
    acknowledged, refused
        Reactions that the service took (the client has its answer), and those it refused.
    lost
        Acknowledged reactions that are not in the log afterwards.
    recovered_s
        Seconds from the mending to the last feed that was an error or a fallback; 0 when there was
        none after it.
    """

    fault: str
    note: str
    phases: tuple[Phase, ...]
    errors: int
    acknowledged: int
    refused: int
    lost: int
    recovered_s: float
    showed: bool = True

    @property
    def requests(self) -> int:
        return sum(phase.n for phase in self.phases)

    @property
    def error_share(self) -> float:
        return self.errors / self.requests

    @property
    def within_budget(self) -> bool:
        return self.error_share <= BUDGET


@dataclass
class _Answers:
    """Status and kind of each answered feed, by its number."""

    status: NDArray[np.int64]
    fallback: NDArray[np.bool_]
    first: threading.Event = field(default_factory=threading.Event)
    """Set by the first answer: the generator connects before its clock starts, for a while."""

    def take(self, i: int, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.first.set()
        self.status[i] = status
        self.fallback[i] = b'"fallback":null' not in body


@dataclass
class Reactions:
    """Asks for feeds and reacts to them, from a thread of its own, until it is stopped."""

    url: str
    headers: Mapping[str, str]
    users: Sequence[int]
    seed: int
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        rng = np.random.default_rng(self.seed)
        with httpx.Client(headers=dict(self.headers), trust_env=False, timeout=3) as client:
            while not self.stop.wait(EVENT_EVERY_S):
                event = uuid.uuid4().hex
                try:
                    user = int(rng.choice(self.users))
                    feed = client.post(f"{self.url}/feed", json={"user_id": user, "k": 5})
                    feed.raise_for_status()
                    shown = feed.json()
                    body = {
                        "event_id": event,
                        "request_id": shown["request_id"],
                        "user_id": user,
                        "item_id": int(rng.choice([each["item_id"] for each in shown["items"]])),
                        "reaction": "click",
                    }
                    client.post(f"{self.url}/events", json=body).raise_for_status()
                except httpx.HTTPError:
                    self.refused += 1
                else:
                    self.acknowledged.append(event)


def run_drill(
    url: str,
    headers: Mapping[str, str],
    fault: Fault,
    logged: Callable[[], Collection[str]],
    *,
    users: Sequence[int],
    rate: float,
    seconds: tuple[float, float, float],
    k: int = 20,
    seed: int = 0,
) -> Drill:
    """Load the service through one fault.

    Parameters
    ----------
    url, headers
        Of the gateway, with its token.
    logged
        Event ids in the log, read after the drill.
    users
        Who asks for feeds and reacts.
    rate
        Feeds a second (Poisson arrivals, open loop).
    seconds
        Before the fault, during it, and after it is mended: the last is longer where the fault
        asks for it.

    Raises
    ------
    Exception
        What breaking or mending raised.
    """
    before, during, after = seconds
    after = max(after, fault.mended_s)
    schedule = poisson_schedule(rate, before + during + after, seed)
    drawn = np.random.default_rng(seed).choice(np.asarray(users), 512)
    bodies = [json.dumps({"user_id": int(user), "k": k}).encode() for user in drawn]
    answers = _Answers(np.zeros(len(schedule), np.int64), np.zeros(len(schedule), bool))
    reactions = Reactions(url, headers, users, seed)
    failures: list[BaseException] = []

    def operate() -> None:
        try:
            answers.first.wait(FIRST_ANSWER_S)
            began = time.perf_counter() - schedule[0]
            _sleep_until(began + before)
            fault.inject()
            _sleep_until(began + before + during)
            fault.heal()
        except BaseException as error:  # raised again below, in the caller's thread
            failures.append(error)

    def react() -> None:
        try:
            reactions.run()
        except BaseException as error:  # a thread that ended in silence would lose nothing
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for work in (operate, react)]
    for thread in threads:
        thread.start()
    try:
        result = load_http(
            f"{url}/feed", bodies, schedule, headers=headers, timeout=2.0, on_answer=answers.take
        )
    except BaseException:
        reactions.stop.set()  # and nothing is mended: the service ends with this process
        raise
    threads[0].join()
    reactions.stop.set()
    threads[1].join()
    if failures:
        raise failures[0]
    if not reactions.acknowledged:
        raise RunError(f"drill {fault.name!r}: no reaction was acknowledged, so none could be lost")
    lost = set(reactions.acknowledged) - set(logged())
    found = describe(
        fault, result, answers.status, answers.fallback, (before, before + during),
        acknowledged=len(reactions.acknowledged), refused=reactions.refused, lost=len(lost),
    )  # fmt: skip
    return replace(found, showed=fault.showed(found))


def describe(
    fault: Fault,
    result: LoadResult,
    status: NDArray[np.int64],
    fallback: NDArray[np.bool_],
    edges: tuple[float, float],
    *,
    acknowledged: int,
    refused: int,
    lost: int,
) -> Drill:
    """The drill's numbers from its answers.

    Parameters
    ----------
    status, fallback : [n]
        Of each feed; status 0 where there was no answer.
    edges
        Seconds of the run at which the fault began and was mended.
    """
    assert result.schedule is not None
    due = result.schedule
    failed = np.isinf(result.latencies)
    bad = failed | (status >= 500) | (status == 0)
    phase_of = np.searchsorted(np.asarray(edges), due, side="right")
    phases = []
    for number, name in enumerate(PHASES):
        rows = phase_of == number
        ms = 1000 * result.counted[rows]
        quantiles = np.quantile(ms, [0.5, 0.99]) if len(ms) else np.array([np.nan, np.nan])
        fallbacks = int((fallback & ~bad)[rows].sum())
        phases.append(
            Phase(
                name, int(rows.sum()), int(bad[rows].sum()), fallbacks,
                float(quantiles[0]), float(quantiles[1]),
            )
        )  # fmt: skip
    troubled = due[(bad | fallback) & (due >= edges[1])]
    return Drill(
        fault=fault.name,
        note=fault.note,
        phases=tuple(phases),
        errors=int(bad.sum()),
        acknowledged=acknowledged,
        refused=refused,
        lost=lost,
        recovered_s=float(troubled.max() - edges[1]) if len(troubled) else 0.0,
    )


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
