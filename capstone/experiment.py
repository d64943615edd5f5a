"""An A/B test of two bundles on simulated users, through the live service."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from capstone.data import Feed, Ints
from capstone.serving import Service
from capstone.world import build_world, pre_period_clicks
from common.errors import RunError
from common.progress import Progress
from labs.lab6_online_eval.significance import Comparison, compare
from labs.lab6_online_eval.srm import SrmResult, srm_test


@dataclass(frozen=True)
class Outcome:
    """What the experiment found. ``plain`` is Welch's test, ``cuped`` the same with CUPED."""

    srm: SrmResult
    plain: Comparison
    cuped: Comparison


def run_experiment(
    service: Service,
    feed: Feed,
    *,
    users: int,
    weights: tuple[float, float],
    seed: int,
    in_flight: int = 8,
) -> Outcome:
    """Send every simulated user through the service once and analyse what they clicked.

    The service assigns the variant from the unit's id (lab 6) and serves that bundle's feed; the
    click behaviour is :class:`capstone.world.World`.

    Raises
    ------
    RunError
        When a request fails: a missing user would bias the comparison.
    """
    rng = np.random.default_rng(seed)
    people = rng.integers(0, feed.n_users, users)
    with Progress("simulated users", users) as bar:
        variants, lists = asyncio.run(_serve(service, people, in_flight, bar))
    world = build_world(feed)
    covariate = pre_period_clicks(world, people, feed, rng)
    clicks = world.clicks(people, lists, rng).astype(float)
    control, treatment = variants == 0, variants == 1
    return Outcome(
        srm=srm_test(exposed_units(service.exposures), weights),
        plain=compare(clicks[control], clicks[treatment]),
        cuped=compare(
            clicks[control],
            clicks[treatment],
            control_covariate=covariate[control],
            treatment_covariate=covariate[treatment],
        ),
    )


def exposed_units(log: Path, arms: int = 2) -> list[int]:
    """Units of each arm that the service says it exposed: what a sample ratio check must count.

    A unit that was shown both arms counts in both, and so shows as a mismatch of the total.
    """
    units: list[set[str]] = [set() for _ in range(arms)]
    with log.open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            units[row["variant"]].add(row["unit_id"])
    return [len(arm) for arm in units]


async def _serve(
    service: Service, people: Ints, in_flight: int, bar: Progress
) -> tuple[Ints, Ints]:
    variants = np.zeros(len(people), dtype=np.int64)
    lists = np.zeros((len(people), 10), dtype=np.int64)
    pending = iter(enumerate(people))
    done = 0

    async with aiohttp.ClientSession(headers=service.headers, trust_env=False) as client:

        async def worker() -> None:
            nonlocal done
            for number, person in pending:
                body = {"user_id": int(person) + 1, "k": 10, "unit_id": f"simulated-{number}"}
                async with client.post(f"{service.url}/feed", json=body) as answer:
                    if answer.status != 200:
                        raise RunError(
                            f"simulated user {number}: the service answered {answer.status}: "
                            f"{(await answer.text())[:200]}"
                        )
                    served = await answer.json()
                variants[number] = served["variant"]
                lists[number] = [item["item_id"] for item in served["items"]]
                done += 1
                bar.update(done)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(worker())
        except* aiohttp.ClientError as errors:
            raise RunError(f"the service went away: {errors.exceptions[0]!r}") from errors
        except* RunError as errors:
            raise errors.exceptions[0] from errors
    return variants, lists
