"""The stages beyond one A/B test: the long term, bandits, logged policies, and causal inference."""

from __future__ import annotations

from math import isfinite

from common.data import load
from common.runner import Run
from labs.lab6_online_eval.config import Config
from labs.lab6_online_eval.evidence_stages import Setting

FULL_STUDY = 100


def look_further(run: Run, config: Config, setting: Setting) -> None:
    """Novelty and learning, surrogates that hold and do not, and a season's holdback."""
    from labs.lab6_online_eval import figures_longterm as figures
    from labs.lab6_online_eval.holdback import study_holdback
    from labs.lab6_online_eval.novelty import study_novelty
    from labs.lab6_online_eval.surrogate_index import study_surrogates

    small = config.repeats < FULL_STUDY
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
    trials = study_surrogates(repeats=40 if small else config.repeats, seed=run.seed)
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


def judge_by_experiment(run: Run, config: Config) -> None:
    """Job training: every observational estimator, with the randomised answer as judge."""
    from labs.lab6_online_eval import figures_causal as figures
    from labs.lab6_online_eval.observational_study import study_observational

    dataset = load("nsw")
    run.data(dataset)
    repetitions = 10 if config.repeats < FULL_STUDY else 40
    found = study_observational(dataset, repetitions=repetitions, seed=run.seed)
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
    run.note(f"Job training, the effect on everybody was refused: {found.refused}")
    for refutation in found.refutations:
        run.note(f"Refutation: {refutation}.")
    for name, figure, caption in figures.all_figures(found):
        run.figure(name, figure, caption=caption)


def finite(value: float) -> float | None:
    """The value, or None where it is not a number."""
    return value if isfinite(value) else None
