"""The stages that come before an experiment is trusted: offline evidence, and methods on trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import require
from common.runner import Run
from common.statistics import proportion_ci
from labs.lab6_online_eval.config import Config
from labs.lab6_online_eval.validation import ALPHA, Verdict

if TYPE_CHECKING:
    from common.data import Dataset
    from labs.lab6_online_eval.experiment import Experiment
    from labs.lab6_online_eval.offline_online import Rankers
    from labs.lab6_online_eval.world import Interactions, Ints, World


@dataclass(frozen=True)
class Setting:
    """What the stages work on. ``lists``: of the control and of the treatment."""

    experiment: Experiment
    movielens: Dataset
    interactions: Interactions
    world: World
    rankers: Rankers
    lists: tuple[Ints, Ints]


def build(run: Run, config: Config) -> Setting:
    """Read the experiment's file and MovieLens, fit the world, fill every ranker's lists."""
    from common.data import load
    from labs.lab6_online_eval.experiment import read_experiment
    from labs.lab6_online_eval.offline_online import ranker_lists
    from labs.lab6_online_eval.world import build_world, read_interactions

    file = config.experiment or Path(__file__).parent / "experiments" / "new_ranker.toml"
    experiment = read_experiment(file)
    names = config.control, config.treatment
    require(
        len(experiment.arms) == 2, "arms", len(experiment.arms), "must be 2", "see --experiment"
    )
    arms = tuple(replace(arm, name=name) for arm, name in zip(experiment.arms, names, strict=True))
    experiment = replace(experiment, arms=arms)
    movielens = load("ml-100k")
    run.data(movielens)
    interactions = read_interactions(movielens)
    world = build_world(interactions, seed=run.seed)
    rankers = ranker_lists(interactions)
    lists = rankers.lists[config.control], rankers.lists[config.treatment]
    run.note(
        "Simulated: all people but those of the MovieLens ratings, of Open Bandit's logs and of "
        "the job training. Their world is fitted to MovieLens 100K: a film is clicked when it is "
        "looked at, liked, and not known already. Its true effects are exact."
    )
    return Setting(experiment, movielens, interactions, world, rankers, lists)


def offline_against_online(run: Run, config: Config, setting: Setting) -> None:
    """Every ranker by NDCG, by estimates from a log, and by what it would really do."""
    from labs.lab6_online_eval import figures_offline as figures
    from labs.lab6_online_eval.offline_online import study_offline_online, study_position_bias

    parts = setting.interactions, setting.world, setting.rankers
    found = study_offline_online(*parts, sessions=config.log_sessions, seed=run.seed)
    for row in found.rows:
        ndcg = row.offline.ndcg
        run.metric(
            f"offline.{row.name}.ndcg",
            ndcg.mean,
            unit="ratio",
            n=setting.world.n_users,
            ci95=(ndcg.low, ndcg.high),
            how="NDCG@10 on each user's last fifth",
        )
        run.metric(f"online.{row.name}.clicks", row.clicks, unit="clicks/session", how="exact")
        for name, estimate in row.off_policy.items():
            usable = estimate.refused is None
            run.metric(
                f"offpolicy.{row.name}.{name}",
                estimate.clicks if usable else None,
                unit="clicks/session",
                n=found.sessions,
                ci95=(estimate.low, estimate.high) if usable else None,
                reason=estimate.refused or "",
            )
    for name, tau in found.tau.items():
        run.metric(f"offline.tau.{name}", tau, unit="tau", n=len(found.rows))
    run.metric(
        "offline.winner_is_online_winner",
        int(found.best("ndcg") == found.best("clicks")),
        unit="count",
        how=f"by NDCG {found.best('ndcg')}, by clicks {found.best('clicks')}",
    )
    bias = study_position_bias(*parts, sessions=config.log_sessions, seed=run.seed)
    for name in ("click_through", "swaps", "em"):
        error = getattr(bias, name).worst_error(bias.truth)
        run.metric(f"position_bias.{name}_error", error, unit="ratio", n=config.log_sessions)
    run.figure(
        "offline_online",
        figures.draw_offline_online(found),
        caption="The rankers offline, estimated from a log, and online. Simulated.",
    )
    run.figure(
        "decomposition",
        figures.draw_decomposition(found),
        caption="Clicks a session less EASE's, taken apart. Simulated, exact.",
    )
    run.figure(
        "position_bias",
        figures.draw_position_bias(bias),
        caption="How likely is a position looked at: click-through, swaps, EM, and the truth.",
    )


def put_methods_on_trial(run: Run, config: Config) -> frozenset[str]:
    """Validate every method on simulated truth; the names of those that may be used."""
    from labs.lab6_online_eval import methods as all_methods

    names = list(all_methods.catalogue())
    workers = 2 if run.procs > 1 else 1
    found: dict[str, Verdict] = {}
    with run.progress_bar("methods", len(names)) as bar:
        trials = all_methods.validate_all(
            names, n=config.validation, seed=run.seed, workers=workers
        )
        for verdict in trials:
            found[verdict.name] = verdict
            bar.update(len(found))
    verdicts = [found[name] for name in names]
    for each in verdicts:
        record_verdict(run, each)
    honest = [each for each in verdicts if not each.flawed]
    failed = [each for each in honest if not each.offered]
    flawed = [each for each in verdicts if each.flawed]
    run.metric(
        "validation.honest_refused",
        len(failed),
        unit="count",
        n=len(honest),
        how="; ".join(f"{each.name}: {', '.join(each.reasons)}" for each in failed),
    )
    offered = [each.name for each in flawed if each.offered]
    run.metric(
        "validation.flawed_offered",
        len(offered),
        unit="count",
        n=len(flawed),
        how=", ".join(offered),
    )
    sequential = [each for each in honest if each.sequential]
    run.metric(
        "validation.worst_sequential_fpr",
        max(each.fpr for each in sequential),
        unit="ratio",
        n=config.validation,
        how="under peeking at every look",
    )
    (run.dir / "validation.md").write_text(table(verdicts), encoding="utf-8")
    from labs.lab6_online_eval.figures_validation import draw_validation

    run.figure(
        "validation",
        draw_validation(verdicts),
        caption="False positives and coverage of every method on simulated truth. Grey: a classic "
        "mistake, kept to show that it is found.",
    )
    return frozenset(each.name for each in verdicts if each.offered)


def record_verdict(run: Run, verdict: Verdict) -> None:
    """``aa.<method>.fpr``, ``ab.<method>.coverage`` and ``.power``, with intervals."""
    how = "; ".join(verdict.reasons)
    areas = {
        f"aa.{verdict.name}.fpr": (verdict.fpr, verdict.fpr_ci),
        f"ab.{verdict.name}.coverage": (verdict.coverage, verdict.coverage_ci),
        f"ab.{verdict.name}.power": (verdict.power, verdict.power_ci),
    }
    for name, (value, interval) in areas.items():
        run.metric(name, value, unit="ratio", n=verdict.n, ci95=interval, how=how)


def table(verdicts: list[Verdict]) -> str:
    """The validation as Markdown, one row a method."""
    lines = [
        "| method | A/A false positives | coverage | power | formula | n | offered |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in verdicts:
        name = f"{each.name} (a mistake)" if each.flawed else each.name
        name += " (sequential)" if each.sequential else ""
        formula = "" if each.promised_power is None else f"{each.promised_power:.3f}"
        verdict = "yes" if each.offered else "no: " + "; ".join(each.reasons)
        lines.append(
            f"| {name} | {each.fpr:.4f} | {each.coverage:.4f} | {each.power:.3f} | {formula} | "
            f"{each.n:,} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def try_on_real_users(run: Run, config: Config, setting: Setting) -> None:
    """A/A tests of the real MovieLens users and their real ratings; only the arms are drawn."""
    from labs.lab6_online_eval.calibration import aa_p_values, share_below
    from labs.lab6_online_eval.srm import ALARM
    from labs.lab6_online_eval.users import split_in_time

    users = split_in_time(setting.movielens)
    names = [f"aa-{run.seed}-{number}" for number in range(config.validation)]
    for area, covariate in (("real_users", None), ("real_users_cuped", users.before)):
        p, srm_p = aa_p_values(users.ids, users.after, names, covariate=covariate)
        rate, hits = share_below(p, ALPHA)
        run.metric(
            f"aa.{area}.fpr",
            rate,
            unit="ratio",
            n=len(p),
            ci95=proportion_ci(hits, len(p)),
            how=f"{len(users.ids)} MovieLens users, mean rating of the second half of a history",
        )
    alarms, hits = share_below(srm_p, ALARM)
    run.metric(
        "aa.real_users.srm_alarms", alarms, unit="ratio", n=len(p), ci95=proportion_ci(hits, len(p))
    )


def count_the_metrics(run: Run, config: Config) -> None:
    """Many metrics at once, few clusters, and what a prior from past experiments is worth."""
    from labs.lab6_online_eval import figures_significance as figures
    from labs.lab6_online_eval.significance_study import study_significance

    found = study_significance(n=max(config.peeking // 5, 400), seed=run.seed)
    for family in found.families:
        if family.correlation == 0:
            area = f"family.{family.procedure}.{family.n_metrics}_metrics_{family.n_real}_real"
            run.metric(f"{area}.fwer", family.fwer, unit="ratio", n=family.n)
            run.metric(f"{area}.fdr", family.fdr, unit="ratio", n=family.n)
    for each in found.clusters:
        for name in ("rows", "cr0", "cr1", "cr1_t"):
            area = f"clusters.{each.n_clusters}.{name}.fpr"
            run.metric(area, getattr(each, name), unit="ratio", n=each.n)
    for prior in found.bayes.rows:
        area = f"bayes.{prior.prior}.{prior.looks}_looks"
        run.metric(f"{area}.claimed", prior.claimed, unit="ratio", n=found.bayes.n)
        run.metric(f"{area}.improved", prior.improved, unit="ratio", n=found.bayes.n)
    for name, figure, caption in (
        ("multiple_testing", figures.draw_multiple_testing(found.families), "One of many metrics."),
        ("few_clusters", figures.draw_few_clusters(found.clusters), "A/A tests by clusters."),
        ("bayes", figures.draw_bayes(found.bayes), "What 95 % is worth, by prior and looks."),
    ):
        run.figure(name, figure, caption=f"{caption} Simulated.")


def peek(run: Run, config: Config) -> None:
    """What looking often costs, by rule: false positives, power, and sample size."""
    from labs.lab6_online_eval import figures_sequential as figures
    from labs.lab6_online_eval.peeking import study_peeking

    found = study_peeking(n_experiments=config.peeking, seed=run.seed)
    for row in found.rows:
        area = f"peeking.{row.rule}.{row.looks}_looks"
        how = "by integration over the looks, not simulated"
        run.metric(f"{area}.fpr", row.false_positives, unit="ratio", how=how)
        run.metric(f"{area}.power", row.power, unit="ratio", how=how)
        run.metric(f"{area}.mean_share", row.mean_share, unit="ratio", how=how)
        run.metric(
            f"{area}.exaggeration",
            row.exaggeration,
            unit="ratio",
            n=found.n_experiments,
            how="mean estimate of the experiments that stopped with a finding, over the truth",
        )
    run.figure(
        "peeking",
        figures.draw_peeking(found),
        caption=f"A/A experiments stopped at the first finding, promised {ALPHA:.0%}.",
    )
    run.figure(
        "boundaries",
        figures.draw_boundaries(),
        caption="How far the test statistic must go at each of 20 looks.",
    )
