"""Online histories: bounded, changed once for an event, and there when their store is not."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import user_state
from capstone.user_state import (
    EMPTY,
    History,
    SqliteState,
    packed,
    read_histories,
    replay,
    unpacked,
)
from capstone.user_state_redis import RedisState
from common.errors import InputError
from common.ports import LOOPBACK, free_port
from tests.capstone.test_event_log import full_disk

INITIAL = {1: History(np.array([5, 6]), np.array([3, 4]), 1)}


def flat(history: History) -> list[tuple[int, int]]:
    return list(zip(history.items.tolist(), history.ratings.tolist(), strict=True))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), max_size=30))
def test_a_history_has_each_item_once_with_its_newest_rating(
    reactions: list[tuple[int, int]],
) -> None:
    """A film that is clicked and then liked was watched once, and is liked."""
    history = EMPTY
    for item, rating in reactions:
        history = history.appended(item, rating)
    newest = {}
    for item, rating in reactions:
        newest.pop(item, None)
        newest[item] = rating
    assert flat(history) == list(newest.items())
    assert flat(unpacked(*packed(history))) == flat(history)


def test_a_history_is_bounded() -> None:
    history = EMPTY
    for item in range(user_state.LONGEST + 5):
        history = history.appended(item + 1, 3)
    assert len(history.items) == user_state.LONGEST
    assert history.items[-1] == user_state.LONGEST + 5


def test_sqlite_keeps_reactions_over_a_restart_and_leaves_known_users_alone(
    tmp_path: Path,
) -> None:
    async def first() -> None:
        state = SqliteState(tmp_path / "state.sqlite", INITIAL)
        version = (await state.get(1)).version
        assert await state.append(1, 9, 5, "a")
        assert not await state.append(1, 8, 5, "a"), "an event changes a history once"
        assert (await state.get(1)).version > version, "what was computed from it is stale"
        assert await state.get(77) is EMPTY
        await state.close()

    async def second() -> None:
        state = SqliteState(tmp_path / "state.sqlite", INITIAL | {2: EMPTY})
        assert flat(await state.get(1)) == [(5, 3), (6, 4), (9, 5)]
        assert not await state.append(1, 7, 5, "a")
        assert [user for user, _ in await state.people(5)] == [1, 2]
        await state.close()

    asyncio.run(first())
    asyncio.run(second())


def test_a_lost_state_is_rebuilt_from_the_log(tmp_path: Path) -> None:
    """The state is a view of the log: replaying all of it changes only what is missing."""
    rows = [
        {"event_id": "a", "user_id": 1, "item_id": 9, "reaction": "like"},
        {"event_id": "b", "user_id": 3, "item_id": 4, "reaction": "hide"},
    ]

    async def main() -> None:
        state = SqliteState(tmp_path / "state.sqlite", INITIAL)
        await state.append(1, 9, 5, "a")
        assert await replay(state, rows) == 1
        assert await replay(state, rows) == 0
        assert flat(await state.get(3)) == [(4, -1)], "a hide has a sign"
        assert (await state.get(3)).wanted.tolist() == []
        await state.close()

    asyncio.run(main())


def test_a_state_that_cannot_be_written_shows_the_reaction_and_writes_it_later(
    tmp_path: Path,
) -> None:
    """The event is in the log; a full disk must not make its author see the old feed."""

    async def main() -> None:
        state = SqliteState(tmp_path / "state.sqlite", INITIAL)
        with full_disk(1), pytest.raises(sqlite3.Error):
            await state.append(1, 9, 5, "a")
        assert flat(await state.get(1)) == [(5, 3), (6, 4), (9, 5)]
        await state.append(1, 8, 5, "b")
        await state.close()
        again = SqliteState(tmp_path / "state.sqlite", INITIAL)
        assert flat(await again.get(1)) == [(5, 3), (6, 4), (9, 5), (8, 5)]
        await again.close()

    asyncio.run(main())


def test_files_that_are_no_state_or_no_users_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text("{no database, no json" * 100)
    with pytest.raises(InputError, match="broken"):
        SqliteState(path, INITIAL)
    with pytest.raises(InputError, match="broken"):
        read_histories(path)


@contextmanager
def redis(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", LOOPBACK, "--dir", str(folder),
         "--appendonly", "yes", "--save", ""],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((LOOPBACK, port)) == 0:
                    break
            time.sleep(0.02)
        yield server
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_histories_go_on_without_redis_and_catch_up_when_it_is_back(tmp_path: Path) -> None:
    """Its loss costs freshness, never a feed; and nothing that was reacted meanwhile is lost."""
    port, errors = free_port(), []

    async def main() -> None:
        with redis(port, tmp_path):
            state = await RedisState.connect(
                f"redis://{LOOPBACK}:{port}", INITIAL, cooldown_s=0.05, on_error=errors.append
            )
            assert flat(await state.get(1)) == [(5, 3), (6, 4)]
            assert await state.append(1, 9, 5, "a")
            assert not await state.append(1, 8, 5, "a")
            assert await state.append(1, 5, -1, "b")
            assert flat(await state.get(1)) == [(6, 4), (9, 5), (5, -1)]
            assert await state.get(77) is EMPTY
            assert not state.degraded
        for _ in range(5):
            assert flat(await state.get(1)) == [(6, 4), (9, 5), (5, -1)], "what was read before"
        assert state.degraded
        assert errors[:3] == ["get"] * 3
        assert "get" not in errors[3:], "found to be away, it is not asked by requests"
        assert await state.append(1, 7, 5, "c")
        assert flat(await state.get(1))[-1] == (7, 5), "one's own reaction shows at once"
        assert state.aside == 1
        with redis(port, tmp_path):
            for _ in range(100):
                history = await state.get(1)
                if not state.degraded:
                    break
                await asyncio.sleep(0.05)
            assert flat(history) == [(6, 4), (9, 5), (5, -1), (7, 5)]
            assert state.aside == 0
            other = await RedisState.connect(f"redis://{LOOPBACK}:{port}", INITIAL)
            assert flat(await other.get(1)) == flat(history), "another gateway sees the same"
            await other.close()
        await state.close()

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_a_redis_that_hangs_costs_a_few_timeouts_and_one_that_lost_all_is_filled_again(
    tmp_path: Path,
) -> None:
    """A server that is stopped keeps its connections open: only time tells."""
    port, errors = free_port(), []

    async def until_usable(state: RedisState) -> None:
        for _ in range(100):
            await state.get(1)
            if not state.degraded:
                return
            await asyncio.sleep(0.03)

    async def main() -> None:
        with redis(port, tmp_path) as server:
            state = await RedisState.connect(
                f"redis://{LOOPBACK}:{port}", INITIAL, timeout_s=0.02, cooldown_s=0.05,
                on_error=errors.append,
            )  # fmt: skip
            server.send_signal(signal.SIGSTOP)
            for _ in range(30):
                assert flat(await state.get(1)) == flat(INITIAL[1])
            assert errors == ["get"] * 3
            server.send_signal(signal.SIGCONT)
            await until_usable(state)
        shutil.rmtree(tmp_path / "appendonlydir")
        with redis(port, tmp_path):
            for _ in range(4):
                await state.get(1)
            await until_usable(state)
            assert not state.degraded
            other = await RedisState.connect(f"redis://{LOOPBACK}:{port}", {})
            assert flat(await other.get(1)) == flat(INITIAL[1])
            await other.close()
        await state.close()

    asyncio.run(main())
