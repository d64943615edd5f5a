"""The report: whole in one file, harmless whatever a name holds, readable at any width."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from common.report import FigureFile, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
VOID = {"meta", "img", "br"}


def results() -> dict[str, Any]:
    def row(name: str, measured: float | None, passed: bool | None, reason: str) -> dict[str, Any]:
        claim = {"id": name, "claim": f"claim of {name}", "metric": "a.b", "op": "<="}
        return claim | {"target": 0.5, "measured": measured, "passed": passed, "reason": reason}

    return {
        "scale": "smoke", "device": "cpu", "procs": 2, "seed": 0, "mine": False,
        "started_at": "2026-11-23T09:00:00Z", "duration_s": 81.2, "commit": "abc1234",
        "hardware": {}, "versions": {"python": "3.11.7"},
        "data": [{"name": "ml-100k", "source": "wheel x", "sha256": "ab" * 32, "rows": 100000}],
        "config": {"rates": [0.1, 0.2], "path": "a/very/long/path" * 12},
        "metrics": {
            "s.recall_at_10": {"value": 0.964, "unit": "ratio", "n": 1000, "ci95": [0.95, 0.97]},
            "search.p99_ms": {"value": 2.31, "unit": "ms", "how": "open loop"},
            "gpu.mfu": {"value": None, "unit": "ratio", "reason": "no GPU here"},
            "a_very_long_area_of_metrics." + "long_" * 30: {"value": 1e9, "unit": "bytes"},
            "time.train_s": {"value": 12.34, "unit": "s"},
        },
        "deliverables": [
            row("L2.yes", 0.4, True, ""),
            row("L2.no", 0.6, False, ""),
            row("L2.open", None, None, "ten million vectors need --scale full"),
        ],
    }  # fmt: skip


@pytest.fixture
def figure(tmp_path: Path) -> FigureFile:
    path = tmp_path / "frontier.png"
    drawing = Figure(figsize=(7, 4))
    drawing.subplots().plot([1, 2, 3])
    drawing.savefig(path)
    return FigureFile(path, "Recall against nprobe")


def page(figures: list[FigureFile], **changes: Any) -> str:
    extra: dict[str, Any] = {
        "title": "Lab 2: vectors",
        "machine": "AMD, 2 cores",
        "notes": ["a note with https://example.org/" + "unbroken" * 30],
        "reading": ["The wiki, https://example.org/wiki."],
        "overlaid": [],
    }
    given = {key: changes.pop(key) for key in list(changes) if key in extra}
    return render(results() | changes, figures=figures, **(extra | given))


class Outline(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed in the wrong place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_but_itself(figure: FigureFile) -> None:
    html = page([figure])
    outline = Outline(html)
    loaded = [
        value
        for tag, attributes in outline.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action") or (name == "href" and tag != "a")
    ]
    assert all(value and value.startswith("data:image/png;base64,") for value in loaded)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in outline.tags}
    assert "@import" not in html
    assert "url(" not in html
    picture = base64.b64decode(loaded[0].partition(",")[2])
    assert picture == figure.path.read_bytes()


def test_every_outcome_metric_and_source_is_on_the_page(figure: FigureFile) -> None:
    text = " ".join(" ".join(Outline(page([figure])).text).split())
    for part in (
        "L2.yes", "passed", "L2.no", "missed", "L2.open", "not shown",
        "ten million vectors need --scale full", "0.964", "0.95 to 0.97", "1,000", "2.31 ms",
        "open loop", "no GPU here", "ml-100k", "100,000", "abababab", "train 12.3", "python",
        "Recall against nprobe", "commit abc1234", "AMD, 2 cores", "2 ranks",
    ):  # fmt: skip
        assert part in text, f"{part!r} is not on the page"


def test_the_learners_own_code_is_named() -> None:
    assert "own code" not in page([])
    html = page([], mine=True, overlaid=["work/lab2/a.py", "work/lab2/b.py"])
    assert "<code>work/lab2/a.py</code>, <code>work/lab2/b.py</code>" in html


def test_names_and_notes_cannot_bring_markup_of_their_own(figure: FigureFile) -> None:
    """A learner's metric name or note is text; an instructor opens the report in a browser."""
    hostile = results()
    hostile["metrics"][HOSTILE] = {"value": 1, "unit": HOSTILE, "how": HOSTILE}
    hostile["config"][HOSTILE] = HOSTILE
    hostile["deliverables"][0] |= {"id": HOSTILE, "claim": HOSTILE, "reason": HOSTILE}
    hostile["data"][0] |= {"name": HOSTILE, "source": HOSTILE}
    html = render(
        hostile | {"mine": True, "commit": HOSTILE},
        title=HOSTILE,
        machine=HOSTILE,
        figures=[FigureFile(figure.path, HOSTILE)],
        notes=[HOSTILE, "javascript:alert(3) https://x.org/\"onmouseover='alert(4)'"],
        reading=[HOSTILE],
        overlaid=[HOSTILE],
    )
    outline = Outline(html)
    assert "script" not in {tag for tag, _ in outline.tags}
    images = [attributes for tag, attributes in outline.tags if tag == "img"]
    assert [set(attributes) for attributes in images] == [{"src", "alt"}]
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    links = [attributes["href"] or "" for tag, attributes in outline.tags if tag == "a"]
    assert all(link.startswith(("https://", "http://")) for link in links)
    assert "".join(outline.text).count("<script>alert(1)</script>") > 8


def test_addresses_can_be_followed_without_handing_the_window_over() -> None:
    links = [attributes for tag, attributes in Outline(page([])).tags if tag == "a"]
    assert links[-1]["href"] == "https://example.org/wiki"
    assert all(link["rel"] == "noopener" for link in links)


def test_a_lab_without_deliverables_figures_or_notes_has_a_page_too() -> None:
    html = page([], deliverables=[], notes=[], reading=[], data=[], metrics={})
    text = Outline(html).text
    assert not {"Scorecard", "Figures", "Notes", "Data", "What to read next"} & set(text)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_never_scrolls_sideways_in_a_browser(
    figure: FigureFile, tmp_path: Path, width: int
) -> None:
    """In a frame of the asked width: a window of headless Chromium is at least 500 wide."""
    (tmp_path / "report.html").write_text(page([figure]), encoding="utf-8")
    probe = (
        f"<iframe src=report.html style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>window.onload = () => { const d = document.querySelector('iframe')"
        ".contentDocument; const r = d.documentElement;"
        " const bad = [...d.querySelectorAll('img')].filter(i => !i.naturalWidth).length;"
        " const seen = [...d.querySelectorAll('td.outcome')].every("
        " e => e.getBoundingClientRect().right <= r.clientWidth);"
        " document.title = `seen ${r.scrollWidth} of ${r.clientWidth} bad ${bad} ${seen}`; };"
        "</script>"
    )
    (tmp_path / "probe.html").write_text(probe)
    answer = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000", "--dump-dom", f"file://{tmp_path / 'probe.html'}",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"seen (\d+) of (\d+) bad (\d+) (\w+)", answer.stdout)
    assert found, answer.stdout[:500]
    assert int(found[2]) in range(width - 20, width + 1)
    assert int(found[1]) <= int(found[2]), f"{found[1]} px wide in a window of {found[2]}"
    assert found[3] == "0", "a figure does not show"
    assert found[4] == "true", "an outcome of the scorecard is out of sight"
