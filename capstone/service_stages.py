"""The stages on the live service: how fast, how it bears faults, and what a person sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from capstone import figures
from capstone.bundle_stages import read_scored
from capstone.context import Context
from capstone.names import slug
from capstone.student import served_precision
from common.errors import RunError

if TYPE_CHECKING:
    from capstone.fault_drills import Drill, Fault, Reactions
    from capstone.service_load import ServiceLoad
    from capstone.serving import Service

P99_REQUESTS = 662
"""For a p99 at 99 % confidence (MLPerf Inference)."""
PARITY_USERS = 40
RANKED_WITHIN_S = 30.0
"""Seconds in which a service that nobody else asks must give a feed that is no fallback."""
PATIENT_MS = {"hydrate": 500.0, "source": 500.0, "score": 2000.0, "select": 500.0}
"""Deadlines where the question is what is served and not how soon."""


def load(c: Context) -> None:
    """The champion behind HTTP: the served feed equals the offline one, then how fast it is."""
    from capstone.service_load import study_service

    users = range(1, c.feed.n_users + 1)
    seconds = c.config.load_seconds
    if not c.smoke:  # a p99 needs enough requests, however low the rate
        seconds = max(seconds, 1.1 * P99_REQUESTS / c.config.start_qps)
    _say_what_serves(c)
    with c.service("champion", tag="load") as service:
        _parity(c, service)
        _stages(c, service, sample=60 if c.smoke else 200)
        with _reacting(c, service) as reactions:
            found = study_service(
                service, users,
                asked_rate=c.config.asked_qps, asked_seconds=c.config.asked_seconds,
                start_rate=c.config.start_qps, search_seconds=seconds,
                p99_limit_ms=c.config.p99_limit_ms, k=c.config.feed_length,
                tries=1 if c.smoke else 4, warmup=0.5 if c.smoke else 2.0, seed=c.run.seed,
            )  # fmt: skip
    asked, confirmed = found.asked, found.confirmed
    how = "a fallback feed counts as a failure, at the timeout; generator on the same machine"
    for quantile in ("p50_ms", "p95_ms", "p99_ms"):
        for name, measured in (("asked_", asked), ("", confirmed)):
            c.run.metric(
                f"serving.{name}{quantile}", getattr(measured.ranked.summary, quantile),
                unit="ms", n=measured.result.n, how=how,
            )  # fmt: skip
    c.run.metric(
        "serving.asked_rate", asked.ranked.achieved_rate, unit="feeds/s", n=asked.result.n,
        how=f"{c.config.asked_qps:g}/s offered for {c.config.asked_seconds:g} s, open loop, "
        f"{c.config.feed_length} items; {'; '.join(asked.result.caveats()) or 'no caveat'}",
    )  # fmt: skip
    c.run.metric("serving.errors", asked.server_errors, unit="count", n=asked.result.n)
    c.run.metric(
        "serving.reactions", len(reactions.acknowledged), unit="count",
        how="beside the load, each changes a history: its next feed's candidates are "
        "found anew, while those of an unchanged history are remembered; every feed is ranked",
    )  # fmt: skip
    c.run.metric("serving.fallback_share", asked.fallback_share, unit="ratio", n=asked.result.n)
    c.run.metric(
        "serving.stage_sum_error", abs(asked.stage_sum_ratio - 1), unit="ratio", n=asked.result.n,
        how="sum of the stages over the whole, less 1; from the service's own histograms",
    )  # fmt: skip
    held = confirmed.holds(c.config.p99_limit_ms)
    _record_times(c, "serving.asked_", asked)
    _record_times(c, "serving.", confirmed)
    ceiling = "; the search's upper bound, the service may do more" if found.search.at_limit else ""
    c.run.metric(
        "serving.qps", confirmed.ranked.achieved_rate if held else 0.0,
        unit="feeds/s", n=confirmed.result.n,
        how=f"Poisson rate with p99 < {c.config.p99_limit_ms:g} ms, measured anew below the "
        f"highest that passed ({found.tries} of 3 tried); {how}{ceiling}",
    )  # fmt: skip
    c.run.metric(
        "serving.generator_lag_p99_ms", 1000 * confirmed.result.lag_p99,
        unit="ms", n=confirmed.result.n, how="how late the load generator itself was",
    )  # fmt: skip
    _as_claimed(c)
    c.run.figure(
        "latency",
        figures.latency(found.search.tried, c.config.p99_limit_ms),
        caption="p99 latency of the feed against the offered rate (open loop, Poisson arrivals). "
        "A fallback feed counts at the timeout.",
    )


def drills(c: Context) -> None:
    """Kill, hang, fill and corrupt parts of the live service under load."""
    from capstone import redis_server, service_faults
    from capstone.fault_drills import run_drill

    users = range(1, c.feed.n_users + 1)
    made = c.bundle("champion")
    found: list[Drill] = []

    def drill(service: Service, fault: Fault) -> None:
        seconds = c.config.drill_seconds
        one = run_drill(
            service.url, service.headers, fault, lambda: service_faults.logged_events(service),
            users=users, rate=c.config.drill_qps, k=c.config.feed_length,
            seconds=(seconds / 2, seconds, 2 * seconds), seed=c.run.seed + len(found),
        )  # fmt: skip
        print(
            f"  {one.fault}: {one.errors} errors of {one.requests}, "
            f"{one.lost} lost of {one.acknowledged} acknowledged", flush=True,
        )  # fmt: skip
        found.append(one)

    root = c.run.work / "bundles"
    service_faults.corrupt_copy(made, root / "corrupt")
    refused: list[int] = []
    with ExitStack() as stack:
        options = {}
        if redis_server.available():
            redis = stack.enter_context(redis_server.redis_server(c.run.work / "redis"))
            options = {"redis_url": redis.url}
        with c.service("champion", tag="drills", bundle_root=root, **options) as service:
            drill(service, service_faults.index_corrupt(service, "corrupt", refused))
            drill(service, service_faults.slow_ranker(service))
            drill(service, service_faults.disk_full(service))
            if options:
                drill(service, service_faults.redis_gone(service, redis.pid(), redis.start_again))
            else:
                for claim in ("C.drilled", "C.budget", "C.events"):
                    c.run.unmeasured(claim, "redis-server is not installed: Redis was not drilled")
            drill(service, service_faults.torchserve_killed(service))
    _record_drills(c, found, refused)


def page(c: Context) -> None:
    """The web page in a real browser: look, react, look again."""
    from capstone.page_check import check_page, find_browser
    from common.report import FigureFile

    browser = find_browser()
    if browser is None:
        reason = "no Chromium is installed (on Debian: apt-get install chromium)"
        c.run.metric("page.changed_feeds", None, unit="count", reason=reason)
        return
    with c.service("champion", tag="page") as service:
        seen = check_page(
            service.url, service.token, c.run.dir / "figures", browser=browser, user=1
        )
    c.run.metric("page.changed_feeds", seen.changed, unit="count", n=len(seen.reactions))
    c.run.metric("page.reacted_items_gone", int(seen.gone), unit="flag")
    c.run.metric("page.cold_start_explained", int(seen.cold_start), unit="flag")
    c.run.metric("page.errors", len(seen.errors), unit="count", how="; ".join(seen.errors)[:200])
    c.run.metric("page.overflow_px", seen.overflow_px, unit="px", how="sideways, on a phone")
    c.run.figures += [FigureFile(shot.path, shot.caption) for shot in seen.screenshots]


def _parity(c: Context, service: Service) -> None:
    """How much of each sampled user's served feed is in the offline one, exploration apart."""
    from capstone.api import Slot
    from capstone.reranking import RerankConfig
    from capstone.reranking_study import lists_of

    made = c.bundle("champion")
    config = RerankConfig.from_json({**made.rerank, "exploration_slots": 0})
    _, test = read_scored(c)
    vectors = np.load(made.vectors, allow_pickle=False)
    lists = lists_of(test, c.catalogue, vectors, config, k=10, seed=c.run.seed)
    users = np.random.default_rng(c.run.seed).choice(c.feed.n_users, PARITY_USERS, replace=False)
    shares = []
    for user in users:
        items = _ranked(service, int(user) + 1, k=10)["items"]
        if len(items) != 10:
            raise RunError(f"user {user + 1}: the service returned {len(items)} items, not 10")
        kept = [each["item_id"] for each in items if each["slot"] != Slot.EXPLORATION]
        shares.append(len(set(kept) & set(lists[user].tolist())) / len(kept))
    c.run.metric(
        "serving.offline_agreement", float(np.mean(shares)), unit="ratio", n=len(shares),
        how="share of the served items, exploration apart, that the offline first ten has",
    )  # fmt: skip


