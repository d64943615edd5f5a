"""The log of an experiment: what was exposed to whom, and what happened, as Parquet.

Two tables, append-only, one folder each with any number of files:

* ``exposures``: one row each time an arm's code path decided something for a unit;
* ``events``: one row each time something happened that a metric counts.

The analysis reads them with DuckDB; nothing else of the experiment leaves the servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

EXPOSURES, EVENTS = "exposures", "events"


def exposure_schema() -> pa.Schema:
    """``unit_id`` text, ``experiment`` text, ``arm`` text, ``at`` timestamp in UTC."""
    import pyarrow as pa

    at = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [("unit_id", pa.string()), ("experiment", pa.string()), ("arm", pa.string()), ("at", at)]
    )


def event_schema() -> pa.Schema:
    """``event_id`` text (unique: a retry repeats it), ``unit_id``, ``name``, ``value``, ``at``."""
    import pyarrow as pa

    at = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            ("event_id", pa.string()),
            ("unit_id", pa.string()),
            ("name", pa.string()),
            ("value", pa.float64()),
            ("at", at),
        ]
    )
