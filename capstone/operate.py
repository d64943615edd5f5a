"""The stages on a finished bundle: load test, fairness audit, experiment, model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from capstone import bundle, figures, measure, offline
from capstone.context import VALUE, Context
from capstone.data import histories
from capstone.serving import Service, live
from common.errors import RunError

if TYPE_CHECKING:
    from labs.lab4_model_serving.load_generator import LoadResult

EXPERIMENT_WEIGHTS = (0.5, 0.5)
P99_REQUESTS = 662
"""For a p99 at 99 % confidence (MLPerf Inference)."""


def load_test(c: Context) -> None:
    """The champion behind HTTP: the served feed equals the offline one, then how fast it is."""
    from labs.lab4_model_serving.load_generator import load_http, max_rate, poisson_schedule

    with _service(c, ["champion"]) as service:
        differing = _served_differences(c, service)
        c.run.metric(
            "serving.offline_agreement", 1 - differing.mean(),
            unit="ratio", n=len(differing), how="overlap of the served and the offline top 10",
        )  # fmt: skip
        users = np.random.default_rng(c.run.seed).integers(1, c.feed.n_users + 1, 512)
        bodies = [json.dumps({"user_id": int(user)}).encode() for user in users]

        def at_rate(rate: float, seed: int = c.run.seed) -> LoadResult:
            seconds = c.config.load_seconds
            if c.run.scale != "smoke":  # a p99 needs enough requests, however low the rate
                seconds = max(seconds, 1.1 * P99_REQUESTS / rate)
            schedule = poisson_schedule(rate, seconds, seed)
            result = load_http(f"{service.url}/feed", bodies, schedule, headers=service.headers)
            print(
                f"  {rate:.0f} requests/s: p99 {result.summary.p99_ms:.1f} ms, "
                f"{result.failed} failed of {result.n}", flush=True,
            )  # fmt: skip
            return result

        at_rate(4 * c.config.start_qps)  # warms the server's JVM up, not counted
        tries = 3 if c.run.scale == "smoke" else 5
        search = max_rate(
            at_rate, c.config.start_qps, 16 * c.config.start_qps,
            p99_limit_ms=c.config.p99_limit_ms, tries=tries,
        )  # fmt: skip
        # The search stopped where the p99 happened to pass, so what is reported is measured anew,
        # with other arrivals, below the best rate: the first of these that holds.
        best = search.best or search.tried[0][1]
        rates = [max(c.config.start_qps, share * best.offered_rate) for share in (0.9, 0.75, 0.5)]
        for attempt, rate in enumerate(rates, 1):
            confirmed = at_rate(rate, c.run.seed + attempt)
            held = confirmed.summary.p99_ms < c.config.p99_limit_ms
            if held:
                break
    c.run.latency("serving", confirmed.summary)
    c.run.metric("serving.errors", confirmed.failed, unit="count", n=confirmed.n)
    ceiling = "; the search's upper bound, the service may do more" if search.at_limit else ""
    c.run.metric(
        "serving.qps", confirmed.achieved_rate if held else 0.0,
        unit="requests/s", n=confirmed.n,
        how=f"Poisson rate with p99 < {c.config.p99_limit_ms:g} ms, measured anew below the "
        f"highest that passed ({attempt} of {len(rates)} tried); generator, gateway and model "
        f"server on one machine{ceiling}",
    )  # fmt: skip
    c.run.metric(
        "serving.generator_lag_p99_ms", 1000 * float(np.quantile(confirmed.lag, 0.99)),
        unit="ms", n=confirmed.n, how="how late the load generator itself was",
    )  # fmt: skip
    if confirmed.n < P99_REQUESTS:
        c.run.unmeasured(
            "C.latency",
            f"{confirmed.n} requests; a p99 needs {P99_REQUESTS} for 99 % confidence, which "
            "--scale standard sends",
        )
    c.run.figure(
        "latency",
        figures.latency(search.tried, c.config.p99_limit_ms),
        caption="p99 latency of the feed against the offered rate (open loop, Poisson arrivals).",
    )


def fairness(c: Context) -> None:
    """NDCG@10 of the champion's feed by gender and age group (lab 3), intervals and null."""
    from labs.lab3_fairness.group_metrics import group_metrics
    from labs.lab3_fairness.row_metrics import mean_prediction
    from labs.lab4_model_serving.export import session

    retrieved = np.load(c.workspace.need("train") / "candidates.npy")
    champion = bundle.load(c.workspace.need("bundle") / "champion")
    per_user = c.feed_ndcg(retrieved, measure.onnx_score(session(champion.ranker)), batch=1)
    reports = {}
    for attribute in ("gender", "age_group"):
        groups = c.feed.users[attribute]
        report = group_metrics(
            np.zeros(len(per_user)), per_user, groups, {"ndcg": mean_prediction},
            n_boot=c.config.n_boot, n_permutations=c.config.n_boot, seed=c.run.seed,
        )  # fmt: skip
        gap = report.disparity("ndcg")
        value, interval, how = (
            gap.difference,
            gap.difference_ci95,
            (
                f"{gap.highest} minus {gap.lowest}, the largest gap: "
                "the gap itself is biased upward; the p-value says whether there is one"
            ),
        )
        if len(report.groups) == 2:
            value, interval, how = _signed_gap(c, groups, per_user)
        c.run.metric(
            f"fairness.ndcg_gap.{attribute}", value,
            unit="ratio", n=len(per_user), ci95=interval, how=f"mean NDCG@10, {how}",
        )  # fmt: skip
        c.run.metric(
            f"fairness.ndcg_gap_p.{attribute}", gap.p_value,
            unit="probability", n=c.config.n_boot, how="permutation of the group labels",
        )  # fmt: skip
        for group in report.groups:
            slug = group.group.replace(" ", "_")
            c.run.metric(
                f"fairness.ndcg.{attribute}.{slug}", group.value,
                unit="ratio", n=group.n, ci95=group.ci95,
            )  # fmt: skip
        reports[attribute] = report
    c.run.figure(
        "fairness",
        figures.groups(reports, per_user.mean()),
        caption="NDCG@10 of the served feed by group, with 95 % stratified bootstrap intervals.",
    )


