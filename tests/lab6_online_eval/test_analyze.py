"""From a log to a decision: in order, by the file, and refused aloud where it must be."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from labs.lab6_online_eval.analyze import METHODS, Analysis, analyze, methods_of
from labs.lab6_online_eval.experiment import Kind, Looks, Metric, Role
from labs.lab6_online_eval.look_plan import look_plan
from labs.lab6_online_eval.ship_rule import Decision
from labs.lab6_online_eval.significance import compare
from tests.lab6_online_eval.logs import START, Truth, experiment, write_log


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("healthy")
    return folder, write_log(folder)


@pytest.fixture(scope="module")
def analysed(healthy: tuple[Path, Truth]) -> Analysis:
    return analyze(experiment(), healthy[0])


def test_a_real_improvement_with_healthy_guardrails_ships(analysed: Analysis) -> None:
    """Half a click more a unit, nothing slower: every step passes, every metric has a result."""
    assert analysed.failed_checks == ()
    assert analysed.decision is Decision.SHIP
    (arm,) = analysed.arms
    assert [result.metric.name for result in arm.results] == [
        "clicks", "clicks_per_session", "clickers", "p90_latency", "hides",
    ]  # fmt: skip
    assert arm.refused == ()
    assert {guardrail.name for guardrail in arm.guardrails} == {"p90_latency", "hides"}


def test_the_result_is_that_of_every_units_row(
    healthy: tuple[Path, Truth], analysed: Analysis
) -> None:
    """Through log, DuckDB, Parquet and sums: the comparison of the arrays that made the log."""
    truth = healthy[1]
    control, treatment = (truth.arm == arm for arm in (0, 1))
    expected = compare(
        truth.clicks[control],
        truth.clicks[treatment],
        control_covariate=truth.before[control],
        treatment_covariate=truth.before[treatment],
    )
    found = analysed.arms[0].results[0].comparison
    assert found.effect == pytest.approx(expected.effect, abs=1e-9)
    assert found.ci95 == pytest.approx(expected.ci95, abs=1e-9)
    assert found.p == pytest.approx(expected.p, abs=1e-9)
    assert found.variance_reduction == pytest.approx(expected.variance_reduction, abs=1e-9)
    assert found.variance_reduction > 0.2


def test_success_metrics_are_corrected_for_their_number(analysed: Analysis) -> None:
    """Two chances to win: by Holm the smaller p doubles. Information decides nothing, so is not
    corrected."""
    clicks, rate, clickers, *_ = analysed.arms[0].results
    smaller, larger = sorted([clicks, rate], key=lambda result: result.effect.p)
    assert smaller.p_adjusted == pytest.approx(2 * smaller.effect.p)
    assert larger.p_adjusted == pytest.approx(max(2 * smaller.effect.p, larger.effect.p))
    assert clickers.p_adjusted is None


def test_a_sample_ratio_mismatch_ends_the_analysis_before_any_metric(tmp_path: Path) -> None:
    """700 units against 500 at 50/50: a p-value that is not computed cannot be believed."""
    write_log(tmp_path, sizes=(700, 500))
    found = analyze(experiment(), tmp_path)
    assert found.decision is Decision.REFUSE
    assert found.srm is not None
    assert found.srm.mismatch
    assert "sample ratio mismatch: the arms have 700, 500 units" in found.failed_checks[0]
    assert found.arms[0].results == ()
    assert found.counts is None


def test_a_slow_treatment_does_not_ship_however_good_its_clicks(tmp_path: Path) -> None:
    """A quarter slower against a margin of 10 %: the guardrail is broken, and that decides."""
    write_log(tmp_path, slower=1.25)
    found = analyze(experiment(), tmp_path)
    assert found.decision is Decision.STOP
    assert found.arms[0].ruling.better == ("clicks", "clicks_per_session")
    assert "p90_latency: worse than the margin" in found.arms[0].ruling.reasons[0]


def test_a_look_before_the_end_of_a_fixed_horizon_gives_no_p_value(
    healthy: tuple[Path, Truth],
) -> None:
    """Day 6 of 10: peeking. The sizes of the arms may be looked at, the metrics may not."""
    found = analyze(experiment(), healthy[0], at=START + timedelta(days=6))
    assert found.decision is Decision.REFUSE
    assert "the file plans one look, at the end" in found.failed_checks[0]
    assert found.arms[0].results == ()
    assert found.srm is not None
    assert sum(found.srm.observed) < 1400


def test_an_experiment_that_may_be_watched_pays_with_wider_intervals(
    healthy: tuple[Path, Truth], analysed: Analysis
) -> None:
    """looks = "always": day 6 has an answer, and at the end the interval is wider than Welch's."""
    watched = experiment(looks=Looks.ALWAYS)
    early = analyze(watched, healthy[0], at=START + timedelta(days=6))
    assert early.failed_checks == ()
    assert early.plan is not None
    assert early.plan.left
    late, fixed = analyze(watched, healthy[0]).arms[0].results[0], analysed.arms[0].results[0]
    assert late.effect.estimate == fixed.effect.estimate
    assert np.ptp(late.effect.interval) > 1.2 * np.ptp(fixed.effect.interval)
    assert late.effect.p > fixed.effect.p


def test_a_planned_look_uses_its_boundary_and_other_days_are_refused(
    healthy: tuple[Path, Truth],
) -> None:
    """Two looks, on days 5 and 10; O'Brien-Fleming's first boundary is near z = 2.96."""
    planned = experiment(looks=Looks.PLANNED, n_looks=2)
    found = analyze(planned, healthy[0], at=START + timedelta(days=5))
    result = found.arms[0].results[0]
    half = np.ptp(result.effect.interval) / 2
    assert half / result.comparison.se == pytest.approx(2.963, abs=0.001)
    assert result.methods == ("cuped_from_sums", "obrien_fleming")
    refused = analyze(planned, healthy[0], at=START + timedelta(days=7))
    assert "day 7.0 is no planned look; the looks are on days 5, 10" in refused.failed_checks


