"""Options of lab 4 and their values at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import require


@dataclass(frozen=True)
class Config:
    """What is trained, how it is served, and how hard it is loaded."""

    texts: int = 30_000
    """Docstrings used at most, training and test together."""
    hidden: int = 256
    """Width of the classifier's hidden layer."""
    epochs: int = 3
    """Passes over the training texts."""
    workers: int = 1
    """TorchServe worker processes of the version that is loaded."""
    batch_size: int = 32
    """Requests that TorchServe runs at once, at most."""
    max_batch_delay_ms: int = 2
    """How long the first request of a batch waits for others (ms)."""
    queue_size: int = 1000
    """Requests that may wait; the next one is answered 503."""
    rate: float = 200.0
    """Offered load of the latency measurement (requests/s)."""
    load_s: float = 10.0
    """Length of the latency measurement (s)."""
    search_low: float = 250.0
    """Lowest rate of the search for the highest one (requests/s)."""
    search_high: float = 4000.0
    """Highest rate of the search (requests/s); 0 skips the search."""
    search_s: float = 5.0
    """Length of one measurement of the search (s)."""
    search_tries: int = 6
    """Measurements between the lowest and the highest rate."""
    p99_limit_ms: float = 50.0
    """A rate counts when its p99 is below this (ms)."""
    inference_port: int = 0
    """Port of the inference API on 127.0.0.1; 0 picks a free one."""

    def __post_init__(self) -> None:
        for name in ("hidden", "epochs", "workers", "batch_size", "max_batch_delay_ms"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be >= 1")
        require(self.texts >= 1000, "texts", self.texts, "must be >= 1000")
        require(self.queue_size >= 1, "queue_size", self.queue_size, "must be >= 1")
        for name in ("rate", "load_s", "search_low", "search_s", "p99_limit_ms"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        require(
            self.search_high == 0 or self.search_high > self.search_low,
            "search_high",
            self.search_high,
            f"must be 0 or above search_low = {self.search_low:g}",
        )
        require(self.search_tries >= 0, "search_tries", self.search_tries, "must be >= 0")
        require(
            0 <= self.inference_port <= 65535,
            "inference_port",
            self.inference_port,
            "must be between 0 and 65535",
        )


SCALES = {
    "smoke": Config(texts=8000, epochs=2, load_s=5.0, search_high=0.0),
    "standard": Config(),
    "full": Config(texts=80_000, epochs=5, load_s=60.0, search_s=20.0, search_tries=8),
}