def experiment(c: Context) -> None:
    """Teacher (control) against the compressed champion (treatment) on simulated users."""
    from capstone.experiment import run_experiment

    with _service(c, ["reference", "champion"]) as service:
        outcome = run_experiment(
            service, c.feed,
            users=c.config.experiment_users, weights=EXPERIMENT_WEIGHTS, seed=c.run.seed,
        )  # fmt: skip
    c.run.metric("experiment.srm_p", outcome.srm.p, unit="probability", n=c.config.experiment_users)
    for name, result in (("effect", outcome.cuped), ("effect_without_cuped", outcome.plain)):
        c.run.metric(
            f"experiment.{name}", result.effect,
            unit="simulated clicks", n=result.n_control + result.n_treatment, ci95=result.ci95,
            how="champion minus teacher, simulated users through the live service",
        )  # fmt: skip
    c.run.metric("experiment.p", outcome.cuped.p, unit="probability")
    c.run.metric("experiment.control_mean", outcome.plain.mean_control, unit="simulated clicks")
    c.run.metric("experiment.variance_reduction", outcome.cuped.variance_reduction, unit="ratio")
    c.run.note(
        "The experiment's users and clicks are simulated (capstone/world.py); MovieLens holds "
        "ratings, not exposures, so no lift on real people can be claimed from it."
    )
    c.run.figure(
        "experiment",
        figures.effects(outcome),
        caption="Simulated effect of the compressed champion against its teacher, 95 % intervals.",
    )


def card(c: Context) -> None:
    """The model card, from this run's measurements and nothing else."""
    from capstone.model_card import write_card

    champion = bundle.load(c.workspace.need("bundle") / "champion")
    c.feed  # noqa: B018  (records the data's provenance)
    results = c.run.results
    write_card(
        c.run.dir / "model_card.md",
        metrics={name: metric.as_json() for name, metric in results.metrics.items()},
        data=results.data,
        hardware=c.run.hardware,
        versions=results.versions,
        configuration=asdict(c.config),
        bundle_version=champion.version,
        commit=results.commit,
        date=results.started_at.date().isoformat(),
    )


def _signed_gap(
    c: Context, groups: pd.Series, per_user: np.ndarray
) -> tuple[float, tuple[float, float], str]:
    """Difference between two groups with its sign, so that its interval can cover none."""
    from labs.lab3_fairness.resampling import stratified_bootstrap
    from labs.lab3_fairness.row_metrics import mean_prediction

    first, second = sorted(groups.unique())
    replicates = stratified_bootstrap(
        np.zeros(len(per_user)), per_user, groups, mean_prediction,
        n_boot=c.config.n_boot, seed=c.run.seed,
    )  # fmt: skip
    low, high = np.quantile(replicates[:, 0] - replicates[:, 1], [0.025, 0.975])
    value = per_user[groups == first].mean() - per_user[groups == second].mean()
    how = f"{first} minus {second}; stratified bootstrap"
    return float(value), (float(low), float(high)), how


@contextmanager
def _service(c: Context, names: list[str]) -> Iterator[Service]:
    made = c.workspace.need("bundle")
    with live(
        [bundle.load(made / name) for name in names],
        made / "store",
        made / "users.json",
        folder=c.run.dir / "logs" / "-".join(names),
        port=c.config.port,
        weights=EXPERIMENT_WEIGHTS if len(names) == 2 else (1.0,),
        experiment=f"feed-{c.run.seed}",
        device=c.run.device,
    ) as service:
        yield service


def _served_differences(c: Context, service: Service, sample: int = 40) -> np.ndarray:
    """Share of each sampled user's served top 10 that the offline feed does not have."""
    from labs.lab4_model_serving.export import session

    retrieved = np.load(c.workspace.need("train") / "candidates.npy")
    champion = bundle.load(c.workspace.need("bundle") / "champion")
    history = histories(c.feed.test_history, c.config.max_length)
    lists = offline.feeds(
        c.feed, retrieved, history, measure.onnx_score(session(champion.ranker)), VALUE, batch=1
    )
    users = np.random.default_rng(c.run.seed).choice(c.feed.n_users, sample, replace=False)
    differing = []
    for user in users:
        served = [item["item_id"] for item in service.feed(int(user) + 1)["items"]]
        if len(served) != 10:
            raise RunError(f"user {user + 1}: the service returned {len(served)} items, not 10")
        differing.append(1 - len(set(served) & set(lists[user].tolist())) / 10)
    return np.array(differing)
