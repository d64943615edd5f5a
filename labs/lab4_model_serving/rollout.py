"""A rollout: a file that says how, and a controller that looks, decides and remembers.

The controller is not part of the server: it reads windows and sets weights over the management
routes. What it has decided is on disk before it is done, so a controller that was killed goes on
where it was, and setting the same weights twice changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from common.errors import InputError, RunError, require
from common.results import write_json
from labs.lab4_model_serving.management_client import Windows
from labs.lab4_model_serving.rollout_policy import Action, Decision, Guardrails, Window, decide

Status = Literal["running", "promoted", "rolled_back"]
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """The new version gets ``weight`` of the requests, at least this many and this long."""

    weight: float
    samples: int
    seconds: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.weight < 1, "weight", self.weight, "must be in (0, 1)")
        require(self.samples >= 1, "samples", self.samples, "must be >= 1")
        require(self.seconds >= 0, "seconds", self.seconds, "must be >= 0")


@dataclass(frozen=True)
class Rollout:
    """What a rollout file says."""

    model: str
    old: str
    new: str
    salt: str
    """Of the choice of users; another one for every rollout."""
    steps: tuple[Step, ...]
    guardrails: Guardrails = field(default_factory=Guardrails)
    look_every_s: float = 1.0
    give_up_after_s: float = 600.0
    """A step that has not been passed by then goes back: no proof of safety is no promotion."""

    def __post_init__(self) -> None:
        require(len(self.steps) >= 1, "number of steps", 0, "must be at least 1")
        weights = [step.weight for step in self.steps]
        ascending = all(a < b for a, b in pairwise(weights))
        require(ascending, "weights of the steps", weights, "must ascend")
        require(self.old != self.new, "new", self.new, "must be another version than old")
        require(self.salt != "", "salt", self.salt, "must not be empty", "name the rollout")
        require(self.look_every_s > 0, "look_every_s", self.look_every_s, "must be > 0")
        longest = max(step.seconds for step in self.steps)
        require(
            self.give_up_after_s > longest,
            "give_up_after_s",
            self.give_up_after_s,
            f"must be above the longest step, {longest:g} s",
        )

    @property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        return fingerprint_of(self)


def fingerprint_of(plan: Any) -> str:
    """A hash of everything in a plan (a dataclass): a changed one is another rollout."""
    return hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:16]


def read_rollout(path: Path) -> Rollout:
    """Read a rollout file (TOML).

    Raises
    ------
    InputError
        No such file, not TOML, an unknown or missing key, a value of the wrong type or out of its
        limits. The message names it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no rollout file: {error}") from error
    steps, guardrails = content.pop("step", []), content.pop("guardrails", {})
    if not isinstance(steps, list) or not isinstance(guardrails, dict):
        raise InputError(f"{path}: write each step under [[step]], the limits under [guardrails]")
    content["steps"] = tuple(_typed(Step, each, f"{path}: step") for each in steps)
    content["guardrails"] = _typed(Guardrails, guardrails, f"{path}: guardrails")
    return _typed(Rollout, content, f"{path}")


def _typed(kind: type[T], content: Mapping[str, Any], where: str) -> T:
    types: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    for name, value in content.items():
        if name not in fields:
            raise InputError(f"{where}: {name!r} is unknown; known are {', '.join(fields)}")
        expected = types.get(fields[name].type, object)
        if isinstance(value, bool) or not isinstance(value, expected):
            raise InputError(f"{where}: {name} = {value!r} must be of type {fields[name].type}")
    try:
        return kind(**content)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


class Traffic(Protocol):
    """What a controller needs of a server (:class:`management_client.ManagementClient`)."""

    def set_weights(self, weights: Mapping[str, float], *, salt: str | None = None) -> None: ...

    def begin_window(self, slow_ms: float) -> str: ...

    def windows(self) -> Windows: ...


@dataclass(frozen=True)
class Look:
    """One look of the controller, ``at_s`` seconds after the rollout began."""

    at_s: float
    step: int
    weight: float
    new: Window
    old: Window
    action: Action
    reason: str


class State(Protocol):
    """What any rollout's state has."""

    fingerprint: str
    step: int


S = TypeVar("S", bound=State)
L = TypeVar("L")


