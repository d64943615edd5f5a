"""Every fault that is planted in a log is found, named and counted; a sound log passes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from common.errors import InputError
from labs.lab6_online_eval.experiment import read_experiment
from labs.lab6_online_eval.exposure_log import open_log, write_sessions
from labs.lab6_online_eval.log_checks import Action, Check, LogReport, check_log, homogeneity_p
from labs.lab6_online_eval.log_faults import (
    FAULTS,
    FaultStudy,
    Log,
    Planted,
    read_log,
    study_log_checks,
    write_log,
)
from labs.lab6_online_eval.log_faults import exposures_lost_in_one_arm as lose_exposures
from labs.lab6_online_eval.srm import srm_test
from labs.lab6_online_eval.world import Sessions

ROOT = Path(__file__).parents[2]
EXPERIMENT = read_experiment(ROOT / "labs/lab6_online_eval/experiments/new_ranker.toml")
N_UNITS = 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound log: 1,500 units, about six sessions each, half of them before the start."""
    rng = np.random.default_rng(0)
    unit = rng.permutation(np.repeat(np.arange(N_UNITS), 6))
    n = len(unit)
    sessions = Sessions(
        unit=unit,
        person=unit,
        arm=unit % 2,
        day=np.sort(rng.uniform(-14, 14, n)),
        clicks=rng.poisson(0.7, n),
        hides=rng.binomial(1, 0.02, n),
        latency_ms=rng.uniform(50, 150, n),
        error=rng.random(n) < 0.01,
    )
    path = tmp_path_factory.mktemp("log")
    write_sessions(sessions, EXPERIMENT, path)
    return path


def check(path: Path, **options: object) -> LogReport:
    with open_log(path) as connection:
        return check_log(connection, EXPERIMENT, **options)  # type: ignore[arg-type]


def test_a_sound_log_passes_and_every_check_says_that_it_looked(folder: Path) -> None:
    report = check(folder)
    report.require_sound()
    assert report.refusals == ()
    assert sum(report.units) == pytest.approx(N_UNITS * (1 - 0.5**6), abs=30)
    assert {each.action for each in report.checks} <= {Action.NONE, Action.DROPPED}
    assert all(each.of > 0 for each in report.checks)


def test_each_planted_fault_is_found_by_its_check(folder: Path, tmp_path: Path) -> None:
    """Twelve faults, one at a time; none of them leads to a silent analysis.

    What does not bias is dropped (a repeated event); what may is refused.
    """
    study = study_log_checks(folder, tmp_path, EXPERIMENT)
    missed = {name: each for name, each in study.planted.items() if each.count == 0}
    assert missed == {}
    assert study.n_found == len(FAULTS) == 12
    harmless = {name for name, each in study.planted.items() if not each.refused}
    assert harmless == {"unknown_experiment", "repeated_events"}


def test_a_little_of_a_fault_is_dropped_and_counted(folder: Path, tmp_path: Path) -> None:
    """Two in a thousand values are NaN: they are dropped, and the analysis goes on."""
    log = read_log(folder)
    bad, name = FAULTS["nan_values"]
    write_log(bad(log, 0.002, np.random.default_rng(0)), tmp_path)
    with open_log(tmp_path) as connection:
        report = check_log(connection, EXPERIMENT)
        ((left,),) = connection.execute(
            "SELECT count(*) FROM clean_events WHERE value IS NULL OR isnan(value)"
        ).fetchall()
    assert report[name].action is Action.DROPPED
    assert 0 < report[name].share < 0.01
    assert left == 0
    report.require_sound()


def test_a_repeated_event_counts_once(folder: Path, tmp_path: Path) -> None:
    """After the checks the sums are those of the log without the repetitions."""
    query = "SELECT name, before, sum(value) FROM clean_events GROUP BY ALL ORDER BY ALL"
    repeat, _ = FAULTS["repeated_events"]
    write_log(repeat(read_log(folder), 0.2, np.random.default_rng(0)), tmp_path)
    sums = []
    for path in (folder, tmp_path):
        with open_log(path) as connection:
            check_log(connection, EXPERIMENT)
            sums.append(connection.execute(query).fetchall())
    assert [row[:2] for row in sums[0]] == [row[:2] for row in sums[1]]
    assert [row[2] for row in sums[0]] == pytest.approx([row[2] for row in sums[1]])


def test_clean_events_are_before_the_start_or_after_the_own_exposure(folder: Path) -> None:
    """What happened between the start and the exposure is neither covariate nor outcome."""
    with open_log(folder) as connection:
        check_log(connection, EXPERIMENT)
        ((wrong,),) = connection.execute(
            "SELECT count(*) FROM clean_events AS e JOIN clean_units USING (unit_id) "
            'WHERE NOT before AND e."at" < exposed_at OR before AND e."at" >= exposed_at'
        ).fetchall()
        ((n, units),) = connection.execute(
            "SELECT count(*), count(DISTINCT unit_id) FROM clean_events WHERE before"
        ).fetchall()
    assert wrong == 0
    assert n > 1000 < units


