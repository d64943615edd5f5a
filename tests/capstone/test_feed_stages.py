"""The stages of a feed: order, deadlines, fallback; scores on the wire; ids nobody can make up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import loaded_bundle, score_codec
from capstone.api import Reaction, Slot, signed_rating
from capstone.bundle import Bundle
from capstone.fallback import CircuitBreaker, DependencyDown, LastGood, Missed
from capstone.feed import DEADLINES_MS, Pipeline, Request, execute_stages
from capstone.loaded_bundle import LoadedBundle, Mismatch
from capstone.request_ids import RequestIds
from capstone.score_codec import Malformed, ScoreRequest
from capstone.scorer import LocalScorer, TorchServeConnection, TorchServeScorer
from capstone.service_metrics import ServiceMetrics
from capstone.sources import ITEM_TO_ITEM, Candidates, mask_of
from capstone.stages import Score, build_pipeline
from capstone.user_state import History, SqliteState, read_histories
from capstone.value import HEADS
from tests.capstone import tiny_bundle

NAMES = ("hydrate", "source", "filter", "score", "select")


@dataclass
class Step:
    """A stage that takes ``seconds``, then raises ``error`` if there is one."""

    name: str
    seconds: float = 0.0
    error: Exception | None = None
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    calls: int = 0

    async def __call__(self, request: Request) -> None:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error


def run(
    steps: dict[str, Step], deadlines_s: dict[str, float], request: Request | None = None
) -> tuple[Request, dict[str, Step], list[str], list[Exception]]:
    """Execute stages, those not given being instant."""
    every = {name: Step(name) for name in (*NAMES, "fallback", "log")} | steps
    observed: list[str] = []
    errors: list[Exception] = []
    done = asyncio.run(
        execute_stages(
            Pipeline(**every),
            request or Request("r", 1, "1", 10, 0),
            deadlines_s=deadlines_s,
            observe=lambda stage, seconds: observed.append(stage),
            on_error=lambda request, stage, error: errors.append(error),
        )
    )
    return done, every, observed, errors


PLENTY = dict.fromkeys(NAMES, 1.0)


def test_the_default_deadlines_fit_into_what_a_feed_may_take() -> None:
    assert set(DEADLINES_MS) == set(NAMES)
    assert sum(DEADLINES_MS.values()) < 50


def test_a_request_goes_through_all_stages_in_order() -> None:
    request, steps, observed, _ = run({}, PLENTY)
    assert observed == [*NAMES, "log"]
    assert request.missed is None
    assert steps["fallback"].calls == 0


def test_the_stages_add_up_to_the_whole() -> None:
    """Time between two stages would be time that no panel shows."""
    request, _, _, _ = run({"source": Step("source", 0.01), "score": Step("score", 0.02)}, PLENTY)
    ticks = iter(range(100))
    clocked = asyncio.run(
        execute_stages(
            Pipeline(**{name: Step(name) for name in (*NAMES, "fallback", "log")}),
            Request("r", 1, "1", 10, 0),
            deadlines_s=dict.fromkeys(NAMES, 100.0),
            observe=lambda stage, seconds: None,
            on_error=lambda request, stage, error: None,
            clock=lambda: next(ticks),
        )
    )
    assert sum(request.timings_ms.values()) >= 30
    assert sum(clocked.timings_ms.values()) == 1000 * (next(ticks) - 1)


@pytest.mark.parametrize("stage", NAMES)
@pytest.mark.parametrize(
    ("error", "reason"), [(DependencyDown("gone"), Missed.DOWN), (KeyError("bug"), Missed.ERROR)]
)
def test_a_stage_that_fails_makes_a_fallback_feed_never_an_error(
    stage: str, error: Exception, reason: Missed
) -> None:
    """Whatever breaks, the person sees a feed, the log has it, and the cause is counted."""
    request, steps, observed, errors = run({stage: Step(stage, error=error)}, PLENTY)
    assert request.missed == (stage, reason)
    assert observed == [*NAMES[: NAMES.index(stage) + 1], "fallback", "log"]
    assert steps["fallback"].calls == steps["log"].calls == 1
    assert errors == ([error] if reason is Missed.ERROR else [])


def test_a_stage_that_misses_its_deadline_is_given_up() -> None:
    request, _, _, _ = run({"score": Step("score", 5.0)}, dict.fromkeys(NAMES, 0.02))
    assert request.missed == ("score", Missed.DEADLINE)
    assert request.timings_ms["score"] < 4000


def test_time_that_an_earlier_stage_left_over_is_the_next_ones() -> None:
    """Deadlines are points in time: cutting a healthy request off because of its share is waste."""
    generous = {"hydrate": 0.3, "source": 0.001, "filter": 0.001, "score": 0.001, "select": 0.001}
    request, _, _, _ = run({"score": Step("score", 0.03)}, generous)
    assert request.missed is None


def test_a_slow_stage_takes_the_time_of_those_after_it() -> None:
    """The whole has a limit, whoever used it up; the scorer is not blamed for it."""
    score = Step("score")
    request, _, _, _ = run({"source": Step("source", 0.0)}, PLENTY)
    times = iter([0.0, 0.0, 0.001, 0.002, 0.9])
    asyncio.run(
        execute_stages(
            Pipeline(**{name: Step(name) for name in NAMES if name != "score"}, score=score,
                     fallback=Step("fallback"), log=Step("log")),
            request,
            deadlines_s=dict.fromkeys(NAMES, 0.01),
            observe=lambda stage, seconds: None,
            on_error=lambda request, stage, error: None,
            clock=lambda: next(times, 0.9),
        )
    )  # fmt: skip
    assert request.missed is not None
    assert request.missed[1] is Missed.LATE
    assert score.calls == 0
    assert not score.breaker.open


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle.build(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def loaded(tiny: Bundle) -> LoadedBundle:
    return loaded_bundle.load(tiny.folder)


class Down:
    """A scorer that never answers."""

    async def score(self, request: ScoreRequest) -> dict[str, np.ndarray]:
        raise DependencyDown("gone")


def real_feed(
    loaded: LoadedBundle,
    folder: Path,
    *,
    user: int = 3,
    k: int = 10,
    down: bool = False,
    withdrawn: tuple[int, ...] = (),
    last_good: LastGood | None = None,
    reaction: tuple[int, int] | None = None,
) -> tuple[Request, list[dict]]:  # type: ignore[type-arg]
    """A feed of the real stages; also what was logged."""
    exposed: list[dict] = []  # type: ignore[type-arg]
    users = read_histories(tiny_bundle.write_users(folder / "users.json"))

    async def main() -> Request:
        state = SqliteState(folder / "state.sqlite", users)
        if reaction is not None:
            await state.append(user, *reaction, "event")
        pipeline = build_pipeline(
            loaded, arm="control", experiment=lambda: "feed", state=state,
            scorer=Down() if down else LocalScorer(loaded.bundle.ranker),
            breaker=CircuitBreaker(), expose=lambda row: exposed.append(dict(row)) or True,
            metrics=ServiceMetrics(), last_good=last_good or LastGood(),
            withdrawn=set(withdrawn), rng=np.random.default_rng(0),
        )  # fmt: skip
        request = await execute_stages(
            pipeline, Request("r", user, str(user), k, 0), deadlines_s=PLENTY,
            observe=lambda stage, seconds: None, on_error=fail,
        )  # fmt: skip
        await state.close()
        return request

    def fail(request: Request, stage: str, error: Exception) -> None:
        raise error

    return asyncio.run(main()), exposed


def test_a_feed_has_only_what_the_user_has_not_seen_and_may_see(
    loaded: LoadedBundle, tmp_path: Path
) -> None:
    first, _ = real_feed(loaded, tmp_path)
    assert first.shown is not None
    gone = int(first.shown.items[0])
    request, (row,) = real_feed(loaded, tmp_path, withdrawn=(gone,), k=50)
    assert request.shown is not None
    items = set(request.shown.items.tolist())
    assert len(items) == len(request.shown.items) <= tiny_bundle.CANDIDATES
    assert not items & {*range(3, 9), gone, tiny_bundle.N_ITEMS, 0}
    assert row["items"].tolist() == request.shown.items.tolist()
    assert 0 < row["propensities"].min() < 1, "one slot explores: its propensity is in the log"


def test_a_user_without_a_history_gets_popular_and_fresh_items(
    loaded: LoadedBundle, tmp_path: Path
) -> None:
    """A cold start: there is no query and no neighbour to start from, and still a feed."""
    request, (row,) = real_feed(loaded, tmp_path, user=999)
    assert request.cold_start
    assert row["cold_start"]
    assert request.shown is not None
    assert len(request.shown.items) == 10
    assert not (request.shown.source & 3).any(), "no nearest, no item to item"


def offered_by(request: Request, source: int) -> set[int]:
    found = request.candidates
    return set(found.ids[found.source & source > 0].tolist())


def test_a_hidden_item_pulls_in_no_neighbours_and_a_liked_one_does(
    loaded: LoadedBundle, tmp_path: Path
) -> None:
    """What was sent away is no reason for more of it; it is seen, and the ranker knows why."""
    before, _ = real_feed(loaded, tmp_path)
    first = set(loaded.tables.neighbours[3:9].ravel().tolist())
    item = next(
        item for item in before.candidates.ids.tolist()
        if not first & {item, *loaded.tables.neighbours[item].tolist()}
    )  # fmt: skip
    near = set(loaded.tables.neighbours[item].tolist()) - {item, tiny_bundle.N_ITEMS}
    requests = {}
    for reaction in (Reaction.LIKE, Reaction.HIDE):
        folder = tmp_path / reaction.value
        folder.mkdir()
        rating = signed_rating(reaction)
        requests[reaction], _ = real_feed(loaded, folder, reaction=(item, rating))
    liked, hidden = requests.values()
    assert offered_by(liked, ITEM_TO_ITEM) & near
    assert not offered_by(hidden, ITEM_TO_ITEM) & near, "as if nothing had been added"
    assert item not in hidden.candidates.ids
    queries = [loaded.query(each.history) for each in (before, hidden, liked)]
    assert np.array_equal(queries[0], queries[1])
    assert not np.array_equal(queries[0], queries[2])


def test_candidates_are_remembered_until_the_history_changes(loaded: LoadedBundle) -> None:
    """Found anew they would be the same. Two gateways that cannot reach their store may count
    different histories alike, so the version alone says nothing."""
    watched = np.arange(3, 9)

    def candidates(items: np.ndarray, ratings: np.ndarray) -> Candidates:
        history = History(items, ratings, version=7)
        seen = mask_of(items, loaded.catalogue.n_items)
        return loaded.candidates(77, history, seen)

    first = candidates(watched, np.full(6, 4))
    assert candidates(watched.copy(), np.full(6, 4)) is first
    other = candidates(np.arange(3, 10), np.full(7, 4))
    assert 9 not in other.ids
    assert 9 in first.ids
    hidden = candidates(watched, np.array([4, 4, 4, 4, 4, -1]))
    assert hidden is not other
    assert not np.array_equal(hidden.ids, first.ids)


def test_the_ranker_reads_a_hide_as_the_lowest_rating(loaded: LoadedBundle, tmp_path: Path) -> None:
    """A sign is retrieval's; the model knows ratings from 1 to 5."""
    seen: list[ScoreRequest] = []

    class Recorder:
        async def score(self, request: ScoreRequest) -> dict[str, np.ndarray]:
            seen.append(request)
            raise DependencyDown("enough")

    request, _ = real_feed(loaded, tmp_path, reaction=(20, signed_rating(Reaction.HIDE)))
    with pytest.raises(DependencyDown):
        asyncio.run(Score(loaded, Recorder(), CircuitBreaker())(request))
    assert (seen[0].items[-1], seen[0].ratings[-1]) == (20, 1)
    assert seen[0].ratings.min() == 1


