"""Fooling LIME and SHAP: a model that decides by race and is explained by a random column.

Explainers ask about rows that do not exist. A model that recognises such rows can answer them with
another rule. What gives it away is what it does to real people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

from common.errors import InputError, require
from labs.lab3_fairness.attribution import Matrix, Predict, Vector, top_columns
from labs.lab3_fairness.decisions import Outcome, outcome
from labs.lab3_fairness.lime import gaussian, lime
from labs.lab3_fairness.scoring import logistic_regression
from labs.lab3_fairness.shapley import conditional_shapley, exact_shapley
from labs.lab3_fairness.tabular import TWO_RACES, Task

RACE, UNRELATED = "race", "unrelated"
Fake = Callable[[Matrix, np.random.Generator], Matrix]


@dataclass(frozen=True)
class Audited:
    """COMPAS as a matrix: the six features, race (1 African-American) and a column of coin tosses.

    ``rows`` has shape [n, 8], ``labels`` and ``groups`` [n].
    """

    columns: tuple[str, ...]
    rows: Matrix
    labels: NDArray[np.int64]
    groups: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: NDArray[Any]) -> Audited:
        """Those rows."""
        return Audited(self.columns, self.rows[chosen], self.labels[chosen], self.groups[chosen])


def audited(task: Task, *, seed: int = 0) -> Audited:
    """COMPAS with race and a random column as numbers.

    Raises
    ------
    InputError
        When the groups are not the two races of ProPublica's comparison.
    """
    if set(task.groups) != set(TWO_RACES):
        raise InputError(f"groups are {sorted(set(task.groups))}; the attack needs {TWO_RACES}")
    numbers = task.features.assign(
        c_charge_degree=(task.features["c_charge_degree"] == "F").astype(float),
        race=(task.groups == TWO_RACES[0]).astype(float),
        unrelated=np.random.default_rng(seed).integers(0, 2, len(task)).astype(float),
    )
    rows = numbers.to_numpy(dtype=np.float64)
    return Audited(tuple(numbers.columns), rows, task.labels, task.groups)


@dataclass(frozen=True)
class Scaffold:
    """The attack: ``hidden`` on rows that the detector takes for real, ``shown`` on others.

    References
    ----------
    Slack, Hilgard, Jia, Singh, Lakkaraju: Fooling LIME and SHAP, AIES 2020, section 3.
    """

    hidden: Predict
    shown: Predict
    detector: RandomForestClassifier

    def looks_real(self, rows: Matrix) -> NDArray[np.bool_]:
        """Whether the detector takes each of [n, d] rows for a real one."""
        return np.asarray(self.detector.predict(rows) == 1)

    def __call__(self, rows: Matrix) -> Vector:
        return np.where(self.looks_real(rows), self.hidden(rows), self.shown(rows))


def lime_fakes(background: Matrix) -> Fake:
    """Rows as :func:`labs.lab3_fairness.lime.gaussian` draws them."""
    perturb = gaussian(background)
    return lambda rows, rng: perturb(rows[0], len(rows), rng).rows


def shap_fakes(background: Matrix) -> Fake:
    """Rows with a random coalition of cells kept, the others from a background row."""

    def fake(rows: Matrix, rng: np.random.Generator) -> Matrix:
        n, d = rows.shape
        # A coalition's size is uniform, as in a random order of the columns.
        kept = rng.random((n, d)) < rng.random((n, 1))
        return np.where(kept, rows, background[rng.integers(len(background), size=n)])

    return fake


def build_scaffold(
    hidden: Predict, shown: Predict, real: Matrix, fake: Fake, *, n_fakes: int = 2, seed: int = 0
) -> Scaffold:
    """Train the detector of explainers' rows, and hide one rule behind another.

    Parameters
    ----------
    hidden, shown
        [m, d] rows to [m] decisions.
    real : array of shape [n, d]
    fake
        What the explainer will ask about: :func:`lime_fakes` or :func:`shap_fakes`.
    n_fakes
        Fakes for each real row. One that equals a real row is left out.
    seed
        Of the fakes and the forest.
    """
    require(n_fakes >= 1, "n_fakes", n_fakes, "must be >= 1", "try 2")
    rng = np.random.default_rng(seed)
    fakes = np.concatenate([fake(real, rng) for _ in range(n_fakes)])
    known = {row.tobytes() for row in real}
    fakes = fakes[[row.tobytes() not in known for row in fakes]]
    x = np.concatenate([np.repeat(real, n_fakes, axis=0), fakes])
    y = np.repeat([1, 0], [n_fakes * len(real), len(fakes)])
    forest = RandomForestClassifier(n_estimators=30, min_samples_leaf=2, random_state=seed)
    return Scaffold(hidden, shown, forest.fit(x, y))


def surrogate_fidelity(f: Predict, perturbed: Matrix, real: Matrix) -> tuple[float, float]:
    """R² of a linear surrogate of perturbed rows: on other perturbed rows, and on real rows.

    It is fitted on the first half of the perturbed rows and scored on the second.

    An explanation that describes the perturbed rows and not the real ones explains something else
    than what the model does to people. R² below 0 is worse than the mean.

    Raises
    ------
    InputError
        When the outputs of the real rows do not vary: then there is nothing to explain.
    """
    half = len(perturbed) // 2
    surrogate = LinearRegression().fit(perturbed[:half], f(perturbed[:half]))
    on_real = np.asarray(f(real))
    require(bool(np.ptp(on_real) > 0), "outputs of real rows", on_real[0], "are all the same")
    return (
        float(surrogate.score(perturbed[half:], f(perturbed[half:]))),
        float(surrogate.score(real, on_real)),
    )


@dataclass(frozen=True)
class TopFeature:
    """How often an explainer names race, or the random column, as the top feature of a row.

    ``race_credit`` is race's part of all absolute credit, mean over the rows. ``n`` counts the
    rows that have an explanation; LIME has none for people far from everybody.
    """

    explainer: str
    model: str
    race: float
    unrelated: float
    race_credit: float
    n: int


@dataclass(frozen=True)
class FoolingResult:
    """The attack measured, and what an auditor sees without asking an explainer.

    ``tops`` has one entry an explainer and model: the open rule, the scaffold, and a logistic
    regression that never reads race (``honest``). The conditional explainer faces the scaffold
    that was made for k-means. ``obeyed`` is the share of held-out real rows on
    which the scaffold decides by race. ``outcomes`` are group metrics on held-out real rows;
    ``fidelity`` the R² of a linear surrogate on perturbed and on real rows.
    """

    tops: tuple[TopFeature, ...]
    obeyed: dict[str, float]
    outcomes: dict[str, Outcome]
    fidelity: dict[str, tuple[float, float]]
    columns: tuple[str, ...]

    def top(self, explainer: str, model: str) -> TopFeature:
        """The entry of one explainer and model."""
        for each in self.tops:
            if (each.explainer, each.model) == (explainer, model):
                return each
        raise InputError(f"no {explainer!r} of {model!r}; see tops")

    def table(self) -> pd.DataFrame:
        """One row an explainer and model."""
        return pd.DataFrame([vars(each) for each in self.tops])


def fooling_experiment(
    task: Task,
    *,
    n_rows: int = 100,
    n_background: int = 10,
    n_samples: int = 500,
    neighbours: int = 50,
    n_boot: int = 1000,
    seed: int = 0,
) -> FoolingResult:
    """Attack LIME and Kernel SHAP on COMPAS, then audit the attacker on real rows.

    Half of the rows train the detectors; the other half is the auditor's. Kernel SHAP is
    enumerated, so its own sampling plays no part; its background is ``n_background`` k-means
    centres, as in the paper, or as many real rows. The attacker knows the explainer's settings.

    Parameters
    ----------
    task
        :func:`labs.lab3_fairness.tabular.compas_task` of two races.
    n_rows
        Real rows explained.
    n_background
        Background rows of Kernel SHAP.
    n_samples
        Neighbours of LIME.
    neighbours
        Real rows that a coalition of the conditional explainer averages at least.
    n_boot
        Bootstrap replicates of the group metrics.
    seed
        Of everything.
    """
    data = audited(task, seed=seed)
    require(2 * n_rows <= len(data), "n_rows", n_rows, f"must be <= half of {len(data)} rows")
    order = np.random.default_rng(seed).permutation(len(data))
    known, held_out = data.part(order[: len(data) // 2]), data.part(order[len(data) // 2 :])
    rows = held_out.rows[:n_rows]
    race, unrelated = (data.columns.index(name) for name in (RACE, UNRELATED))

    def by_race(x: Matrix) -> Vector:
        return np.asarray((x[:, race] > 0.5).astype(float))

    def by_coin(x: Matrix) -> Vector:
        return np.asarray((x[:, unrelated] > 0.5).astype(float))

    centres = KMeans(n_background, n_init=1, random_state=seed).fit(known.rows).cluster_centers_
    sample = known.rows[:n_background]
    honest = _honest_rule(known, seed)

    def lime_of(f: Predict) -> Matrix:
        return lime(f, rows, gaussian(known.rows), n_samples=n_samples, seed=seed)

    def conditional_of(f: Predict) -> Matrix:
        return conditional_shapley(f, rows, held_out.rows, neighbours=neighbours)

    explainers: dict[str, Callable[[Predict], Matrix]] = {
        "LIME": lime_of,
        "SHAP, k-means": lambda f: exact_shapley(f, rows, centres),
        "SHAP, real rows": lambda f: exact_shapley(f, rows, sample),
        "conditional": conditional_of,
    }
    fakes = {
        "LIME": lime_fakes(known.rows),
        "SHAP, k-means": shap_fakes(centres),
        "SHAP, real rows": shap_fakes(sample),
    }
    scaffolds = {
        name: build_scaffold(by_race, by_coin, known.rows, fake, seed=seed)
        for name, fake in fakes.items()
    }
    tops: list[TopFeature] = []
    for name, explain in explainers.items():
        scaffold = scaffolds.get(name, scaffolds["SHAP, k-means"])
        for model, f in (("open", by_race), ("scaffold", scaffold), ("honest", honest)):
            credit = np.abs(explain(f))
            credit = credit[np.isfinite(credit).all(axis=1)]
            first = top_columns(credit, 1)[:, 0]
            tops.append(
                TopFeature(
                    explainer=name,
                    model=model,
                    race=float(np.mean(first == race)),
                    unrelated=float(np.mean(first == unrelated)),
                    race_credit=float(np.mean(credit[:, race] / credit.sum(axis=1))),
                    n=len(credit),
                )
            )
    obeyed, fidelity = {}, {}
    outcomes = {"honest": _outcome(held_out, honest, n_boot, seed)}
    rng = np.random.default_rng(seed)
    for name, scaffold in scaffolds.items():
        obeyed[name] = float(np.mean(scaffold(held_out.rows) == by_race(held_out.rows)))
        outcomes[f"scaffold, {name}"] = _outcome(held_out, scaffold, n_boot, seed)
        perturbed = fakes[name](held_out.rows, rng)
        for model, f in (("scaffold", scaffold), ("honest", honest)):
            fidelity[f"{model}, {name}"] = surrogate_fidelity(f, perturbed, held_out.rows)
    return FoolingResult(tuple(tops), obeyed, outcomes, fidelity, data.columns)


def _honest_rule(data: Audited, seed: int) -> Predict:
    """Logistic regression's decision at 1/2, from the six features alone."""
    seen = [data.columns.index(name) for name in data.columns if name not in (RACE, UNRELATED)]
    names = [data.columns[place] for place in seen]
    model = logistic_regression(seed).fit(
        pd.DataFrame(data.rows[:, seen], columns=names), data.labels
    )
    return lambda x: np.asarray(
        model.predict(pd.DataFrame(x[:, seen], columns=names)), dtype=np.float64
    )


def _outcome(data: Audited, f: Predict, n_boot: int, seed: int) -> Outcome:
    return outcome(data.labels, f(data.rows), data.groups, n_boot=n_boot, seed=seed)
