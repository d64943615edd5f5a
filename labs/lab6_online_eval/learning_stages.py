"""The stages beyond one A/B test: the long term, bandits, logged policies, and causal inference."""

from __future__ import annotations

from common.data import load
from common.runner import Run
from labs.lab6_online_eval.config import Config
from labs.lab6_online_eval.evidence_stages import Setting


def look_further(run: Run, config: Config, setting: Setting) -> None:
    """Novelty and learning, surrogates that hold and do not, and a season's holdback."""
    from labs.lab6_online_eval import figures_longterm as figures
    from labs.lab6_online_eval.holdback import study_holdback
    from labs.lab6_online_eval.novelty import study_novelty
    from labs.lab6_online_eval.surrogate_index import study_surrogates

    lists = setting.rankers.lists["ease"], setting.rankers.lists["discovery_20"]
    curves = study_novelty(setting.world, lists, n_units=max(config.units, 10_000), seed=run.seed)
    for each in curves:
        area, unit = f"novelty.{each.name}", "clicks/session"
        run.metric(f"{area}.truth", each.truth, unit=unit, how="long-run effect, exact")
        interval = each.first_week_ci95
        run.metric(f"{area}.first_week", each.first_week, unit=unit, ci95=interval)
        run.metric(f"{area}.long_run", each.fit.level, unit=unit, ci95=each.fit.ci95)
        run.metric(f"{area}.trend_p", each.trend.p, unit="p")
    first = curves[0]
    run.metric(
        "novelty.error_left",
        abs(first.fit.level - first.truth) / abs(first.first_week - first.truth),
        unit="ratio",
        how=f"{first.name}: error of the fitted long run over that of the first week",
    )
    trials = study_surrogates(repeats=40 if config.quick else config.repeats, seed=run.seed)
    for name, trial in zip(("holds", "direct", "hidden"), trials, strict=True):
        area, n = f"surrogate.{name}", len(trial.estimates)
        run.metric(
            f"{area}.bias",
            trial.bias,
            unit="effect",
            n=n,
            how=f"{trial.world}; truth {trial.truth:g}",
        )
        run.metric(f"{area}.coverage", trial.coverage, unit="ratio", n=n)
        run.metric(f"{area}.se_saving", 1 - trial.se / trial.se_waiting, unit="ratio", n=n)
    seasons = study_holdback(n_seasons=max(config.repeats, 200), seed=run.seed)
    for name in ("alone", "naive", "corrected", "bayes", "holdback"):
        value = seasons.ratio(name)
        run.metric(f"holdback.{name}_ratio", value, unit="ratio", n=len(seasons.truth))
    for name, figure, caption in (
        ("novelty", figures.draw_novelty(curves), "Effect by days since exposure, with the fit."),
        ("clocks", figures.draw_clocks(first), "One effect by two clocks."),
        ("surrogates", figures.draw_surrogates(trials), "The surrogate index, where surrogacy "
         "holds and where it does not."),
        ("seasons", figures.draw_seasons(seasons), "What a season of launches was worth."),
    ):  # fmt: skip
        run.figure(name, figure, caption=f"{caption} Simulated.")


