"""The stages of one experiment: design it, run it, read its log, decide, and check the decision."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.runner import Run
from labs.lab6_online_eval.config import Config
from labs.lab6_online_eval.evidence_stages import Setting

if TYPE_CHECKING:
    from labs.lab6_online_eval.analyze import Analysis

PLANNED_FOR = 20_000


def design(run: Run, config: Config, setting: Setting) -> None:
    """How many people, for how long, and what the past and the design of it change."""
    from labs.lab6_online_eval import figures_design as figures
    from labs.lab6_online_eval.design_study import study_design

    found = study_design(
        setting.world,
        setting.lists,
        setting.movielens,
        setting.experiment,
        eligible=min(config.units, PLANNED_FOR),
        pool=20_000 if config.quick else 100_000,
        n_experiments=300 if config.quick else 3000,
        n_simulations=config.repeats,
        seed=run.seed,
    )
    run.metric("design.lift", found.lift, unit="ratio", how="true relative effect, exact")
    for name, plan in (("plain", found.plan_plain), ("cuped", found.plan_cuped)):
        reason = "" if plan.weeks else "out of reach within the longest run"
        run.metric(f"design.weeks.{name}", plan.weeks, unit="weeks", n=plan.units, reason=reason)
        check = getattr(found, name)
        run.metric(
            f"design.power_gap.{name}",
            check.gap,
            unit="ratio",
            n=check.simulated.n_experiments,
            how=f"formula {check.formula:.4f}, simulated {check.simulated.power:.4f}",
        )
        for line in plan.lines():
            run.note(f"Plan, {name}: {line}.")
    if config.units > PLANNED_FOR:
        run.note(
            f"The plan is for clicks alone and {PLANNED_FOR:,} people who could come. The run has "
            f"{config.units:,}: the guardrail on errors, which are rare, needs them."
        )
    if found.plain.simulated.n_experiments < 3000:
        run.unmeasured(
            "L6.power", "300 simulated experiments have a standard error of 2.3 points; 3,000 do"
        )
    first, last = found.plan_plain.curve[0], found.plan_plain.curve[-1]
    run.metric(
        "design.longer_run_loss",
        last.lift_plain / (first.lift_plain / np.sqrt(last.weeks / first.weeks)),
        unit="ratio",
        how=f"smallest effect found after {last.weeks} weeks over what sqrt(n) promises",
    )
    run.metric(
        "cuped.variance_reduction",
        found.exact.variance_reduction,
        unit="ratio",
        how=f"clicks a unit, {setting.experiment.days} days by as many before, exact",
    )
    worlds = found.interference
    run.metric("interference.true", worlds.true_effect, unit="items/user")
    for name in ("user", "cluster"):
        n = worlds.n_experiments
        run.metric(
            f"interference.{name}_mean", getattr(worlds, f"{name}_mean"), unit="items/user", n=n
        )
        run.metric(
            f"interference.{name}_coverage", getattr(worlds, f"{name}_coverage"), unit="ratio", n=n
        )
    run.metric("interference.overstated", worlds.user_mean / worlds.true_effect, unit="ratio", n=n)
    for block in found.blocks:
        area = f"switchback.{block.block_length}_{block.burn_in}"
        run.metric(f"{area}.rmse", block.rmse, unit="effect", n=config.repeats)
        run.metric(f"{area}.bias", block.bias, unit="effect", n=config.repeats)
    for name, figure, caption in (
        ("duration", figures.draw_duration(found), "A longer run is not more people."),
        ("power", figures.draw_power(found), "Formula and simulation; pilots of a heavy tail."),
        ("variance", figures.draw_variance(found), "What the past and strata take off."),
        ("interference", figures.draw_interference(found), "What is randomised decides what is "
         "measured."),
    ):  # fmt: skip
        run.figure(name, figure, caption=f"{caption} Simulated.")


def run_and_decide(
    run: Run, config: Config, setting: Setting, offered: Collection[str]
) -> Analysis:
    """Assign by hash, simulate, log as servers do, analyse the log, and write the memo."""
    from labs.lab6_online_eval.analyze import analyze
    from labs.lab6_online_eval.exposure_log import write_sessions
    from labs.lab6_online_eval.layers import enrol
    from labs.lab6_online_eval.memo import write_memo
    from labs.lab6_online_eval.world import simulate

    experiment, world = setting.experiment, setting.world
    ids = np.char.add("user-", np.arange(config.units).astype(str))
    arms = enrol(ids, [experiment])[experiment.name]
    inside = arms >= 0
    people = np.random.default_rng([run.seed, 1]).integers(0, world.n_users, config.units)[inside]
    log = run.work / "log"
    periods = (
        ("before", (setting.lists[0],) * 2, experiment.before_days, -float(experiment.before_days)),
        ("during", setting.lists, experiment.days, 0.0),
    )
    n_sessions = 0
    for number, (batch, lists, days, start) in enumerate(periods):
        sessions = simulate(
            world, lists, arms[inside], people, days=days, seed=run.seed + number, start=start
        )
        write_sessions(sessions, experiment, log, unit_ids=ids[inside], batch=batch)
        n_sessions += sessions.n
    run.metric("experiment.units", int(inside.sum()), unit="units", how="enrolled by hash")
    run.metric("experiment.sessions", n_sessions, unit="sessions", how="both periods, simulated")
    analysis = analyze(experiment, log, offered=offered)
    record(run, setting, analysis)
    write_memo(analysis, run.dir)
    plant_faults(run, config, setting)
    return analysis


def record(run: Run, setting: Setting, analysis: Analysis) -> None:
    """The experiment's numbers, and whether its interval holds the truth that the world knows."""
    from labs.lab6_online_eval.experiment import Role
    from labs.lab6_online_eval.figures_analysis import draw_forest

    experiment = setting.experiment
    if analysis.srm is not None:
        n = sum(analysis.srm.observed)
        run.metric("experiment.srm_p", analysis.srm.p, unit="p", n=n)
    arm = analysis.arms[0]
    for result in arm.results:
        area = f"experiment.{result.metric.name}"
        n = result.comparison.n_control + result.comparison.n_treatment
        if result.relative is not None:
            interval = result.relative.low, result.relative.high
            value = result.relative.estimate
            run.metric(f"{area}.relative", value, unit="ratio", n=n, ci95=interval)
        run.metric(f"{area}.p", result.effect.p, unit="p", n=n)
        reduction = result.comparison.variance_reduction
        run.metric(f"{area}.variance_reduction", reduction, unit="ratio", n=n)
    for refused in arm.refused:
        area = f"experiment.{refused.metric.name}.relative"
        run.metric(area, None, unit="ratio", reason=refused.reason)
    for guardrail in arm.guardrails:
        area = f"experiment.{guardrail.name}"
        run.metric(f"{area}.bound", guardrail.bound, unit="ratio", how=f"{guardrail.verdict}")
    truth = true_relative(setting)
    run.metric("experiment.true_relative", truth, unit="ratio", how="clicks a unit, exact")
    first = next(metric for metric in experiment.metrics if metric.role is Role.SUCCESS)
    found = next((r for r in arm.results if r.metric.name == first.name), None)
    if first.event != "click":
        run.unmeasured(
            "L6.ranking_ab", f"the world knows the truth of clicks, not of {first.event}"
        )
    elif found is None or found.relative is None:
        run.unmeasured("L6.ranking_ab", f"{first.name} has no relative effect in this run")
    else:
        off = abs(found.relative.estimate - truth) / (found.relative.high - found.relative.low) * 2
        how = f"distance of the estimate from the truth, in half widths; {first.name}"
        run.metric("experiment.error_in_half_widths", off, unit="ratio", how=how)
    run.metric(
        "experiment.shipped",
        int(analysis.decision == "ship"),
        unit="count",
        how=f"{analysis.decision}: " + "; ".join(arm.ruling.reasons),
    )
    run.note(f"Decision: {analysis.decision}. The memo is decision.md (and decision.html).")
    if arm.results:
        run.figure(
            "forest",
            draw_forest(arm, alpha=analysis.alpha),
            caption="Relative effects, and the guardrails with their margins. Simulated.",
        )


