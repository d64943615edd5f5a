"""The docstrings dataset: extraction without import, and masks that hide the answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from common.data.docstrings import Source, docstrings_of, fingerprint, mask, sources, topics
from common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
CODE = '''"""Tools of the widgets package for people who like to build widgets."""
raise RuntimeError("importing this file would fail")


class WidgetFrame:
    """A frame of widgets, as `widgets.core.make_frame` returns it to the caller.

    >>> WidgetFrame(3)
    Use ``frame`` or KMeans with some_option, and see scipy.stats for the rest of it.
    """

    def paint(self):
        """Paint the whole thing once, in the colour that was chosen by the user."""

        def inner():
            """Short."""
'''


def write(tmp_path: Path, name: str = "core.py", code: str = CODE) -> Path:
    path = tmp_path / name
    path.write_text(code)
    return path


def test_docstrings_are_read_without_importing(tmp_path: Path) -> None:
    rows = docstrings_of(Source(str(write(tmp_path)), "widgets", "widgets.core"))
    assert [row.text.split()[0] for row in rows] == ["Tools", "A", "_"]
    assert {(row.label, row.library, row.module) for row in rows} == {
        ("widgets", "widgets", "widgets.core")
    }


def test_names_identifiers_and_code_are_masked(tmp_path: Path) -> None:
    rows = docstrings_of(Source(str(write(tmp_path)), "widgets", "widgets.core"))
    text = "\n".join(row.text for row in rows)
    for giveaway in (
        "widgets",
        "make_frame",
        "KMeans",
        "some_option",
        "scipy",
        ">>>",
        "`",
        "Paint",
    ):
        assert giveaway not in text, f"{giveaway!r} gives the label away in:\n{text}"
    assert "the whole thing once, in the colour that was chosen by the user." in text


def test_plain_english_is_left_alone() -> None:
    text = "Return the mean. It is robust to outliers (see Huber, 1981)."
    assert mask(text, {"torch"}) == text
    assert mask("The Torch library and its torchvision friend", {"torch"}) == (
        "The _ library and its torchvision friend"
    )


def test_scipy_and_sklearn_are_labelled_by_submodule(tmp_path: Path) -> None:
    path = str(write(tmp_path))
    assert docstrings_of(Source(path, "scipy", "scipy.stats.core"))[0].label == "scipy.stats"
    assert docstrings_of(Source(path, "scipy", "scipy.stats.core"))[0].library == "scipy"


def test_files_that_do_not_parse_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "template.py", '"""Not Python."""\n{{ cookiecutter.name }} = (')
    assert docstrings_of(Source(str(path), "a", "a.b")) == []


def test_the_sources_are_in_a_fixed_order_and_cover_the_standard_library() -> None:
    found = sources()
    assert found == sources()
    assert {"stdlib", "numpy", "torch"} <= {source.library for source in found}
    assert not any("/labs/" in source.path and "labs." in source.module for source in found[:100])
    assert fingerprint() == fingerprint()


def test_kill_9_while_the_dataset_is_made_leaves_no_process_and_no_dataset(
    tmp_path: Path,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "common.data", "fetch", "docstrings"],
        cwd=ROOT,
        env={**os.environ, "LABS_CACHE": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert "reading the docstrings" in child.stderr.readline()
    deadline = time.monotonic() + 30
    while not workers(tmp_path):
        assert time.monotonic() < deadline, "the dataset was never begun"
        time.sleep(0.05)
    child.kill()
    child.wait()
    child.stderr.close()
    while workers(tmp_path):
        assert time.monotonic() < deadline, f"still running: {workers(tmp_path)}"
        time.sleep(0.05)
    assert not list(tmp_path.glob("docstrings/*.jsonl"))


def workers(folder: Path) -> list[int]:
    """Processes whose command line names ``folder``."""
    return [
        process.pid
        for process in psutil.process_iter()
        if any(str(folder) in part for part in command_line(process))
    ]


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_topics_keeps_the_most_frequent_labels() -> None:
    table = pd.DataFrame({"label": ["a"] * 3 + ["b"] * 5 + ["c"] * 3 + ["d"], "text": "x"})
    assert sorted(topics(table, 2, min_count=2)["label"].unique()) == ["a", "b"]
    with pytest.raises(InputError, match="n = 4 is more than the 3 labels with 2 docstrings"):
        topics(table, 4, min_count=2)
