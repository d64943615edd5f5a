"""Progress: lines where nobody watches, a bar on a real terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from common import progress
from common.progress import Progress, track

ROOT = Path(__file__).resolve().parents[2]


def test_items_pass_through_in_order_whatever_they_are() -> None:
    assert list(track([3, 1, 2], "items")) == [3, 1, 2]
    assert list(track((n * n for n in range(4)), "squares")) == [0, 1, 4, 9]
    assert list(track([], "nothing")) == []


def test_quick_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    list(track(range(1000), "quick"))
    assert capsys.readouterr().out == ""


def test_long_work_prints_lines_with_an_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress("train", 10) as bar:
        for done in range(1, 11):
            bar.update(done, f"loss {1 / done:.2f}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  train 3/10, about 28 s left  loss 0.33"
    assert len(lines) == 3, "a line every ten seconds, not one an item"


def test_without_a_total_there_is_no_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    list(track(iter("ab"), "read"))
    assert capsys.readouterr().out.splitlines() == ["  read 1", "  read 2"]


def test_the_items_error_is_not_swallowed() -> None:
    def failing():
        yield 1
        raise KeyError("broken item")

    with pytest.raises(KeyError, match="broken item"):
        list(track(failing(), "items"))


def on_a_terminal(script: str) -> tuple[int, str]:
    """Run ``script`` with a pseudo-terminal as its output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        output += part
    os.close(ours)
    return process.wait(30), output.decode()


def test_a_terminal_gets_a_bar_and_its_cursor_back() -> None:
    status, output = on_a_terminal(
        "import time\nfrom common.progress import Progress\n"
        "with Progress('train [a]', 3) as bar:\n"
        "    for i in (1, 2, 3): bar.update(i, 'loss [b] 0.5'); time.sleep(0.2)\n"
    )
    assert status == 0, output
    assert "train [a]" in output
    assert "3/3" in output
    assert "loss [b] 0.5" in output
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l"), "the cursor stays hidden"


def test_a_bar_within_a_bar_works_on_a_terminal() -> None:
    """Epochs around batches is the commonest loop of all."""
    status, output = on_a_terminal(
        "from common.progress import track\n"
        "pairs = ((e, b) for e in track(range(2), 'epochs') for b in track(range(3), 'batches'))\n"
        "print('sum', sum(1 for _ in pairs))"
    )
    assert status == 0, output
    assert "sum 6" in output


def test_an_exception_under_a_bar_gives_the_cursor_back() -> None:
    status, output = on_a_terminal(
        "from common.progress import Progress\n"
        "with Progress('train', 3) as bar:\n    bar.update(1); raise ValueError('boom')\n"
    )
    assert status == 1
    assert "boom" in output
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")
