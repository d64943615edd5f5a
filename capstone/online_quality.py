"""Is the served feed still good? What was shown joined with what people did, from the event log.

Latency says nothing about a feed that is fast and wrong. Four things are computed here, each with
the limit that chance alone would not exceed: calibration error by head, the gap in engagement
between groups of users, drift of the scores against the bundle's reference, and the share of items
that explore. ``monitor.py`` exports them.

What a reaction says about a head is a convention (:data:`capstone.api.RATING_OF`): a click counts
as a rating of 4, so the heads are calibrated against reactions, given that there was one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from capstone.api import RATING_OF
from capstone.drift import Drift, Reference, drifts, reference_of
from capstone.event_tables import EXPOSURES, FeedTables
from capstone.event_tables import REACTIONS as REACTION_LOG
from capstone.value import HEADS, REACTIONS
from common.errors import require

if TYPE_CHECKING:
    import duckdb

Floats = NDArray[np.float64]
Groups = Mapping[str, Mapping[int, str]]
"""Attribute to (user id to group)."""
ALPHA = 0.01
LEAST_ERROR, LEAST_GAP = 0.02, 0.01
"""A calibration error, and a difference in the share of engaged items, too small to matter."""
N_BINS, SIMULATIONS = 10, 500
MOST_FEEDS = 200_000
"""Newest feeds that are looked at."""
LABELS = {"like": (4, 5), "love": (5, 5), "dislike": (0, 2)}
"""The ratings, from and to, for which each conditional head's label is 1."""


@dataclass(frozen=True)
class HeadCalibration:
    """Expected calibration error of one head over items that somebody reacted to."""

    head: str
    error: float
    limit: float
    """What a calibrated head with these scores exceeds in ``ALPHA`` of samples, over all heads."""
    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class GroupGap:
    """Largest minus smallest share of engaged items over the groups of an attribute."""

    attribute: str
    gap: float
    limit: float
    """What permuted group labels exceed in ``ALPHA`` of cases, over all attributes."""
    rows: int
    """Users."""
    shares: Mapping[str, float]


@dataclass(frozen=True)
class OnlineQuality:
    """What the log of a window says."""

    feeds: int
    users: int
    reactions: int
    engaged_share: float
    """Of the shown items: clicked, liked or shared."""
    exploration_share: float
    fallback_share: float
    calibration: tuple[HeadCalibration, ...]
    gaps: tuple[GroupGap, ...]
    drift: tuple[Drift, ...]


def measure(
    folder: Path,
    *,
    references: Mapping[str, Reference] | None = None,
    groups: Groups | None = None,
    since: datetime | None = None,
    version: str | None = None,
    seed: int = 0,
) -> OnlineQuality:
    """Read an event log, also while a gateway writes it.

    Parameters
    ----------
    folder
        Of the event log, or of the logs of several gateways, one below it each.
    references
        Head to its reference; without one nothing is said of drift.
    groups
        Groups of users; without them nothing is said of gaps.
    since
        Feeds before it are left out (with a time zone).
    version
        Of the bundle; None takes every feed.

    Raises
    ------
    InputError
        ``since`` without a time zone.
    RunError
        The log is damaged.
    """
    require(since is None or since.tzinfo is not None, "since", since, "must have a time zone")
    with open_logs(folder) as connection:
        _prepare(connection, since, version)
        (feeds, users, fallbacks, reactions) = _one(
            connection,
            "SELECT count(*), count(DISTINCT user_id), count(fallback), "
            "(SELECT count(*) FROM acted) FROM feeds",
        )
        items, explored, engaged = _one(
            connection,
            "SELECT count(*), count(*) FILTER (slot = 'exploration'), "
            "coalesce(sum(engaged), 0) FROM shown",
        )
        return OnlineQuality(
            feeds=int(feeds),
            users=int(users),
            reactions=int(reactions),
            engaged_share=float(engaged) / items if items else 0.0,
            exploration_share=float(explored) / items if items else 0.0,
            fallback_share=float(fallbacks) / feeds if feeds else 0.0,
            calibration=_calibration(connection, seed),
            gaps=_gaps(connection, groups or {}, seed),
            drift=tuple(drifts(references or {}, _top_scores(connection), alpha=ALPHA)),
        )


def score_references(
    folder: Path, *, version: str | None = None, n_bins: int = N_BINS
) -> dict[str, Reference]:
    """References of every head from a log: the newest feed of each user, its first ranked item.

    For a bundle that came without one: its first day is what later days are compared with. Heads
    with too few users, or one score for all, are left out.
    """
    with open_logs(folder) as connection:
        _prepare(connection, None, version)
        return {
            head: reference_of(scores, n_bins=n_bins)
            for head, scores in _top_scores(connection).items()
            if len(scores) >= 10 * n_bins and np.ptp(scores) > 0
        }


