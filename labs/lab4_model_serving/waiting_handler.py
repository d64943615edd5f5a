"""A TorchServe handler that waits: a worker whose time goes into something else than this CPU.

A request takes ``WAITING_MS`` (default 20), as when a GPU or a feature store is asked. So every
worker adds the same capacity, however few cores there are, and autoscaling can be watched on a
laptop. TorchServe calls ``handle`` with a batch of requests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any


def handle(data: Sequence[Any] | None, context: Any) -> list[dict[str, Any]] | None:
    """Answer each request of the batch after the time of all; None is the warm-up call."""
    if data is None:
        return None
    time.sleep(len(data) * float(os.environ.get("WAITING_MS", "20")) / 1000)
    return [{"label": "waited", "probability": 1.0} for _ in data]