class Journal(Generic[S, L]):
    """What a controller has on disk: its state, whole, and beside it a line for every look.

    Parameters
    ----------
    file
        Of the state; the looks are in ``<name>.trace.jsonl``.
    state, look
        Make a state, and a look, of what was written of it as JSON.
    """

    def __init__(
        self, file: Path, state: Callable[..., S], look: Callable[[dict[str, Any]], L]
    ) -> None:
        self._file, self._trace = file, file.with_suffix(".trace.jsonl")
        self._make_state, self._make_look = state, look

    def open(self, fresh: S, steps: int) -> tuple[S, list[L]]:
        """The state and the looks of an earlier process; ``fresh`` and none when there was none.

        Raises
        ------
        InputError
            The file is of another rollout, or none.
        """
        if not self._file.exists():
            return fresh, []
        try:
            state = self._make_state(**json.loads(self._file.read_text(encoding="utf-8")))
            require(0 <= state.step < steps, "step", state.step, f"must be below {steps}")
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self._file} is no rollout's state: {error!r}") from error
        if state.fingerprint != fresh.fingerprint:
            raise InputError(
                f"{self._file} is the state of another rollout; end that one, or choose another "
                "file"
            )
        return state, list(self._looks())

    def save(self, state: S) -> None:
        """Write the state: whole, or not at all."""
        write_json(self._file, asdict(state))  # type: ignore[call-overload]

    def remember(self, look: L, *, first: bool) -> None:
        """Add a look; the ``first`` of a rollout begins the file."""
        with self._trace.open("w" if first else "a", encoding="utf-8") as stream:
            # The line break comes first: half a line of a killed controller spoils no other.
            stream.write("\n" + json.dumps(asdict(look)))  # type: ignore[call-overload]

    def _looks(self) -> Iterator[L]:
        text = self._trace.read_text(encoding="utf-8") if self._trace.exists() else ""
        for line in text.splitlines():
            try:
                yield self._make_look(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # the line that was being written when the controller was killed


@dataclass
class _State:
    fingerprint: str
    status: Status = "running"
    step: int = 0
    reason: str = ""
    began: float = 0.0
    step_began: float = 0.0
    window: str | None = None


class Controller:
    """Carries out one rollout.

    Parameters
    ----------
    state_file
        Written whole before every change. One that exists is continued. Beside it, every look is
        a line of ``<name>.trace.jsonl``.
    clock, sleep
        Seconds since the epoch (they must survive a restart), and how to wait.

    Raises
    ------
    InputError
        The state file is of another rollout, or none.
    """

    def __init__(
        self,
        rollout: Rollout,
        traffic: Traffic,
        state_file: Path,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rollout, self._traffic = rollout, traffic
        self._clock, self._sleep = clock, sleep
        now = clock()
        self._journal = Journal(state_file, _State, _look)
        fresh = _State(rollout.fingerprint, began=now, step_began=now)
        self._state, self.trace = self._journal.open(fresh, len(rollout.steps))

    @property
    def status(self) -> Status:
        return self._state.status

    @property
    def reason(self) -> str:
        """Why it ended as it did."""
        return self._state.reason

    @property
    def weights(self) -> dict[str, float]:
        """What the weights are to be now."""
        new = {"promoted": 1.0, "rolled_back": 0.0}.get(
            self.status, self.rollout.steps[self._state.step].weight
        )
        return {self.rollout.old: 1 - new, self.rollout.new: new}

    def run(self) -> Status:
        """Look until it is decided, and done. A server that cannot be reached is asked again.

        Raises
        ------
        InputError
            The old version is not live, so that there is nothing to go back to.
        RunError
            Twice ``give_up_after_s`` after the step began (or this call, if later), the server
            still does not answer. What was decided is in the state file; run again to do it.
        """
        began, applied = self._clock(), False
        while True:
            try:
                if not applied:
                    self._apply()
                    applied = True
                if self.status != "running":
                    return self.status
                applied = not self.look()
                if applied:
                    self._sleep(self.rollout.look_every_s)
            except RunError as error:
                if self.status == "running" and self._overdue():
                    self._end("rolled_back", f"given up: {error}")
                    applied = False
                waited = self._clock() - max(began, self._state.step_began)
                if waited > 2 * self.rollout.give_up_after_s:
                    raise RunError(
                        f"{self.status} could not be told to the server for {waited:.0f} s: {error}"
                    ) from error
                self._sleep(self.rollout.look_every_s)

    def look(self) -> bool:
        """One look and what follows from it; True when the weights are to be changed."""
        windows = self._traffic.windows()
        if windows.id != self._state.window:
            # The server was restarted, or somebody began a new window: the step counts anew. Its
            # intervals are then a second chance to be misled, which alpha does not pay for.
            return True
        rollout, state, now = self.rollout, self._state, self._clock()
        step = rollout.steps[state.step]
        last = state.step == len(rollout.steps) - 1
        new, old = windows.of(rollout.new), windows.of(rollout.old)
        decision = decide(
            new,
            old,
            rollout.guardrails,
            samples=step.samples,
            last=last,
            steps=len(rollout.steps),
        )
        if decision.action == "advance" and now - state.step_began < step.seconds:
            decision = Decision("wait", f"until {step.seconds:g} s are over", decision.checks)
        if decision.action == "wait" and self._overdue():
            decision = Decision("rollback", f"given up: {decision.reason}", decision.checks)
        self._remember(
            Look(
                now - state.began,
                state.step,
                step.weight,
                new,
                old,
                decision.action,
                decision.reason,
            )
        )
        if decision.action == "rollback":
            self._end("rolled_back", decision.reason)
        elif decision.action == "advance" and last:
            self._end("promoted", decision.reason)
        elif decision.action == "advance":
            state.step, state.step_began, state.window = state.step + 1, now, None
            self._save()
        return decision.action != "wait"

    def _apply(self) -> None:
        """Make the server do what the state says; the same again changes nothing."""
        self._save()
        try:
            self._traffic.set_weights(
                {version: weight for version, weight in self.weights.items() if weight > 0},
                salt=self.rollout.salt,
            )
        except InputError as error:
            if self.status != "running":
                raise
            self._end("rolled_back", f"the server refused the weights: {error}")
            self._apply()
            return
        if self.status != "running":
            return
        known = self._state.window is not None
        if not known or self._traffic.windows().id != self._state.window:
            self._state.window = self._traffic.begin_window(self.rollout.guardrails.p99_ms)
            self._save()

    def _overdue(self) -> bool:
        return self._clock() - self._state.step_began > self.rollout.give_up_after_s

    def _end(self, status: Status, reason: str) -> None:
        self._state.status, self._state.reason = status, reason
        self._save()

    def _remember(self, look: Look) -> None:
        self._journal.remember(look, first=not self.trace)
        self.trace.append(look)

    def _save(self) -> None:
        self._journal.save(self._state)


def _look(content: dict[str, Any]) -> Look:
    windows = {name: Window(**content[name]) for name in ("new", "old")}
    return Look(**{**content, **windows})
