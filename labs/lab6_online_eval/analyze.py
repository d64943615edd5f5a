"""From the log to the decision, in one call and always in the same order.

    checks -> sample ratio -> unit table -> metrics with CUPED -> test -> guardrails -> ship rule

Each step may end the analysis, and then nothing after it is computed: a p-value that exists is
looked at. What was refused is in the result, with its reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common.errors import InputError
from labs.lab6_online_eval.event_log import EVENTS, EXPOSURES
from labs.lab6_online_eval.experiment import Experiment, Kind, Metric, Role
from labs.lab6_online_eval.exposure_log import open_log
from labs.lab6_online_eval.guardrails import Guardrail, GuardrailResult
from labs.lab6_online_eval.log_checks import LogReport, check_log
from labs.lab6_online_eval.look_plan import Inference, LookPlan, look_plan
from labs.lab6_online_eval.quantiles import compare_quantiles
from labs.lab6_online_eval.ship_rule import (
    Decision,
    Ruling,
    SuccessResult,
    decide,
    holm_adjusted,
)
from labs.lab6_online_eval.significance import Comparison
from labs.lab6_online_eval.srm import SrmResult, srm_test
from labs.lab6_online_eval.sufficient_statistics import (
    Columns,
    SufficientStatistics,
    compare_statistics,
    scan,
)
from labs.lab6_online_eval.unit_metrics import LogCounts, UnitTable, write_unit_table

METHODS = {
    (Kind.MEAN, False): "mean_from_sums",
    (Kind.PROPORTION, False): "proportion_from_sums",
    (Kind.RATIO, False): "ratio_from_sums",
    (Kind.QUANTILE, False): "quantile_clustered",
    (Kind.MEAN, True): "cuped_from_sums",
    (Kind.PROPORTION, True): "cuped_from_sums",
    (Kind.RATIO, True): "ratio_cuped_from_sums",
}
"""Kind of metric, and whether CUPED adjusts it, to the method's name in the validation table."""


@dataclass(frozen=True)
class MetricResult:
    """One metric of one treatment against the control.

    Attributes
    ----------
    methods
        Every validated method that the numbers rest on.
    comparison
        At the fixed horizon; its p is only valid there.
    effect, relative
        What may be read at this look; ``relative`` is None when the control's mean is 0.
    p_adjusted
        Success metrics: by Holm over all of them.
    """

    metric: Metric
    methods: tuple[str, ...]
    comparison: Comparison
    effect: Inference
    relative: Inference | None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class RefusedMetric:
    """A metric without a result, and why."""

    metric: Metric
    reason: str


@dataclass(frozen=True)
class ArmAnalysis:
    """One treatment against the control, and what follows for it."""

    arm: str
    results: tuple[MetricResult, ...]
    refused: tuple[RefusedMetric, ...]
    guardrails: tuple[GuardrailResult, ...]
    ruling: Ruling


@dataclass(frozen=True)
class Analysis:
    """An experiment's analysis, with everything that a memo tells.

    Attributes
    ----------
    until
        Up to when the log was read.
    log, srm, counts
        The checks; ``srm`` is None when there were too few units for it, ``counts`` when the
        analysis ended before there was a unit table.
    failed_checks
        Why there is no result, one sentence each; empty when there is one.
    alpha
        Of each treatment: the experiment's, divided by the number of treatments.
    arms
        One a treatment, in the file's order.
    """

    experiment: Experiment
    until: datetime
    log: LogReport
    srm: SrmResult | None
    counts: LogCounts | None
    plan: LookPlan | None
    failed_checks: tuple[str, ...]
    alpha: float
    arms: tuple[ArmAnalysis, ...]

    @property
    def decision(self) -> Decision:
        """Of the treatments: ship if one may, else go on if one may, else the first's."""
        decisions = [arm.ruling.decision for arm in self.arms]
        for wanted in (Decision.SHIP, Decision.EXTEND):
            if wanted in decisions:
                return wanted
        return decisions[0]