def true_relative(setting: Setting) -> float:
    """The exact relative effect on clicks a unit: sessions weigh people by how often they come."""
    world, visits = setting.world, setting.world.visits
    control, treatment = (visits @ world.expected_clicks(lists) for lists in setting.lists)
    return float(treatment / control - 1)


def plant_faults(run: Run, config: Config, setting: Setting) -> None:
    """Break a copy of a small log in every way that the checks know, and see who notices."""
    from labs.lab6_online_eval.exposure_log import write_sessions
    from labs.lab6_online_eval.layers import enrol
    from labs.lab6_online_eval.log_faults import study_log_checks
    from labs.lab6_online_eval.world import simulate

    n = min(config.units, 8000) if not config.quick else 2000
    ids = np.arange(n).astype(str)
    arms = enrol(ids, [setting.experiment])[setting.experiment.name]
    inside = arms >= 0
    people = np.random.default_rng([run.seed, 2]).integers(0, setting.world.n_users, inside.sum())
    folder = Path(run.work) / "faults"
    for number, (days, start) in enumerate(((14.0, -14.0), (14.0, 0.0))):
        sessions = simulate(
            setting.world, setting.lists, arms[inside], people,
            days=days, seed=run.seed + 10 + number, start=start,
        )  # fmt: skip
        write_sessions(
            sessions, setting.experiment, folder / "log", unit_ids=ids[inside], batch=f"f{number}"
        )
    found = study_log_checks(folder / "log", folder / "broken", setting.experiment, seed=run.seed)
    run.metric("log.faults_planted", len(found.planted), unit="count")
    run.metric("log.faults_missed", len(found.missed), unit="count", how=", ".join(found.missed))
    run.metric("log.sound_refusals", len(found.sound.refusals), unit="count")


