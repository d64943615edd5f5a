"""The tables of each dataset as typed DataFrames: one reader a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from common.data.docstrings import read_docstrings

if TYPE_CHECKING:
    from common.data.dataset import Dataset

Reader = Callable[["Dataset"], pd.DataFrame]

ADULT_COLUMNS = (
    ("age", "int64"),
    ("workclass", "str"),
    ("fnlwgt", "int64"),
    ("education", "str"),
    ("education_num", "int64"),
    ("marital_status", "str"),
    ("occupation", "str"),
    ("relationship", "str"),
    ("race", "str"),
    ("sex", "str"),
    ("capital_gain", "int64"),
    ("capital_loss", "int64"),
    ("hours_per_week", "int64"),
    ("native_country", "str"),
    ("income", "str"),
)
GERMAN_COLUMNS = (
    "status",
    "duration",
    "credit_history",
    "purpose",
    "amount",
    "savings",
    "present_employment",
    "installment_rate",
    "status_sex",
    "other_debtors",
    "present_residence_since",
    "property",
    "age",
    "installment_plans",
    "housing",
    "number_of_credits",
    "job",
    "number_of_dependents",
    "has_telephone",
    "is_foreign_worker",
    "default",
)
FICO_COLUMNS = ("white", "black", "hispanic", "asian")


def _atomic(
    dataset: Dataset, file: str, names: dict[str, str], types: dict[str, Any]
) -> pd.DataFrame:
    """A RecBole atomic file: tab-separated, the header gives ``name:type``."""
    table = pd.read_csv(
        dataset.path(file), sep="\t", quoting=3, dtype=str, keep_default_na=False, encoding="utf-8"
    )
    table.columns = pd.Index([column.split(":")[0] for column in table.columns])
    return table.rename(columns=names).astype(types)


def interactions(dataset: Dataset) -> pd.DataFrame:
    """user_id, item_id (int64), rating (1 to 5, int64), timestamp (s, int64); in file order."""
    table = _atomic(dataset, "ml-100k.inter", {}, {"user_id": "int64", "item_id": "int64"})
    return table.astype({"rating": "float64", "timestamp": "float64"}).astype(
        {"rating": "int64", "timestamp": "int64"}
    )


def users(dataset: Dataset) -> pd.DataFrame:
    """user_id, age (int64), gender ("F", "M"), occupation, zip_code (text)."""
    return _atomic(dataset, "ml-100k.user", {}, {"user_id": "int64", "age": "int64"})


def items(dataset: Dataset) -> pd.DataFrame:
    """item_id (int64), title, year (Int64, missing for two), genres (space-separated names)."""
    names = {"movie_title": "title", "release_year": "year", "class": "genres"}
    table = _atomic(dataset, "ml-100k.item", names, {"item_id": "int64"})
    table["year"] = pd.to_numeric(table["year"], errors="coerce").astype("Int64")
    return table


def adult(dataset: Dataset, *, file: str, skip: int) -> pd.DataFrame:
    """The 14 features (text stripped, numbers int64; "?" is kept) and income (1 is >50K)."""
    table = pd.read_csv(
        dataset.path(file),
        names=[name for name, _ in ADULT_COLUMNS],
        dtype=dict(ADULT_COLUMNS),
        skiprows=skip,
        skipinitialspace=True,
        keep_default_na=False,
    )
    table["income"] = (table["income"].str.rstrip(".") == ">50K").astype("int64")
    return table


def compas(dataset: Dataset) -> pd.DataFrame:
    """ProPublica's 7,214 rows as published (53 columns; repeated names get ".1")."""
    return pd.read_csv(dataset.path("compas-scores-two-years.csv"))


def german(dataset: Dataset) -> pd.DataFrame:
    """1,000 applicants: codes replaced by their meaning; default 1 is a bad credit."""
    table = pd.read_csv(
        dataset.path("german.data"), sep=" ", names=list(GERMAN_COLUMNS), keep_default_na=False
    )
    meanings = json.loads(dataset.path("values_maps.json").read_text(encoding="utf-8"))
    for column in table.columns.intersection(list(meanings)):
        known = {code: text.strip() for code, text in meanings[column].items()}
        table[column] = table[column].map(lambda code, known=known: known.get(code, code))
    table["default"] = (table["default"] == 2).astype("int64")
    return table


def fico(dataset: Dataset, *, file: str) -> pd.DataFrame:
    """score (0 to 100; or kind), and per group a percentage or a count (float64)."""
    table = pd.read_csv(dataset.path(file))
    return table.set_axis([str(table.columns[0]).lower(), *FICO_COLUMNS], axis=1)