def analyze(
    experiment: Experiment,
    log: Path,
    *,
    at: datetime | None = None,
    offered: Collection[str] | None = None,
    signed: Sequence[str] = (),
    others: Sequence[str] = (),
) -> Analysis:
    """Analyse an experiment as its file says.

    Parameters
    ----------
    log
        Folder of the log (see `event_log`).
    at
        As of this moment: what the log holds of later times is taken as not yet written. The end
        of the experiment when left out.
    offered
        Names of the methods that validation let pass; a metric that needs another is refused. All
        when left out.
    signed
        Events whose values may be negative.
    others
        Other experiments that share the log.

    Raises
    ------
    InputError
        A log that cannot be read, or an ``at`` before the start. Everything else that is wrong is
        in `Analysis.failed_checks` or in the metric's refusal.
    """
    end = experiment.start + timedelta(days=experiment.days)
    until = end if at is None else min(at, end)
    alpha = experiment.alpha / (len(experiment.arms) - 1)
    with open_log(log) as database:
        if at is not None:
            for name in (EXPOSURES, EVENTS):
                moment = f"{until.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00"
                database.execute(
                    f"CREATE TEMP VIEW {name} AS SELECT * FROM memory.main.{name} "
                    f"WHERE \"at\" < '{moment}'::TIMESTAMPTZ"
                )
        report = check_log(database, experiment, now=until, signed=signed, others=others)
    failed, srm, plan = _health(experiment, report, until, alpha)
    if failed:
        ruling = Ruling(Decision.REFUSE, failed, (), ())
        arms = tuple(ArmAnalysis(arm.name, (), (), (), ruling) for arm in experiment.arms[1:])
        return Analysis(experiment, until, report, srm, None, plan, failed, alpha, arms)
    assert plan is not None
    with tempfile.TemporaryDirectory(prefix="analysis-") as folder:
        table = write_unit_table(experiment, log, Path(folder), at=until, signed=signed)
        columns = list(table.columns.values())
        statistics = scan(table.units, columns, arms=len(table.n)) if columns else []
        arms = tuple(
            _analyse_arm(experiment, table, statistics, number, plan, offered)
            for number in range(1, len(experiment.arms))
        )
    return Analysis(experiment, until, report, srm, table.counts, plan, (), alpha, arms)


def _health(
    experiment: Experiment, report: LogReport, until: datetime, alpha: float
) -> tuple[tuple[str, ...], SrmResult | None, LookPlan | None]:
    """What forbids an analysis, one sentence each; the sample ratio first."""
    failed: list[str] = []
    srm = plan = None
    try:
        srm = srm_test(report.units, experiment.weights)
    except InputError as error:
        failed.append(f"the sample ratio cannot be checked: {error}")
    if srm is not None and srm.mismatch:
        observed = ", ".join(f"{count:,}" for count in srm.observed)
        expected = ", ".join(f"{count:,.0f}" for count in srm.expected)
        failed.append(
            f"sample ratio mismatch: the arms have {observed} units where {expected} were "
            f"expected (p = {srm.p:.2g}); the units that are left are not comparable"
        )
    failed += [
        f"{check.name}: {check.count:,} of {check.of:,} {check.detail}".rstrip()
        for check in report.refusals
    ]
    try:
        plan = look_plan(experiment, until, alpha)
    except InputError as error:
        failed.append(str(error))
    return tuple(failed), srm, plan


def _analyse_arm(
    experiment: Experiment,
    table: UnitTable,
    statistics: list[SufficientStatistics],
    number: int,
    plan: LookPlan,
    offered: Collection[str] | None,
) -> ArmAnalysis:
    results: list[MetricResult] = []
    refused: list[RefusedMetric] = []
    for metric in experiment.metrics:
        columns = _columns(metric, table, statistics, number)
        methods = methods_of(metric, plan, cuped=columns is not None and columns.cuped)
        missing = [name for name in methods if offered is not None and name not in offered]
        if missing:
            reason = f"its method did not pass validation: {', '.join(missing)}"
            refused.append(RefusedMetric(metric, reason))
            continue
        try:
            comparison = (
                _compare_quantile(metric, table, number, plan.alpha)
                if columns is None
                else compare_statistics(
                    statistics[0], statistics[number], columns, alpha=plan.alpha
                )
            )
            inferences = plan.absolute(comparison), plan.relative(comparison)
        except InputError as error:
            refused.append(RefusedMetric(metric, str(error)))
            continue
        results.append(MetricResult(metric, methods, comparison, *inferences))
    results = _with_holm(results)
    guardrails, without = _guardrails(experiment, plan, results)
    refused += without
    ruling = _rule(experiment, plan, results, refused, guardrails)
    return ArmAnalysis(
        experiment.arms[number].name, tuple(results), tuple(refused), guardrails, ruling
    )