@pytest.mark.parametrize("known", [True, False])
def test_without_a_scorer_the_last_good_ranking_or_popular_items_are_shown(
    loaded: LoadedBundle, tmp_path: Path, known: bool
) -> None:
    last_good = LastGood()
    before, _ = real_feed(loaded, tmp_path, last_good=last_good)
    request, (row,) = real_feed(
        loaded, tmp_path, down=True, last_good=last_good if known else LastGood()
    )
    assert request.missed == ("score", Missed.DOWN)
    assert row["fallback"] == "score"
    assert request.shown is not None
    assert before.shown is not None
    assert set(request.shown.slots) == {Slot.FALLBACK}
    assert len(request.shown.items) == 10
    same = request.shown.items[0] == before.shown.items[0]
    assert same == known
    assert not set(request.shown.items.tolist()) & set(range(3, 9))


@pytest.mark.parametrize(
    ("part", "options"),
    [("index", {"index_of": "another checkpoint"}), ("files", {})],
)
def test_a_bundle_that_does_not_fit_together_names_the_part(
    tmp_path: Path, part: str, options: dict[str, str]
) -> None:
    """An index of another checkpoint answers every query, and nothing in the answer is true."""
    made = tiny_bundle.build(tmp_path / "bundle", **options)  # type: ignore[arg-type]
    if part == "files":
        made.ranker.write_bytes(made.ranker.read_bytes() + b"x")
    with pytest.raises(Mismatch) as refused:
        loaded_bundle.load(made.folder)
    assert refused.value.part == part
    assert made.version in str(refused.value)


