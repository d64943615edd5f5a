"""Three canaries: a good version is promoted, a slow one and a wrong one are sent back.

One server serves throughout. Each new version is loaded while it serves, gets a small share of the
users, and either all of them or none; users never notice, except by the answers of a bad version.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import RunError, require
from labs.lab4_model_serving.bundle import Bundle, read_bundle, write_bundle
from labs.lab4_model_serving.management_client import ManagementClient
from labs.lab4_model_serving.rollout import Controller, Look, Rollout, Status
from labs.lab4_model_serving.rollout_load import Driven, Request, drive, mixed_up, moved_back
from labs.lab4_model_serving.server import Server, serve_bundle
from labs.lab4_model_serving.version_switch import expected_labels
from labs.lab4_model_serving.versions import BatchSettings

GOOD, SLOW, WRONG = "good", "slow", "wrong"
PATIENCE_S = 5.0
AROUND_S = 0.6
"""Load before a version is loaded, and after one was unloaded (s)."""
STORIES = (GOOD, SLOW, WRONG)
EXPECTED = {GOOD: "promoted", SLOW: "rolled_back", WRONG: "rolled_back"}


@dataclass(frozen=True)
class Canary:
    """What became of one rollout, and of the requests meanwhile, loading and unloading included."""

    story: str
    old: str
    new: str
    status: Status
    reason: str
    seconds: float
    """From the first share of requests to the decision."""
    requests: int
    failed: int
    failures: dict[str, int]
    """Status and message to requests."""
    by_new: int
    """Requests that the new version answered before the decision."""
    by_new_after: int
    """Those it answered after a rollback was done: 0."""
    moved_back: int
    """Users that went from new to old while the rollout ran: 0."""
    mixed_up: int
    """Answers that differ from the Predictor's of the version they name: 0."""
    trace: tuple[Look, ...]
    p99_ms: float
    """The limit."""
    shadow: dict[str, Any]
    """What the shadow had said before the canary began (see :class:`shadow.ShadowReport`)."""

    @property
    def as_expected(self) -> bool:
        return self.status == EXPECTED[self.story]


@dataclass(frozen=True)
class Versions:
    """A store with the live version and three that want to replace it."""

    store: Path
    live: Bundle
    candidates: dict[str, Bundle]


def write_versions(
    live: Path, good: Path, store: Path, *, stories: Sequence[str] = STORIES
) -> Versions:
    """Put copies of the live bundle and of the candidates into a store.

    ``slow`` is the good version, and is delayed by the server; ``wrong`` is the good version with
    its labels turned by one, as when the labels of another training run were packed.

    Parameters
    ----------
    live, good
        Folders of bundles of one model, of different versions.
    """
    store.mkdir(parents=True, exist_ok=True)
    old, new = read_bundle(live), read_bundle(good)
    require(old.version != new.version, "version", new.version, "must differ from the live one")
    major = new.version
    candidates = {}
    for story in stories:
        require(story in STORIES, "story", story, f"must be one of {STORIES}")
        labels = new.labels[1:] + new.labels[:1] if story == WRONG else new.labels
        version = major if story == GOOD else f"{major}-{story}"
        candidates[story] = write_bundle(
            store / version,
            name=old.name,
            version=version,
            model=new.model,
            tokenizer=new.tokenizer,
            labels=labels,
            precision=new.precision,
            max_tokens=new.max_tokens,
        )
    shutil.copytree(old.folder, store / old.version)
    return Versions(store, read_bundle(store / old.version), candidates)


@contextmanager
def canary_server(
    versions: Versions, *, folder: Path, delay_s: float, device: str = "cpu"
) -> Iterator[tuple[Server, ManagementClient]]:
    """The live version, with a store to load others from, and the slow one slowed down."""
    slow = versions.candidates.get(SLOW)
    with serve_bundle(
        versions.live.folder,
        folder=folder,
        device=device,
        model_store=versions.store,
        delays={slow.version: delay_s} if slow else {},
        # Admission would refuse what comes too late, and the failures would decide before p99 does.
        # Of a version that is slow and new it expects the worst: hence far above the patience.
        settings=BatchSettings(slo_s=12 * PATIENCE_S, deadline_s=PATIENCE_S, max_queue=2048),
        start_timeout=120,
    ) as server:
        client = ManagementClient(server.url, server.name, server.management_token)
        try:
            yield server, client
        finally:
            client.close()


