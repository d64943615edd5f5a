"""Versions come and go under load: was a request lost, or answered by a version it does not name?

The same question to two servers. Ours shares users out by weight and unloads a version when it has
given its last answer. TorchServe knows one default version, which ``set_default`` replaces for
everybody at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from common.errors import require
from labs.lab4_model_serving.management_client import ManagementClient
from labs.lab4_model_serving.rollout_load import Driven, drive, mixed_up

if TYPE_CHECKING:
    from labs.lab4_model_serving.torchserve import TorchServe


@dataclass(frozen=True)
class Switching:
    """What was seen of requests while versions changed."""

    server: str
    switches: int
    requests: int
    failed: int
    failures: dict[str, int]
    """Status and message to requests, status 0 for no answer."""
    mixed_up: int
    """Answers that differ from those of the version they name."""
    by_version: dict[str, int]
    p99_ms: float
    """Over all requests that were answered."""
    max_ms: float


def expected_labels(
    bundles: Sequence[Path], texts: Sequence[str], *, batch: int = 64, device: str = "cpu"
) -> dict[str, list[str]]:
    """Version to its Predictor's label of each text.

    Not for dynamic INT8: its scales are taken from the whole batch, and so are its answers.
    """
    from labs.lab4_model_serving.predictor import Predictor

    found = {}
    for bundle in bundles:
        predictor = Predictor(bundle, device=device)
        found[predictor.version] = [
            answer.label
            for at in range(0, len(texts), batch)
            for answer in predictor.predict(texts[at : at + batch])
        ]
    return found


def switch_by_weight(
    url: str,
    headers: Mapping[str, str],
    client: ManagementClient,
    folders: Mapping[str, str],
    texts: Sequence[str],
    expected: Mapping[str, Sequence[str]],
    *,
    rate: float,
    rounds: int = 2,
    hold_s: float = 0.3,
    seed: int = 0,
) -> Switching:
    """Replace the live version by the other one and back: load, half, all, unload.

    Parameters
    ----------
    url, headers
        Of predictions without a version.
    folders
        Two versions, the live one first, to the names of their folders in the server's store.
    expected
        Version to its label of each text (:func:`expected_labels`).
    rate
        Requests/s.
    rounds
        There and back again is 2.
    hold_s
        Seconds between changes.
    """
    require(len(folders) == 2, "number of versions", len(folders), "must be 2")

    def change() -> int:
        old, new = folders
        for _ in range(rounds):
            client.load(folders[new])
            for weights in ({old: 0.5, new: 0.5}, {new: 1.0}):
                client.set_weights(weights)
                Event().wait(hold_s)
            client.unload(old)
            old, new = new, old
        return rounds

    driven = drive(url, texts, change, rate=rate, headers=headers, seed=seed)
    return _switching("own server", driven, expected)


def switch_torchserve(
    server: TorchServe,
    name: str,
    versions: Sequence[str],
    texts: Sequence[str],
    expected: Mapping[str, Sequence[str]],
    *,
    rate: float,
    switches: int = 6,
    hold_s: float = 0.5,
    seed: int = 0,
) -> Switching:
    """Change TorchServe's default version under load. Both versions stay loaded.

    Parameters
    ----------
    versions
        Two that are loaded; the one that is the default first.
    """
    require(len(versions) == 2, "number of versions", len(versions), "must be 2")

    def change() -> int:
        for i in range(switches):
            server.set_default(name, versions[(i + 1) % 2])
            Event().wait(hold_s)
        return switches

    driven = drive(
        server.prediction_url(name), texts, change, rate=rate, headers=server.headers, seed=seed
    )
    return _switching("TorchServe", driven, expected)


def _switching(
    server: str, driven: Driven[int], expected: Mapping[str, Sequence[str]]
) -> Switching:
    seconds = np.sort([each.seconds for each in driven.requests if each.status == 200])
    return Switching(
        server=server,
        switches=driven.result,
        requests=len(driven.requests),
        failed=driven.failed,
        failures=driven.failures,
        mixed_up=mixed_up(driven.requests, expected),
        by_version=driven.by_version,
        p99_ms=1000 * float(seconds[int(len(seconds) * 0.99)]) if len(seconds) else float("nan"),
        max_ms=1000 * float(seconds[-1]) if len(seconds) else float("nan"),
    )