counts = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), min_size=1, max_size=5)


def requests_of(sizes: list[tuple[int, int]]) -> list[ScoreRequest]:
    rng = np.random.default_rng(0)
    return [
        ScoreRequest(
            rng.integers(1, 2**31 - 1, h), rng.integers(1, 6, h), rng.integers(1, 2**31 - 1, c)
        )
        for h, c in sizes
    ]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(counts)
def test_what_is_encoded_for_the_ranker_is_decoded_again(sizes: list[tuple[int, int]]) -> None:
    sent = requests_of(sizes)
    for one, other in zip(sent, score_codec.decode(score_codec.encode(sent)), strict=True):
        for name in ("items", "ratings", "candidates"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.binary(max_size=60))
def test_bytes_of_a_stranger_are_refused_not_misread(body: bytes) -> None:
    """Whatever comes, it is a body of the format or one error."""
    try:
        found = score_codec.decode(body)
    except Malformed:
        return
    assert score_codec.encode(found) == body


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_scores_that_are_no_probabilities_are_refused(value: float) -> None:
    """A poisoned model must cost its feeds the ranking, not poison the log."""
    good = {head: np.full(3, 0.5) for head in HEADS}
    assert score_codec.decode_scores(score_codec.encode_scores([good]), [3])[0].keys() == {*HEADS}
    bad = score_codec.encode_scores([good | {HEADS[1]: np.full(3, value)}])
    with pytest.raises(Malformed):
        score_codec.decode_scores(bad, [3])
    with pytest.raises(Malformed, match="expected"):
        score_codec.decode_scores(bad[:-1], [3])


