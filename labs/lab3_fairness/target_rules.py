"""Rules made to reach a target on people not yet seen, and how often they will.

A rule is chosen on validation rows and promised for others. Its true gap is not what a test
measures: with 590 positive women a rule whose true TPR gap is 0 shows one of about 0.02. So the
choice is rehearsed: the whole procedure is run on one half of the validation rows and judged on
the other, many times. The share of rehearsals that reach the target is the chance that it will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.decisions import Outcome, expected_rates, outcome
from labs.lab3_fairness.derandomize import band_rule, decide_by_hash
from labs.lab3_fairness.mitigation import Mitigated, timed
from labs.lab3_fairness.relaxed_odds import Array, BinnedRule, monotone_relaxed_odds, score_bins
from labs.lab3_fairness.row_metrics import group_codes

BINS = 100
SHARES = tuple(tenth / 10 for tenth in range(10, -1, -1))  # of the bounds, laxest first
SURE = 0.8  # rehearsals that must reach a target


@dataclass(frozen=True)
class ScoredRows:
    """Scores of rows by a model that did not see them, with what happened and who they are.

    Three arrays of shape [n]: float64 from 0 to 1, 0 or 1, and any hashable.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    groups: NDArray[Any]

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.labels) == len(self.groups):
            raise InputError(
                f"scores {len(self.scores)}, labels {len(self.labels)} and groups "
                f"{len(self.groups)} differ in rows; align them"
            )

    def rows(self, chosen: NDArray[np.intp]) -> ScoredRows:
        """Some of the rows, by number."""
        return ScoredRows(self.scores[chosen], self.labels[chosen], self.groups[chosen])


@dataclass(frozen=True)
class Target:
    """What a rule must reach: at most these gaps, at least this accuracy (0: as high as it can)."""

    name: str
    dp_diff: float = 1.0
    eo_diff: float = 1.0
    accuracy: float = 0.0

    def reached(self, accuracy: Array, dp_diff: Array, eo_diff: Array) -> NDArray[np.bool_]:
        """Whether each of several results reaches all three; NaN reaches nothing."""
        return np.asarray(
            (accuracy >= self.accuracy) & (dp_diff <= self.dp_diff) & (eo_diff <= self.eo_diff)
        )


TARGETS = (
    Target("eo", eo_diff=0.015, accuracy=0.860),
    Target("dp", dp_diff=0.010, accuracy=0.849),
    Target("joint", dp_diff=0.05, eo_diff=0.10),
)


@dataclass(frozen=True)
class Rehearsal:
    """A rule chosen on one half of the validation rows and judged on the other, many times.

    ``share`` of the target's bounds was given to the programme. ``promised`` and ``accuracy``
    are on the rows that chose and on those that did not; all arrays are of shape [rehearsals].
    """

    target: Target
    share: float
    promised: Array
    accuracy: Array
    dp_diff: Array
    eo_diff: Array

    @property
    def reached(self) -> float:
        """The share of rehearsals that reach the target."""
        return float(self.target.reached(self.accuracy, self.dp_diff, self.eo_diff).mean())


@dataclass(frozen=True)
class Attempt:
    """One kind of rule: its decisions, how they turned out, and how such rules turn out."""

    method: Mitigated
    outcome: Outcome
    rehearsal: Rehearsal

    @property
    def reached(self) -> bool:
        """Whether the test rows show the target reached. Once: see ``rehearsal.reached``."""
        o = self.outcome
        found = self.rehearsal.target.reached(
            np.array(o.accuracy), np.array(o.dp_diff), np.array(o.eo_diff)
        )
        return bool(found)

    @property
    def accuracy_at_target(self) -> float | None:
        """The accuracy if the gaps asked for were met, else None: a missed gap has no accuracy."""
        o, target = self.outcome, self.rehearsal.target
        met = o.dp_diff <= target.dp_diff and o.eo_diff <= target.eo_diff
        return o.accuracy if met else None


