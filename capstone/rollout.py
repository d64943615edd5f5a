"""A rollout from shadow to everybody: shadow -> 5 % -> 50 % -> promoted, or rolled back.

    shadow --> 5 % --> 50 % --> promoted
       |         |        |
       +---------+--------+---> rolled back (weight 0)

The controller reads windows, decides by `rollout_decision.next_action`, and writes the decision to
disk before it carries it out. One that was killed goes on where it was: it applies its state again,
and the same weight set twice changes nothing.

Lab 4's controller watches shares of bad requests of a model. A feed has to *win* as well, and its
first step serves nobody, so this one decides by another rule on other windows; the verdicts, the
confidence sequences and the journal ("remember, then act") are the lab's.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from capstone.rollout_decision import (
    ArmWindow,
    Decision,
    Limits,
    Step,
    judge_windows,
    next_action,
)
from common.errors import InputError, RunError, require
from labs.lab4_model_serving.rollout import Journal, Status, fingerprint_of
from labs.lab6_online_eval.experiment import STRICT

PLAN: Path = Path(__file__).parent / "experiments" / "rollout.toml"
ENDS = {"promoted": 1.0, "rolled_back": 0.0}


@dataclass(frozen=True)
class Plan:
    """What a rollout file says."""

    name: str
    """Of the rollout, and of its state file."""
    steps: tuple[Step, ...]
    limits: Limits = field(default_factory=Limits)
    look_every_s: float = 2.0

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        require(self.name.strip() != "", "name", self.name, "must not be empty")
        require(len(self.steps) >= 1, "steps", len(self.steps), "must be at least 1")
        weights = [step.weight for step in self.steps]
        ascending = all(a < b for a, b in pairwise(weights))
        require(ascending, "weights of the steps", weights, "must ascend")
        require(weights[-1] > 0, "weight of the last step", weights[-1], "must be > 0")
        require(self.look_every_s > 0, "look_every_s", self.look_every_s, "must be > 0")

    @property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        return fingerprint_of(self)


def read_plan(path: Path = PLAN) -> Plan:
    """Read a rollout file (TOML).

    Raises
    ------
    InputError
        No such file, not TOML, an unknown or missing key, a value of the wrong type or out of its
        limits; the message names the file and every key at fault.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        text = json.dumps(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no rollout file: {error}") from error
    try:
        return TypeAdapter(Plan).validate_json(text)
    except ValidationError as error:
        faults = [
            ".".join(map(str, each["loc"])) + f" = {each['input']!r}: {each['msg']}"
            for each in error.errors()
        ]
        raise InputError(f"{path}: " + "; ".join(faults)) from None


@dataclass(frozen=True)
class Windows:
    """What was seen of both arms since the window ``id`` began."""

    id: str
    champion: ArmWindow
    candidate: ArmWindow


class Traffic(Protocol):
    """What a controller needs of a gateway; :class:`capstone.gateway_traffic.GatewayTraffic`.

    Each raises `RunError` when the gateway does not answer: the controller asks again.
    """

    def route(self, weight: float, *, shadow: bool) -> None:
        """Give the candidate this share of the units, or copies only. Twice is as once."""

    def begin(self) -> str:
        """Count anew; the window's id."""

    def windows(self, window: str) -> Windows:
        """What was counted since then; another id when that count is lost."""


@dataclass(frozen=True)
class Look:
    """One look, as the trace keeps it. ``weight`` is the candidate's while it was taken."""

    step: str
    look: int
    weight: float
    champion: ArmWindow
    candidate: ArmWindow
    guardrails: dict[str, str]
    success: tuple[float, float] | None
    """Interval of the effect on clicks a session; None while nothing is known."""
    action: str
    reason: str
    at: float = 0.0
    """Seconds since the epoch."""


@dataclass
class _State:
    fingerprint: str
    status: Status = "running"
    step: int = 0
    looks: int = 0
    """At this step."""
    reason: str = ""
    window: str | None = None


class Controller:
    """Carries out one rollout.

    Parameters
    ----------
    state_file
        Written whole before every change of the traffic. One that exists is continued. Beside it,
        every look is a line of ``<name>.trace.jsonl``.
    sleep
        How to wait between looks.

    Raises
    ------
    InputError
        The state file is of another rollout, or none.
    """

    def __init__(
        self,
        plan: Plan,
        traffic: Traffic,
        state_file: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.plan, self._traffic, self._sleep = plan, traffic, sleep
        self._journal = Journal(state_file, _State, _look)
        self._state, self.trace = self._journal.open(_State(plan.fingerprint), len(plan.steps))
        self._applied = False

    @property
    def status(self) -> Status:
        return self._state.status

    @property
    def state(self) -> str:
        """``shadow``, ``5 %``, ``50 %`` (the steps of the file), ``promoted``, ``rolled_back``."""
        if self._state.status != "running":
            return self._state.status
        return self.plan.steps[self._state.step].name

    @property
    def reason(self) -> str:
        """Why it ended as it did."""
        return self._state.reason

    @property
    def weight(self) -> float:
        """The candidate's share of the units, as it is to be now."""
        return ENDS.get(self.status, self.plan.steps[self._state.step].weight)

    def run(self, *, most_failures: int = 30) -> Status:
        """Look until it is decided and done. A gateway that does not answer is asked again.

        Raises
        ------
        RunError
            ``most_failures`` times in a row no answer. What was decided is in the state file, and
            the next run does it.
        """
        failures = 0
        while True:
            try:
                if self.tick() != "running" and self._applied:
                    return self.status
                failures = 0
            except RunError as error:
                failures += 1
                if failures >= most_failures:
                    raise RunError(f"{self.state} could not be told to the gateway: {error}") from (
                        error
                    )
            self._sleep(self.plan.look_every_s)

    def tick(self) -> Status:
        """Apply what was decided, look once, and apply what follows: no waiting in between."""
        if not self._applied:
            self._apply()
            return self.status
        if self.status == "running" and self.look().action != "wait":
            self._apply()
        return self.status

    def look(self) -> Decision:
        """One look; its decision is in the state file when it returns, and not yet applied."""
        assert self._state.window is not None
        windows = self._traffic.windows(self._state.window)
        if windows.id != self._state.window:
            # What this step had counted is lost: counting anew gives chance a second try, which
            # alpha does not pay for, but a promotion on half of the evidence would be worse.
            self._state.window, self._applied = None, False
            self._save()
            return Decision("wait", "the window is another one; it begins anew")
        plan, state = self.plan, self._state
        step, last = plan.steps[state.step], state.step == len(plan.steps) - 1
        state.looks += 1
        evidence = judge_windows(
            windows.candidate,
            windows.champion,
            plan.limits,
            looks=state.looks,
            steps=len(plan.steps),
        )
        decision = next_action(step, evidence, last=last, margin=plan.limits.success_margin)
        known = all(map(isfinite, evidence.success))
        self._remember(
            Look(
                step.name,
                state.looks,
                step.weight,
                windows.champion,
                windows.candidate,
                dict(evidence.guardrails),
                evidence.success if known else None,
                decision.action,
                decision.reason,
                time.time(),
            )
        )
        if decision.action == "rollback":
            state.status, state.reason = "rolled_back", decision.reason
        elif decision.action == "advance" and last:
            state.status, state.reason = "promoted", decision.reason
        elif decision.action == "advance":
            state.step, state.looks, state.window = state.step + 1, 0, None
        self._applied = decision.action == "wait"
        self._save()
        return decision

    def _apply(self) -> None:
        """Make the gateway do what the state says, and begin the step's window if it has none."""
        self._save()
        shadow = self.status == "running" and self.weight == 0
        self._traffic.route(self.weight, shadow=shadow)
        if self.status == "running" and self._state.window is None:
            self._state.window = self._traffic.begin()
            self._save()
        self._applied = True

    def _remember(self, look: Look) -> None:
        self._journal.remember(look, first=not self.trace)
        self.trace.append(look)

    def _save(self) -> None:
        self._journal.save(self._state)


def _look(content: dict[str, Any]) -> Look:
    arms = {name: ArmWindow(**content[name]) for name in ("champion", "candidate")}
    success = content["success"]
    return Look(**content | arms | {"success": success and tuple(success)})


if __name__ == "__main__":
    import sys

    from capstone.live_rollout import main

    sys.exit(main())
