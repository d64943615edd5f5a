from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from labs.lab6_online_eval.experiment import Kind, Metric, Role
from labs.lab6_online_eval.guardrail_study import study_guardrails
from labs.lab6_online_eval.guardrails import (
    Guardrail,
    Verdict,
    check_guardrails,
    power_of_each,
)
from labs.lab6_online_eval.significance import compare

SAFE = Guardrail("latency", 0.012, 0.01, 0.05, higher_is_better=False)
UNDECIDED = Guardrail("errors", 0.1, 0.25, 0.2, higher_is_better=False)
HARMED = Guardrail("hides", 0.6, 0.08, 0.25, higher_is_better=False)


def metric(margin: float | None = 0.05, role: Role = Role.GUARDRAIL) -> Metric:
    return Metric("latency", Kind.MEAN, role, "latency", higher_is_better=False, margin=margin)


def test_each_verdict_is_reached() -> None:
    """Safe, harmed, and the third that is neither: undecided."""
    found = check_guardrails([SAFE, UNDECIDED, HARMED])
    assert [each.verdict for each in found] == [Verdict.SAFE, Verdict.UNDECIDED, Verdict.HARMED]
    assert [each.p < 0.05 for each in found] == [True, False, False]
    assert [each.p_harm < 0.05 for each in found] == [False, False, True]


def test_an_undecided_guardrail_says_that_it_could_not_have_passed() -> None:
    """With 20 % power "not significant" means nothing, and the report has to say so."""
    errors = check_guardrails([UNDECIDED])[0]
    assert errors.underpowered
    assert errors.power == pytest.approx(0.199, abs=0.001)
    assert "not shown to be safe" in errors.sentence
    assert "20%" in errors.sentence


def test_more_guardrails_need_more_power_and_the_same_alpha() -> None:
    """Each one's p is what it is alone; what is asked of its power rises."""
    alone, among = check_guardrails([SAFE])[0], check_guardrails([SAFE, UNDECIDED, HARMED])[0]
    assert (alone.p, alone.verdict) == (among.p, among.verdict)
    assert alone.power_needed == pytest.approx(0.9)
    assert among.power_needed == pytest.approx(0.95)


def test_a_guardrail_is_read_from_a_comparison() -> None:
    """The relative standard error comes out of the comparison, at any alpha, as it went in."""
    rng = np.random.default_rng(0)
    control, treatment = rng.gamma(2, 40, 3000), rng.gamma(2, 41, 3000)
    found = [
        Guardrail.of(metric(), compare(control, treatment, alpha=alpha)) for alpha in (0.05, 0.2)
    ]
    m_c, m_t = control.mean(), treatment.mean()
    expected = np.sqrt(
        treatment.var(ddof=1) / 3000 / m_c**2 + control.var(ddof=1) / 3000 * m_t**2 / m_c**4
    )
    assert [each.se for each in found] == pytest.approx([expected, expected], rel=1e-9)
    assert found[0].dof == 2999
    assert not found[0].higher_is_better


def test_what_is_no_guardrail_is_refused() -> None:
    """A success metric has no margin, and of a mean of 0 no share can be lost."""
    good = compare([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    with pytest.raises(InputError, match="must have the role guardrail"):
        Guardrail.of(metric(None, Role.SUCCESS), good)
    with pytest.raises(InputError, match="control's mean is 0"):
        Guardrail.of(metric(), compare([0.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    with pytest.raises(InputError, match="different names"):
        check_guardrails([SAFE, SAFE])
    with pytest.raises(InputError, match="effect"):
        check_guardrails([Guardrail("x", float("nan"), 0.1, 0.1)])


def test_alpha_needs_no_correction_and_power_does() -> None:
    """Four guardrails: harm gets through in 5 % of the cases with the plain alpha, harmless
    changes pass too rarely unless each was planned for .96; Bonferroni only costs passes, and
    "one pass is enough" lets nearly everything through."""
    study = study_guardrails(n_guardrails=4, n=20_000, seed=2)
    assert study.harm <= 0.055
    assert study.harm_inflated == pytest.approx(0.2, abs=0.02)
    assert study.harm_any > 0.95
    assert study.pass_planned < 0.6
    assert study.pass_corrected >= 0.8
    assert study.pass_bonferroni < study.pass_corrected - 0.1


def test_each_metric_needs_more_power_than_all_of_them_together() -> None:
    """Three guardrails and a success metric for 80 %: 95 % each, and then even independent ones
    pass together more often than that; without guardrails there is nothing to share."""
    assert power_of_each(0.8, 3) == pytest.approx(0.95)
    assert power_of_each(0.8, 0) == pytest.approx(0.8)
    assert power_of_each(0.8, 4) ** 5 > 0.8


def test_a_small_arm_of_large_variance_keeps_the_level() -> None:
    """Arms of 900 and 8 with harm of exactly the margin: at most 5 % pass, by the error of 2,000
    experiments; with pooled degrees of freedom it would be 7 %."""
    rng, passed = np.random.default_rng(4), 0
    for _ in range(2000):
        slow = compare(10 + 0.5 * rng.standard_normal(900), 10.5 + 2.0 * rng.standard_normal(8))
        passed += check_guardrails([Guardrail.of(metric(0.05), slow)])[0].p < 0.05
    assert passed / 2000 < 0.05 + 1.645 * np.sqrt(0.05 * 0.95 / 2000), passed