def test_a_method_that_did_not_pass_validation_is_refused_by_name(
    healthy: tuple[Path, Truth],
) -> None:
    """Without the quantile's method its guardrail is untested, and what is untested cannot pass."""
    offered = (set(METHODS.values()) | {"non_inferiority"}) - {"quantile_clustered"}
    found = analyze(experiment(), healthy[0], offered=offered)
    (arm,) = found.arms
    assert [each.metric.name for each in arm.refused] == ["p90_latency"]
    assert arm.refused[0].reason == "its method did not pass validation: quantile_clustered"
    assert found.decision is Decision.REFUSE
    assert "guardrail p90_latency could not be tested" in arm.ruling.reasons[0]


def test_a_metric_that_does_not_vary_is_refused_and_the_others_are_not(
    healthy: tuple[Path, Truth],
) -> None:
    """Every unit has exactly three sessions: there is nothing to test."""
    constant = Metric("sessions", Kind.MEAN, Role.INFORMATION, "session", cuped=False)
    found = analyze(experiment(metrics=(*experiment().metrics, constant)), healthy[0])
    assert [each.metric.name for each in found.arms[0].refused] == ["sessions"]
    assert "variance of the metric = 0.0" in found.arms[0].refused[0].reason
    assert found.decision is Decision.SHIP


def test_a_ratio_without_a_past_is_analysed_without_cuped(tmp_path: Path) -> None:
    """New users have had no sessions: there is no rate to adjust by, and still one to test."""
    write_log(tmp_path, past=False)
    found = analyze(experiment(), tmp_path)
    ratio = found.arms[0].results[1]
    assert ratio.methods == ("ratio_from_sums",)
    assert ratio.comparison.variance_reduction == 0


def test_two_treatments_share_the_error_rate(tmp_path: Path) -> None:
    """Two chances to ship something: each treatment is tested at alpha / 2."""
    write_log(tmp_path, sizes=(500, 500, 500))
    found = analyze(experiment(arms=("control", "treatment", "third")), tmp_path)
    assert found.alpha == 0.025
    assert [arm.arm for arm in found.arms] == ["treatment", "third"]
    first = found.arms[0].results[0]
    half = np.ptp(first.effect.interval) / 2
    assert half / first.comparison.se == pytest.approx(2.245, abs=0.01)


def test_faults_of_the_log_refuse_the_analysis_with_their_count(tmp_path: Path) -> None:
    """Units of an arm that is not in the file: somebody serves what nobody has planned."""
    write_log(tmp_path, sizes=(300, 300, 300))
    found = analyze(experiment(), tmp_path)
    assert found.decision is Decision.REFUSE
    assert any("exposures to unknown arms: 900 of 2,700" in each for each in found.failed_checks)


@pytest.mark.parametrize("effect", [-0.3, -0.06, 0.0, 0.06, 0.3])
@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize(
    ("looks", "n_looks"), [(Looks.ONCE, 1), (Looks.ALWAYS, 1), (Looks.PLANNED, 3)]
)
def test_a_guardrail_holds_exactly_when_its_bound_is_within_the_margin(
    looks: Looks, n_looks: int, higher: bool, effect: float
) -> None:
    """The p that decides and the bound that is shown must never disagree, at any kind of look."""
    from labs.lab6_online_eval.guardrails import Guardrail, Verdict

    day = START + timedelta(days=10)
    plan = look_plan(experiment(looks=looks, n_looks=n_looks), day, 0.05)
    guardrail = Guardrail("latency", effect, 0.03, 0.1, higher_is_better=higher)
    (found,) = plan.guardrails([guardrail], [20_000], 0.8)
    worst = found.bound if higher else -found.bound
    assert (found.verdict is Verdict.SAFE) == (worst > -0.1) == (found.p < 0.05)
    gain = effect if higher else -effect
    assert (found.verdict is Verdict.HARMED) == (gain == -0.3)


def test_every_method_that_analyze_may_need_has_a_name() -> None:
    """Whatever kind of metric, and with or without CUPED, validation can be asked about it."""
    plan = look_plan(experiment(), START + timedelta(days=10), 0.05)
    for metric in experiment().metrics:
        cuped = metric.cuped and metric.kind is not Kind.QUANTILE
        assert all(methods_of(metric, plan, cuped=cuped)), metric.name
    hides = methods_of(experiment().metrics[4], plan, cuped=False)
    assert hides == ("mean_from_sums", "non_inferiority")


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("mean_from_sums", None),
        ("cuped_from_sums", None),
        ("proportion_from_sums", None),
        ("ratio_from_sums", None),
        ("ratio_cuped_from_sums", None),
        ("covariate_after_treatment", "coverage"),
        ("units_without_events_dropped", "coverage"),
    ],
)
def test_validation_tells_what_analyze_uses_from_its_mistakes(name: str, flaw: str | None) -> None:
    """400 experiments each, so wide bounds: the right ones near 5 % and 95 %, the mistakes fine
    without an effect, and hopeless with one."""
    from labs.lab6_online_eval.methods_analysis import methods

    method = next(each for each in methods() if each.name == name)
    rng = np.random.default_rng(3)
    null, real = method.simulate(rng, 400, 0.0), method.simulate(rng, 400, method.effect)
    assert 0.02 < (null.p < 0.05).mean() < 0.09
    covered = ((real.low <= method.effect) & (method.effect <= real.high)).mean()
    assert covered < 0.5 if flaw else covered > 0.92
    assert method.flawed is (flaw is not None)