def open_logs(folder: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB with the views ``exposures`` and ``reactions`` of one log or of several gateways'.

    A reaction that was sent to two gateways is in both logs, and once in the view.
    """
    import duckdb
    import pyarrow as pa

    inside = sorted(path for path in folder.glob("*/") if (path / f"{EXPOSURES}-log").is_dir())
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for kind in (EXPOSURES, REACTION_LOG):
        tables = [FeedTables(each).read(kind) for each in inside or [folder]]
        connection.from_arrow(pa.concat_tables(tables)).create_view(f"every_{kind}")
    connection.execute(f"CREATE VIEW {EXPOSURES} AS FROM every_{EXPOSURES}")
    connection.execute(
        f"CREATE VIEW {REACTION_LOG} AS "
        f'SELECT DISTINCT ON (event_id) * FROM every_{REACTION_LOG} ORDER BY event_id, "at"'
    )
    return connection


def _prepare(
    connection: duckdb.DuckDBPyConnection, since: datetime | None, version: str | None
) -> None:
    connection.execute(
        "CREATE TEMP TABLE feeds AS SELECT * FROM exposures "
        'WHERE ($since IS NULL OR "at" >= $since) AND ($version IS NULL OR version = $version) '
        f'ORDER BY "at" DESC LIMIT {MOST_FEEDS}',
        {"since": since, "version": version},
    )
    ratings = " ".join(f"WHEN '{name}' THEN {rating}" for name, rating in RATING_OF.items())
    # Whoever clicks and then hides has hidden: the newest reaction to an item of a feed counts.
    connection.execute(
        f"CREATE TEMP TABLE acted AS SELECT request_id, item_id, "
        f'arg_max(CASE reaction {ratings} END, "at") AS rating '
        "FROM reactions SEMI JOIN feeds USING (request_id) GROUP BY request_id, item_id"
    )
    heads = ", ".join(f"unnest(p_{head}) AS p_{head}" for head in HEADS)
    connection.execute(
        "CREATE TEMP TABLE shown AS SELECT s.*, rating, "
        "coalesce(rating >= 4, false)::INTEGER AS engaged FROM "
        f"(SELECT request_id, user_id, unnest(items) AS item_id, unnest(slots) AS slot, {heads} "
        "FROM feeds) s LEFT JOIN acted USING (request_id, item_id)"
    )


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[float, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None, query
    return row


def _calibration(connection: duckdb.DuckDBPyConnection, seed: int) -> tuple[HeadCalibration, ...]:
    from labs.lab3_fairness.calibration import calibration_errors, ece_null, equal_mass_edges

    columns = ", ".join(f"p_{head}" for head in REACTIONS)
    rows = connection.execute(
        f"SELECT {columns}, rating FROM shown WHERE rating IS NOT NULL AND p_like IS NOT NULL"
    ).fetchnumpy()
    ratings = np.asarray(rows["rating"], dtype=np.int64)
    if len(ratings) < 2 * N_BINS:
        return ()
    scores = {head: np.asarray(rows[f"p_{head}"], dtype=np.float64) for head in REACTIONS}
    labels = {
        head: ((ratings >= low) & (ratings <= high)).astype(np.float64)
        for head, (low, high) in LABELS.items()
    }
    # The heads are the groups of lab 3's function: bins of equal mass in each.
    errors = calibration_errors(
        np.concatenate([labels[head] for head in REACTIONS]),
        np.concatenate([scores[head] for head in REACTIONS]),
        np.repeat(REACTIONS, len(ratings)),
        n_bins=N_BINS,
    )["ece"]
    found = []
    for head in REACTIONS:
        null = ece_null(
            scores[head],
            equal_mass_edges(scores[head], N_BINS),
            n_simulations=SIMULATIONS,
            seed=seed,
        )
        limit = float(np.quantile(null, 1 - ALPHA / len(REACTIONS)))
        found.append(
            HeadCalibration(
                head,
                error=float(errors[head]),
                limit=max(LEAST_ERROR, limit),
                rows=len(ratings),
                predicted=float(scores[head].mean()),
                observed=float(labels[head].mean()),
            )
        )
    return tuple(found)


def _gaps(connection: duckdb.DuckDBPyConnection, groups: Groups, seed: int) -> tuple[GroupGap, ...]:
    from labs.lab3_fairness.resampling import gap_null
    from labs.lab3_fairness.row_metrics import RowMetric

    engaged = RowMetric("share of engaged items", lambda truth, share: share)
    rows = connection.execute(
        "SELECT user_id, avg(engaged) AS share FROM shown GROUP BY user_id ORDER BY user_id"
    ).fetchnumpy()
    users: list[int] = np.asarray(rows["user_id"], dtype=np.int64).tolist()
    shares = np.asarray(rows["share"], dtype=np.float64)
    found = []
    for attribute, of_user in groups.items():
        known = np.array([user in of_user for user in users], dtype=bool)
        names = np.array([of_user.get(user, "") for user in users])[known]
        means = {str(name): float(shares[known][names == name].mean()) for name in np.unique(names)}
        if len(means) < 2:
            continue
        null = gap_null(
            shares[known], shares[known], names, engaged, n_permutations=SIMULATIONS, seed=seed
        )
        limit = float(np.quantile(null.gaps, 1 - ALPHA / len(groups)))
        found.append(
            GroupGap(
                attribute,
                gap=null.observed,
                limit=max(LEAST_GAP, limit),
                rows=int(known.sum()),
                shares=means,
            )
        )
    return tuple(found)


def _top_scores(connection: duckdb.DuckDBPyConnection) -> dict[str, Floats]:
    """Each head's score of the first ranked item of every user's newest ranked feed."""
    columns = ", ".join(f"p_{head}[list_position(slots, 'ranked')] AS p_{head}" for head in HEADS)
    rows = connection.execute(
        f"SELECT DISTINCT ON (user_id) user_id, {columns} FROM feeds "
        "WHERE fallback IS NULL AND list_contains(slots, 'ranked') "
        'ORDER BY user_id, "at" DESC'
    ).fetchnumpy()
    scores = {head: np.ma.asarray(rows[f"p_{head}"]) for head in HEADS}
    return {head: np.asarray(each.compressed(), np.float64) for head, each in scores.items()}