def _ranked(service: Service, user: int, *, k: int) -> dict[str, Any]:
    """The feed as the ranker orders it; asked again when a busy machine made it fall back."""
    until = time.monotonic() + RANKED_WITHIN_S
    while (answer := service.feed(user, k=k))["fallback"] is not None:
        if time.monotonic() > until:
            raise RunError(
                f"user {user} got nothing but fallback feeds for {RANKED_WITHIN_S:.0f} s: "
                f"stage {answer['fallback']}"
            )
        time.sleep(0.05)
    return answer


def _record_times(c: Context, area: str, found: ServiceLoad) -> None:
    """Mean time of each stage and CPU of each process, with the rate that they are of."""
    kept = "held" if found.holds(c.config.p99_limit_ms) else "not held"
    at = f"with {found.offered} ({kept}, {found.fallback_share:.1%} fallbacks)"
    for what, times in (("CPU a feed", found.cpu_ms), ("mean a feed", found.stage_ms)):
        kind = "cpu_ms" if times is found.cpu_ms else "stage_ms"
        for name, value in times.items():
            c.run.metric(
                f"{area}{kind}.{name}", value, unit="ms", n=found.result.n, how=f"{what} {at}"
            )  # fmt: skip


def _say_what_serves(c: Context) -> None:
    """Precision, device and workers: figures of a service are of these."""
    precision, device = c.bundle("champion").facts.precision, c.run.device
    c.run.metric(
        "serving.workers", c.config.workers, unit="count",
        how=f"TorchServe workers of each version, on {device}; the student in {precision}",
    )  # fmt: skip
    workers = c.config.workers
    several = "1 TorchServe worker" if workers == 1 else f"{workers} TorchServe workers"
    c.run.note(f"Served: the student in {precision}, by {several} on {device}, one gateway.")
    usual = served_precision("auto", device)
    if c.config.served == "auto" and precision != usual:
        c.run.note(
            f"It was exported for another device; on {device} it is usually served in {usual}: "
            "--stages export,rerank,fairness,bundle,load makes and measures that."
        )


