"""The tables this lab audits, as the literature cuts them, and logistic regression on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HIGH_RISK = 4  # COMPAS deciles above this are "medium" or "high"
TWO_RACES = ("African-American", "Caucasian")  # those ProPublica compared
COMPAS_FEATURES = (
    "age",
    "priors_count",
    "juv_fel_count",
    "juv_misd_count",
    "juv_other_count",
    "c_charge_degree",
)


@dataclass(frozen=True)
class Task:
    """A decision about people: what a model may see, what happened, who they are.

    Attributes
    ----------
    features : DataFrame of n rows
        Numbers are int64 or float64, everything else is text. The sensitive column is not in it.
    labels : int64 array of shape [n]
        0 or 1.
    groups : object array of shape [n]
        The sensitive feature as text.
    """

    features: pd.DataFrame
    labels: NDArray[np.int64]
    groups: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: NDArray[Any]) -> Task:
        """The task of some rows; ``chosen`` holds row numbers or a mask of shape [n]."""
        return Task(self.features.iloc[chosen], self.labels[chosen], self.groups[chosen])


def adult_task(table: pd.DataFrame) -> Task:
    """Income above 50K from census answers without the column ``sex``; the groups are the sexes.

    Parameters
    ----------
    table
        The table ``train`` or ``test`` of the data set ``adult``.
    """
    groups = table["sex"].to_numpy(dtype=object)
    return Task(features(table), table["income"].to_numpy(dtype=np.int64), groups)


def compas_task(scores: pd.DataFrame, races: tuple[str, ...] | None = TWO_RACES) -> Task:
    """Arrest within two years from age, charge and record, without race; the groups are races.

    Parameters
    ----------
    scores
        The table ``scores`` of the data set ``compas``.
    races
        Those to keep; None keeps all six.
    """
    kept = propublica_filter(scores)
    if races is not None:
        kept = kept[kept["race"].isin(races)]
    groups = kept["race"].to_numpy(dtype=object)
    labels = kept["two_year_recid"].to_numpy(dtype=np.int64)
    return Task(kept[list(COMPAS_FEATURES)].reset_index(drop=True), labels, groups)


def propublica_filter(scores: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows that ProPublica's analysis keeps: 6,172 of 7,214.

    Those screened within 30 days of the arrest, with a known outcome, a charge that can mean
    jail, and a score.

    Parameters
    ----------
    scores
        The table ``scores`` of the data set ``compas``.

    References
    ----------
    Larson, Mattu, Kirchner, Angwin: How We Analyzed the COMPAS Recidivism Algorithm, 2016.
    """
    return scores[
        scores["days_b_screening_arrest"].between(-30, 30)
        & (scores["is_recid"] != -1)
        & (scores["c_charge_degree"] != "O")
        & (scores["score_text"] != "N/A")
    ]


def high_risk(scores: pd.DataFrame) -> pd.Series:
    """1 where the COMPAS decile is above 4, 0 elsewhere."""
    return (scores["decile_score"] > HIGH_RISK).astype("int64")


def features(table: pd.DataFrame) -> pd.DataFrame:
    """Adult's columns without the outcome, sex, and the census weight of the row (fnlwgt)."""
    return table.drop(columns=["income", "sex", "fnlwgt"])


def fit_logistic_regression(train: pd.DataFrame) -> Pipeline:
    """Logistic regression on one-hot categories and standardised numbers, sex removed.

    Parameters
    ----------
    train
        The table ``train`` of the data set ``adult``.
    """
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
    )
    model: Any = make_pipeline(columns, LogisticRegression(max_iter=1000))
    return model.fit(features(train), train["income"])
