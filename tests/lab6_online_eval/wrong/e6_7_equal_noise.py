"""The classical covariance of the coefficients, as if the noise were the same for everybody."""


def surrogate_index(
    control: Floats, treatment: Floats, history: Floats, history_outcome: Floats
) -> SurrogateEffect:
    control, treatment, history, history_outcome = _checked(
        control, treatment, history, history_outcome
    )
    design = np.column_stack([np.ones(len(history)), history])
    inverse = np.linalg.inv(design.T @ design)
    solution = inverse @ (design.T @ history_outcome)
    residuals = history_outcome - design @ solution
    coefficients = solution[1:]
    covariance = inverse * float(residuals.var())
    difference = treatment.mean(axis=0) - control.mean(axis=0)
    variance_experiment = sum(
        float((arm @ coefficients).var(ddof=1)) / len(arm) for arm in (control, treatment)
    )
    variance_history = float(difference @ covariance[1:, 1:] @ difference)
    centred = history_outcome - history_outcome.mean()
    r2 = 1 - float(residuals @ residuals) / float(centred @ centred)
    return summarize(
        float(difference @ coefficients), variance_experiment, variance_history, coefficients, r2
    )
