"""Silent failures of logs, experiments and monitoring, for :mod:`capstone.traps`."""

from __future__ import annotations

from common.traps import Trap


def slot_propensity() -> Trap:
    """Simulated clicks on one explored film, estimated from a log with the wrong propensity."""
    import numpy as np

    from capstone.exploration import draw, pool_weights, propensities, slot_chance

    k, slots, pool, film, place, requests = 10, 2, 20, 4, 3, 40_000
    rng = np.random.default_rng(0)
    weights = pool_weights(np.linspace(1, 0, pool), 2.0)
    truth = 0.3
    wrong = right = 0.0
    for _ in range(requests):
        shown = draw(weights, k, slots, rng)
        here = np.flatnonzero(shown.position == place)
        if not len(here) or shown.drawn[here[0]] != film or rng.random() > truth:
            continue
        wrong += 1 / slot_chance(k, slots)[place].sum()
        right += 1 / propensities(shown, weights, k)[place]
    return Trap(
        "The propensity of the slot is not that of the item",
        wrong=("clicks a request if the film stood there, by the slot's propensity",
               round(float(wrong) / requests, 4)),
        right=(f"by the item's propensity; the simulated truth is {truth}",
               round(float(right) / requests, 4)),
        why=(
            f"The place explores in {slots} of {k - 1} requests, and then shows one of {pool} "
            "films. A log that keeps only 'this place was explored' makes every film look as if "
            "it had been tried as often as the place, and its clicks come out too low by a factor "
            f"of {right / wrong:.0f}, without an error anywhere. Log the probability of this film "
            "at this place."
        ),
    )  # fmt: skip


def fallbacks_left_out() -> Trap:
    """One arm's hydrate stage is too slow for histories that are not cached: people come seldom."""
    import numpy as np

    from labs.lab6_online_eval.significance import compare
    from labs.lab6_online_eval.srm import srm_test

    n = 60_000
    rng = np.random.default_rng(0)
    activity = rng.gamma(2.0, 0.5, n)
    arm = rng.integers(0, 2, n)
    # The treatment ranks as the control does. Where it falls back, people click less.
    fell = (arm == 1) & (rng.random(n) < np.clip(0.5 - 0.3 * activity, 0.0, 1.0))
    clicks = rng.poisson(np.where(fell, 0.6, 1.0) * activity).astype(float)
    counted = ~fell
    wrong = compare(clicks[counted & (arm == 0)], clicks[counted & (arm == 1)])
    right = compare(clicks[arm == 0], clicks[arm == 1])
    srm = srm_test(np.bincount(arm[counted], minlength=2).tolist(), (0.5, 0.5))
    return Trap(
        "Fallback feeds are left out, and only one arm has them",
        wrong=("effect on clicks, ranked feeds only", f"{wrong.effect:+.3f}, p = {wrong.p:.2g}"),
        right=("effect on clicks, units as assigned", f"{right.effect:+.3f}, p = {right.p:.2g}"),
        why=(
            "The treatment loses clicks in every feed that falls back. But those are feeds of "
            "people who come seldom and click little, so without them its arm has the keener "
            "people, and the loss turns into a gain. The sample ratio gives it away "
            f"(p = {srm.p:.1g}). Who is counted must be decided by the assignment, never by what "
            "became of the request."
        ),
    )


def fixed_drift_cutoff() -> Trap:
    """One unchanged score, seen by 100 users; and a changed one, seen by 10,000."""
    from capstone.drift import study_null

    found = study_null(sizes=(100, 10_000), repeats=1000)
    return Trap(
        f"A fixed PSI cut-off of {found.cutoff:g} raises false alarms and misses changes",
        wrong=(
            "alarms without a change at 100 rows; changes found at 10,000, cut-off",
            f"{found.false_by_cutoff[0]:.0%}; {found.power_by_cutoff[1]:.0%}",
        ),
        right=(
            "the same by the critical value of that size",
            f"{found.false_by_null[0]:.0%}; {found.power_by_null[1]:.0%}",
        ),
        why=(
            "Two samples of one distribution never have equal histograms: their PSI is "
            "(1/n + 1/m) times a chi-square of B - 1 degrees of freedom, about 0.09 at 100 rows "
            "and 10 bins, and 0.0014 at 10,000. Here 0.1 is an ordinary value, there more than a "
            "hundred standard deviations away. The monitor exports the limit beside the value, "
            "corrected over the heads by Holm."
        ),
    )
