"""What Prometheus reads from the service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from labs.lab2_vector_db.collection_stats import CollectionStats

LATENCY_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)


class Metrics:
    """Prometheus metrics in a registry of their own.

    The route is the template (``/v1/points/{id}``): labelled by the path itself, every id would
    begin a time series. The status is a label because what is refused is fast, and would make the
    p99 of the answers look good.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.seconds = Histogram(
            "vector_db_request_seconds",
            "From the request's head to the answer's last byte, by route and status.",
            ["route", "status"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.written = Counter("vector_db_rows_written", "Rows upserted.", registry=registry)
        self.deleted = Counter("vector_db_rows_deleted", "Rows deleted.", registry=registry)
        self.queries = Counter("vector_db_queries", "Queries answered.", registry=registry)
        self.rows = Gauge("vector_db_rows", "Rows alive.", registry=registry)
        self.tombstones = Gauge(
            "vector_db_tombstone_share", "Dead rows as a share of those stored.", registry=registry
        )
        self.log_bytes = Gauge("vector_db_log_bytes", "Write-ahead log.", registry=registry)
        self.memory_bytes = Gauge(
            "vector_db_memory_bytes",
            "Memtable, indexes and tombstones; mapped files are left out.",
            registry=registry,
        )
        self.maintenance_failed = Gauge(
            "vector_db_maintenance_failed",
            "1 while the last background compaction has failed.",
            registry=registry,
        )

    def text(self, stats: CollectionStats) -> bytes:
        """Everything in the format that Prometheus reads."""
        self.rows.set(stats.n_rows)
        self.tombstones.set(stats.tombstone_share)
        self.log_bytes.set(stats.log_bytes)
        self.memory_bytes.set(stats.memory_bytes)
        self.maintenance_failed.set(stats.maintenance_error is not None)
        return generate_latest(self.registry)
