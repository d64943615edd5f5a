"""The collection over HTTP: answers, refusals, limits, metrics; a process stopped and killed."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import anyio
import faiss
import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from common.errors import RunError
from common.ports import free_port
from common.process import supervised
from labs.lab2_vector_db import service, service_app
from labs.lab2_vector_db.collection import Collection, Schema

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
DIMENSION = 8
VECTOR = [1.0] + [0.0] * (DIMENSION - 1)


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """100 rows under cosine; price = id, category a or b, missing for every fifth."""
    fields = {"price": "float", "category": "keyword"}
    path = tmp_path_factory.mktemp("service") / "c"
    with Collection.create(path, Schema(DIMENSION, "cosine", fields), sync=False) as made:
        category = [None if id % 5 == 0 else "ab"[id % 2] for id in range(100)]
        payload = {"price": list(map(float, range(100))), "category": category}
        made.upsert(np.arange(100), rows(100), payload)
        yield made


@pytest.fixture(scope="module")
def client(collection):
    app = service_app.create_app(collection, TOKEN, max_body_bytes=2**20)
    with TestClient(app, headers=HEADERS, raise_server_exceptions=False) as made:
        yield made


def test_what_is_upserted_is_found_and_what_is_deleted_is_not(client):
    new = {"ids": [500, 501], "vectors": rows(2, seed=5).tolist()}
    sent = client.post("/v1/points", json=new | {"payload": {"price": [1.5, None]}})
    assert (sent.status_code, sent.json()) == (200, {"upserted": 2})
    stored = client.get("/v1/points/500").json()
    assert stored["payload"] == {"price": 1.5}
    assert np.linalg.norm(stored["vector"]) == pytest.approx(1)
    found = client.post("/v1/search", json={"queries": new["vectors"], "k": 1}).json()
    assert found["ids"] == [[500], [501]]
    assert np.ravel(found["scores"]) == pytest.approx([1, 1])
    assert client.post("/v1/points/delete", json={"ids": [500, 501, 502]}).json() == {"deleted": 2}
    assert client.get("/v1/points/500").status_code == 404


def test_a_search_returns_what_the_collection_does(client, collection):
    queries = rows(7, seed=1)
    expected = collection.search(queries, 10)
    found = client.post("/v1/search", json={"queries": queries.tolist()}).json()
    assert found["ids"] == expected.ids.tolist()
    np.testing.assert_allclose(found["scores"], expected.scores)


def test_filters_and_payload_travel_with_a_search(client):
    condition = {"and": [{"field": "category", "eq": "b"}, {"field": "price", "lt": 4}]}
    wanted = {"queries": [VECTOR], "k": 5, "filter": condition, "with_payload": True}
    found = client.post("/v1/search", json=wanted).json()
    assert sorted(found["ids"][0]) == [1, 3]  # no empty slots: neither -1 nor NaN is valid JSON
    assert [each["price"] for each in found["payloads"][0]] == found["ids"][0]
    assert len(found["scores"][0]) == 2


def test_a_search_by_id_leaves_that_id_out(client, collection):
    found = client.post("/v1/search/7", json={"k": 3}).json()
    assert found["ids"] == collection.search_by_id(7, 3).ids.tolist()


def test_scores_beyond_float32_are_null(tmp_path):
    """1e30 squared is infinite, which JSON cannot say."""
    with Collection.create(tmp_path / "c", Schema(2, "l2"), sync=False) as far:
        far.upsert([1], [[1e30, 0]])
        app = service_app.create_app(far, TOKEN)
        with TestClient(app, headers=HEADERS) as asking:
            found = asking.post("/v1/search", json={"queries": [[0, 0]], "k": 1})
    assert found.json()["scores"] in ([[None]], [[]])


SEARCH, POINTS = "/v1/search", "/v1/points"
BAD = {  # route, body as text, status, part of the message
    "dimension": (SEARCH, '{"queries": [[1, 2]]}', 422, "must be [n, 8]"),
    "NaN": (SEARCH, '{"queries": [[NaN, 1, 1, 1, 1, 1, 1, 1]]}', 422, "NaN"),
    "zero": (SEARCH, '{"queries": [[0, 0, 0, 0, 0, 0, 0, 0]]}', 422, "is zero"),
    "text": (SEARCH, '{"queries": [["1", 0, 0, 0, 0, 0, 0, 0]]}', 422, "queries.0.0"),
    "k of 0": (SEARCH, f'{{"queries": [{VECTOR}], "k": 0}}', 422, "body.k"),
    "k too large": (SEARCH, f'{{"queries": [{VECTOR}], "k": 1001}}', 422, "1000"),
    "nprobe": (SEARCH, f'{{"queries": [{VECTOR}], "nprobe": 4}}', 422, "no inverted lists"),
    "no query": (SEARCH, '{"queries": []}', 422, "at least 1"),
    "misspelt": (SEARCH, f'{{"queries": [{VECTOR}], "filtr": {{}}}}', 422, "filtr"),
    "field": (
        SEARCH,
        f'{{"queries": [{VECTOR}], "filter": {{"field": "colour", "eq": 1}}}}',
        422,
        "'colour' is not in the schema",
    ),
    "type": (
        SEARCH,
        f'{{"queries": [{VECTOR}], "filter": {{"field": "price", "eq": "x"}}}}',
        422,
        "expected float",
    ),
    "levels": (
        SEARCH,
        f'{{"queries": [{VECTOR}], "filter": ' + '{"not":' * 40 + "1" + "}" * 41,
        422,
        "32 levels",
    ),
    "twice": (POINTS, f'{{"ids": [3, 3], "vectors": [{VECTOR}, {VECTOR}]}}', 422, "id 3 is given"),
    "negative": (POINTS, f'{{"ids": [-1], "vectors": [{VECTOR}]}}', 422, "ids.0"),
    "65 bits": (POINTS, f'{{"ids": [{2**63}], "vectors": [{VECTOR}]}}', 422, "ids.0"),
    "counts": (POINTS, f'{{"ids": [3, 4], "vectors": [{VECTOR}]}}', 422, "ids has 2 rows"),
    "payload field": (
        POINTS,
        f'{{"ids": [3], "vectors": [{VECTOR}], "payload": {{"colour": [1]}}}}',
        422,
        "'colour'",
    ),
    "payload type": (
        POINTS,
        f'{{"ids": [3], "vectors": [{VECTOR}], "payload": {{"price": ["x"]}}}}',
        422,
        "'price'",
    ),
    "surrogate": (
        POINTS,
        f'{{"ids": [3], "vectors": [{VECTOR}], "payload": {{"category": ["\\ud800"]}}}}',
        422,
        "no Unicode",
    ),
    "not JSON": (POINTS, '{"ids": [1', 422, "JSON"),
    "a list": (POINTS, "[]", 422, "body"),
    "nothing": (POINTS, "", 422, "body"),
    "unknown id": ("/v1/search/4000", '{"k": 1}', 404, "id 4000"),
    "unknown route": ("/v1/upsert", "{}", 404, "Not Found"),
    "too large": (POINTS, " " * 2**20 + "{}", 413, "1048576 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_changes_nothing(client, collection, name):
    route, body, status, message = BAD[name]
    before = collection.stats().lsn
    answer = client.post(route, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert message in answer.json()["detail"]
    assert set(answer.json()) == {"detail"}
    assert len(answer.json()["detail"]) < 400
    assert collection.stats().lsn == before


def test_a_body_without_a_length_is_counted(client):
    """A client that sends chunks need not say how many come."""
    chunks = (b" " * 2**18 for _ in range(5))
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/points", content=chunks, headers=headers).status_code == 413


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer tökén"]
)
def test_without_the_token_nothing_is_answered_and_no_body_is_read(collection, header):
    """FastAPI reads the whole body before it looks at a dependency; the token comes before."""
    app = service_app.create_app(collection, TOKEN)
    headers = {} if header is None else {"Authorization": header.encode()}
    with TestClient(app) as asking:
        for route in ("/v1/stats", "/v1/points/1", "/openapi.json", "/nowhere"):
            answer = asking.get(route, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for route in ("/healthz", "/readyz", "/metrics"):
            assert asking.get(route, headers=headers).status_code == 200
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    pairs = [(name.lower().encode(), value) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/points", "headers": pairs}
    anyio.run(app, scope, receive, send)
    assert sent[0]["status"] == 401


def test_openapi_describes_every_route_with_its_models(client):
    document = client.get("/openapi.json").json()
    assert {
        "/v1/points",
        "/v1/points/delete",
        "/v1/points/{id}",
        "/v1/search",
        "/v1/search/{id}",
        "/v1/stats",
        "/v1/flush",
        "/v1/compact",
        "/healthz",
        "/readyz",
        "/metrics",
    } == set(document["paths"])
    assert document["components"]["schemas"]["Search"]["examples"]
    assert document["components"]["schemas"]["Points"]["examples"]
    assert document["paths"]["/v1/search"]["post"]["security"] == [{"HTTPBearer": []}]


def test_metrics_count_rows_queries_and_seconds_by_route(collection):
    app = service_app.create_app(collection, TOKEN)
    with TestClient(app, headers=HEADERS) as asking:
        asking.post("/v1/points", json={"ids": [900], "vectors": [VECTOR]})
        asking.post("/v1/search", json={"queries": [VECTOR] * 3})
        for id in (1, 2, 7777):
            asking.get(f"/v1/points/{id}")
        asking.post("/v1/points/delete", json={"ids": [900]})
        asking.get("/v1/nothing/like/it")
        lines = asking.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["vector_db_rows_written_total"] == "1.0"
    assert values["vector_db_rows_deleted_total"] == "1.0"
    assert values["vector_db_queries_total"] == "3.0"
    assert float(values["vector_db_rows"]) == len(collection)
    assert float(values["vector_db_tombstone_share"]) == pytest.approx(
        collection.stats().tombstone_share
    )
    assert float(values["vector_db_log_bytes"]) > 0
    count = "vector_db_request_seconds_count"
    assert values[f'{count}{{route="/v1/points/{{id}}",status="200"}}'] == "2.0"
    assert values[f'{count}{{route="/v1/points/{{id}}",status="404"}}'] == "1.0"
    assert values[f'{count}{{route="none",status="404"}}'] == "1.0"
    assert not [name for name in values if "7777" in name or "nothing" in name]


def test_a_full_disk_is_507_and_leaves_searches_alone(client, collection, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        refused = client.post("/v1/points", json={"ids": [800], "vectors": [VECTOR]})
    assert refused.status_code == 507
    assert "No space left on device" in refused.json()["detail"]
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert "No space" in ready.json()["writes"]
    assert client.post("/v1/search", json={"queries": [VECTOR], "k": 1}).status_code == 200
    assert client.post("/v1/points", json={"ids": [800], "vectors": [VECTOR]}).status_code == 200
    assert client.get("/readyz").json()["writes"] == "ok"
    collection.delete([800])


def test_another_failure_is_503_with_its_reason(client, collection, monkeypatch):
    def fails(*_, **__):
        raise RunError("the log takes no more writes")

    monkeypatch.setattr(collection, "upsert", fails)
    answer = client.post("/v1/points", json={"ids": [1], "vectors": [VECTOR]})
    assert (answer.status_code, answer.json()["detail"]) == (503, "the log takes no more writes")


def test_flush_and_compact_answer_with_what_there_is_now(client, collection):
    done = client.post("/v1/flush").json()
    assert done["rows"] == len(collection)
    assert client.post("/v1/compact").json() == {
        "rows": len(collection),
        "segments": 1,
        "tombstone_share": 0.0,
    }
    assert client.get("/v1/stats").json()["n_in_memory"] == 0


def test_a_full_line_is_refused_at_once():
    """A queue without a bound turns an overload into an outage: everybody waits, and nobody is
    answered in time."""
    held = threading.Event()

    async def overload():
        pool = service_app.Pool("searches", 1, waiting=2)
        async with anyio.create_task_group() as group:
            for _ in range(3):  # one runs, two wait
                group.start_soon(pool.run, lambda: held.wait(30))
            await anyio.wait_all_tasks_blocked()
            try:
                with pytest.raises(HTTPException, match="2 searches are waiting") as refused:
                    await pool.run(lambda: None)
            finally:
                held.set()
        assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "1"})
        assert await pool.run(lambda: "answered") == "answered"

    anyio.run(overload)


def test_searches_that_hang_hold_up_neither_health_nor_writes(collection, monkeypatch):
    """A liveness probe that stands in the queue of the searches has the process killed for being
    busy."""
    held, entered = threading.Event(), threading.Semaphore(0)
    true_search = collection.search
    answers = []

    def slow(*args, **how):
        entered.release()
        assert held.wait(30)
        return true_search(*args, **how)

    monkeypatch.setattr(collection, "search", slow)
    app = service_app.create_app(collection, TOKEN, search_threads=1)
    with TestClient(app, headers=HEADERS) as asking:

        def ask():
            answers.append(asking.post("/v1/search", json={"queries": [VECTOR], "k": 1}))

        threads = [threading.Thread(target=ask) for _ in range(50)]
        for thread in threads:
            thread.start()
        try:
            assert entered.acquire(timeout=30)
            for route in ("/healthz", "/readyz", "/metrics", "/v1/points/1"):
                assert asking.get(route).status_code == 200
            assert asking.post("/v1/points/delete", json={"ids": [9999]}).status_code == 200
            assert not entered.acquire(blocking=False), "two searches run with search_threads=1"
        finally:
            held.set()
            for thread in threads:
                thread.join(30)
    assert [each.status_code for each in answers] == [200] * 50


def test_a_search_uses_one_faiss_thread(client, collection, monkeypatch):
    """The setting is the thread's: made once at the start, it reaches no worker."""
    seen = []
    true_search = collection.search

    def watched(*args, **how):
        seen.append(faiss.omp_get_max_threads())
        return true_search(*args, **how)

    monkeypatch.setattr(collection, "search", watched)
    client.post("/v1/search", json={"queries": [VECTOR], "k": 1})
    client.post("/v1/search/1", json={"k": 1})
    assert seen == [1] * len(seen)
    assert seen


