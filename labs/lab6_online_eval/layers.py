"""Many experiments at once: which may share a user, and which must not.

A layer is a set of experiments of which a user is in at most one: each owns a range of the layer's
points. Experiments of different layers overlap, and do so independently, because each layer and
each experiment hashes with a name of its own. A long-lived holdout is out of all of them.

Tang et al. (2010), Overlapping Experiment Infrastructure, KDD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab6_online_eval.assignment import (
    NOT_IN_EXPERIMENT,
    assign_many,
    fnv32a,
    unit_points,
    unit_points_v1,
)
from labs.lab6_online_eval.experiment import Experiment

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Texts = NDArray[np.str_]


@dataclass(frozen=True)
class Holdout:
    """Users who get no launch and no experiment for a season, to measure the season by.

    ``share`` of all users, drawn by the hash of ``name``. A new season takes a new name, so that
    nobody is left behind for ever.
    """

    name: str
    share: float

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name of the holdout", self.name, "must not be empty")
        require(0 < self.share < 1, "share of the holdout", self.share, "must be in (0, 1)")

    def holds(self, unit_ids: Texts) -> NDArray[np.bool_]:
        """Which units are held out: bool [n]."""
        return np.asarray(unit_points(unit_ids, self.name) < self.share)


def in_namespace(unit_id: str, namespace: str, low: float, high: float) -> bool:
    """Whether a unit's point of a GrowthBook namespace lies in ``[low, high)``.

    The point is ``fnv32a(unit_id + "__" + namespace) % 1000 / 1000``, which is hash version 1: two
    namespaces whose names differ in the last character depend on each other. `enrol` therefore
    uses the engine's later filters, with hash version 2.

    Notes
    -----
    GrowthBook, Build Your Own SDK: ``inNamespace`` and ``isFilteredOut``.
    """
    return low <= fnv32a(f"{unit_id}__{namespace}") % 1000 / 1000 < high


def namespace_points(unit_ids: Texts, namespace: str) -> Floats:
    """The points of `in_namespace` for many units, float [n]."""
    return unit_points_v1(unit_ids, f"__{namespace}")


def check_layers(experiments: Sequence[Experiment]) -> None:
    """Refuse a plan in which experiments collide.

    Raises
    ------
    InputError
        Two experiments of one name; overlapping ranges in a layer; a range without a layer; a layer
        named like an experiment, whose arms would then be cut out of the layer's own points.
    """
    names = [experiment.name for experiment in experiments]
    require(len(set(names)) == len(names), "experiments", names, "must have different names")
    for experiment in experiments:
        require(
            experiment.layer != "" or experiment.range == (0.0, 1.0),
            f"range of {experiment.name}",
            experiment.range,
            "needs a layer to be a range of",
            "name a layer, or use coverage",
        )
        require(
            experiment.layer not in names,
            f"layer of {experiment.name}",
            experiment.layer,
            "must not be the name of an experiment: both would hash alike",
        )
    for one, other in combinations(experiments, 2):
        if one.layer and one.layer == other.layer:
            overlap = max(one.range[0], other.range[0]) < min(one.range[1], other.range[1])
            require(
                not overlap,
                f"ranges of {one.name} and {other.name} in the layer {one.layer}",
                (one.range, other.range),
                "must not overlap",
                "or put one of them into another layer",
            )


@exercise(
    "6.6",
    points=5,
    title="Enrol users in many experiments at once",
    hint="Three questions for each user and experiment, each with a hash of its own name: held out "
    "of everything? in this experiment's range of the layer? and only then, in which arm?",
)
def enrol(
    unit_ids: Texts, experiments: Sequence[Experiment], holdout: Holdout | None = None
) -> dict[str, Ints]:
    """The arm of each unit in each experiment.

    A unit is in an experiment if it is not held out, and its point of the layer
    (`unit_points(unit_ids, layer)`) lies in the experiment's range ``[low, high)``. An experiment
    without a layer takes everybody who is not held out. Inside, `assign_many` chooses the arm with
    the experiment's own name, weights and coverage.

    Parameters
    ----------
    unit_ids
        Text [n].
    experiments
        Those that run at the same time.
    holdout
        Units that are in no experiment (`Holdout.holds`).

    Returns
    -------
    dict of str to int64 [n]
        By the experiment's name: index of the arm; `NOT_IN_EXPERIMENT` (-1) for who is not in it.

    Raises
    ------
    InputError
        As `check_layers`.
    """
    check_layers(experiments)
    # BEGIN SOLUTION
    held = np.zeros(len(unit_ids), dtype=bool) if holdout is None else holdout.holds(unit_ids)
    arms = {}
    for experiment in experiments:
        inside = ~held
        if experiment.layer:
            points = unit_points(unit_ids, experiment.layer)
            low, high = experiment.range
            inside &= (points >= low) & (points < high)
        chosen = assign_many(unit_ids, experiment.name, experiment.weights, experiment.coverage)
        arms[experiment.name] = np.where(inside, chosen, NOT_IN_EXPERIMENT)
    return arms
    # END SOLUTION


@dataclass(frozen=True)
class Independence:
    """Whether the arms of two experiments depend on each other, among units in both.

    ``table`` int [k_first, k_second] counts them; ``p`` is Pearson's chi-square test.
    """

    first: str
    second: str
    table: tuple[tuple[int, ...], ...]
    statistic: float
    dof: int
    p: float


def independence(arms: Mapping[str, Ints], first: str, second: str) -> Independence:
    """Test that being in an arm of one experiment says nothing about the arm of another.

    Parameters
    ----------
    arms
        As `enrol` returns them.

    Raises
    ------
    InputError
        No unit is in both, or a cell expects fewer than 5 units.
    """
    one, other = arms[first], arms[second]
    both = (one >= 0) & (other >= 0)
    if not both.any():
        raise InputError(f"{first} and {second} share no unit, so there is nothing to test")
    shape = int(one[both].max()) + 1, int(other[both].max()) + 1
    table = np.zeros(shape, dtype=np.int64)
    np.add.at(table, (one[both], other[both]), 1)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    require(
        float(expected.min()) >= 5,
        f"smallest expected cell of {first} and {second}",
        float(expected.min()),
        "must be at least 5 for the chi-square law",
        "use more units",
    )
    statistic = float(((table - expected) ** 2 / expected).sum())
    dof = (shape[0] - 1) * (shape[1] - 1)
    cells = tuple(tuple(int(n) for n in row) for row in table)
    return Independence(first, second, cells, statistic, dof, float(chi2.sf(statistic, dof)))


def dependent_pairs(arms: Mapping[str, Ints], alpha: float = 1e-3) -> list[Independence]:
    """The pairs of overlapping experiments that are not independent (Bonferroni over the pairs)."""
    pairs = [
        pair
        for pair in combinations(arms, 2)
        if ((arms[pair[0]] >= 0) & (arms[pair[1]] >= 0)).any()
    ]
    tested = [independence(arms, *pair) for pair in pairs]
    return [each for each in tested if each.p < alpha / len(pairs)]