def compare_with_interleaving(run: Run, config: Config, setting: Setting) -> None:
    """The same rankers by team-draft interleaving: how many sessions less?"""
    from labs.lab6_online_eval import figures_offline as figures
    from labs.lab6_online_eval.interleaving_sensitivity import study_interleaving

    pairs = tuple(("ease", f"discovery_{power}") for power in ("05", "10", "20"))
    found = study_interleaving(
        setting.world, setting.rankers.lists, small=pairs, drafts=config.drafts, seed=run.seed
    )
    first = found.small[0]
    run.metric(
        "interleaving.sensitivity_ratio",
        first.ratio,
        unit="ratio",
        ci95=(first.ratio_low, first.ratio_high),
        how=f"{first.ab_sessions:,} sessions by A/B, {first.interleaved_sessions:,} interleaved, "
        f"for power {first.power:.0%}; {first.control} against {first.treatment}",
    )
    for each in found.small[1:]:
        interval = each.ratio_low, each.ratio_high
        area = f"interleaving.{each.treatment}.sensitivity_ratio"
        run.metric(area, each.ratio, unit="ratio", ci95=interval)
    pairs_n = len(found.agreement.pairs)
    run.metric("interleaving.agreement", found.agreement.share, unit="ratio", n=pairs_n)
    run.figure(
        "sensitivity",
        figures.draw_sensitivity(found),
        caption="Power against sessions: an A/B test and interleaving. Simulated.",
    )
    run.figure(
        "agreement",
        figures.draw_agreement(found),
        caption="What interleaving prefers, and what is truly better. Simulated.",
    )


def guard(run: Run, config: Config, setting: Setting) -> None:
    """Many guardrails at once, and a watch that stops a harmful run by itself."""
    from labs.lab6_online_eval import figures_sequential as figures
    from labs.lab6_online_eval.guardrail_study import study_automatic_stop, study_guardrails

    rule = study_guardrails(n=config.peeking, seed=run.seed)
    for name in ("pass_planned", "pass_corrected", "pass_bonferroni", "harm", "harm_inflated"):
        run.metric(f"guardrails.{name}", getattr(rule, name), unit="ratio", n=rule.n)
    found = study_automatic_stop(
        setting.world,
        setting.lists,
        n_healthy=config.healthy_runs,
        n_margin=max(config.healthy_runs // 2, 25),
        n_faulty=5 if config.quick else 30,
        units_faulty=2000 if config.quick else 5000,
        seed=run.seed,
    )
    for each in (found.healthy, found.at_margin, *found.faults):
        area = f"stop.{each.name}"
        run.metric(f"{area}.share", each.share, unit="ratio", n=each.n, ci95=each.share_ci)
        run.metric(f"{area}.naive_share", each.naive_share, unit="ratio", n=each.n)
        median = each.median_hours
        stopped = bool(np.isfinite(median))
        reason = "" if stopped else "fewer than half of the runs were stopped"
        area = f"{area}.median_hours"
        run.metric(area, median if stopped else None, unit="hours", n=each.n, reason=reason)
    run.figure(
        "automatic_stop",
        figures.draw_automatic_stop(found),
        caption="An hourly watch over healthy and faulty runs. Simulated.",
    )
