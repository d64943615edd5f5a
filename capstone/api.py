"""What the service takes and gives over HTTP; its OpenAPI is made from these models."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_K = 50
MAX_ID = 2**31 - 1


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("Input should be a number, not true, false or text")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
"""An integer; Python's own would take ``true`` for user 1, and Pydantic's ``"1"`` too."""
Real = Annotated[float, BeforeValidator(_number)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
"""An id that a client makes up: letters, digits and ``. _ : -``."""


Variant = Annotated[Whole, Field(ge=0, le=15)]


class Reaction(StrEnum):
    """What a person may do with an item of the feed."""

    CLICK = "click"
    LIKE = "like"
    SHARE = "share"
    HIDE = "hide"


RATING_OF = {Reaction.CLICK: 4, Reaction.LIKE: 5, Reaction.SHARE: 5, Reaction.HIDE: 1}
"""How a reaction enters the rated history that the models read."""


def signed_rating(reaction: Reaction) -> int:
    """A reaction's rating as a history keeps it: negative for a hide.

    The ranker reads its size; retrieval does not look for more of what was sent away.
    """
    return -RATING_OF[reaction] if reaction is Reaction.HIDE else RATING_OF[reaction]


class Slot(StrEnum):
    """Why an item stands where it stands."""

    RANKED = "ranked"
    EXPOSURE = "exposure"
    """Moved up so that a creator group gets its minimum exposure."""
    EXPLORATION = "exploration"
    """Drawn at random, with a logged propensity."""
    BACKFILL = "backfill"
    """Filled in after the visibility filter."""
    FALLBACK = "fallback"
    """From the fallback feed: the ranker was not asked, or too late."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeedQuery(Strict):
    """``unit_id`` is what an experiment randomises; it is the user unless given. ``variant`` asks
    for an arm, past the assignment: for the admin's token only."""

    user_id: Whole = Field(ge=1, le=MAX_ID)
    k: Whole = Field(default=10, ge=1, le=MAX_K)
    unit_id: Name | None = None
    variant: Whole | None = Field(default=None, ge=0, le=15)


class FeedItem(Strict):
    """One item of a feed and why it is there."""

    item_id: int
    title: str
    genres: list[str]
    creator: str
    position: int
    slot: Slot
    sources: list[str]
    heads: dict[str, float]
    """Calibrated probability of each head; empty in a fallback feed."""
    value: float
    penalty: dict[str, float]
    """What re-ranking took off the value, by cause: ``diversity``, ``creator``."""
    propensity: float | None
    """Probability that the item was shown at this position, given the request; 1 unless random.
    Null in an interleaved feed."""
    team: int | None = None
    """In an interleaved feed, the variant that picked the item."""


class FeedAnswer(Strict):
    """A feed. ``fallback`` names the stage that missed its deadline or failed, else None."""

    request_id: str
    user_id: int
    variant: int
    arm: str
    version: str
    cold_start: bool
    fallback: str | None
    items: list[FeedItem]
    timings_ms: dict[str, float]
    """Milliseconds of each stage, and ``total``."""


class EventIn(Strict):
    """A reaction. ``event_id`` is made by the client; sending it again changes nothing."""

    event_id: Name
    request_id: Name
    user_id: Whole = Field(ge=1, le=MAX_ID)
    item_id: Whole = Field(ge=1, le=MAX_ID)
    reaction: Reaction


class EventAnswer(Strict):
    """Acknowledged: the event is on disk. ``duplicate``: it was there already."""

    event_id: str
    duplicate: bool


class StageLatency(Strict):
    """Latency of a stage over the last requests, in milliseconds."""

    stage: str
    n: int
    p50_ms: float
    p99_ms: float


class Person(Strict):
    """A user the page offers."""

    user_id: int
    watched: int
    recent: list[str]
    """Titles of the newest films of the history."""


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Health(Strict):
    """The process answers."""

    status: str
    versions: list[str]


class Readiness(Strict):
    """Whether to send traffic. A scorer that is down does not make a gateway unready: its feeds
    fall back, and a gateway that is taken away could not serve even those."""

    ready: bool
    draining: bool
    scorer: str
    """``ok``, or ``failing`` while its circuit breaker is open."""
    user_state: str
    """``ok``, or ``degraded`` while histories may be out of date."""


class ExperimentIn(Strict):
    """Weights of the arms in their order, which sum to 1; the share of the units that are in the
    experiment; and, with ``shadow``, the variant that is asked in the background for a share of
    the feeds, its answers compared and thrown away."""

    weights: list[Annotated[Real, Field(ge=0, le=1)]] = Field(min_length=1, max_length=16)
    coverage: Real = Field(default=1.0, ge=0, le=1)
    shadow: Whole | None = Field(default=None, ge=0, le=15)
    shadow_share: Real = Field(default=0.25, gt=0, le=1)


class Arm(Strict):
    """An arm and the bundle that it serves."""

    name: str
    version: str
    checkpoint: str
    weight: float
    variant: int


class ShadowReport(Strict):
    """What the shadow arm answered to how many feeds."""

    arm: str
    share: float
    same: int
    """Feeds whose first item both arms agree on."""
    other: int
    failed: int
    dropped: int
    """Copies that were not made, since too many were under way."""


class Experiment(Strict):
    """The running experiment."""

    name: str
    coverage: float
    arms: list[Arm]
    shadow: ShadowReport | None


class BundleIn(Strict):
    """A folder below the service's bundle root; the arm starts with weight 0."""

    folder: str = Field(
        min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
    )
    arm: Name | None = None


class InterleavedIn(Strict):
    """Two variants; the new arm starts with weight 0 and drafts each feed from both."""

    variants: tuple[Variant, Variant]
    arm: Name = "interleaved"


class WithdrawnIn(Strict):
    """Items that nobody may be shown any more; replaces the earlier list."""

    items: list[Annotated[Whole, Field(ge=1, le=MAX_ID)]] = Field(max_length=1000)
