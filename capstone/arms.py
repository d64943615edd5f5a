"""The arms of the running experiment: who gets which bundle, and which one only listens.

Lab 6's hash assigns the units. What an administrator sets is kept on disk, so that an arm that was
taken back does not return with a restart.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from capstone import api
from capstone.feed import Pipeline, Request
from capstone.gateway_config import MAX_ARMS
from capstone.loaded_bundle import LoadedBundle
from capstone.service_metrics import ServiceMetrics
from common.errors import require
from common.results import write_json
from labs.lab4_model_serving.traffic import unit_hash
from labs.lab6_online_eval.assignment import assign, check_shares

SHADOWS_UNDER_WAY = 2
"""Copies at a time; more are not made. A shadow may cost time that is left over, no other."""


@dataclass(frozen=True)
class Arm:
    """One arm: a bundle and the stages over it."""

    name: str
    loaded: LoadedBundle
    pipeline: Pipeline


@dataclass(frozen=True)
class Settings:
    """What may be changed while the gateway runs."""

    weights: tuple[float, ...]
    coverage: float = 1.0
    shadow: int | None = None
    shadow_share: float = 0.25


class Arms:
    """All arms, and who gets which.

    Parameters
    ----------
    experiment
        Name of the experiment: the salt of the assignment.
    path
        Where the settings are kept.

    Raises
    ------
    InputError
        For weights that do not fit the arms.
    """

    def __init__(
        self, experiment: str, settings: Settings, path: Path, metrics: ServiceMetrics
    ) -> None:
        self.experiment, self.path, self.metrics = experiment, path, metrics
        self.arms: list[Arm] = []
        self.settings = settings

    def __len__(self) -> int:
        return len(self.arms)

    def __getitem__(self, variant: int) -> Arm:
        return self.arms[variant]

    def add(self, arm: Arm, *, weight: float | None = None) -> int:
        """Add an arm; returns its variant. Without a weight it gets nobody.

        Raises
        ------
        InputError
            There are as many as there may be, or one of this name.
        """
        require(len(self) < MAX_ARMS, "arms", len(self), f"must stay below {MAX_ARMS}")
        names = [each.name for each in self.arms]
        require(arm.name not in names, "arm", arm.name, f"must not be one of {names}")
        self.arms.append(arm)
        if len(self.settings.weights) < len(self):
            self.settings = replace(self.settings, weights=(*self.settings.weights, weight or 0.0))
        self._tell()
        return len(self) - 1

    def restore(self) -> None:
        """Take the settings of an earlier life; an arm it did not know in this version gets nobody.

        What is left over of the weights goes to the first arm.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            kept = content.pop("arms")
            weights = [kept.get(f"{arm.name} {arm.loaded.version}", 0.0) for arm in self.arms]
            weights[0] = 1 - sum(weights[1:])
            shadow = content["shadow"]
            if shadow is not None and shadow >= len(self):
                content["shadow"] = None
            self.change(Settings(weights=tuple(weights), **content))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return  # none, or of another version of this code: what was configured holds

    def change(self, settings: Settings) -> None:
        """New settings, in force with the next request; on disk before this returns.

        Raises
        ------
        InputError
            Weights that do not sum to 1 or are not one an arm; an unknown shadow.
        """
        n = len(self)
        require(
            len(settings.weights) == n, "weights", settings.weights, f"must have {n}, one an arm"
        )
        check_shares(settings.weights, settings.coverage)
        if settings.shadow is not None:
            require(settings.shadow < n, "shadow", settings.shadow, f"must be below {n}, a variant")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = asdict(settings)
        weights = kept.pop("weights")
        names = [f"{arm.name} {arm.loaded.version}" for arm in self.arms]
        write_json(self.path, kept | {"arms": dict(zip(names, weights, strict=True))})
        self.settings = settings
        self._tell()

    def variant_of(self, unit: str) -> int | None:
        """The unit's variant; None outside the coverage: it is shown variant 0 and not counted."""
        return assign(unit, self.experiment, self.settings.weights, self.settings.coverage)

    def asked(self) -> list[Arm]:
        """Those that serve somebody: one that was taken back is not asked again, well or not."""
        outside = self.settings.coverage < 1  # who is shown variant 0
        shares = zip(self.arms, self.settings.weights, strict=False)
        return [arm for n, (arm, weight) in enumerate(shares) if weight > 0 or (n == 0 and outside)]

    def described(self) -> list[api.Arm]:
        return [
            api.Arm(
                name=arm.name,
                version=arm.loaded.version,
                checkpoint=arm.loaded.bundle.checkpoint,
                weight=self.settings.weights[variant],
                variant=variant,
            )
            for variant, arm in enumerate(self.arms)
        ]

    def _tell(self) -> None:
        self.metrics.bundle.clear()
        for arm in self.described():
            self.metrics.bundle.labels(arm.version, arm.checkpoint, arm.name).set(1)
            self.metrics.weight.labels(arm.name).set(arm.weight)


class Shadow:
    """Asks the shadow arm for what was just served, and compares the first items.

    The answer is made by then. A copy goes through the stages that rank and not through the log,
    so nothing of it is exposed, learnt from or counted as a feed.
    """

    def __init__(self, arms: Arms, metrics: ServiceMetrics) -> None:
        self._arms = arms
        self._outcome = {name: metrics.shadow.labels(name) for name in ("same", "other", "failed")}
        self.counts = dict.fromkeys((*self._outcome, "dropped"), 0)
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, request: Request) -> None:
        """Copy a served request if it is in the sample."""
        settings = self._arms.settings
        variant = settings.shadow
        if variant is None or variant == request.variant or request.missed:
            return
        if unit_hash("shadow", request.request_id) >= settings.shadow_share:
            return
        if len(self._tasks) >= SHADOWS_UNDER_WAY:
            self.counts["dropped"] += 1
            return
        copy = Request(request.request_id, request.user_id, request.unit_id, request.k, variant)
        task = asyncio.ensure_future(self._compare(self._arms[variant], request, copy))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, arm: Arm, request: Request, copy: Request) -> None:
        try:
            await arm.pipeline.rank(copy)
        except Exception:  # whatever an arm that is not live does, is a count
            self._count("failed")
            return
        assert request.shown is not None
        assert copy.shown is not None
        ours, theirs = request.shown.items[:1].tolist(), copy.shown.items[:1].tolist()
        self._count("same" if ours == theirs else "other")

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1
        self._outcome[outcome].inc()

    def report(self) -> api.ShadowReport | None:
        """Counts since the start; None without a shadow."""
        variant = self._arms.settings.shadow
        if variant is None:
            return None
        return api.ShadowReport(
            arm=self._arms[variant].name, share=self._arms.settings.shadow_share, **self.counts
        )

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