def run_canary(
    server: Server,
    client: ManagementClient,
    story: str,
    candidate: Bundle,
    rollout: Rollout,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    folder: Path,
    rate: float,
    shadow_s: float = 0.0,
    expected: dict[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Canary:
    """Load a candidate under load, let it listen, carry out its rollout, unload who lost.

    Parameters
    ----------
    folder
        Receives the controller's state.
    rate
        Requests/s.
    shadow_s
        Seconds as a shadow first, with copies of half of the requests; 0 for none. The shadow's
        agreement is reported and decides nothing here.
    expected
        Version to its label of each text, for ``mixed_up``.

    Raises
    ------
    RunError
        The server died (at once), or did not answer for so long that the controller gave up.
    """
    controller_file = folder / f"rollout-{story}.json"
    died = "the model server died during the rollout"

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if server.child.poll() is not None:
                raise RunError(died)
            time.sleep(min(left, 0.05))

    def change() -> _Changed:
        client.load(candidate.folder.name)
        report: dict[str, Any] = {}
        if shadow_s:
            client.set_shadow(candidate.version, 0.5)
            wait(shadow_s)
            report = client.shadow()
            client.stop_shadow()
        controller = Controller(rollout, client, controller_file, sleep=wait)
        controller.run()
        decided = time.perf_counter()
        client.unload(rollout.old if controller.status == "promoted" else rollout.new)
        return _Changed(controller, report, time.perf_counter() - decided)

    try:
        driven = drive(
            server.prediction_url(),
            texts,
            change,
            rate=rate,
            headers=server.headers,
            labels=labels,
            feedback=client.feedback,
            before_s=AROUND_S,
            seed=seed,
        )
    except RunError:
        if server.child.poll() is None:
            raise
    if server.child.poll() is not None:
        raise RunError(f"{died}:\n{server.child.tail(20)}")
    return _canary(story, rollout, driven, expected or {})


@dataclass(frozen=True)
class _Changed:
    controller: Controller
    shadow: dict[str, Any]
    unload_s: float


def _canary(
    story: str,
    rollout: Rollout,
    driven: Driven[_Changed],
    expected: dict[str, Sequence[str]],
) -> Canary:
    controller = driven.result.controller
    looks = controller.trace
    ended = driven.changed_s[1] - driven.result.unload_s
    seconds = looks[-1].at_s if looks else 0.0
    # Until the look before the last one no weight can have fallen.
    growing = ended - (seconds - looks[-2].at_s if len(looks) > 1 else seconds) - 0.05
    return Canary(
        story=story,
        old=rollout.old,
        new=rollout.new,
        status=controller.status,
        reason=controller.reason,
        seconds=seconds,
        requests=len(driven.requests),
        failed=driven.failed,
        failures=driven.failures,
        by_new=_answered(driven.requests, rollout.new, 0, ended),
        by_new_after=_answered(driven.requests, rollout.new, ended, float("inf")),
        moved_back=moved_back(driven.requests, rollout.old, rollout.new, growing),
        mixed_up=mixed_up(driven.requests, expected),
        trace=tuple(looks),
        p99_ms=rollout.guardrails.p99_ms,
        shadow=driven.result.shadow,
    )


def _answered(requests: Sequence[Request], version: str, since: float, until: float) -> int:
    return sum(each.version == version and since <= each.sent_s < until for each in requests)


def canaries(
    live: Path,
    good: Path,
    texts: Sequence[str],
    labels: Sequence[str],
    rollout: Rollout,
    *,
    folder: Path,
    rate: float = 400,
    shadow_s: float = 2.0,
    stories: Sequence[str] = STORIES,
    most_texts: int = 1000,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[Canary, ...]:
    """The stories one after the other, on one server.

    After the good version was promoted it is the one to beat.

    Parameters
    ----------
    live, good
        Folders of bundles of one model.
    texts, labels
        What users ask, and the truth.
    rollout
        Steps and guardrails; names of versions and salt are filled in for each story.
    folder
        Receives the store, the server's log and the controllers' states.
    rate
        Requests/s.
    most_texts
        A random sample of this many is used, each answered by both versions beforehand.
    device
        ``"cpu"`` or ``"cuda"``, of the server.
    """
    chosen = random.Random(seed).sample(range(len(texts)), min(most_texts, len(texts)))
    asked, truth = [texts[i] for i in chosen], [labels[i] for i in chosen]
    versions = write_versions(live, good, folder / "store", stories=stories)
    expected: dict[str, Sequence[str]] = {}
    for bundle in (versions.live, *versions.candidates.values()):
        if bundle.precision == "fp32":  # an answer of dynamic INT8 depends on its batch
            expected |= expected_labels([bundle.folder], asked, device=device)
    found = []
    delay_s = 1.2 * rollout.guardrails.p99_ms / 1000
    with canary_server(versions, folder=folder, delay_s=delay_s, device=device) as (server, client):
        old = versions.live.version
        for story, candidate in versions.candidates.items():
            this = replace(
                rollout,
                model=versions.live.name,
                old=old,
                new=candidate.version,
                salt=f"{candidate.name} {candidate.version}",
            )
            canary = run_canary(
                server,
                client,
                story,
                candidate,
                this,
                asked,
                truth,
                folder=folder,
                rate=rate,
                shadow_s=shadow_s if story == GOOD else 0.0,
                expected=expected,
                seed=seed,
            )
            found.append(canary)
            old = candidate.version if canary.status == "promoted" else old
    return tuple(found)


def metrics(found: Sequence[Canary]) -> dict[str, float]:
    """Numbers of a run, ``rollout.<name>``."""
    by_story = {canary.story: canary for canary in found}
    numbers: dict[str, float] = {
        "rollout.failed_requests": sum(canary.failed for canary in found),
        "rollout.mixed_up_answers": sum(canary.mixed_up for canary in found),
        "rollout.users_moved_back": sum(canary.moved_back for canary in found),
        "rollout.as_expected": sum(canary.as_expected for canary in found),
        "rollout.requests": sum(canary.requests for canary in found),
    }
    for story, canary in by_story.items():
        word = "promote" if story == GOOD else "roll_back"
        numbers[f"rollout.{story}_seconds_to_{word}"] = canary.seconds
        numbers[f"rollout.{story}_requests_by_new"] = canary.by_new
        if agreement := canary.shadow.get("agreement"):
            numbers["rollout.shadow_agreement"] = agreement
            numbers["rollout.shadow_dropped"] = canary.shadow["dropped"]
    return numbers
