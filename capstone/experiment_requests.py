"""What an experiment asks of the live service: feeds of simulated people, their reactions back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from capstone.api import Reaction, Slot
from capstone.experiment_log import Exposed, Ints
from capstone.world import Responses
from common.errors import RunError
from common.progress import Progress

if TYPE_CHECKING:
    import aiohttp

K = 10
Answer = Mapping[str, Any]


class Service(Protocol):
    """What an experiment needs of a running service; :class:`capstone.serving.Service`."""

    @property
    def url(self) -> str: ...

    @property
    def headers(self) -> dict[str, str]: ...

    @property
    def admin_headers(self) -> dict[str, str]: ...


def served_lists(service: Service, n_people: int, arms: int, *, in_flight: int = 8) -> Ints:
    """The feed of every user in every arm, by asking for the variant: int [arms, n_people, K].

    Only an administrator may ask for one; it is outside the experiment and exposes nobody.
    """
    bodies = [
        {"user_id": person + 1, "k": K, "variant": arm}
        for arm in range(arms)
        for person in range(n_people)
    ]
    answers = ask(
        service, "/feed", bodies, what="feeds of both arms", in_flight=in_flight, admin=True
    )
    return np.array([_items(answer) for answer in answers]).reshape(arms, n_people, K)


def exposed_units(
    answers: Sequence[Answer], people: Ints, unit_ids: NDArray[np.str_], day: NDArray[np.float64]
) -> Exposed:
    """What the answers of ``POST /feed`` say was shown."""
    timings = [answer["timings_ms"] for answer in answers]
    return Exposed(
        unit_ids=unit_ids,
        person=people,
        arm=np.array([answer["variant"] for answer in answers]),
        day=day,
        lists=np.array([_items(answer) for answer in answers]),
        propensity=np.array([_row(answer, "propensity", 1.0) for answer in answers], dtype=float),
        explored=np.array([_row(answer, "slot", "") for answer in answers]) == Slot.EXPLORATION,
        latency_ms=np.array([timing["total"] for timing in timings], dtype=float),
        score_ms=np.array([timing.get("score", timing["total"]) for timing in timings], float),
        fallback=np.array([answer["fallback"] is not None for answer in answers]),
    )


def _row(answer: Answer, name: str, missing: Any) -> list[Any]:
    found = [item[name] for item in answer["items"][:K]]
    return found + [missing] * (K - len(found))


def _items(answer: Answer) -> list[int]:
    return _row(answer, "item_id", 0)


def reaction_kinds(found: Responses) -> NDArray[np.object_]:
    """The strongest reaction at each place, as text; "" where there was none: [n, k]."""
    kind = np.full(found.clicks.shape, "", dtype=object)
    for cells, reaction in (
        (found.clicks, Reaction.CLICK),
        (found.long_views, Reaction.LIKE),
        (found.shares, Reaction.SHARE),
        (found.hides, Reaction.HIDE),
    ):
        kind[cells] = reaction
    return kind


def reaction_events(
    answers: Sequence[Answer], exposed: Exposed, found: Responses
) -> list[dict[str, Any]]:
    """Bodies for ``POST /events``: the strongest reaction to each item that had one."""
    kind = np.where(exposed.lists > 0, reaction_kinds(found), "")
    return [
        {
            "event_id": f"{exposed.unit_ids[row]}-{place}",
            "request_id": answers[row]["request_id"],
            "user_id": int(exposed.person[row]) + 1,
            "item_id": int(exposed.lists[row, place]),
            "reaction": str(kind[row, place]),
        }
        for row, place in zip(*np.nonzero(kind != ""), strict=True)
    ]


def ask(
    service: Service,
    path: str,
    bodies: Sequence[Answer],
    *,
    what: str,
    in_flight: int = 8,
    admin: bool = False,
) -> list[dict[str, Any]]:
    """POST every body, at most ``in_flight`` at a time; the answers in the bodies' order.

    With ``admin``, as an administrator.

    Raises
    ------
    RunError
        Any status but 200, or no answer.
    """
    headers = service.admin_headers if admin else service.headers
    with Progress(what, len(bodies)) as bar:
        return asyncio.run(_ask_all(f"{service.url}{path}", headers, bodies, in_flight, bar))


async def _ask_all(
    url: str, headers: Mapping[str, str], bodies: Sequence[Answer], in_flight: int, bar: Progress
) -> list[dict[str, Any]]:
    import aiohttp

    answers: list[dict[str, Any]] = [{} for _ in bodies]
    pending: Iterator[tuple[int, Answer]] = iter(enumerate(bodies))
    done = 0

    async def worker(client: aiohttp.ClientSession) -> None:
        nonlocal done
        for number, body in pending:
            async with client.post(url, json=body) as answer:
                if answer.status != 200:
                    text = (await answer.text())[:200]
                    raise RunError(f"{url}, {what_failed(body)}: {answer.status}: {text}")
                answers[number] = await answer.json(content_type=None)
            done += 1
            bar.update(done)

    try:
        async with (
            aiohttp.ClientSession(headers=headers, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(in_flight):
                group.create_task(worker(client))
    except* aiohttp.ClientError as errors:
        raise RunError(f"the service went away: {errors.exceptions[0]!r}") from errors
    except* RunError as errors:
        raise errors.exceptions[0] from errors
    return answers


def what_failed(body: Answer) -> str:
    """A request in a few words, for an error."""
    return f"user {body['user_id']}" + (f", unit {body['unit_id']}" if "unit_id" in body else "")


def logged_agreement(exposed: Exposed, arms: Sequence[str], event_log: Path) -> float:
    """Share of the units of which the gateway's own log says the arm that its answer said.

    A unit that is missing in the log, or is there in two arms, disagrees.

    Parameters
    ----------
    arms
        Names of the arms, as the gateway's experiment has them.
    event_log
        Folder of the gateway's event log; may be written meanwhile.
    """
    from capstone.event_tables import EXPOSURES, FeedTables

    rows = FeedTables(event_log).read(EXPOSURES)
    inside = rows.filter(rows["in_experiment"])
    logged: dict[str, set[str]] = {}
    for unit, arm in zip(inside["unit_id"].to_pylist(), inside["arm"].to_pylist(), strict=True):
        logged.setdefault(unit, set()).add(arm)
    agree = [
        logged.get(str(unit)) == {arms[arm]}
        for unit, arm in zip(exposed.unit_ids, exposed.arm, strict=True)
    ]
    return float(np.mean(agree))
