"""The null hypothesis is no difference, so the margin plays no part: a superiority test."""


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
    statistic = gain / se
    p = float(student_t.sf(statistic, dof))
    p_harm = float(student_t.cdf(statistic, dof))
    bound = sign * (gain - float(student_t.isf(alpha, dof)) * se)
    return NonInferiority(effect, se, margin, bound, p, p_harm, p < alpha, p_harm < alpha)
