"""theta is the control's alone: it does not fit the units of the treatment."""


def cuped_moments(control: Pair, treatment: Pair, everyone: Pair) -> CupedMoments:
    theta = control.covariance / control.variance_x if control.variance_x > 0 else 0.0

    def adjusted(arm: Pair) -> Moments:
        return Moments(
            arm.n,
            arm.mean_y - theta * (arm.mean_x - everyone.mean_x),
            arm.variance_y - 2 * theta * arm.covariance + theta**2 * arm.variance_x,
        )

    return CupedMoments(adjusted(control), adjusted(treatment), theta)
