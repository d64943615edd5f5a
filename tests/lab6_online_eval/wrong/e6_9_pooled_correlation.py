"""Every arm's variance is shrunk by the pooled correlation, as if the arms had one slope."""


def cuped_moments(control: Pair, treatment: Pair, everyone: Pair) -> CupedMoments:
    theta = everyone.covariance / everyone.variance_x if everyone.variance_x > 0 else 0.0
    spread = everyone.variance_x * everyone.variance_y
    left = 1 - everyone.covariance**2 / spread if spread > 0 else 1.0

    def adjusted(arm: Pair) -> Moments:
        return Moments(
            arm.n,
            arm.mean_y - theta * (arm.mean_x - everyone.mean_x),
            left * arm.variance_y,
        )

    return CupedMoments(adjusted(control), adjusted(treatment), theta)