def _word2vec(dataset: Dataset) -> tuple[list[str], np.ndarray]:
    """The binary format of word2vec: ``<n> <d>\\n``, then word, space, d little-endian floats."""
    raw = dataset.path("GoogleNews-vectors-negative300-bolukbasi.bin").read_bytes()
    start = raw.index(b"\n") + 1
    n, dimensions = (int(part) for part in raw[:start].split())
    words = []
    vectors = np.empty((n, dimensions), dtype=np.float32)
    for row in range(n):
        end = raw.index(b" ", start)
        words.append(raw[start:end].decode("utf-8").lstrip("\n"))
        vectors[row] = np.frombuffer(raw, "<f4", dimensions, end + 1)
        start = end + 1 + 4 * dimensions
    return words, vectors


def words(dataset: Dataset) -> pd.DataFrame:
    """word (text), in the order of the rows of the array "vectors"."""
    return pd.DataFrame({"word": _word2vec(dataset)[0]})


def vectors(dataset: Dataset) -> np.ndarray:
    """float32 [26423, 300]."""
    return _word2vec(dataset)[1]


def logged(dataset: Dataset, *, campaign: str) -> pd.DataFrame:
    """timestamp (UTC), item_id, position (1 to 3), click (0, 1), propensity_score, features."""
    policy, name = campaign.split("/")
    table = pd.read_csv(dataset.path(f"{policy}/{name}/{name}.csv"), index_col=0)
    table["timestamp"] = pd.to_datetime(table["timestamp"], utc=True, format="ISO8601")
    return table.rename_axis(None)


def logged_items(dataset: Dataset, *, campaign: str) -> pd.DataFrame:
    """item_id, item_feature_0 (float64), item_feature_1 to 3 (hashed text)."""
    return pd.read_csv(dataset.path(f"{campaign}/item_context.csv"), index_col=0).rename_axis(None)


def stata(dataset: Dataset, *, file: str) -> pd.DataFrame:
    """A causaldata set: int64 and float64, text as it is."""
    table = pd.read_stata(dataset.path(file), convert_categoricals=False)
    kinds = {"i": "int64", "f": "float64"}
    types = {
        column: kinds[table[column].dtype.kind]
        for column in table.columns
        if table[column].dtype.kind in kinds
    }
    return table.astype(types)


def clinc(dataset: Dataset, *, part: str) -> pd.DataFrame:
    """text, intent (one of 150, or "oos")."""
    content = json.loads(dataset.path("data_full.json").read_text(encoding="utf-8"))
    return pd.DataFrame(content[part], columns=["text", "intent"])


_CAMPAIGNS = [
    f"{policy}/{name}" for policy in ("random", "bts") for name in ("all", "men", "women")
]
_FICO = ("totals", "transrisk_cdf_by_race_ssa", "transrisk_performance_by_race_ssa")

READERS: dict[str, dict[str, Reader]] = {
    "ml-100k": {"interactions": interactions, "users": users, "items": items},
    "adult": {
        "train": partial(adult, file="adult.data", skip=0),
        "test": partial(adult, file="adult.test", skip=1),
    },
    "compas": {"scores": compas},
    "german": {"applicants": german},
    "fico": {name: partial(fico, file=f"{name}.csv") for name in _FICO},
    "word-vectors": {"words": words},
    "open-bandit": {
        **{name: partial(logged, campaign=name) for name in _CAMPAIGNS},
        **{f"{name}/items": partial(logged_items, campaign=name) for name in _CAMPAIGNS},
    },
    "nsw": {
        "nsw": partial(stata, file="nsw_mixtape.dta"),
        "cps": partial(stata, file="cps_mixtape.dta"),
        "thornton_hiv": partial(stata, file="thornton_hiv.dta"),
        "nhefs": partial(stata, file="nhefs.dta"),
    },
    "clinc150": {
        "train": partial(clinc, part="train"),
        "validation": partial(clinc, part="val"),
        "test": partial(clinc, part="test"),
        "oos_train": partial(clinc, part="oos_train"),
        "oos_validation": partial(clinc, part="oos_val"),
        "oos_test": partial(clinc, part="oos_test"),
    },
    "docstrings": {"docstrings": read_docstrings},
}
ARRAYS: dict[str, dict[str, Callable[[Dataset], np.ndarray]]] = {
    "word-vectors": {"vectors": vectors},
}