class Server:
    """Answers the scorer's POSTs after ``seconds``; keeps how many users each had."""

    def __init__(self, seconds: float = 0.0, status: bytes = b"200 OK") -> None:
        self.seconds, self.status = seconds, status
        self.users: list[int] = []
        self.tokens: set[bytes] = set()
        self.closed_early = 0
        self.under_way = self.most_under_way = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                self.tokens.add(fields[b"Authorization"])
                users = score_codec.decode(
                    await reader.readexactly(int(fields[b"Content-Length"]))
                )  # fmt: skip
                self.users.append(len(users))
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                ask = asyncio.ensure_future(reader.read(1))
                done, _ = await asyncio.wait([ask], timeout=self.seconds)
                if done:
                    self.closed_early += 1
                    break
                ask.cancel()
                await asyncio.gather(ask, return_exceptions=True)
                self.under_way -= 1
                rows = [dict.fromkeys(HEADS, user.candidates / 1000) for user in users]
                body = score_codec.encode_scores(rows)
                writer.write(
                    b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (self.status, len(body))
                )
                writer.write(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def scores_from(
    server: Server,
    sizes: list[int],
    *,
    token: str | Path = "secret",
    timeout: float = 5.0,
    under_way: int = 2,
) -> list[object]:
    """What the scorer says to requests of these numbers of candidates, all at once."""
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    connection = TorchServeConnection(f"http://127.0.0.1:{port}", token, slots=under_way)
    scorer = TorchServeScorer(connection, "1.0", under_way=under_way)

    async def ask(count: int) -> object:
        async with asyncio.timeout(timeout):
            one = np.arange(1, count + 1)
            return await scorer.score(ScoreRequest(one[:1], one[:1], one))

    try:
        return await asyncio.gather(*map(ask, sizes), return_exceptions=True)
    finally:
        await connection.close()
        listening.close()


def test_requests_that_wait_go_out_together_and_each_gets_its_own_scores() -> None:
    """The frontend's cost is by POST; a mixed-up answer would be another person's feed."""
    server = Server(seconds=0.02)
    answers = asyncio.run(scores_from(server, list(range(1, 41))))
    for count, scores in zip(range(1, 41), answers, strict=True):
        assert isinstance(scores, dict), scores
        expected = np.arange(1, count + 1, dtype=np.float32) / 1000
        np.testing.assert_allclose(scores["like"], expected, rtol=1e-6)
    assert sum(server.users) == 40
    assert len(server.users) <= 5, server.users


@pytest.mark.parametrize("under_way", [1, 2, 5])
def test_as_many_posts_are_on_their_way_as_workers_can_take(under_way: int) -> None:
    """Fewer leave a worker idle; more wait in a queue, where nobody can join them any more."""
    server = Server(seconds=0.02)
    asyncio.run(scores_from(server, [3] * 40, under_way=under_way))
    assert server.most_under_way == under_way
    assert server.users[:under_way] == [1] * under_way
    assert sum(server.users) == 40


def test_what_nobody_waits_for_any_more_is_cancelled_at_the_server() -> None:
    """A deadline that leaves the work running moves the overload to where nobody sees it."""
    server = Server(seconds=5.0)

    async def main() -> list[object]:
        answers = await scores_from(server, [3], timeout=0.05)
        await asyncio.sleep(0.05)
        return answers

    assert [type(each) for each in asyncio.run(main())] == [TimeoutError]
    assert server.closed_early == 1


def test_a_server_that_fails_is_a_dependency_that_is_down(tmp_path: Path) -> None:
    """A server that was started again has another token: the file is read after a failure."""
    token = tmp_path / "token"
    token.write_text("old")

    async def main() -> tuple[list[object], TorchServeConnection]:
        refusing = Server(status=b"503 Service Unavailable")
        return await scores_from(refusing, [2, 3], token=token), refusing

    answers, refusing = asyncio.run(main())
    assert [type(each) for each in answers] == [DependencyDown, DependencyDown]
    assert refusing.tokens == {b"Bearer old"}

    async def renewed() -> str:
        connection = TorchServeConnection("http://127.0.0.1:1", token)
        scorer = TorchServeScorer(connection, "1.0")
        token.write_text("new")
        one = np.ones(1, dtype=np.int64)
        with pytest.raises(DependencyDown):
            await scorer.score(ScoreRequest(one, one, one))
        await connection.close()
        return connection.token

    assert asyncio.run(renewed()) == "new"


def test_request_ids_cannot_be_made_up_or_used_by_another_user() -> None:
    """Else anybody with a token could write reactions into somebody else's history."""
    ids, replica = RequestIds("secret"), RequestIds("secret")
    one, two = ids.new(7), ids.new(7)
    assert one != two
    assert replica.issued(one, 7), "another gateway, or this one after a restart"
    assert not ids.issued(one, 8)
    assert not RequestIds("other").issued(one, 7)
    name, mac = two.split(".")
    for forged in ("drill", "", ".", f"{name}.", f"{one.split('.')[0]}.{mac}", f"x{two}"):
        assert not ids.issued(forged, 7), forged
