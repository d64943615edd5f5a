"""The two tables this lab audits, as the literature cuts them, and the model for Adult."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HIGH_RISK = 4  # COMPAS deciles above this are "medium" or "high"


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