def test_one_flush_or_compaction_at_a_time(collection, monkeypatch):
    held, entered = threading.Event(), threading.Event()

    def slow(*_):
        entered.set()
        assert held.wait(30)

    monkeypatch.setattr(collection, "compact", slow)
    app = service_app.create_app(collection, TOKEN)
    with TestClient(app, headers=HEADERS) as asking:
        answers = []
        first = threading.Thread(target=lambda: answers.append(asking.post("/v1/compact")))
        first.start()
        try:
            assert entered.wait(30)
            assert asking.post("/v1/flush").status_code == 409
        finally:
            held.set()
            first.join(30)
        assert answers[0].status_code == 200
        assert asking.post("/v1/flush").status_code == 200


# ---- start and command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--create"], "--dimension = None must be given"),
        (["--create", "--dimension", "0"], "dimension = 0 must be"),
        (["--create", "--dimension", "4", "--metric", "l1"], "metric = 'l1'"),
        (["--create", "--dimension", "4", "--fields", "price"], "must be name:type"),
        (["--create", "--dimension", "4", "--fields", "a:int,a:int"], "once"),
        (["--create", "--dimension", "4", "--fields", "a:date"], "type of field 'a'"),
        (["--dimension", "4"], "needs --create"),
        ([], "holds no collection"),
        (["--host", "localhost"], "no IPv4 address"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--port", "70000"], "between 1 and 65535"),
    ],
)
def test_a_start_that_cannot_work_is_one_line_and_status_2(
    tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.setenv("LABS_TOKEN", TOKEN)
    with kept_signals():
        status = service.main(["--path", str(tmp_path / "c"), "--port", "0", *arguments])
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_a_second_writer_a_second_create_and_a_taken_port_are_refused(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("LABS_TOKEN", TOKEN)
    path = ["--path", str(tmp_path / "c")]
    with (
        kept_signals(),
        socket.create_server(("127.0.0.1", 0)) as taken,
        Collection.create(tmp_path / "c", Schema(4)),
    ):
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (["--port", "0"], f"open for writing by process {os.getpid()}"),
            (["--port", "0", "--create", "--dimension", "4"], "leave --create out"),
            (["--port", port], f"port {port} for the service is in use"),
        ):
            assert service.main([*path, *arguments]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1


@pytest.mark.parametrize("token", ["short", "", "with a space in the middle", "tökén" * 5])
def test_a_weak_token_is_refused_and_not_repeated(tmp_path, capsys, monkeypatch, token):
    monkeypatch.setenv("LABS_TOKEN", token)
    with kept_signals():
        assert service.main(["--path", str(tmp_path / "c")]) == 2
    error = capsys.readouterr().err
    assert "LABS_TOKEN must hold at least 16" in error
    assert not token or token not in error


@contextmanager
def kept_signals():
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def test_help_needs_none_of_the_heavy_libraries():
    """So it answers in a blink."""
    code = (
        "import sys; from labs.lab2_vector_db import service; service.parser().format_help(); "
        "print([each for each in ('fastapi', 'faiss', 'numpy', 'uvicorn') if each in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


# ---- a real process


@contextmanager
def running(path, log, *arguments):
    """The service as a process: yields it, a client, and the id of the process that writes."""
    port = free_port()
    command = [sys.executable, "-m", "labs.lab2_vector_db.service", "--path", path]
    command += ["--port", str(port), *arguments]
    env = os.environ | {"LABS_TOKEN": TOKEN}
    with (
        supervised(command, log=log, env=env, cwd=ROOT) as child,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=60) as client,
    ):
        deadline = time.monotonic() + 60
        while True:
            try:
                assert client.get("/readyz").status_code == 200
                break
            except httpx.TransportError:
                assert child.poll() is None, child.tail()
                assert time.monotonic() < deadline, child.tail()
                time.sleep(0.05)
        yield child, client, int((path / "lock").read_text())


CREATE = ("--create", "--dimension", str(DIMENSION), "--fields", "version:int")


@pytest.mark.slow
def test_sigterm_answers_what_is_in_flight_and_exits_0(tmp_path):
    """Every deployment sends SIGTERM. A service that drops its requests then loses a few of them
    on every release."""
    path = tmp_path / "c"
    body = json.dumps({"ids": [1], "vectors": [VECTOR]}).encode()
    with running(path, tmp_path / "log", *CREATE) as (child, client, process):
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address, timeout=60) as slow:
            head = f"POST /v1/points HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:10])
            assert client.get("/healthz").status_code == 200  # after it, the head was read
            os.kill(process, signal.SIGTERM)
            deadline = time.monotonic() + 30
            while refused_connection(address) is False:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            slow.sendall(body[10:])
            answer = slow.makefile().read()  # to the end: head and body may come apart
        assert "200 OK" in answer
        assert '"upserted":1' in answer
        assert child.wait(30) == 0
    said = (tmp_path / "log").read_text()
    assert "stopped" in said
    assert "Traceback" not in said
    assert TOKEN not in said
    with Collection.open(path) as again:
        assert again.get([1]) != [None]


def refused_connection(address):
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_write(tmp_path):
    """Four writers, each with ids of its own, write versions of their rows until the process is
    killed. Each row must hold the last acknowledged version, or the one that was on its way."""
    path, n_writers, n_rows = tmp_path / "c", 4, 20
    acknowledged, sent = [0] * n_writers, [0] * n_writers
    for _ in range(2):
        arguments = () if path.exists() else CREATE
        with running(path, tmp_path / "log", *arguments) as (child, client, process):
            goal = [done + 6 for done in acknowledged]

            def write(number, url=str(client.base_url)):
                ids = (number * n_rows + np.arange(n_rows)).tolist()
                with httpx.Client(base_url=url, headers=HEADERS, timeout=60) as own:
                    while True:
                        version = sent[number] = sent[number] + 1
                        body = {"ids": ids, "vectors": rows(n_rows, seed=version).tolist()}
                        body["payload"] = {"version": [version] * n_rows}
                        try:
                            answer = own.post("/v1/points", json=body)
                        except httpx.TransportError:
                            return
                        assert answer.status_code == 200
                        acknowledged[number] = version

            threads = [threading.Thread(target=write, args=(n,)) for n in range(n_writers)]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 60
            while any(done < wanted for done, wanted in zip(acknowledged, goal)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(process, signal.SIGKILL)
            for thread in threads:
                thread.join(60)
            assert child.wait(30) == 128 + signal.SIGKILL
        with Collection.open(path) as found:
            assert len(found) == n_writers * n_rows
            for number in range(n_writers):
                stored = found.get(number * n_rows + np.arange(n_rows))
                versions = {row.payload["version"] for row in stored}
                assert len(versions) == 1, f"writer {number}: a torn batch, versions {versions}"
                (version,) = versions
                assert acknowledged[number] <= version <= sent[number]
                np.testing.assert_array_equal(
                    [row.vector for row in stored], rows(n_rows, seed=version)
                )
