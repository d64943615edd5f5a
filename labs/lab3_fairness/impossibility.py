"""Why the two sides of the COMPAS debate cannot both be satisfied.

Chouldechova (2017): base rate, PPV and FNR of a group fix its FPR. When base rates differ, equal
PPV and equal FNR force unequal FPR, whatever the model. Kleinberg, Mullainathan and Raghavan
(2016) say it of scores: calibration within groups, an equal mean score among the positives and
an equal mean score among the negatives hold together only if base rates are equal or the
prediction is perfect. Neither result says which condition to give up.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.confusion import binary_inputs, group_rates
from labs.lab3_fairness.group_calibration import Calibration, calibration_within_groups
from labs.lab3_fairness.tabular import TWO_RACES, high_risk, propublica_filter


@exercise(
    "3.5",
    points=3,
    title="The false positive rate that the other rates imply",
    hint="Write down the four cells of the confusion matrix for one person: TP = p (1 - FNR). "
    "PPV says how many FP stand beside those TP. The FPR divides them by all negatives.",
)
def implied_false_positive_rate(base_rate: float, ppv: float, fnr: float) -> float:
    """The FPR of a group with this base rate, PPV and FNR; there is no choice left.

    ``FPR = p / (1 - p) * (1 - PPV) / PPV * (1 - FNR)``.

    ``check_rates`` refuses rates outside their limits, ``check_implied`` a result above 1.

    Parameters
    ----------
    base_rate
        p = P(Y=1), above 0 and below 1.
    ppv
        P(Y=1|Ŷ=1), above 0, at most 1.
    fnr
        P(Ŷ=0|Y=1), 0 to 1.

    Raises
    ------
    InputError
        For a rate outside its limits (NaN too), or rates that no classifier has together: they
        would take an FPR above 1.

    References
    ----------
    Chouldechova: Fair prediction with disparate impact, Big Data 5(2), 2017, equation 2.6.
    """
    check_rates(base_rate, ppv, fnr)
    implied = base_rate / (1 - base_rate) * (1 - ppv) / ppv * (1 - fnr)
    check_implied(implied, base_rate, ppv, fnr)
    return implied


def check_rates(base_rate: float, ppv: float, fnr: float) -> None:
    """Refuse rates outside their limits."""
    require(0 < base_rate < 1, "base_rate", base_rate, "must be above 0 and below 1")
    require(0 < ppv <= 1, "ppv", ppv, "must be above 0 and at most 1", "select somebody first")
    require(0 <= fnr <= 1, "fnr", fnr, "must be 0 to 1")


def check_implied(implied: float, base_rate: float, ppv: float, fnr: float) -> None:
    """Refuse an FPR above 1; rounding apart."""
    if implied > 1 + 1e-12:
        least = base_rate * (1 - fnr) / (base_rate * (1 - fnr) + 1 - base_rate)
        raise InputError(
            f"ppv = {ppv:g} with base_rate = {base_rate:g} and fnr = {fnr:g} takes FPR "
            f"{implied:.3f}; no classifier has these rates. ppv must be >= {least:.3f}"
        )


def forced_false_positive_rates(base_rates: pd.Series, ppv: float, fnr: float) -> pd.Series:
    """The FPR that each group has if all have the same PPV and FNR.

    Parameters
    ----------
    base_rates
        A base rate a group, indexed by group.
    """
    return base_rates.map(lambda p: implied_false_positive_rate(float(p), ppv, fnr)).rename("fpr")


@dataclass(frozen=True)
class CompasDebate:
    """Both sides' numbers on the same 5,278 people, and why they go together.

    Attributes
    ----------
    rates : DataFrame
        :func:`labs.lab3_fairness.confusion.group_rates` of the two races.
    shared_ppv, shared_fnr
        Those of both races together.
    forced_fpr : Series
        The FPR of each race if it had the shared PPV and FNR: fair by the vendor's rate, and with
        equal misses.
    calibration : Calibration
        Rearrest by decile and race.
    """

    rates: pd.DataFrame
    shared_ppv: float
    shared_fnr: float
    forced_fpr: pd.Series
    calibration: Calibration

    @property
    def forced_gap(self) -> float:
        """The difference in FPR that differing base rates force."""
        return float(self.forced_fpr.max() - self.forced_fpr.min())

    @property
    def identity_error(self) -> float:
        """The largest distance between a race's FPR and the one its other rates imply: 0."""
        errors = [
            abs(row["fpr"] - implied_false_positive_rate(row["base_rate"], row["ppv"], row["fnr"]))
            for _, row in self.rates.iterrows()
        ]
        return float(max(errors))


def compas_debate(
    scores: pd.DataFrame, *, n_boot: int = 1000, n_permutations: int = 1000, seed: int = 0
) -> CompasDebate:
    """ProPublica's rates, the vendor's rate, and the identity that ties them together.

    Parameters
    ----------
    scores
        The table ``scores`` of the data set ``compas``.
    n_boot, n_permutations, seed
        Of the calibration gap's interval and null.
    """
    kept = propublica_filter(scores)
    kept = kept[kept["race"].isin(TWO_RACES)]
    truth, predicted, _, _ = binary_inputs(kept["two_year_recid"], high_risk(kept), kept["race"])
    rates = group_rates(truth, predicted, kept["race"])
    hits, positives = int((truth & predicted).sum()), int(truth.sum())
    ppv, fnr = hits / int(predicted.sum()), 1 - hits / positives
    calibration = calibration_within_groups(
        truth,
        kept["decile_score"],
        kept["race"],
        n_boot=n_boot,
        n_permutations=n_permutations,
        seed=seed,
    )
    forced = forced_false_positive_rates(rates["base_rate"], ppv, fnr)
    return CompasDebate(rates, ppv, fnr, forced, calibration)
