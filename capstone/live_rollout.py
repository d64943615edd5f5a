"""A rollout on a live gateway, from the bundle to the registry's alias; and its command.

::

    python -m capstone.rollout --candidate reference --registry .../registry.db

    POST /bundles -> an arm of weight 0 -> shadow -> 5 % -> 50 % -> weight 1, alias champion
                                             `--------`------`----> weight 0, alias taken away

The gateway moves first and the registry after it: what the alias names is what people already get.
A command that was killed is typed again; its state file says where it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import tyro

from capstone.gateway_traffic import GatewayTraffic
from capstone.rollout import PLAN, Controller, Look, Plan, read_plan
from common.errors import EXIT_FAILED, EXIT_OK, InputError, RunError, exit_status

if TYPE_CHECKING:
    from capstone.registry import Registry
    from labs.lab4_model_serving.rollout import Status

ADMIN, CLIENT = "FEED_ADMIN_TOKEN", "FEED_TOKEN"


@dataclass(frozen=True)
class StepSeen:
    """What one step took: seconds, looks, and the feeds of either arm that were counted in it."""

    name: str
    seconds: float
    looks: int
    champion: int
    candidate: int


@dataclass(frozen=True)
class LiveRollout:
    """How a live rollout ended, and every look of it.

    Attributes
    ----------
    seconds
        From the first look to the last, of all processes that led it.
    """

    status: Status
    reason: str
    trace: tuple[Look, ...]

    @property
    def harmful(self) -> bool:
        """Whether it was sent back for a guardrail that is certainly broken."""
        return self.status == "rolled_back" and self.reason.startswith("harm")

    @property
    def steps(self) -> tuple[StepSeen, ...]:
        """The steps that were taken, in their order."""
        names = list(dict.fromkeys(look.step for look in self.trace))
        began, found = self.trace[0].at if self.trace else 0.0, []
        for name in names:
            looks = [look for look in self.trace if look.step == name]
            last = looks[-1]
            found.append(
                StepSeen(
                    name, last.at - began, len(looks), last.champion.feeds, last.candidate.feeds
                )
            )
            began = last.at
        return tuple(found)


def roll_out(
    url: str,
    admin_token: str,
    log: Path,
    plan: Plan,
    state: Path,
    *,
    champion: int = 0,
    candidate: int = 1,
    settle_s: float = 1.0,
    shadow_share: float = 0.25,
) -> LiveRollout:
    """Lead one variant of a running gateway through the plan; other arms get nobody meanwhile.

    Parameters
    ----------
    log
        Folder of the gateway's event log.
    state
        File of the controller; one that exists is continued.
    champion, candidate
        Variants.
    """
    traffic = GatewayTraffic(
        url,
        admin_token,
        log,
        slow_ms=plan.limits.slow_ms,
        champion=champion,
        candidate=candidate,
        settle_s=settle_s,
        shadow_share=shadow_share,
    )
    try:
        controller = Controller(plan, traffic, state)
        status = controller.run()
    finally:
        traffic.close()
    return LiveRollout(status, controller.reason, tuple(controller.trace))


def move_alias(registry: Registry, version: str, status: Status) -> str | None:
    """The registry follows the gateway: the challenger becomes champion, or is one no more.

    Twice is as once, so a command that was killed in between does it at its next start.

    Returns
    -------
    The version that the alias ``champion`` names now.

    Raises
    ------
    InputError
        The candidate is promoted and neither challenger nor champion.
    """
    from capstone.registry import CHALLENGER, CHAMPION

    challenger, champion = registry.named(CHALLENGER), registry.named(CHAMPION)
    if challenger is not None and challenger.version == version:
        if status == "promoted":
            champion = registry.promote()
        else:
            registry.reject()
    elif status == "promoted" and (champion is None or champion.version != version):
        raise InputError(
            f"the registry has no challenger {version}: the gateway serves it, the alias champion "
            f"names {champion.version if champion else 'nothing'}"
        )
    return champion.version if champion else None


def challenge(registry: Registry, version: str) -> None:
    """Make a registered bundle the challenger.

    Raises
    ------
    InputError
        It is not registered: no gate has let it in.
    """
    from capstone.registry import CHALLENGER

    known = [each for each in registry.all() if each.version == version]
    if not known:
        raise InputError(
            f"bundle {version} is not in the registry {registry.uri}: register it first "
            "(--stages register), or leave --registry out"
        )
    registry.set_alias(CHALLENGER, known[-1])


def champion_beside(arms: Sequence[Mapping[str, Any]], arm: Mapping[str, Any]) -> dict[str, Any]:
    """The arm that has most of the users, the candidate left out.

    Halfway both have half of them: who is resumed must not be taken for the champion, nor an arm
    that gets nobody.

    Raises
    ------
    InputError
        There is no other arm.
    """
    others = [each for each in arms if each["variant"] != arm["variant"]]
    if not others:
        raise InputError(f"arm {arm['name']!r} is the only one; there is nothing to roll out")
    return dict(max(others, key=lambda each: float(each["weight"])))


@dataclass(frozen=True)
class Options:
    """Lead a bundle to the users of a running gateway, or back; see docs/deployment.md."""

    candidate: str
    """Folder of the bundle below the gateway's bundle root; or the name of an arm it has."""
    log: Path
    """Folder of the gateway's event log."""
    plan: Path = PLAN
    """The steps and limits."""
    url: str = "http://127.0.0.1:8080"
    """Of the gateway."""
    admin_token_file: Path | None = None
    """File with the administrator's token; else FEED_ADMIN_TOKEN is used."""
    token_file: Path | None = None
    """File with a client's token, for --simulate; else FEED_TOKEN is used."""
    registry: Path | None = None
    """Registry file whose aliases follow; without it they stay."""
    state: Path | None = None
    """File of the controller; by default beside the event log, named for plan and version."""
    simulate: bool = False
    """Let simulated people use the gateway meanwhile: for a rehearsal."""
    seed: int = 0
    """Of the simulated people."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: promoted; 1: rolled back or undecided; 2: bad input; 130: interrupted."""
    options = tyro.cli(Options, args=arguments, prog="python -m capstone.rollout")
    return exit_status(
        lambda: _tell(_lead(options)),
        interrupted="interrupted: the weights stay; the same command goes on where it was",
    )


