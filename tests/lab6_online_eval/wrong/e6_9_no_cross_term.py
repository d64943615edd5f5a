"""The variance of Y - theta X without its cross term: CUPED adds variance, not removes it."""


def cuped_moments(control: Pair, treatment: Pair, everyone: Pair) -> CupedMoments:
    theta = everyone.covariance / everyone.variance_x if everyone.variance_x > 0 else 0.0

    def adjusted(arm: Pair) -> Moments:
        return Moments(
            arm.n,
            arm.mean_y - theta * (arm.mean_x - everyone.mean_x),
            arm.variance_y + theta**2 * arm.variance_x,
        )

    return CupedMoments(adjusted(control), adjusted(treatment), theta)
