"""The stages of evidence without a server: repeats in the simulated world, monitoring, the card."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from capstone.bundle_stages import read_scored
from capstone.context import Context
from capstone.names import slug


def evidence(c: Context) -> None:
    """A/A repeats, rollouts of good and bad candidates, interleaving, off-policy: all simulated."""
    from capstone import experiment_study, figures_experiment
    from capstone.experiment_stages import read_live
    from capstone.interleaved import sessions_needed
    from capstone.off_policy import TwoArms

    (_, champion), (_, teacher) = read_scored(c), read_scored(c, "reference")
    arms = TwoArms(champion.ids, champion.value, teacher.value)
    sizes: dict[str, Any] = (
        {"users": 1000, "sessions": 1000, "watched": 4000, "explored": 3000} if c.smoke else {}
    )
    live = read_live(c)
    found = experiment_study.study_experiment(
        c.world,
        arms,
        live=live.rows if live else (),
        repeats=c.config.repeats,
        seed=c.run.seed,
        **sizes,
    )
    aa = found.aa
    for name in ("planned", "naive", "always_valid", "srm"):
        share = getattr(aa, name)
        c.run.metric(
            f"aa.{name}", share.value, unit="ratio", n=c.config.repeats, ci95=share.ci95,
            how=f"share of simulated A/A tests of {aa.users} people that raised an alarm",
        )  # fmt: skip
    low, high = aa.planned.ci95
    c.run.metric(
        "aa.excess", max(low - 0.05, 0.05 - high, 0.0), unit="ratio", n=c.config.repeats,
        how="how far 5 % lies outside the interval of the planned look; 0 is quiet",
    )  # fmt: skip
    for name, each in found.rollouts.items():
        for what, interval in (
            ("promoted", each.promoted_ci), ("stopped", each.stopped_ci), ("given_up", None)
        ):  # fmt: skip
            c.run.metric(
                f"rollout.{name}.{what}", getattr(each, what),
                unit="ratio", n=each.n, ci95=interval, how="simulated rollouts of this candidate",
            )  # fmt: skip
        c.run.metric(f"rollout.{name}.exposed", each.exposed, unit="sessions", n=each.n)
    for name, value, unit, n in experiment_study.metrics(found):
        c.run.metric(name, value, unit=unit, n=n, how="simulated")
    for name, stop in found.stops.items():
        if stop.report.hour is None:
            c.run.metric(
                f"stop.{name}.hours", None, unit="hours",
                reason="it was not stopped while it was watched",
            )  # fmt: skip
    designs = found.designs
    c.run.metric(
        "interleaving.preference", designs.preference.effect, unit="simulated clicks",
        ci95=designs.preference.ci95,
    )  # fmt: skip
    c.run.metric("interleaving.true_effect", designs.true_effect, unit="simulated clicks")
    if designs.decided:
        c.run.metric("interleaving.agrees", int(designs.agrees), unit="flag")
    else:
        c.run.metric(
            "interleaving.agrees", None, unit="flag",
            reason="its interval covers 0: too few sessions to tell the sign",
        )  # fmt: skip
    if live is not None and designs.sensitivity is not None:
        for name, variance, effect in (
            ("sessions", live.credit_variance, designs.sensitivity.preference),
            ("ab_sessions", 2 * live.click_variance, designs.true_effect),
        ):
            if variance is not None:
                c.run.metric(
                    f"interleaving.live.{name}", sessions_needed(variance, effect),
                    unit="sessions", how="with the spread that the live service's log has",
                )  # fmt: skip
    for row in found.rows:
        name = f"reconciled.{slug(row.design)}.{slug(row.estimand)}"
        c.run.metric(
            name, None if row.refused else row.estimate, unit="simulated",
            ci95=None if row.refused else (row.low, row.high),
            how="" if row.truth is None else f"truth {row.truth:.4g}", reason=row.refused,
        )  # fmt: skip
    c.run.figure(
        "rollout", figures_experiment.draw_rollouts(found.rollouts),
        caption="Simulated rollouts: weight and evidence of a good and of a harmful candidate.",
    )  # fmt: skip
    c.run.figure(
        "rollouts", figures_experiment.draw_characteristics(found.rollouts),
        caption="What became of each candidate over many simulated rollouts.",
    )  # fmt: skip
    c.run.figure(
        "aa", figures_experiment.draw_aa(aa),
        caption="Alarms in simulated A/A tests: one look, ten naive looks, ten always-valid looks.",
    )  # fmt: skip
    c.run.figure(
        "reconciliation", figures_experiment.draw_reconciliation(found),
        caption="A/B test, interleaving and off-policy estimates beside the simulated truth.",
    )  # fmt: skip


def monitoring(c: Context) -> None:
    """Time to detect by alert, and drift against a null that knows the sample sizes."""
    from capstone import figures_monitoring
    from capstone.monitoring_study import metrics, study_monitoring

    found = study_monitoring(c.run.seed)
    for name, value, unit in metrics(found):
        c.run.metric(f"monitoring.{name}", value, unit=unit, how="simulated incidents")
    c.run.figure(
        "psi-null", figures_monitoring.draw_psi_null(found),
        caption="PSI without any drift by sample size, against the usual fixed cut-offs.",
    )  # fmt: skip
    c.run.figure(
        "burn-rate", figures_monitoring.draw_burn_rate(found),
        caption="Time until each burn-rate alert fires in simulated incidents.",
    )  # fmt: skip


def card(c: Context) -> None:
    """The model card and the experiment report, from this run's measurements and nothing else."""
    from capstone.experiment_report import write_report
    from capstone.model_card import write_card

    c.feed  # noqa: B018  (records the data's provenance)
    results = c.run.results
    measured = {name: metric.as_json() for name, metric in results.metrics.items()}
    common: dict[str, Any] = {
        "metrics": measured,
        "bundle_version": c.bundle("champion").version,
        "commit": results.commit,
        "date": results.started_at.date().isoformat(),
    }
    write_card(
        c.run.dir / "model_card.md",
        data=results.data,
        hardware=c.run.hardware,
        versions=results.versions,
        configuration=asdict(c.config),
        **common,
    )
    write_report(c.run.dir / "experiment_report.md", **common)