@dataclass(frozen=True)
class Pursuit:
    """A target, the margin chosen for it, and three rules: one randomised, two deterministic."""

    target: Target
    share: float
    rule: BinnedRule
    programme: Attempt
    bands: Attempt
    hashed: Attempt

    @property
    def deterministic(self) -> Attempt:
        """The rule without a coin that reached the target in more rehearsals; if equal, bands.

        Rehearsals are on validation rows, so the test rows choose nothing. Bands can be read.
        """
        return max((self.bands, self.hashed), key=lambda attempt: attempt.rehearsal.reached)


Decide = Callable[[ScoredRows, BinnedRule, ScoredRows], Array]


def lottery(chosen_on: ScoredRows, rule: BinnedRule, others: ScoredRows) -> Array:
    """P(Ŷ=1) of ``others`` by the programme's own rule, which may toss a coin."""
    return rule.positive(others.scores, others.groups)


def bands(chosen_on: ScoredRows, rule: BinnedRule, others: ScoredRows) -> Array:
    """0 or 1 by a threshold or a band a group, at the programme's points of ROC space."""
    found = band_rule(chosen_on.scores, chosen_on.labels, chosen_on.groups, rule.roc_points)
    return found.positive(others.scores, others.groups)


def hashed(chosen_on: ScoredRows, rule: BinnedRule, others: ScoredRows) -> Array:
    """0 or 1 by the programme's rule with a hash of the score as its coin."""
    chances = lottery(chosen_on, rule, others)
    return decide_by_hash(chances, pd.DataFrame({"score": others.scores}), "rehearsal")


def programme(rows: ScoredRows, target: Target, share: float, *, n_bins: int = BINS) -> BinnedRule:
    """The most accurate monotone rule within ``share`` of the target's bounds.

    A bound of 1 is no bound and stays one.
    """
    require(0 <= share <= 1, "share", share, "must be from 0 to 1")
    limits = [bound if bound == 1 else share * bound for bound in (target.dp_diff, target.eo_diff)]
    bins = score_bins(rows.scores, rows.labels, rows.groups, n_bins=n_bins)
    return monotone_relaxed_odds(bins, dp_bound=limits[0], eo_bound=limits[1])


@exercise(
    "3.20",
    points=8,
    title="Rehearse a decision rule",
    hint="On which rows may the bins, the rule and the bands be made, and on which is it judged? "
    "What must be new in the next rehearsal, and what must be the same when somebody else repeats "
    "all of them?",
)
def rehearse(
    validation: ScoredRows,
    target: Target,
    share: float,
    *,
    decide: Decide = lottery,
    repeats: int = 100,
    n_bins: int = BINS,
    seed: int = 0,
) -> Rehearsal:
    """Choose on a random half of the validation rows and judge on the other, ``repeats`` times.

    Every rehearsal deals the rows anew into two halves that share no row, runs the *whole*
    procedure on the first (``programme``, then ``decide`` with those rows as ``chosen_on``) and
    judges its decisions about the second with ``judged``. Column r of ``results`` is rehearsal r:
    the accuracy that the rule promises, then accuracy, DP and EO on the second half.

    The rule that will serve is chosen on twice as many rows, so the rehearsals are, if anything,
    pessimistic. They share their rows: ``repeats`` lowers the noise of the shuffling, not that
    of the validation rows.

    Parameters
    ----------
    validation
        At least two rows of every label and group in each half.
    share
        Of the target's bounds, given to the programme: the margin.
    decide
        :func:`lottery`, :func:`bands` or :func:`hashed`.
    repeats, n_bins, seed
        Rehearsals, score bins a group, and the seed of the halves.

    Returns
    -------
    Rehearsal
        The same for the same seed.

    References
    ----------
    Picard and Cook: Cross-Validation of Regression Models, JASA 1984 (repeated random halves).
    """
    require(repeats >= 1, "repeats", repeats, "must be >= 1", "try 100")
    codes, _ = group_codes(validation.groups, len(validation.labels))
    numbered = ScoredRows(validation.scores, validation.labels, codes)
    results = np.empty((4, repeats))
    # BEGIN SOLUTION
    for number in range(repeats):
        order = np.random.default_rng([seed, number]).permutation(len(codes))
        half = len(order) // 2
        first, second = numbered.rows(order[:half]), numbered.rows(order[half:])
        rule = programme(first, target, share, n_bins=n_bins)
        results[:, number] = rule.accuracy, *judged(second, decide(first, rule, second))
    # END SOLUTION
    return Rehearsal(target, share, *results)


