"""Lab 6: can this experiment be believed? Assignment, A/A, SRM, CUPED, peeking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.runner import Claim, Run, main
from labs.lab6_online_eval.config import SCALES, Config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from labs.lab6_online_eval.users import Users

HALVES = (0.5, 0.5)
NSW_PUBLISHED = 1794.34
LOOKS = (1, 2, 5, 10, 20)

CLAIMS = (
    Claim(
        "L6.aa",
        "the A/A false-positive rate is within 1.96 binomial standard errors of alpha",
        metric="aa.rate_z",
        op="<",
        target=1.96,
    ),
    Claim(
        "L6.srm",
        "the planted loss of treated users is detected (p < .001)",
        metric="srm.planted_p",
        op="<",
        target=1e-3,
    ),
    Claim(
        "L6.cuped",
        "CUPED finds the simulated lift more often than the plain test",
        metric="cuped.power_gain",
        op=">",
        target=0,
    ),
    Claim(
        "L6.nsw",
        "the job-training effect is the published 1,794 dollars, to 1 dollar",
        metric="nsw.deviation",
        op="<",
        target=1,
    ),
    Claim(
        "L6.ranking_ab",
        "an A/B test for a ranking model, designed and analysed",
        metric="experiment.p",
        op="<",
        target=0.05,
    ),
)


def story(run: Run, config: Config) -> None:
    """Assign, check that the tool is honest, then use it on a real experiment."""
    from common.data import load
    from labs.lab6_online_eval.users import split_in_time

    movielens = load("ml-100k")
    run.data(movielens)
    users = split_in_time(movielens)
    names = [f"aa-{run.seed}-{i}" for i in range(config.aa_tests)]
    with run.stage("Assign users and cross two experiments", key="assignment"):
        cross_two_experiments(run, config)
    with run.stage("A/A: does the test keep its promise?", key="aa"):
        plain = calibrate(run, config, users, names)
    with run.stage("SRM: a broken assignment is found", key="srm"):
        break_assignment(run, config)
    with run.stage("CUPED on real users: the same promise, more power", key="cuped"):
        sharpen(run, config, users, names, plain)
    with run.stage("A real experiment: job training (NSW)", key="nsw"):
        analyse_job_training(run)
    with run.stage("Peeking", key="peeking"):
        peek(run, config)
    run.unmeasured(
        "L6.ranking_ab",
        "this run has no ranking model to compare; the capstone runs the experiment on two",
    )


def cross_two_experiments(run: Run, config: Config) -> None:
    """Two experiments on the same simulated users must not know of each other."""
    import numpy as np
    from scipy.stats import chi2_contingency

    from labs.lab6_online_eval.assignment import assign_many, unit_points_v1
    from labs.lab6_online_eval.calibration import crossed

    ids = np.arange(config.srm_units).astype(str)
    first, second = (assign_many(ids, name, HALVES) for name in ("exp1", "exp2"))
    old = [(unit_points_v1(ids, name) >= 0.5).astype(int) for name in ("exp1", "exp2")]
    for name, table in (("v2", crossed(first, second)), ("v1", crossed(old[0], old[1]))):
        p = float(chi2_contingency(table, correction=False).pvalue)
        how = f"chi-square of the 2 x 2 table {table.tolist()}"
        run.metric(f"assignment.{name}_independence_p", p, unit="p", n=len(ids), how=how)
    run.note(
        f"Simulated: the {config.srm_units:,} user ids of the assignment and SRM stages are "
        "counters, not people."
    )


def calibrate(run: Run, config: Config, users: Users, names: list[str]) -> NDArray[np.float64]:
    """A/A tests on real users: false positives and SRM alarms come as often as promised."""
    from scipy.stats import kstest

    from common.statistics import proportion_ci
    from labs.lab6_online_eval.calibration import aa_p_values, share_below, standard_errors_from
    from labs.lab6_online_eval.srm import ALARM

    p, srm_p = aa_p_values(users.ids, users.after, names)
    rate, hits = share_below(p, config.alpha)
    alarms, alarm_hits = share_below(srm_p, ALARM)
    n = len(p)
    run.metric(
        "aa.false_positive_rate",
        rate,
        unit="ratio",
        n=n,
        ci95=proportion_ci(hits, n),
        how=f"share of A/A tests on {len(users.ids)} real users with p < {config.alpha}",
    )
    run.metric("aa.rate_z", standard_errors_from(rate, config.alpha, n), unit="SE", n=n)
    run.metric("aa.ks_p", float(kstest(p, "uniform").pvalue), unit="p", n=n)
    run.metric("aa.srm_alarm_rate", alarms, unit="ratio", n=n, ci95=proportion_ci(alarm_hits, n))
    run.note(
        "A/A tests use real MovieLens users and a real metric (mean rating in the second half of "
        "their ratings); only the arms are drawn."
    )
    return p


def break_assignment(run: Run, config: Config) -> None:
    """Lose a share of the treated users, as a crash or a redirect would, and count."""
    import numpy as np

    from labs.lab6_online_eval.assignment import assign_many
    from labs.lab6_online_eval.srm import srm_test

    arms = assign_many(np.arange(config.srm_units).astype(str), "srm", HALVES)
    healthy = srm_test(np.bincount(arms).tolist(), HALVES)
    rng = np.random.default_rng(run.seed)
    arrived = arms[~((arms == 1) & (rng.random(len(arms)) < config.srm_loss))]
    broken = srm_test(np.bincount(arrived).tolist(), HALVES)
    run.metric("srm.healthy_p", healthy.p, unit="p", n=len(arms), how=f"{healthy.observed}")
    run.metric("srm.planted_p", broken.p, unit="p", n=len(arrived), how=f"{broken.observed}")
    run.note(f"Simulated: a fault that loses {config.srm_loss:.0%} of the treated users.")


def sharpen(
    run: Run,
    config: Config,
    users: Users,
    names: list[str],
    plain: NDArray[np.float64],
) -> None:
    """The same A/A tests with CUPED, then the power of both on a simulated lift."""
    from common.statistics import mean_ci, proportion_ci
    from labs.lab6_online_eval.assignment import assign_many
    from labs.lab6_online_eval.calibration import aa_p_values, share_below
    from labs.lab6_online_eval.significance import compare

    n = len(names)
    treated = assign_many(users.ids, names[0], HALVES) == 1
    outcome = compare(
        users.after[~treated],
        users.after[treated],
        control_covariate=users.before[~treated],
        treatment_covariate=users.before[treated],
    )
    run.metric(
        "cuped.variance_reduction",
        outcome.variance_reduction,
        unit="ratio",
        n=len(users.ids),
        how="covariate: mean rating in the first half of each user's ratings",
    )
    sharp, _ = aa_p_values(users.ids, users.after, names, covariate=users.before)
    rate, hits = share_below(sharp, config.alpha)
    run.metric("cuped.aa_false_positive_rate", rate, unit="ratio", n=n, ci95=proportion_ci(hits, n))
    detected = {}
    for name, covariate in (("plain", None), ("cuped", users.before)):
        p, _ = aa_p_values(users.ids, users.after, names, covariate=covariate, lift=config.lift)
        power, found = share_below(p, config.alpha)
        detected[name] = p < config.alpha
        run.metric(f"power.{name}", power, unit="ratio", n=n, ci95=proportion_ci(found, n))
    gain, low, high = mean_ci(detected["cuped"].astype(float) - detected["plain"])
    how = "difference of powers, paired by experiment"
    run.metric("cuped.power_gain", gain, unit="ratio", n=n, ci95=(low, high), how=how)
    run.note(f"Simulated: the lift of {config.lift} stars of the power measurement.")
    draw_p_values(run, plain, sharp)


def analyse_job_training(run: Run) -> None:
    """A randomised experiment with a published answer, with and without covariates."""
    from common.data import load
    from labs.lab6_online_eval.significance import compare

    dataset = load("nsw")
    run.data(dataset)
    table = dataset.table("nsw")
    treated = (table["treat"] == 1).to_numpy()
    earnings = table["re78"].to_numpy()
    before = table[["re74", "re75"]].to_numpy()
    plain = compare(earnings[~treated], earnings[treated])
    sharp = compare(
        earnings[~treated],
        earnings[treated],
        control_covariate=before[~treated],
        treatment_covariate=before[treated],
    )
    for name, outcome in (("effect", plain), ("cuped_effect", sharp)):
        run.metric(f"nsw.{name}", outcome.effect, unit="USD", n=len(table), ci95=outcome.ci95)
        run.metric(f"nsw.{name}_se", outcome.se, unit="USD", n=len(table))
        run.metric(f"nsw.{name}_p", outcome.p, unit="p", n=len(table))
    run.metric("nsw.variance_reduction", sharp.variance_reduction, unit="ratio", n=len(table))
    run.metric("nsw.deviation", abs(plain.effect - NSW_PUBLISHED), unit="USD")
    run.note(
        "Earnings of 1974 and 1975 say little about those of 1978 in this sample, so CUPED gains "
        "little there: the gain is the R2 of the covariate, not a constant of the method."
    )


def peek(run: Run, config: Config) -> None:
    """Stop at the first p < alpha: how often an A/A test then 'wins' (simulated)."""
    from matplotlib.figure import Figure

    from common.statistics import proportion_ci
    from labs.lab6_online_eval.calibration import peeking_false_positives

    n = config.peeking_experiments
    rates = [peeking_false_positives(looks, n, run.seed, config.alpha) for looks in LOOKS]
    for looks, rate in zip(LOOKS, rates, strict=True):
        run.metric(
            f"peeking.false_positives_{looks}_looks",
            rate,
            unit="ratio",
            n=n,
            ci95=proportion_ci(round(rate * n), n),
            how="simulated, normal increments",
        )
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(LOOKS, rates, marker="o")
    axes.axhline(config.alpha, color="grey", linestyle="--", label="promised")
    axes.set(xlabel="looks at the data", ylabel="false-positive rate", ylim=(0, None))
    axes.legend()
    run.figure("peeking", figure, caption="A/A tests stopped at the first p < alpha. Simulated.")


def draw_p_values(run: Run, plain: NDArray[np.float64], sharp: NDArray[np.float64]) -> None:
    """p-values of A/A tests lie on the diagonal when the test is honest."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    share = np.arange(1, len(plain) + 1) / len(plain)
    for label, p in (("Welch", plain), ("Welch with CUPED", sharp)):
        axes.step(np.sort(p), share, where="post", label=label)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="uniform")
    axes.set(xlabel="p", ylabel="share of A/A tests with a smaller p")
    axes.legend()
    run.figure("aa_p_values", figure, caption="p-values of A/A tests on real users.")


if __name__ == "__main__":
    main(
        "lab6_online_eval",
        SCALES,
        story,
        title="Lab 6: online evaluation and A/B testing",
        claims=CLAIMS,
        reading=(
            "Deng, Xu, Kohavi & Walker, CUPED (WSDM 2013)",
            "Fabijan et al., Diagnosing Sample Ratio Mismatch (KDD 2019)",
            "Kohavi, Tang & Xu, Trustworthy Online Controlled Experiments (2020)",
        ),
    )