def play_bandits(run: Run, config: Config) -> None:
    """Regret against theory, and what can be concluded from what a bandit collected."""
    from labs.lab6_online_eval import figures_bandits as figures
    from labs.lab6_online_eval.bandit_study import study_bandits

    found = study_bandits(
        rounds=config.bandit_rounds,
        runs=config.bandit_runs,
        contextual_rounds=min(config.bandit_rounds, 2000),
        contextual_runs=max(config.bandit_runs // 2, 10),
        n_adaptive=4000 if config.quick else 20_000,
        best_arm_runs=2 * config.bandit_runs,
        seed=run.seed,
    )
    how = f"{config.bandit_rounds:,} rounds, means {', '.join(map(str, found.means))}"
    for name in (*found.played, "ab_test"):
        area, n = f"bandit.{name}.regret", config.bandit_runs
        run.metric(area, found.final_regret(name), unit="reward", n=n, how=how)
    for name, fit in found.fits.items():
        run.metric(f"bandit.{name}.slope", fit.slope, unit="reward/ln t", ci95=(fit.low, fit.high))
    run.metric("bandit.lai_robbins", found.lai_robbins, unit="reward/ln t", how="lower bound")
    run.metric("bandit.ucb1_bound", found.ucb1_limit, unit="reward", how="Auer et al. 2002")
    for suffix, group in (("", found.contextual), ("_late", found.late)):
        for name, played in group.items():
            value = float(played.mean[-1])
            run.metric(f"contextual.{name}{suffix}.regret", value, unit="reward")
    for each in found.reliability:
        if each.arm == 0:
            area = f"adaptive.{each.estimator}"
            run.metric(f"{area}.bias", each.bias, unit="reward", how=f"+- {each.bias_se:.2g} SE")
            run.metric(f"{area}.coverage", each.coverage, unit="ratio")
    for arm in found.best_arm:
        run.metric(f"best_arm.{arm.policy}.identified", arm.identified, unit="ratio")
    run.figure("regret", figures.draw_regret(found), caption="Regret, and theory. Simulated.")
    run.figure(
        "bandit_inference",
        figures.draw_bandit_inference(found),
        caption="Means of arms that a bandit collected: bias and coverage. Simulated.",
    )


def judge_from_logs(run: Run, config: Config) -> None:
    """Each policy of Open Bandit from the other's log, beside what it did itself."""
    from labs.lab6_online_eval import figures_bandits as figures
    from labs.lab6_online_eval.open_bandit_study import study_open_bandit

    dataset = load("open-bandit")
    run.data(dataset)
    found = study_open_bandit(
        dataset,
        campaigns=("all", "women") if config.quick else ("all", "men", "women"),
        n_boot=100 if config.quick else 300,
        n_coverage=500 if config.quick else 2000,
        seed=run.seed,
    )
    how = "BTS from the random log, campaign All; action probabilities"
    run.metric("ope.ipw.exact", found.known_exact, unit="click rate", how=f"{how} integrated")
    simulated = found.known_simulated
    run.metric("ope.ipw.known", simulated, unit="click rate", how=f"{how} simulated, as published")
    run.metric("ope.ipw.known_deviation", abs(round(simulated, 5) - 0.00457), unit="click rate")
    for each in found.directions:
        main_one = (each.campaign, each.logged) == ("all", "random")
        area = "ope" if main_one else f"ope.{each.campaign}.{each.logged}"
        run.metric(f"{area}.on_policy", each.truth, unit="click rate", n=each.n, ci95=each.truth_ci)
        run.metric(f"{area}.ess", each.ess, unit="rows", n=each.n)
        run.metric(f"{area}.largest_weight", each.largest_weight, unit="weight", n=each.n)
        run.metric(
            f"{area}.refused", int(each.refused is not None), unit="count", how=each.refused or ""
        )
        for estimate in each.estimates:
            name = f"{area}.{estimate.estimator}"
            usable = estimate.refused is None
            interval = (estimate.low, estimate.high) if usable else None
            reason = estimate.refused or ""
            value = estimate.value if usable else None
            run.metric(
                f"{name}.value", value, unit="click rate", n=each.n, ci95=interval, reason=reason
            )
            error = each.relative_error(estimate.estimator) if usable else None
            run.metric(f"{name}.relative_error", error, unit="ratio", n=each.n, reason=reason)
            if estimate.ess is not None:
                run.metric(f"{name}.ess", estimate.ess, unit="rows", n=each.n)
    women = found.direction("women", "bts")
    run.metric("ope.women.bts.refusals", int(women.refused is not None), unit="count")
    run.figure(
        "off_policy",
        figures.draw_off_policy(found),
        caption="Each policy from the other's log, beside its own. Real logs.",
    )
    run.figure(
        "rare_events",
        figures.draw_rare_events(found),
        caption="How often an interval holds the truth, by effective clicks. Simulated from the "
        "campaign's probabilities.",
    )


def judge_by_experiment(run: Run, config: Config, setting: Setting) -> None:
    """Job training: every observational estimator, with the randomised answer as judge."""
    from labs.lab6_online_eval import figures_causal as figures
    from labs.lab6_online_eval.causal_study import study_causal

    dataset = load("nsw")
    run.data(dataset)
    study = study_causal(
        dataset,
        setting.world,
        setting.lists,
        repetitions=10 if config.quick else 40,
        n_units=config.units,
        n_campaign=3000 if config.quick else 6000,
        n_boot=100 if config.quick else 200,
        seed=run.seed,
    )
    found = study.observational
    judge = found.experiment
    n = judge.n_treated + judge.n_control
    run.metric("nsw.experiment.effect", judge.effect, unit="USD", n=n, ci95=judge.ci95)
    run.metric("nsw.experiment.se", judge.se, unit="USD", n=n)
    deviation = max(abs(judge.effect - 1794.3433), abs(judge.se - 670.9966))
    run.metric("nsw.deviation", deviation, unit="USD", how="from 1794.3433 +- 670.9966")
    for name, each in found.estimates.items():
        n = each.n_treated + each.n_control
        run.metric(f"nsw.{name}.effect", each.effect, unit="USD", n=n, ci95=each.ci95)
        run.metric(f"nsw.{name}.error", found.error(name), unit="USD", n=n)
    run.metric("nsw.pre_trend", found.pre_trend.effect, unit="USD", ci95=found.pre_trend.ci95)
    run.metric("nsw.e_value", found.e_value, unit="risk ratio")
    run.metric("nsw.robustness", found.robustness, unit="ratio")
    for name, each in found.smoking.items():
        run.metric(f"smoking.{name}.effect", each.effect, unit="kg", ci95=each.ci95)
    for metric, value, unit, interval in study.metrics():
        run.metric(metric, value, unit=unit, ci95=interval)
    run.note(f"Job training, the effect on everybody was refused: {found.refused}")
    suffix = " Simulated."
    for name, figure, caption in (
        ("estimators", figures.draw_estimators(found), "Job training: each estimator, and the "
         "experiment that judges it."),
        ("balance", figures.draw_balance(found), "Covariates before and after weighting."),
        ("encouragement", figures.draw_encouragement(study.quasi), "Who was invited, who came, "
         "and what may be concluded." + suffix),
        ("discontinuity", figures.draw_discontinuity(study.quasi), "A launch by a cutoff."
         + suffix),
        ("rollout", figures.draw_rollout(study.quasi), "A staggered rollout." + suffix),
        ("uplift", figures.draw_uplift(study.quasi), "Whom a treatment helps." + suffix),
    ):  # fmt: skip
        run.figure(name, figure, caption=caption)
