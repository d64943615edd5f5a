"""The rollout's controller on a simulated gateway: steps, memory, kills, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from capstone.live_rollout import champion_beside
from capstone.rollout import Controller, Plan, Windows, read_plan
from capstone.rollout_decision import ArmWindow, Limits, Step
from capstone.rollout_simulation import ArmLaw
from common.errors import InputError, RunError
from labs.lab6_online_eval.interleaving_sensitivity import Law

PLAN = Plan(
    "test",
    (
        Step("shadow", 0.0, feeds=100, looks=5),
        Step("5 %", 0.05, feeds=200, looks=20),
        Step("50 %", 0.5, feeds=1000, looks=20),
    ),
    Limits(),
)
CHAMPION = ArmLaw(Law(np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.3, 0.2])), hidden=0.03)
GOOD = ArmLaw(Law(np.array([0.0, 1.0, 2.0]), np.array([0.4, 0.3, 0.3])), hidden=0.03)
BAD = ArmLaw(Law(np.array([0.0, 1.0, 2.0]), np.array([0.8, 0.15, 0.05])), hidden=0.2)
POISONED = ArmLaw(CHAMPION.clicks, hidden=0.03, error=0.3, fallback=0.5)


class Gateway:
    """A gateway in memory: it counts what its weights make of 1,000 sessions a look."""

    def __init__(self, candidate: ArmLaw, *, seed: int = 0) -> None:
        self.candidate, self.rng = candidate, np.random.default_rng(seed)
        self.weight, self.shadow, self.window = 0.0, False, 0
        self.routed: list[tuple[float, bool]] = []
        self.down = 0
        self.counts = ArmWindow(), ArmWindow()

    def _answer(self) -> None:
        if self.down:
            self.down -= 1
            raise RunError("the gateway is away")

    def route(self, weight: float, *, shadow: bool) -> None:
        self._answer()
        self.weight, self.shadow = weight, shadow
        self.routed.append((weight, shadow))

    def begin(self) -> str:
        self._answer()
        self.window, self.counts = self.window + 1, (ArmWindow(), ArmWindow())
        return str(self.window)

    def windows(self, window: str) -> Windows:
        self._answer()
        n = 100 if self.shadow else round(1000 * self.weight)
        old, new = self.counts
        old += CHAMPION.window(1000 if self.shadow else 1000 - n, self.rng)
        if n:
            new += self.candidate.window(n, self.rng, seen=not self.shadow)
        self.counts = old, new
        return Windows(str(self.window), old, new)


def controller(gateway: Gateway, folder: Path, plan: Plan = PLAN) -> Controller:
    return Controller(plan, gateway, folder / "rollout.json", sleep=lambda seconds: None)


def test_a_good_candidate_goes_through_every_step(tmp_path: Path) -> None:
    """Shadow, 5 %, 50 %, everybody: each step is taken, in this order, and none is skipped."""
    gateway = Gateway(GOOD)
    found = controller(gateway, tmp_path)
    assert found.run() == "promoted", found.reason
    assert gateway.routed == [(0.0, True), (0.05, False), (0.5, False), (1.0, False)]
    assert [look.step for look in found.trace if look.action == "advance"] == [
        "shadow", "5 %", "50 %",
    ]  # fmt: skip


@pytest.mark.parametrize(("candidate", "most"), [(BAD, "5 %"), (POISONED, "shadow")])
def test_a_bad_candidate_is_sent_back_by_itself(
    candidate: ArmLaw, most: str, tmp_path: Path
) -> None:
    """A poisoned bundle is found in the shadow, where nobody sees it; bad lists at 5 %."""
    gateway = Gateway(candidate)
    found = controller(gateway, tmp_path)
    assert found.run() == "rolled_back"
    assert gateway.routed[-1] == (0.0, False), "the weight is 0 and the shadow is off"
    assert found.trace[-1].step == most, (found.trace[-1].step, found.reason)
    assert found.state == "rolled_back"


def test_the_weight_is_0_within_the_look_that_found_the_harm(tmp_path: Path) -> None:
    """Every further look would serve the harm to more people."""
    gateway = Gateway(BAD)
    found = controller(gateway, tmp_path)
    while found.tick() == "running":
        pass
    assert gateway.weight == 0.0
    assert len(found.trace) == sum(look.action != "rollback" for look in found.trace) + 1


def test_an_equal_candidate_is_not_promoted(tmp_path: Path) -> None:
    """When nothing can be told, the champion stays: looks end, and the reason says why."""
    found = controller(Gateway(CHAMPION, seed=1), tmp_path)
    assert found.run() == "rolled_back"
    assert "given up" in found.reason


def test_a_killed_controller_goes_on_where_it_was(tmp_path: Path) -> None:
    """A kill between any two ticks changes neither the steps nor the end."""
    gateway = Gateway(GOOD)
    for _ in range(200):
        found = controller(gateway, tmp_path)  # a new process: only the file is left
        if found.tick() != "running":
            break
        if found.tick() != "running":
            break
    found = controller(gateway, tmp_path)
    found.run()
    assert found.status == "promoted"
    assert gateway.weight == 1.0
    assert gateway.window == 3, "each step's window is begun once, whoever was killed"
    steps = [look.step for look in found.trace]
    assert sorted(set(steps), key=steps.index) == ["shadow", "5 %", "50 %"]
    looks = [look.look for look in found.trace if look.step == "50 %"]
    assert looks == list(range(1, len(looks) + 1)), "no look is counted twice or forgotten"


def test_what_was_decided_is_done_after_a_kill(tmp_path: Path) -> None:
    """The decision is on disk before it is carried out: a kill in between undoes nothing."""
    gateway = Gateway(BAD)
    found = controller(gateway, tmp_path)
    while found.state != "5 %" or not gateway.weight:
        found.tick()
    while found.look().action == "wait":
        pass
    assert found.status == "rolled_back"
    assert gateway.weight == 0.05, "decided, and killed before it was done"
    assert controller(gateway, tmp_path).run() == "rolled_back"
    assert gateway.weight == 0.0


def test_a_gateway_that_is_away_is_asked_again(tmp_path: Path) -> None:
    """A gateway restarts within seconds; a rollback that gave up by then would never be done."""
    gateway = Gateway(BAD)
    gateway.down = 5
    found = controller(gateway, tmp_path)
    assert found.run() == "rolled_back"
    gateway.down = 1000
    with pytest.raises(RunError, match="could not be told"):
        controller(gateway, tmp_path).run(most_failures=3)


def test_a_lost_window_begins_anew(tmp_path: Path) -> None:
    """Half of the evidence must not promote: a count that was lost is taken again from 0."""
    gateway = Gateway(GOOD)
    found = controller(gateway, tmp_path)
    while found.state != "50 %":
        found.tick()
    found.tick()
    gateway.window += 7  # somebody else began another window
    found.tick()
    found.tick()
    found.tick()
    assert found.trace[-1].candidate.feeds <= 1000, found.trace[-1]


def test_the_state_of_another_rollout_is_refused(tmp_path: Path) -> None:
    """Continuing one candidate's rollout with another's file would skip its steps."""
    controller(Gateway(GOOD), tmp_path).tick()
    other = Plan("other", PLAN.steps)
    with pytest.raises(InputError, match="another rollout"):
        controller(Gateway(GOOD), tmp_path, other)
    (tmp_path / "rollout.json").write_text("{")
    with pytest.raises(InputError, match="no rollout's state"):
        controller(Gateway(GOOD), tmp_path)


def test_the_file_of_the_repository_is_a_rollout_through_a_shadow() -> None:
    """What is shipped must be readable, and begin where nobody is exposed."""
    plan = read_plan()
    assert [step.name for step in plan.steps] == ["shadow", "5 %", "50 %"]
    assert [step.weight for step in plan.steps] == [0.0, 0.05, 0.5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("feeds = 2000", "feeds = -1"), "feeds"),
        (("alpha = 0.05", "alpha = 0.9"), "alpha"),
        (("weight = 0.5", "weight = 0.01"), "ascend"),
        (("slow_ms = 50.0", 'slow_ms = "fast"'), "slow_ms"),
        (("looks = 10", "lookz = 10"), "lookz"),
        (('name = "feed"', 'name = "feed'), "no rollout file"),
    ],
)
def test_a_bad_file_is_refused_by_the_key_at_fault(
    change: tuple[str, str], named: str, tmp_path: Path
) -> None:
    """A typed file that is read wrongly decides wrongly; the message says what to mend."""
    from capstone.rollout import PLAN as SHIPPED

    text = SHIPPED.read_text(encoding="utf-8")
    assert change[0] in text
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(InputError, match=named):
        read_plan(bad)


def test_the_trace_on_disk_survives_half_a_line(tmp_path: Path) -> None:
    """A controller is killed while it writes; what was written before must still be read."""
    gateway = Gateway(GOOD)
    found = controller(gateway, tmp_path)
    for _ in range(6):
        found.tick()
    path = tmp_path / "rollout.trace.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '\n{"step": "50', encoding="utf-8")
    assert controller(gateway, tmp_path).trace == found.trace
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert json.loads(lines[0])["step"] == "shadow"


@pytest.mark.parametrize(
    ("weights", "candidate", "champion"),
    [
        ((0.5, 0.0, 0.5), 0, 2),  # halfway, and the candidate comes first
        ((0.0, 0.5, 0.5), 1, 2),
        ((0.95, 0.0, 0.05), 2, 0),
    ],
)
def test_a_resumed_command_finds_the_champion_it_had(
    weights: tuple[float, ...], candidate: int, champion: int
) -> None:
    """Halfway both have the same weight; an arm that gets nobody must not take the champion's."""
    arms = [{"variant": each, "weight": weight} for each, weight in enumerate(weights)]
    assert champion_beside(arms, arms[candidate])["variant"] == champion


def test_the_only_arm_has_nothing_to_be_rolled_out_against() -> None:
    """It is refused by name."""
    arm = {"variant": 0, "weight": 1.0, "name": "champion"}
    with pytest.raises(InputError, match="'champion' is the only one"):
        champion_beside([arm], arm)
