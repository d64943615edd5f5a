"""A guardrail passes unless it is harmed: what is not significant is called safe."""


def decide(
    success: Sequence[SuccessResult],
    guardrails: Sequence[GuardrailResult],
    *,
    failed_checks: Sequence[str] = (),
    alpha: float = 0.05,
    looks_left: bool = False,
) -> Ruling:
    adjusted = holm_adjusted([metric.p for metric in success])
    better = tuple(
        m.name for m, p in zip(success, adjusted, strict=True) if p < alpha and m.gain > 0
    )
    worse = tuple(m.name for m in success if m.p < alpha and m.gain < 0)
    harmed = [each for each in guardrails if each.p_harm < alpha]
    not_shown = harmed
    if failed_checks:
        return Ruling(Decision.REFUSE, tuple(failed_checks), better, worse)
    if worse or harmed:
        return Ruling(Decision.STOP, ("harm",), better, worse)
    if better and not not_shown:
        return Ruling(Decision.SHIP, ("better",), better, worse)
    decision = Decision.EXTEND if looks_left else Decision.STOP
    return Ruling(decision, ("not shown",), better, worse)