def methods_of(metric: Metric, plan: LookPlan, *, cuped: bool) -> tuple[str, ...]:
    """The validated methods on which a metric's result rests at this look."""
    names = [METHODS[metric.kind, cuped]]
    if plan.method:
        names.append(plan.method)
    elif metric.role is Role.GUARDRAIL:
        names.append("non_inferiority")
    return tuple(names)


def _columns(
    metric: Metric, table: UnitTable, statistics: list[SufficientStatistics], number: int
) -> Columns | None:
    """A metric's columns, None for a quantile; without a ratio's past where nobody has one.

    Who has a past was settled before the exposure, so asking does not depend on the treatment.
    """
    columns = table.columns.get(metric.name)
    below = columns.covariate_denominator if columns else None
    if columns is None or below is None:
        return columns
    place = statistics[0].columns.index(below)
    empty = any(arm.n and arm.mean[place] == 0 for arm in (statistics[0], statistics[number]))
    return Columns(columns.numerator, columns.denominator) if empty else columns


def _compare_quantile(metric: Metric, table: UnitTable, number: int, alpha: float) -> Comparison:
    assert metric.quantile is not None
    control, control_unit = table.event_values(metric.name, 0)
    treatment, treatment_unit = table.event_values(metric.name, number)
    return compare_quantiles(
        control,
        treatment,
        metric.quantile,
        control_unit=control_unit,
        treatment_unit=treatment_unit,
        alpha=alpha,
    )


def _with_holm(results: list[MetricResult]) -> list[MetricResult]:
    success = [result for result in results if result.metric.role is Role.SUCCESS]
    adjusted = dict(
        zip(
            (result.metric.name for result in success),
            holm_adjusted([result.effect.p for result in success]),
            strict=True,
        )
    )
    return [replace(each, p_adjusted=adjusted.get(each.metric.name)) for each in results]


def _guardrails(
    experiment: Experiment, plan: LookPlan, results: list[MetricResult]
) -> tuple[tuple[GuardrailResult, ...], list[RefusedMetric]]:
    found: list[Guardrail] = []
    units: list[int] = []
    refused: list[RefusedMetric] = []
    for result in results:
        if result.metric.role is not Role.GUARDRAIL:
            continue
        try:
            found.append(Guardrail.of(result.metric, result.comparison))
        except InputError as error:
            refused.append(RefusedMetric(result.metric, str(error)))
            continue
        units.append(result.comparison.n_control + result.comparison.n_treatment)
    return plan.guardrails(found, units, experiment.power), refused


def _rule(
    experiment: Experiment,
    plan: LookPlan,
    results: list[MetricResult],
    refused: list[RefusedMetric],
    guardrails: tuple[GuardrailResult, ...],
) -> Ruling:
    """The ship rule; a guardrail that could not be tested is one that nobody has seen hold."""
    success = [
        SuccessResult(r.metric.name, r.effect.estimate, r.effect.p, r.metric.higher_is_better)
        for r in results
        if r.metric.role is Role.SUCCESS
    ]
    untested = [
        f"guardrail {each.metric.name} could not be tested: {each.reason}"
        for each in refused
        if each.metric.role is Role.GUARDRAIL
    ]
    if not success:
        reasons = [
            f"success metric {each.metric.name} could not be tested: {each.reason}"
            for each in refused
            if each.metric.role is Role.SUCCESS
        ]
        return Ruling(Decision.REFUSE, (*reasons, *untested), (), ())
    return decide(
        success, guardrails, failed_checks=untested, alpha=plan.alpha, looks_left=plan.left
    )
