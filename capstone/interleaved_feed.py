"""An interleaved feed: one arm of the experiment that drafts each feed from two others.

Every stage does for both arms what it does for one, within the same deadline; the last one lets
them pick in turns (lab 6's team draft), and each item remembers whose it is. Who gets such a feed
is a matter of assignment, as with any arm; the answer names both versions, the log the owner of
each place, and :func:`capstone.interleaved.logged_preference` gives the credit.

Neither arm explores here: an item that was drawn at random says nothing of who ranks better.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from capstone.arms import Arm
from capstone.fallback import CircuitBreaker
from capstone.feed import Pipeline, Request, Shown, Stage
from capstone.loaded_bundle import LoadedBundle
from capstone.stages import Fallback, Log, Select
from common.errors import require
from labs.lab6_online_eval.interleaving import coins, team_draft


@dataclass
class Both:
    """One stage of two arms, on a request of each."""

    name: str
    stages: tuple[Stage, Stage]
    variants: tuple[int, int]
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    async def __call__(self, request: Request) -> None:
        if request.drafts is None:
            first, second = (
                Request(
                    request.request_id,
                    request.user_id,
                    request.unit_id,
                    request.k,
                    variant,
                    history=request.history,
                )
                for variant in self.variants
            )
            request.drafts = first, second
        pairs = zip(self.stages, request.drafts, strict=True)
        await asyncio.gather(*(stage(draft) for stage, draft in pairs))
        request.candidates = request.drafts[0].candidates


@dataclass
class Draft:
    """Both arms select, then they pick in turns."""

    both: Both
    rng: np.random.Generator
    name: str = "select"
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    async def __call__(self, request: Request) -> None:
        await self.both(request)
        assert request.drafts is not None
        lists = [cast(Shown, draft.shown) for draft in request.drafts]
        request.shown = interleave(lists[0], lists[1], self.both.variants, self.rng)


def interleave(
    first: Shown, second: Shown, variants: tuple[int, int], rng: np.random.Generator
) -> Shown:
    """One feed, as long as the shorter of the two, from both arms' by team draft."""
    k = min(len(first.items), len(second.items))
    if k == 0:
        return replace(first.rows(np.zeros(0, dtype=np.int64)), teams=np.zeros(0, dtype=np.int64))
    lists = [first.items.tolist(), second.items.tolist()]
    items, teams = team_draft(lists[0], lists[1], k, coins(1, k, rng)[0].tolist())
    parts = [
        own.rows(np.array([lists[team].index(item)]))
        for item, team in zip(items, teams, strict=True)
        for own in [(first, second)[team]]
    ]
    return replace(
        Shown.concatenated(parts),
        # Of the coins; nobody has added it up, and no estimate may take it for 1.
        propensity=np.full(k, np.nan),
        teams=np.array([variants[team] for team in teams], dtype=np.int64),
    )


def interleaved_arm(
    name: str, arms: tuple[Arm, Arm], variants: tuple[int, int], rng: np.random.Generator
) -> Arm:
    """An arm that drafts from two; its version is both of theirs.

    Raises
    ------
    InputError
        They are the same arm, one is interleaved itself, or their catalogues differ.
    """
    require(variants[0] != variants[1], "variants", variants, "must be two different arms")
    for arm in arms:
        plain = isinstance(arm.pipeline.select, Select)
        require(plain, "arm", arm.name, "must not be interleaved itself")
    first, second = arms
    require(
        first.loaded.catalogue.n_items == second.loaded.catalogue.n_items,
        "items of the second arm", second.loaded.catalogue.n_items,
        f"must be {first.loaded.catalogue.n_items}, as the first arm has",
    )  # fmt: skip

    def both(stage: Callable[[Arm], Stage]) -> Both:
        own = stage(first), stage(second)
        like = own[0].breaker
        breaker = CircuitBreaker(failures=like.failures, cooldown_s=like.cooldown_s)
        return Both(own[0].name, own, variants, breaker)

    def unexplored(arm: Arm) -> Select:
        select = cast(Select, arm.pipeline.select)
        rerank = replace(select.loaded.rerank, exploration_slots=0)
        return replace(select, loaded=replace(select.loaded, rerank=rerank))

    loaded = of_both(first.loaded, second.loaded)
    pipeline = Pipeline(
        hydrate=first.pipeline.hydrate,
        source=both(lambda arm: arm.pipeline.source),
        filter=both(lambda arm: arm.pipeline.filter),
        score=both(lambda arm: arm.pipeline.score),
        select=Draft(both(unexplored), rng),
        fallback=replace(cast(Fallback, first.pipeline.fallback)),
        log=replace(cast(Log, first.pipeline.log), arm=name, loaded=loaded),
    )
    return Arm(name, loaded, pipeline)


def of_both(first: LoadedBundle, second: LoadedBundle) -> LoadedBundle:
    """The first bundle under the version of both, ``<first>+<second>``."""
    version = f"{first.version}+{second.version}"
    return replace(first, bundle=replace(first.bundle, version=version))
