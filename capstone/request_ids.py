"""Ids of requests that nobody can make up, and what each request showed.

A reaction names the request that showed the item. Were any name accepted, anybody with a token
could write reactions into another person's history, and clicks into an experiment. So an id ends
in a keyed hash of itself and the user: every gateway with the same secret can check it, after a
restart too, without a table.
"""

from __future__ import annotations

import hmac
import itertools
import secrets
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 100_000
MAC_CHARACTERS = 16


class RequestIds:
    """Makes and checks ids of the form ``<process>-<number>.<mac>``.

    References
    ----------
    RFC 2104 (HMAC); 64 bits of it, which is out of reach for guessing over HTTP.
    """

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"request ids", "sha256")
        self._process = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def new(self, user: int) -> str:
        """An id for a request of this user."""
        name = f"{self._process}-{next(self._numbers):x}"
        return f"{name}.{self._mac(name, user)}"

    def issued(self, request_id: str, user: int) -> bool:
        """Whether the id was made for a request of this user."""
        name, _, mac = request_id.rpartition(".")
        return hmac.compare_digest(mac.encode(), self._mac(name, user).encode())

    def _mac(self, name: str, user: int) -> str:
        digest = hmac.digest(self._key, b"%b|%d" % (name.encode(), user), "sha256")
        return digest.hex()[:MAC_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Served:
    """What one request showed: for the unit and the position of a reaction."""

    unit_id: str
    variant: int
    arm: str
    version: str
    items: NDArray[np.int64]

    def position(self, item: int) -> int:
        """From 0; -1 for an item that was not in the feed."""
        places = np.flatnonzero(self.items == item)
        return int(places[0]) if len(places) else -1


class ServedRequests:
    """The newest requests by id."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self.limit = limit
        self._served: OrderedDict[str, Served] = OrderedDict()

    def add(self, request_id: str, served: Served) -> None:
        self._served[request_id] = served
        if len(self._served) > self.limit:
            self._served.popitem(last=False)

    def get(self, request_id: str) -> Served | None:
        """None for a request that is too old, or from before a restart."""
        return self._served.get(request_id)
