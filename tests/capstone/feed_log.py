"""A small event log with a truth that is known, written through the gateway's own log."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from capstone.event_log import EventLog
from capstone.value import HEADS


def write_log(
    folder: Path,
    *,
    users: int = 300,
    k: int = 5,
    version: str = "v1",
    hide_share: float = 0.1,
    tilt: float = 0.0,
    shift: float = 0.0,
    fallback_every: int = 0,
    seed: int = 0,
) -> Path:
    """One feed a user; half of the items get a reaction, a share ``hide_share`` of them a hide.

    ``tilt`` is added to the chance of a reaction for odd user ids, ``shift`` to every probability.
    """
    rng = np.random.default_rng(seed)
    feeds, reactions = [], []
    for user in range(1, users + 1):
        fallback = bool(fallback_every) and user % fallback_every == 0
        request_id = f"{version}-{user}"
        record: dict[str, Any] = {
            "request_id": request_id, "unit_id": str(user), "user_id": user, "experiment": "feed",
            "in_experiment": True, "variant": 0, "arm": "champion", "version": version,
            "cold_start": False, "fallback": "score" if fallback else None, "n_candidates": 100,
            "latency_ms": 10.0, "items": list(range(1, k + 1)),
            "slots": ["fallback"] * k if fallback else ["ranked"] * (k - 1) + ["exploration"],
            "source": [1] * k, "propensities": [1.0] * k, "values": [0.1] * k,
            "at": time.time_ns() // 1000,
        }  # fmt: skip
        if not fallback:
            noise = rng.normal(0, 0.02, (len(HEADS), k))
            for row, head in enumerate(HEADS):
                likely = {"like": 1 - hide_share, "love": 0.0, "dislike": hide_share}.get(head, 0.3)
                p = np.clip(likely + shift + noise[row], 0, 1)
                record[f"p_{head}"] = p.tolist()
        feeds.append(record)
        for item in range(1, k + 1):
            if rng.random() < 0.5 + tilt * (user % 2):
                kind = "hide" if rng.random() < hide_share else "click"
                reactions.append(
                    {
                        "event_id": f"{request_id}-{item}", "request_id": request_id,
                        "user_id": user, "item_id": item, "reaction": kind, "unit_id": str(user),
                        "variant": 0, "arm": "champion", "version": version, "position": item - 1,
                        "at": time.time_ns() // 1000,
                    }
                )  # fmt: skip

    async def write() -> None:
        log = EventLog(folder)
        for feed in feeds:
            log.expose(feed)
        await asyncio.gather(*(log.react(each) for each in reactions))
        await log.close()

    asyncio.run(write())
    return folder
