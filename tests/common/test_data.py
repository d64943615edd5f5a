"""Datasets: sources in order, every fault one clear error, nothing half-written counts."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.data import DataError, load, registry
from common.data.__main__ import main as command
from common.data.fetch import find
from common.data.registry import DataFile, Entry, Wheel
from common.errors import InputError
from common.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"user,item\n1,2\n" * 5000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one answer to every request and counts them; ``gate`` holds the second half back."""

    def __init__(self) -> None:
        self.body, self.status, self.requests = CONTENT, 200, 0
        self.claimed: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/toy.csv"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        body = self.server.body
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.claimed or len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.server.gate.wait(30)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.gate.set()
        running.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no folder of one's own, and a pip that has no index."""
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LABS_DATA_DIR", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "cache"


def toy(address: str | None, *, wheel: bool = False) -> Entry:
    file = DataFile("toy.csv", SHA, len(CONTENT), address, "toy_data/toy.csv")
    return Entry(
        name="toy",
        title="Toy",
        licence="none",
        citation="none",
        homepage="http://localhost/toy",
        files=(file,),
        wheel=Wheel("toy-data", "1.0") if wheel else None,
        no_address="made for a test",
    )


def make_wheel(folder: Path, body: bytes, member: str = "toy_data/toy.csv") -> None:
    with zipfile.ZipFile(folder / "toy_data-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, body)
        archive.writestr(
            "toy_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n",
        )
        archive.writestr(
            "toy_data-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")


def closed_address() -> str:
    return f"http://127.0.0.1:{free_port()}/toy.csv"


def visible(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_unknown_dataset_is_a_bad_input_that_lists_the_known_names() -> None:
    with pytest.raises(InputError, match=r"'movielens'.*known: ml-100k, adult.*docstrings"):
        load("movielens")


def test_importing_the_registry_does_not_import_pandas() -> None:
    code = "import sys, common.data; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_official_address_is_used_and_then_the_cache(cache: Path, server: Server) -> None:
    files, source = find(toy(server.address))
    assert files["toy.csv"].read_bytes() == CONTENT
    assert source == f"address 127.0.0.1:{server.server_port}"
    again, source_again = find(toy(server.address))
    assert again == files
    assert source_again == source, "the cache must remember where the file came from"
    assert server.requests == 1


def test_a_folder_of_ones_own_comes_first(
    cache: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("empty", "mine/toy"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine/toy/toy.csv").write_bytes(CONTENT)
    monkeypatch.setenv("LABS_DATA_DIR", f"{tmp_path / 'empty'}:{tmp_path / 'mine'}")
    files, source = find(toy(server.address))
    assert files["toy.csv"] == tmp_path / "mine/toy/toy.csv"
    assert source == "folder of LABS_DATA_DIR"
    assert server.requests == 0
    assert not cache.exists()


def test_a_wrong_file_in_ones_own_folder_is_an_error_at_once(
    cache: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine/toy").mkdir(parents=True)
    (tmp_path / "mine/toy/toy.csv").write_bytes(b"edited")
    monkeypatch.setenv("LABS_DATA_DIR", str(tmp_path / "mine"))
    with pytest.raises(DataError) as error:
        find(toy(server.address))
    for part in ("mine/toy/toy.csv", SHA, hashlib.sha256(b"edited").hexdigest(), "replace it"):
        assert part in str(error.value)
    assert server.requests == 0


def test_a_folder_that_does_not_exist_is_a_bad_input(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABS_DATA_DIR", "/nowhere/at/all")
    with pytest.raises(InputError, match=r"LABS_DATA_DIR names '/nowhere/at/all'"):
        load("adult")


@pytest.mark.parametrize("damage", [CONTENT[:100], b"x" + CONTENT[1:], b""])
def test_a_damaged_cache_is_fetched_again(
    cache: Path, server: Server, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "toy").mkdir(parents=True)
    (cache / "toy/toy.csv").write_bytes(damage)
    files, _ = find(toy(server.address))
    assert files["toy.csv"].read_bytes() == CONTENT
    assert "damaged" in capsys.readouterr().err


def test_a_truncated_download_never_counts_as_cached(cache: Path, server: Server) -> None:
    server.body, server.claimed = CONTENT[:1000], None
    with pytest.raises(DataError, match=r"gave 1000 bytes of 70000 with sha256"):
        find(toy(server.address))
    assert visible(cache / "toy") == [".lock"]
    server.body = CONTENT
    assert find(toy(server.address))[0]["toy.csv"].read_bytes() == CONTENT


def test_a_connection_cut_in_the_middle_never_counts_as_cached(cache: Path, server: Server) -> None:
    server.body, server.claimed = CONTENT[:1000], len(CONTENT)
    with pytest.raises(DataError, match=r"no source has toy/toy\.csv"):
        find(toy(server.address))
    assert visible(cache / "toy") == [".lock"]


def test_without_network_one_error_names_every_source_and_how_to_supply_the_file(
    cache: Path,
) -> None:
    address = closed_address()
    with pytest.raises(DataError) as error:
        find(toy(address, wheel=True))
    message = str(error.value)
    for part in (
        "LABS_DATA_DIR is not set",
        f"the cache ({cache}/toy): not there",
        f"{address}: 127.0.0.1",
        "cannot be reached",
        "wheel toy-data==1.0 by pip: ",
        "Could not find a version",
        "set LABS_DATA_DIR to a folder that holds",
        "toy/toy.csv  sha256",
        SHA,
    ):
        assert part in message, f"{part!r} is missing in:\n{message}"


def test_an_address_that_answers_404_falls_through_to_the_wheel(
    cache: Path, server: Server, tmp_path: Path
) -> None:
    server.status = 404
    make_wheel(tmp_path / "wheels", CONTENT)
    files, source = find(toy(server.address, wheel=True))
    assert files["toy.csv"].read_bytes() == CONTENT
    assert source == "wheel toy-data 1.0"
    assert visible(cache / "toy") == [".lock", ".sources.json", "toy.csv"]


def test_a_wheel_with_other_bytes_or_without_the_member_is_refused(
    cache: Path, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "wheels", b"other")
    with pytest.raises(DataError, match=r"toy_data/toy.csv: gave 5 bytes of 70000"):
        find(toy(None, wheel=True))
    make_wheel(tmp_path / "wheels", CONTENT, member="elsewhere.csv")
    with pytest.raises(DataError, match="the wheel has no such member"):
        find(toy(None, wheel=True))


def test_a_cache_that_cannot_be_written_is_a_clear_error(
    cache: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written.*set LABS_CACHE"):
        find(toy(server.address))


FETCH = """
from pathlib import Path
import sys
from common.data.fetch import find
from common.data.registry import DataFile, Entry
entry = Entry("toy", "", "", "", "", (DataFile("toy.csv", sys.argv[2], 70000, sys.argv[1]),))
print(find(entry)[0]["toy.csv"].stat().st_size)
"""


def start_fetch(server: Server) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, server.address, SHA],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for_request(server: Server, count: int = 1) -> None:
    deadline = time.monotonic() + 30
    while server.requests < count:
        assert time.monotonic() < deadline, "the download never began"
        time.sleep(0.02)


def test_kill_9_during_a_download_leaves_nothing_that_counts(cache: Path, server: Server) -> None:
    server.gate.clear()
    child = start_fetch(server)
    wait_for_request(server)
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (cache / "toy/toy.csv").exists()
    server.gate.set()
    assert find(toy(server.address))[0]["toy.csv"].read_bytes() == CONTENT
    assert visible(cache / "toy") == [".lock", ".sources.json", "toy.csv"], "stale parts remain"


def test_two_processes_download_once(cache: Path, server: Server) -> None:
    server.gate.clear()
    children = [start_fetch(server) for _ in range(2)]
    wait_for_request(server)
    time.sleep(1.0)
    server.gate.set()
    assert [child.communicate(timeout=30)[0].strip() for child in children] == ["70000", "70000"]
    assert server.requests == 1, f"{server.requests} downloads of one file"


def test_ctrl_c_while_waiting_for_another_process_is_one_line(cache: Path, server: Server) -> None:
    (cache / "nsw").mkdir(parents=True)
    with (cache / "nsw/.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = subprocess.Popen(
            [sys.executable, "-m", "common.data", "fetch", "nsw"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stderr is not None
        assert "waiting for another process" in child.stderr.readline()
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
        assert child.wait() == 130
        child.stderr.close()
    assert rest == "error: interrupted: nothing half-written was kept\n"


def test_a_damaged_note_of_sources_does_no_harm(cache: Path, server: Server) -> None:
    find(toy(server.address))
    (cache / "toy/.sources.json").write_text("{half")
    assert find(toy(server.address))[1] == "cache"


def test_one_unreachable_host_is_tried_and_named_once(cache: Path) -> None:
    entry = toy(closed_address())
    second = replace(entry.files[0], name="second.csv")
    with pytest.raises(DataError) as error:
        find(replace(entry, files=(entry.files[0], second)))
    assert str(error.value).count("cannot be reached") == 1
    assert "toy/second.csv" in str(error.value)


def test_a_wrong_number_of_rows_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load("nsw")
    wrong = replace(dataset, entry=replace(dataset.entry, rows={"nsw": 444}))
    with pytest.raises(DataError, match="has 445 rows, expected 444"):
        wrong.table("nsw")


def test_unknown_files_tables_and_arrays_are_bad_inputs() -> None:
    dataset = load("nsw")
    with pytest.raises(InputError, match=r"no file 'x'; its files: nsw_mixtape.dta"):
        dataset.path("x")
    with pytest.raises(InputError, match="no table 'x'; its tables: nsw, cps"):
        dataset.table("x")
    with pytest.raises(InputError, match="no array 'x'; its arrays: none"):
        dataset.array("x")


def test_every_registered_file_has_a_source_and_a_hash() -> None:
    for entry in registry.REGISTRY.values():
        assert entry.title
        assert entry.licence
        assert entry.citation
        for file in entry.files:
            assert len(file.sha256) == 64
            assert file.size > 0
            assert file.address or entry.no_address, f"{entry.name}/{file.name}"
            assert file.address or (entry.wheel and file.member)


def test_the_command_lists_and_fetches(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(registry.REGISTRY, "toy", toy(server.address))
    assert command([]) == 0
    assert "toy           not cached" in capsys.readouterr().out
    assert command(["fetch", "toy"]) == 0
    assert "toy: verified, from address 127.0.0.1" in capsys.readouterr().out
    assert command([]) == 0
    assert "toy           cached" in capsys.readouterr().out
    assert command(["fetch", "nothing"]) == 2
    assert "no dataset is called 'nothing'" in capsys.readouterr().err
    server.body = b"changed"
    (cache / "toy/toy.csv").unlink()
    assert command(["fetch", "toy"]) == 1
    assert "error: no source has toy/toy.csv" in capsys.readouterr().err
