"""User state in Redis, shared by several gateways; read-only when Redis has gone.

Switch on Redis's append-only file (``appendonly yes``): without it a restart forgets everything
since the last snapshot. Even then the newest writes can be lost, so a gateway applies its own of
the last ``LOST_S`` seconds again when Redis comes back; a gateway's start replays its event log.

While Redis does not answer, histories come from what this process has read before, or from the
bundle; reactions are kept aside, shown in this process's histories, and applied when it is back.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from capstone.fallback import CircuitBreaker
from capstone.user_state import CACHED, EMPTY, LONGEST, Histories, History, packed, unpacked

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
REMEMBERED_S = 7 * 86_400
MOST_ASIDE = 10_000
FAILURES = 3
"""In a row, before Redis is taken to be away."""
RECOVERY_S = 5.0
LOST_S = 30.0
"""What Redis said it had done within this time before it went may be gone with it."""
SEEDED = "seeded"
"""The key that says that the bundle's users are there."""
APPEND = """
if not redis.call('SET', KEYS[2], '', 'NX', 'EX', ARGV[3]) then return 0 end
local item, rating, most = ARGV[1], ARGV[2], tonumber(ARGV[4])
local items = redis.call('HGET', KEYS[1], 'items') or ''
local ratings = redis.call('HGET', KEYS[1], 'ratings') or ''
for i = 1, #ratings do
  if string.sub(items, 4 * i - 3, 4 * i) == item then
    items = string.sub(items, 1, 4 * i - 4) .. string.sub(items, 4 * i + 1)
    ratings = string.sub(ratings, 1, i - 1) .. string.sub(ratings, i + 1)
    break
  end
end
items, ratings = items .. item, ratings .. rating
if #ratings > most then
  items, ratings = string.sub(items, -4 * most), string.sub(ratings, -most)
end
redis.call('HSET', KEYS[1], 'items', items, 'ratings', ratings)
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
"""


class RedisState:
    """Histories in Redis: a hash a user, and a key an applied event that expires after a week.

    Make it with :meth:`connect`.

    Parameters
    ----------
    initial
        The bundle's users: written where Redis has none, and what is left when it has gone.
    timeout_s
        For one command; below the deadline of the stage that asks, so that a Redis that hangs is
        found out here and the request goes on with what is known.
    on_error
        Called with "get", "append" or "recover" each time that Redis did not answer: for a counter.
    """

    def __init__(
        self,
        redis: Redis,
        initial: Histories,
        *,
        timeout_s: float = 0.05,
        cooldown_s: float = 0.5,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self._redis, self._initial, self._timeout_s = redis, initial, timeout_s
        self._on_error = on_error or (lambda operation: None)
        self._breaker = CircuitBreaker(failures=FAILURES, cooldown_s=cooldown_s)
        self._cache: OrderedDict[int, History] = OrderedDict()
        self._aside: deque[tuple[int, int, int, str]] = deque(maxlen=MOST_ASIDE)
        self._done: deque[tuple[float, tuple[int, int, int, str]]] = deque(maxlen=MOST_ASIDE)
        self._script = redis.register_script(APPEND)
        self._usable = False
        self._recovery: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: str, initial: Histories, **options: Any) -> RedisState:
        """Connect and write the initial users; a Redis that is away now is used when it comes."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), max_connections=64)
        state = cls(redis, initial, **options)
        await state._recover()
        return state

    @property
    def degraded(self) -> bool:
        return not self._usable

    @property
    def aside(self) -> int:
        """Reactions that wait for Redis to come back."""
        return len(self._aside)

    async def get(self, user: int) -> History:
        found = await self._try("get", lambda: self._read(user))
        if found is EMPTY and user in self._initial:
            self._usable, found = False, None  # it came back without what it had
        if found is None:
            return self._cache.get(user) or self._initial.get(user, EMPTY)
        self._keep(user, found)
        return found

    async def append(self, user: int, item: int, rating: int, event_id: str) -> bool:
        reaction = (user, item, rating, event_id)
        applied = await self._try("append", lambda: self._append(*reaction))
        if applied is None:
            self._aside.append(reaction)
        else:
            self._done.append((time.monotonic(), reaction))
        if applied is not False:  # what is known here, for the time without Redis
            known = self._cache.get(user) or self._initial.get(user, EMPTY)
            self._keep(user, known.appended(item, rating))
        return applied is not False

    async def people(self, count: int) -> list[tuple[int, History]]:
        return [(user, await self.get(user)) for user in sorted(self._initial)[:count]]

    async def close(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        await self._redis.aclose()

    async def _try(self, operation: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """The answer of Redis; None when it has none in time, or is away."""
        from redis.exceptions import RedisError

        if not self._usable:
            self._begin_recovery()
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await work()
        except (RedisError, OSError, TimeoutError):
            self._failed(operation)
            return None
        self._breaker.succeeded()
        return answer

    def _failed(self, operation: str) -> None:
        self._on_error(operation)
        self._breaker.failed(time.monotonic())
        self._usable = self._usable and not self._breaker.open

    def _begin_recovery(self) -> None:
        """Look whether Redis is back, beside the requests: it may take longer than one of them."""
        if self._breaker.allows(time.monotonic()):
            self._recovery = asyncio.ensure_future(self._recover())

    async def _recover(self) -> None:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(RECOVERY_S):
                await self._bring_up_to_date()
        except (RedisError, OSError, TimeoutError):
            self._failed("recover")
        else:
            self._breaker.succeeded()
            self._usable = True

    async def _bring_up_to_date(self) -> None:
        """Write the users that Redis lacks, then what it may have lost, then what was kept aside.

        A reaction that it has still is known to it by its event's id.
        """
        seeded = await self._redis.exists(SEEDED)
        if not seeded:
            async with self._redis.pipeline(transaction=False) as pipe:
                for user, history in self._initial.items():
                    items, ratings, version = packed(history)
                    for name, value in (
                        ("items", items), ("ratings", ratings), ("version", version)
                    ):  # fmt: skip
                        pipe.hsetnx(f"user:{user}", name, value)  # type: ignore[arg-type]
                pipe.set(SEEDED, "")
                await pipe.execute()
        since = time.monotonic() - LOST_S if seeded else 0.0
        for at, reaction in list(self._done):
            if at >= since:
                await self._append(*reaction)
        while self._aside:
            await self._append(*self._aside[0])
            self._done.append((time.monotonic(), self._aside.popleft()))

    async def _read(self, user: int) -> History:
        fields = ["items", "ratings", "version"]
        row = await cast(Awaitable[list[Any]], self._redis.hmget(f"user:{user}", fields))
        return EMPTY if row[0] is None else unpacked(row[0], row[1], int(row[2] or 0))

    async def _append(self, user: int, item: int, rating: int, event_id: str) -> bool:
        arguments: list[bytes | int] = [
            item.to_bytes(4, "little"),
            rating.to_bytes(1, "little", signed=True),
            REMEMBERED_S,
            LONGEST,
        ]
        keys = [f"user:{user}", f"event:{event_id}"]
        return bool(await self._script(keys=keys, args=arguments))

    def _keep(self, user: int, history: History) -> None:
        self._cache[user] = history
        self._cache.move_to_end(user)
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