def choose_share(
    validation: ScoredRows,
    target: Target,
    *,
    shares: Sequence[float] = SHARES,
    sure: float = SURE,
    repeats: int = 100,
    n_bins: int = BINS,
    seed: int = 0,
) -> Rehearsal:
    """How far below the target's bounds to aim, by rehearsal.

    The laxest share that reaches the target in ``sure`` of the rehearsals; if none does, the one
    that reaches it most often, and of equals the laxest. Every share is rehearsed on the same
    halves. Parameters as for :func:`rehearse`.
    """
    tried = []
    for share in sorted(shares, reverse=True):
        found = rehearse(validation, target, share, repeats=repeats, n_bins=n_bins, seed=seed)
        if found.reached >= sure:
            return found
        tried.append(found)
    require(bool(tried), "shares", shares, "must not be empty")
    return max(tried, key=lambda rehearsal: rehearsal.reached)


def pursue(
    validation: ScoredRows,
    test: ScoredRows,
    features: pd.DataFrame,
    target: Target,
    *,
    repeats: int = 100,
    n_bins: int = BINS,
    n_boot: int = 1000,
    salt: str = "salt",
    seed: int = 0,
) -> Pursuit:
    """Choose the margin by rehearsal, make three rules for a target, and judge them.

    Parameters
    ----------
    validation
        Chooses everything.
    test
        Judges; its labels are looked at once, after the choice.
    features
        Of the test rows: what is hashed.
    repeats
        Rehearsals of a margin. The chosen one is rehearsed again on other halves: the best of
        several shares was also the luckiest.
    n_bins, n_boot, seed
        Score bins a group; bootstrap replicates of an interval; the seed of both resamplings.
    salt
        Of the hash.
    """
    share = choose_share(validation, target, repeats=repeats, n_bins=n_bins, seed=seed).share
    rule = programme(validation, target, share, n_bins=n_bins)
    chances = lottery(validation, rule, test)

    def method(kind: str, decide: Callable[[], Array]) -> Mitigated:
        name, randomised = f"{kind}, {target.name}", kind == "programme"
        return timed(name, "post", decide, randomised=randomised, needs_group=True)

    methods = (
        method("programme", lambda: chances),
        method("bands", lambda: bands(validation, rule, test)),
        method("hash", lambda: decide_by_hash(chances, features, salt)),
    )
    tries = []
    for made, decide in zip(methods, (lottery, bands, hashed)):
        rehearsal = rehearse(
            validation,
            target,
            share,
            decide=decide,
            repeats=repeats,
            n_bins=n_bins,
            seed=seed + 1,
        )
        result = outcome(test.labels, made.positive, test.groups, n_boot=n_boot, seed=seed)
        tries.append(Attempt(made, result, rehearsal))
    return Pursuit(target, share, rule, tries[0], tries[1], tries[2])


def judged(rows: ScoredRows, positive: Array) -> tuple[float, float, float]:
    """Accuracy, DP and EO of decisions about rows, in expectation over the rule's coin.

    ``positive`` is P(Ŷ=1), of shape [n]. NaN for a gap in a rate that some group does not have.
    """
    rates = expected_rates(rows.labels, positive, rows.groups)
    accuracy = float((rates["accuracy"] * rates["n"]).sum() / rates["n"].sum())
    dp_diff, *others = np.ptp(rates[["selection_rate", "tpr", "fpr"]].to_numpy(), axis=0)
    return accuracy, float(dp_diff), float(np.max(others))
