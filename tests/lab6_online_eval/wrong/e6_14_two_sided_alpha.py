"""A two-sided p-value against the margin: half the error rate, a wider bound."""


def non_inferiority_test(
    effect: float,
    se: float,
    margin: float,
    *,
    higher_is_better: bool = True,
    alpha: float = 0.05,
    dof: float = inf,
) -> NonInferiority:
    check_non_inferiority(effect, se, margin, alpha)
    sign = 1.0 if higher_is_better else -1.0
    gain = sign * effect
    statistic = (gain + margin) / se
    p = float(2 * student_t.sf(abs(statistic), dof))
    p_harm = float(student_t.cdf(statistic, dof))
    bound = sign * (gain - float(student_t.isf(alpha / 2, dof)) * se)
    return NonInferiority(effect, se, margin, bound, p, p_harm, p < alpha, p_harm < alpha)
