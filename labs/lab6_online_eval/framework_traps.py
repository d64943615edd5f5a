"""Silent failures of the framework: who is counted, and what is counted of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from common.data import load
from common.traps import Trap
from labs.lab6_online_eval.assignment import assign_many, unit_points_v1
from labs.lab6_online_eval.significance import Moments, compare, compare_moments
from labs.lab6_online_eval.users import crossed, split_in_time

EXPERIMENT_FILE = Path(__file__).parent / "experiments" / "new_ranker.toml"
HALVES = (0.5, 0.5)
TESTS = 500


def one_hash_pass() -> Trap:
    """Two 50/50 experiments on the same users, hashed once with the name at the end."""
    ids = np.arange(100_000).astype(str)
    old = [(unit_points_v1(ids, name) >= 0.5).astype(np.int64) for name in ("exp1", "exp2")]
    new = [assign_many(ids, name, HALVES) for name in ("exp1", "exp2")]
    return Trap(
        title="Two experiments that know of each other",
        wrong=("users by arm, hashed once, id + name", crossed(*old).tolist()),
        right=("users by arm, hashed twice, name + id", crossed(*new).tolist()),
        why="All four cells should be 25,000. With one pass of FNV-1a the last characters barely "
        "spread, so who is treated in exp1 says something about exp2, and one experiment's effect "
        "leaks into the other.",
    )


def exposure_in_one_code_path() -> Trap:
    """An A/A test in which the treatment logs its exposure only once its list was clicked."""
    from labs.lab6_online_eval.experiment import read_experiment
    from labs.lab6_online_eval.exposure_log import open_log, write_sessions
    from labs.lab6_online_eval.log_checks import check_log
    from labs.lab6_online_eval.log_faults import Log, read_log, write_log
    from labs.lab6_online_eval.srm import srm_test
    from labs.lab6_online_eval.world import Sessions

    experiment = read_experiment(EXPERIMENT_FILE)
    rng = np.random.default_rng(0)
    n_units = 4000
    activity = rng.gamma(2.0, 2.0, n_units)
    unit = np.repeat(np.arange(n_units), 1 + rng.poisson(activity))
    n = len(unit)
    sessions = Sessions(
        unit=unit,
        person=unit,
        arm=unit % 2,
        day=rng.uniform(0, 14, n),
        clicks=rng.poisson(0.6, n),
        hides=np.zeros(n, dtype=np.int64),
        latency_ms=np.full(n, 80.0),
        error=np.zeros(n, dtype=bool),
    )
    query = (
        "SELECT arm, coalesce(sum(value) FILTER (name = 'click'), 0) FROM clean_units "
        "LEFT JOIN (SELECT unit_id, name, value FROM clean_events) USING (unit_id) "
        "GROUP BY unit_id, arm"
    )
    outcomes, mismatches = [], []
    with TemporaryDirectory() as folder:
        write_sessions(sessions, experiment, Path(folder) / "right")
        log = read_log(Path(folder) / "right")
        logged = (sessions.arm == 0) | (sessions.clicks > 0)
        write_log(Log(log.exposures.filter(logged), log.events), Path(folder) / "wrong")
        for name in ("wrong", "right"):
            with open_log(Path(folder) / name) as connection:
                report = check_log(connection, experiment)
                rows = connection.execute(query).fetchall()
            arms = [[value for arm, value in rows if arm == each.name] for each in experiment.arms]
            outcomes.append(compare(*arms))
            mismatches.append(srm_test(report.units, experiment.weights).p)
    shown = [
        f"{outcome.relative:+.1%} (p = {outcome.p:.2g}); SRM p = {mismatch:.2g}"
        for outcome, mismatch in zip(outcomes, mismatches, strict=True)
    ]
    return Trap(
        title="Exposure logged in one arm's code path",
        wrong=("A/A effect on clicks, treatment logged after a click", shown[0]),
        right=("A/A effect, both logged where users are split", shown[1]),
        why="Users who never click are missing from the treatment only, so the treatment looks "
        "better. The lost units leave no trace but the sizes of the arms. Log the exposure at the "
        "branch, before either path runs, and test the sizes before any metric.",
    )


def ratings_as_units() -> Trap:
    """Users are randomised, but each rating is counted as an independent observation."""
    table = load("ml-100k").table("interactions")
    groups = table.groupby("user_id")["rating"]
    sums = groups.agg(["size", "sum", "mean"])
    squares = (table["rating"] ** 2).groupby(table["user_id"]).sum()
    ids = sums.index.astype(str).to_numpy().astype(np.str_)
    wrong = right = 0
    for test in range(TESTS):
        treated = assign_many(ids, f"trap-{test}", HALVES) == 1
        arms = [
            Moments.of_sums(
                int(sums.loc[mask, "size"].sum()),
                float(sums.loc[mask, "sum"].sum()),
                float(squares[mask].sum()),
            )
            for mask in (~treated, treated)
        ]
        wrong += compare_moments(*arms).p < 0.05
        right += compare(sums.loc[~treated, "mean"], sums.loc[treated, "mean"]).p < 0.05
    return Trap(
        title="Events counted as if they were users",
        wrong=("A/A false positives, one row a rating", wrong / TESTS),
        right=("A/A false positives, one row a user", right / TESTS),
        why="The ratings of one user resemble each other, so 100,000 ratings carry far less than "
        "100,000 observations' worth. The unit of analysis is the unit of randomisation.",
    )


def covariate_after_treatment() -> Trap:
    """The covariate is measured during the experiment, when the treatment has changed it too."""
    users = split_in_time(load("ml-100k"))
    lift = 0.2
    estimates: dict[str, list[float]] = {"late": [], "before": []}
    for test in range(TESTS):
        treated = assign_many(users.ids, f"trap-{test}", HALVES) == 1
        metric = users.after + lift * treated
        covariates = {"late": users.late + lift * treated, "before": users.before}
        for name, covariate in covariates.items():
            outcome = compare(
                metric[~treated],
                metric[treated],
                control_covariate=covariate[~treated],
                treatment_covariate=covariate[treated],
            )
            estimates[name].append(outcome.effect)
    return Trap(
        title="CUPED with a covariate that the treatment has touched",
        wrong=("mean estimate, covariate from the last weeks", float(np.mean(estimates["late"]))),
        right=("mean estimate, covariate from before", float(np.mean(estimates["before"]))),
        why=f"The simulated lift is {lift} stars. A covariate measured after the start carries the "
        "effect as well, and the adjustment subtracts it. The variance falls all the more, so the "
        "wrong answer looks the surer one.",
    )


def units_without_events_dropped() -> Trap:
    """Spending a user, averaged over those who have an event, as an inner join gives it."""
    n, tests, lift = 2000, 200, 0.5
    share, amount, small = 0.10, 20.0, 5.0
    truth = share * lift * small
    estimates: dict[str, list[float]] = {"with events": [], "all": []}
    rng = np.random.default_rng(0)
    for _ in range(tests):
        arms = []
        for more in (0.0, lift):
            draw = rng.random(n)
            old, new = draw < share, (draw >= share) & (draw < share * (1 + more))
            arms.append(rng.exponential(np.where(old, amount, np.where(new, small, 0.0))))
        estimates["all"].append(compare(*arms).effect)
        estimates["with events"].append(compare(*(arm[arm > 0] for arm in arms)).effect)
    wrong, right = (float(np.mean(estimates[name])) for name in ("with events", "all"))
    return Trap(
        title="Users without an event, left out",
        wrong=("mean effect over users with a purchase", wrong),
        right=(f"mean effect over all exposed users (true: {truth:g})", right),
        why="The treatment brings half as many buyers again, who spend a quarter of what others "
        "do. Spending a user rises; spending a *buyer* falls, because more and smaller buyers "
        "are averaged. Who has an event is an outcome: start from the exposures, LEFT JOIN, 0.",
    )