@contextmanager
def _reacting(c: Context, service: Service) -> Iterator[Reactions]:
    """People who react while others are measured, about ten a second."""
    from capstone.fault_drills import Reactions

    users = range(1, c.feed.n_users + 1)
    reactions = Reactions(service.url, service.headers, users, c.run.seed)
    thread = threading.Thread(target=reactions.run, daemon=True)
    thread.start()
    try:
        yield reactions
    finally:
        reactions.stop.set()
        thread.join()


def _as_claimed(c: Context) -> None:
    """A claim names its size: a run of another size does not show it, pass or miss."""
    from capstone.config import SCALES

    claimed = SCALES["standard"]
    for names, claims in (
        (
            ("asked_qps", "asked_seconds", "feed_length", "p99_limit_ms"),
            ("C.feeds", "C.feeds_rate"),
        ),
        (("load_seconds", "feed_length", "p99_limit_ms"), ("C.feeds_goal",)),
    ):
        for name in names:
            given, asked = getattr(c.config, name), getattr(claimed, name)
            easier = given > asked if name == "p99_limit_ms" else given < asked
            if easier:
                option = "--" + name.replace("_", "-")
                for claim in claims:
                    c.run.unmeasured(claim, f"{option} {given:g}: the claim is about {asked:g}")


def _stages(c: Context, service: Service, *, sample: int) -> None:
    """What each stage takes when nobody else asks."""
    users = np.random.default_rng(c.run.seed + 7).integers(1, c.feed.n_users + 1, sample)
    answers = [_ranked(service, int(user), k=c.config.feed_length) for user in users]
    rows = [answer["timings_ms"] for answer in answers]
    names = [name for name in rows[0] if name != "total"]
    total = np.array([row["total"] for row in rows])
    parts = {name: np.array([row.get(name, 0.0) for row in rows]) for name in names}
    for name, values in parts.items():
        c.run.metric(
            f"serving.stage.{name}_p50_ms", float(np.median(values)), unit="ms", n=sample,
            how="one request at a time",
        )  # fmt: skip
    c.run.metric("serving.alone_p50_ms", float(np.median(total)), unit="ms", n=sample)


def _record_drills(c: Context, found: Sequence[Drill], refused: Sequence[int]) -> None:
    from capstone.fault_drills import BUDGET

    for one in found:
        name = f"drills.{slug(one.fault)}"
        for phase in one.phases:
            where = f"{name}.{phase.name}"
            c.run.metric(f"{where}.p99_ms", phase.p99_ms, unit="ms", n=phase.n, how=one.note)
            c.run.metric(f"{where}.errors", phase.errors, unit="count", n=phase.n)
            c.run.metric(f"{where}.fallback_share", phase.fallback_share, unit="ratio", n=phase.n)
        c.run.metric(f"{name}.lost", one.lost, unit="count", n=one.acknowledged)
        c.run.metric(f"{name}.refused", one.refused, unit="count")
        c.run.metric(f"{name}.recovered_s", one.recovered_s, unit="s", how="after it was mended")
    c.run.metric(
        "drills.without_effect", sum(not one.showed for one in found), unit="count", n=len(found),
        how="; ".join(one.fault for one in found if not one.showed) or "every fault was seen",
    )  # fmt: skip
    c.run.metric(
        "drills.over_budget", sum(not one.within_budget for one in found),
        unit="count", n=len(found),
        how=f"drills with more than {BUDGET:.1%} of their feeds answered 5xx or not at all",
    )  # fmt: skip
    c.run.metric(
        "drills.lost", sum(one.lost for one in found), unit="count",
        n=sum(one.acknowledged for one in found), how="acknowledged reactions not in the log",
    )  # fmt: skip
    c.run.metric(
        "drills.corrupt_bundle_status", refused[0], unit="status", how="of POST /bundles; 409"
    )  # fmt: skip
    c.run.figure(
        "drills", figures.drills(found),
        caption="Feeds before, during and after each fault: p99, fallbacks and errors.",
    )  # fmt: skip