def _tell(found: LiveRollout) -> int:
    for step in found.steps:
        print(
            f"{step.name:>8}: {step.seconds:6.1f} s, {step.looks} looks, "
            f"{step.candidate:,} feeds of the candidate, {step.champion:,} of the champion"
        )
    print(f"{found.status}: {found.reason}")
    return EXIT_OK if found.status == "promoted" else EXIT_FAILED


def _lead(options: Options) -> LiveRollout:
    plan = read_plan(options.plan)
    if not options.log.is_dir():
        raise InputError(f"--log {options.log} is no folder; the gateway says where its log is")
    admin = _token(options.admin_token_file, ADMIN)
    arms = _ask(options.url, admin, "GET", "/experiment")["arms"]
    name = options.candidate.rstrip("/").rsplit("/", 1)[-1]
    arm = next((each for each in arms if each["name"] == name), None)
    if arm is None:
        arm = _ask(
            options.url, admin, "POST", "/bundles", {"folder": options.candidate, "arm": name}
        )
    champion = champion_beside(arms, arm)
    state = options.state or options.log / f"rollout-{plan.name}-{arm['version'][:12]}.json"
    if arm["weight"] > champion["weight"] and not state.exists():
        raise InputError(f"arm {name!r} has the users already; there is nothing to roll out")
    with ExitStack() as stack:
        registry = None
        if options.registry is not None:
            from capstone.registry import Registry

            registry = Registry.at(_existing(options.registry))
            if not state.exists():
                challenge(registry, arm["version"])
        if options.simulate:
            stack.enter_context(_people(options))
        print(f"{arm['version']} against {champion['version']}, state in {state}", flush=True)
        found = roll_out(
            options.url, admin, options.log, plan, state,
            champion=champion["variant"], candidate=arm["variant"],
        )  # fmt: skip
        if registry is not None:
            print(f"champion in the registry: {move_alias(registry, arm['version'], found.status)}")
    return found


def _people(options: Options) -> Any:
    from capstone.data import prepare
    from capstone.simulated_people import SimulatedPeople
    from capstone.world import build_world
    from common.data import load

    feed = prepare(load("ml-100k"))
    gateway = _Gateway(options.url, _token(options.token_file, CLIENT))
    return SimulatedPeople(
        gateway,
        build_world(feed, seed=options.seed),
        name=f"rehearsal-{os.getpid()}",
        n_people=feed.n_users,
        seed=options.seed,
    )


@dataclass(frozen=True)
class _Gateway:
    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def admin_headers(self) -> dict[str, str]:
        raise InputError("simulated people have no administrator's token")


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"--registry {file} is no file; a run makes it (--stages register)")
    return file


def _token(file: Path | None, variable: str) -> str:
    if file is not None and not file.is_file():
        raise InputError(f"{file} is no file; it must hold the token")
    token = file.read_text(encoding="utf-8") if file else os.environ.get(variable, "")
    if not token.strip():
        raise InputError(f"no token: give its file, or set {variable}")
    return token.strip()


def _ask(
    url: str, token: str, method: str, path: str, content: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        answer = httpx.request(
            method, f"{url}{path}", json=content, timeout=30, trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )  # fmt: skip
    except httpx.TransportError as error:
        raise RunError(f"{url}{path} did not answer: {error}") from error
    if answer.status_code != 200:
        kind = InputError if answer.status_code < 500 else RunError
        raise kind(f"{url}{path} answered {answer.status_code}: {answer.text[:300]}")
    found: dict[str, Any] = answer.json()
    return found