def test_lost_exposures_show_as_a_sample_ratio_mismatch(folder: Path, tmp_path: Path) -> None:
    """Units that are gone leave no row to count; only the sizes of the arms tell."""
    write_log(lose_exposures(read_log(folder), 0.2, np.random.default_rng(0)), tmp_path)
    report = check(tmp_path)
    assert report.refusals == ()
    assert srm_test(report.units, EXPERIMENT.weights).mismatch
    assert not srm_test(check(folder).units, EXPERIMENT.weights).mismatch


def test_an_experiment_of_which_the_log_knows_nothing_is_refused(tmp_path: Path) -> None:
    """Two empty arms are named; there is no division by zero and no p-value."""
    report = check(tmp_path)
    assert report.units == (0, 0)
    with pytest.raises(InputError, match=r"fewer than two units: 2 of 2 ease, discovery"):
        report.require_sound()


def test_an_arm_of_one_unit_is_refused(folder: Path, tmp_path: Path) -> None:
    import pyarrow.compute as pc

    log = read_log(folder)
    column = pc.field
    keep = (column("arm") == "ease") | (column("unit_id") == "1")
    write_log(Log(log.exposures.filter(keep), log.events), tmp_path)
    report = check(tmp_path)
    assert report.units[1] == 1
    assert [each.name for each in report.refusals] == ["arms with fewer than two units"]


def test_events_after_now_are_from_the_future(folder: Path) -> None:
    """A look on day 7: what is logged for day 9 comes from a clock that is wrong."""
    report = check(folder, now=datetime(2026, 3, 9, tzinfo=UTC))
    assert report["events from the future"].action is Action.REFUSED
    assert report["exposures outside the run"].action is Action.REFUSED


def test_events_that_may_be_negative_and_known_neighbours_are_no_faults(
    folder: Path, tmp_path: Path
) -> None:
    log = read_log(folder)
    negative, name = FAULTS["negative_values"]
    stranger, other = FAULTS["unknown_experiment"]
    generator = np.random.default_rng(0)
    write_log(stranger(negative(log, 0.05, generator), 0.05, generator), tmp_path)
    names = ("click", "session", "hide", "error", "latency_ms")
    report = check(tmp_path, signed=names, others=("stranger",))
    assert report[name].count == report[other].count == 0


def test_a_metric_whose_event_nobody_logged_is_named(folder: Path, tmp_path: Path) -> None:
    import pyarrow.compute as pc

    log = read_log(folder)
    write_log(Log(log.exposures, log.events.filter(pc.field("name") != "hide")), tmp_path)
    missing = check(tmp_path)["events that no row has"]
    assert (missing.count, missing.detail, missing.action) == (1, "hide", Action.KEPT)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (datetime(2026, 3, 9), "time zone"),
        (datetime(2026, 3, 1, tzinfo=UTC), "must be after the start"),
    ],
)
def test_a_moment_that_makes_no_sense_is_refused(folder: Path, now: datetime, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(folder, now=now)


def test_the_test_between_arms_is_pearsons_and_knows_its_edges() -> None:
    count, n = np.array([30, 50, 41]), np.array([500, 520, 480])
    expected = chi2_contingency([count, n - count], correction=False).pvalue
    assert homogeneity_p(count, n) == pytest.approx(expected, rel=1e-9)
    assert homogeneity_p(np.zeros(2, dtype=np.int64), np.array([5, 5])) == 1.0
    assert homogeneity_p(np.array([5, 5]), np.array([5, 5])) == 1.0


def test_few_cases_are_judged_exactly() -> None:
    """Two faulty units that both fall into an arm of a tenth happen once in a hundred sound logs;
    by the chi-square law it would be once in 45,000, and the log would be refused. Eight are a
    fault in either reading."""
    n = np.array([9000, 1000])
    assert homogeneity_p(np.array([0, 2]), n) == pytest.approx(0.01, rel=0.01)
    assert homogeneity_p(np.array([0, 8]), n) < 1e-6
    three = homogeneity_p(np.array([0, 0, 2]), np.array([4500, 4500, 1000]))
    assert three == pytest.approx(0.03, rel=0.01)


def test_a_check_that_counts_as_much_in_a_sound_log_has_found_nothing() -> None:
    """Three rows that were negative before the fault are no evidence that it was found."""
    checks = (Check("negative values", 3, 100, Action.DROPPED),)
    sound = LogReport("e", (50, 50), checks)
    seen = {
        name: Planted("negative values", count, Action.DROPPED, False)
        for name, count in (("as_before", 3), ("more", 4))
    }
    study = FaultStudy(sound, seen)
    assert study.missed == ("as_before",)
    assert study.n_found == 1
