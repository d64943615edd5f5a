"""The static site: Markdown as GitHub reads it, links that lead somewhere, pages in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.data.registry import DataFile, Entry
from common.errors import InputError, RunError
from common.exercises.cli import main
from common.site import assets
from common.site.build import build
from common.site.links import broken_links
from common.site.markdown import Reader, slug
from common.site.pages import Addresses, Page, Rendered

ROOT = Path(__file__).resolve().parents[2]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

README = r"""# Lab 1: tiny

The hint is in `sums.py` and in [the lesson](lessons/adding.md#by-hand); see [the data](rows.csv).

![Two bars](lessons/bars.png)

| a | b |
|---|---|
| 1 | 2 |
- A list below a table is a list.

$$\sum_{i=1}^{n} x_i$$

```mermaid
flowchart LR
  A --> B
```

## What you should see

Nothing.
"""
LESSON = "# Adding\n\n## By hand\n\n[The lab](../README.md), [the start](../../../README.md).\n"
SUMS = '''"""Sums of few numbers."""

from common.exercises import exercise


@exercise("1.1", points=3, title="Double", hint="Add it to itself.")
def double(x: int, *, times: int = 1) -> int:
    """Twice x.

    Parameters
    ----------
    x : int
        Any number, even an `enormous` one.
    """
    return x + x + secret_solution(times)
'''
TRAPS = '''
def halves() -> Trap:
    """Halving an odd number."""
    return Trap("Half of three", wrong=("by //", 1), right=("by /", 1.5), why=f"It is {1}.")
'''
QUIZ = """
[[question]]
id = "1.q1"
prompt = "Is 1 < 2?"
options = ["Yes.", "No."]
answer = 0
why = "It is."

[[question]]
id = "1.q2"
prompt = "How much is {a} and {a}?"
answer = "2 * a"
parameters = { a = [1, 2] }
why = "Add."
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A repository with one lab."""
    root = tmp_path / "repository"
    lab = root / "labs" / "lab1_tiny"
    files = {
        root / "README.md": "# The course\n\n[Lab 1](labs/lab1_tiny/README.md)\n\n## Results\n",
        root / "docs/first_hour.md": "# The first hour\n\nBegin.\n",
        root / "labs/__init__.py": "",
        root / "common/__init__.py": '"""Shared."""\n',
        lab / "__init__.py": '"""A lab."""\n',
        lab / "README.md": README,
        lab / "lessons/adding.md": LESSON,
        lab / "lessons/bars.png": "no picture, but a file",
        lab / "rows.csv": "a,b\n1,2\n",
        lab / "sums.py": SUMS,
        lab / "traps.py": TRAPS,
        lab / "quiz.toml": QUIZ,
    }
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def page_of(site: Path, address: str) -> str:
    return (site / address).read_text(encoding="utf-8")


def rendered(text: str) -> Rendered:
    page = Page("page.html", "Page", text, "page.md")
    return Reader(Addresses(ROOT, {}), {}).render(page)


# --- Markdown ---------------------------------------------------------------------------------


def test_a_list_right_below_a_table_is_a_list() -> None:
    """GitHub ends a table where a list begins; the site must not make rows of the points."""
    body = rendered("| a |\n|---|\n| 1 |\n- point\n").html
    assert "<li>point</li>" in body
    assert "<td>- point" not in body


def test_formulas_keep_what_markdown_would_take_for_markup() -> None:
    r"""An underscore, an asterisk or ``\\`` of a formula belongs to the formula."""
    result = rendered("With $a_1 * b_2 * c$:\n\n$$\nx_1 \\\\ y_2 < z\n$$\n\nIt costs $5 or $6.\n")
    assert '<span class="math">a_1 * b_2 * c</span>' in result.html
    assert '<span class="math display">x_1 \\\\ y_2 &lt; z</span>' in result.html
    assert "$5 or $6" in result.html, "dollars that are money are no formula"
    assert result.has_math


def test_headings_have_the_anchors_that_github_gives_them() -> None:
    """A link to a section works on GitHub and on the site."""
    assert slug("What you should see") == "what-you-should-see"
    assert slug("fp16, bf16 & fp8: which?") == "fp16-bf16--fp8-which"
    twice = rendered("# T\n\n## `make lab1`\n\n## Same\n\n## Same\n")
    assert [anchor for _, anchor, _ in twice.headings] == ["make-lab1", "same", "same-1"]


# --- a small site -----------------------------------------------------------------------------


def test_a_small_course_becomes_linked_pages(tiny: Path, tmp_path: Path) -> None:
    """Lessons, modules, traps, questions, pictures and other files each have their place."""
    site = tmp_path / "site"
    built = build(tiny, site)
    lab = page_of(site, "labs/lab1_tiny/index.html")
    assert 'href="../../reference/labs/lab1_tiny/sums.html" class="module"' in lab
    assert 'href="lessons/adding.html#by-hand"' in lab
    assert "a,b" in page_of(site, "files/labs/lab1_tiny/rows.csv.html")
    assert (site / "labs/lab1_tiny/lessons/bars.png").is_file()
    reference = page_of(site, "reference/labs/lab1_tiny/sums.html")
    assert "Exercise 1.1" in reference
    assert "<code>enormous</code>" in reference
    assert 'href="../../../labs/lab1_tiny/index.html">Overview</a>' in reference, "taught there"
    assert "Half of three" in page_of(site, "labs/lab1_tiny/traps.html")
    questions = page_of(site, "labs/lab1_tiny/questions.html")
    assert "Is 1 &lt; 2?" in questions
    assert "1 more have numbers" in questions
    assert "{a}" not in questions, "a question whose numbers are drawn is not shown undrawn"
    start = page_of(site, "index.html")
    assert '<a class="button" href="docs/first_hour.html">' in start
    assert 'href="overview.html#results">Measured results</a>' in start
    assert 'href="labs/lab1_tiny/index.html#what-you-should-see">Measured figures' in start
    assert built.pages == len(list(site.rglob("*.html")))


def test_a_students_repository_becomes_a_site_too(tiny: Path, tmp_path: Path) -> None:
    """Its README has no measured results: the start page must not lead there."""
    (tiny / "README.md").write_text("# The course\n\n## How you work\n", encoding="utf-8")
    build(tiny, tmp_path / "site")
    start = page_of(tmp_path / "site", "index.html")
    assert "Measured results" not in start
    assert 'href="overview.html">The labs and how you work</a>' in start


def test_the_site_shows_no_solution(tiny: Path, tmp_path: Path) -> None:
    """The reference comes from code that holds the solutions; signatures and docstrings suffice."""
    build(tiny, tmp_path / "site")
    for file in (tmp_path / "site").rglob("*.*"):
        if file.suffix in (".html", ".js"):
            assert "secret_solution" not in file.read_text(encoding="utf-8"), file


def test_the_search_index_has_every_section(tiny: Path, tmp_path: Path) -> None:
    """A result leads to the heading whose text has the words."""
    build(tiny, tmp_path / "site")
    text = page_of(tmp_path / "site", "assets/search-index.js")
    rows = json.loads(text.removeprefix("window.SEARCH_INDEX=").rstrip(";\n"))
    addresses = {row[0] for row in rows}
    assert "labs/lab1_tiny/lessons/adding.html#by-hand" in addresses
    assert "reference/labs/lab1_tiny/sums.html#double" in addresses


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("lessons/missing.md", "labs/lab1_tiny/README.md: nothing is at 'lessons/missing.md'"),
        ("lessons/adding.md#by-machine", "labs/lab1_tiny/lessons/adding.html has no heading"),
        ("../../../outside.md", "nothing is at '../../../outside.md'"),
    ],
)
def test_a_broken_link_stops_the_build_and_leaves_the_earlier_site(
    tiny: Path, tmp_path: Path, link: str, said: str
) -> None:
    """Whoever moves a page is told which page still points at the old place."""
    site = tmp_path / "site"
    build(tiny, site)
    before = page_of(site, "labs/lab1_tiny/index.html")
    readme = tiny / "labs/lab1_tiny/README.md"
    readme.write_text(f"{README}\n[more]({link})\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"1 broken link") as caught:
        build(tiny, site)
    assert said in str(caught.value)
    assert page_of(site, "labs/lab1_tiny/index.html") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository", "site"]


def test_a_folder_with_something_else_is_not_replaced(tiny: Path, tmp_path: Path) -> None:
    """``--out`` with a slip of the hand must not cost anybody a folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="something other than a site"):
        build(tiny, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_page_that_loads_from_another_host_is_a_fault(tmp_path: Path) -> None:
    """The site works without a network, so a script elsewhere is as good as missing."""
    text = '<a href="https://a.example/">fine</a><script src="https://b.example/x.js"></script>'
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    assert broken_links(tmp_path) == [
        "index.html: <script> loads https://b.example/x.js from another host"
    ]


def test_without_any_source_of_the_scripts_the_build_says_how_to_supply_them(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network, no cache: the message names the file, its hash and where to put it."""
    nowhere = Entry("site-assets", "", "MIT", "", "https://a.example", (DataFile("x.js", "ab", 1),))
    monkeypatch.setattr(assets, "entry", lambda: nowhere)
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RunError, match=r"(?s)diagrams and formulas.*LABS_DATA_DIR.*x\.js"):
        build(tiny, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_port_in_use_is_named(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--serve`` on a taken port is bad input, not a traceback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as taken:
        arguments = ["docs", "--out", str(tmp_path / "site"), "--serve", str(taken.server_port)]
        assert main(arguments, root=tiny) == 2
    assert f"--serve {taken.server_port}" in capsys.readouterr().err


def test_ctrl_c_is_how_the_server_ends(tmp_path: Path) -> None:
    """Status 0 and no word of a fault."""
    serve = "from common.site.command import _serve; import pathlib; _serve(pathlib.Path('.'), 0)"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", serve],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:
        assert server.stdout is not None
        assert "until Ctrl-C" in server.stdout.readline()
        server.send_signal(signal.SIGINT)
        _, fault = server.communicate(timeout=30)
    assert (server.returncode, fault) == (0, "")


# --- the whole site, in a browser -------------------------------------------------------------

LESSON_PAGE = "labs/lab2_vector_db/lessons/hybrid-search.html"
PAGES = [
    "index.html",
    LESSON_PAGE,
    "labs/lab3_fairness/traps.html",
    "labs/lab4_model_serving/questions.html",
    "capstone/lessons/experiments.html",
    "reference/labs/lab3_fairness/shapley.html",
]
BUILD = """
import sys
from common.exercises.cli import main
status = main(["docs", "--out", sys.argv[1]])
assert "torch" not in sys.modules, "the reference is read as source"
sys.exit(status)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this repository: no link in it is broken, or there is none."""
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-c", BUILD, str(out)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert answer.returncode == 0, answer.stderr
    return out


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if BROWSER is None:
        pytest.skip("no Chromium on PATH")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "from_disk"), [(390, True), (1280, False)])
def test_pages_fit_the_screen_and_draw_everything_without_a_network(
    site: Path, served: str, browser: Any, width: int, from_disk: bool
) -> None:
    """On a phone from the disk and on a desk over HTTP: diagrams and formulas are drawn, nothing
    is wider than the screen, nothing is asked of another host, nothing complains."""
    base = f"file://{site}/" if from_disk else served
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    drawn = "[...document.querySelectorAll('.mermaid')].every(e => e.querySelector('svg'))"
    for address in PAGES:
        page.goto(base + address)
        page.wait_for_function(drawn)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{address} is {wide} pixels wide on a screen of {width}"
        formulas = page.locator(".math")
        assert page.locator(".math .katex").count() == formulas.count(), address
    assert not complaints
    assert not [url for url in asked if not url.startswith((base, "data:"))]
    page.close()


@pytest.mark.slow
def test_every_diagram_and_formula_of_the_course_is_understood(site: Path, browser: Any) -> None:
    """A slip in a diagram or a formula shows as an error in the middle of a lesson."""
    diagrams, formulas = {}, {}
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        name = file.relative_to(site).as_posix()
        for source in re.findall(r'<pre class="mermaid">(.*?)</pre>', text, re.DOTALL):
            diagrams[html.unescape(source)] = name
        for source in re.findall(r'<span class="math[^"]*">(.*?)</span>', text, re.DOTALL):
            formulas[html.unescape(source)] = name
    assert len(diagrams) > 50
    assert len(formulas) > 500
    page = browser.new_page()
    page.goto(f"file://{site}/{LESSON_PAGE}")
    wrong = page.evaluate(
        """async ([diagrams, formulas]) => {
          const wrong = [];
          for (const text of diagrams) {
            try { await mermaid.parse(text); } catch (error) { wrong.push([text, String(error)]); }
          }
          for (const text of formulas) {
            try { katex.renderToString(text); } catch (error) { wrong.push([text, String(error)]); }
          }
          return wrong;
        }""",
        [list(diagrams), list(formulas)],
    )
    page.close()
    known = diagrams | formulas
    assert not wrong, "\n".join(f"{known[text]}: {error}\n{text}" for text, error in wrong)


@pytest.mark.slow
def test_the_search_leads_to_the_section_that_has_the_words(site: Path, browser: Any) -> None:
    """From the start page, on a disk: two words, the first result, and its heading in view."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"file://{site}/index.html")
    page.fill(".search input", "reciprocal rank fusion")
    first = page.locator(".results a").first
    first.wait_for()
    assert "reciprocal rank fusion" in first.inner_text().lower()
    page.press(".search input", "Enter")
    page.wait_for_url("**/*.html*#*")
    assert "reciprocal rank fusion" in page.locator("main").inner_text().lower()
    page.fill(".search input", "xyzzyplugh")
    page.locator(".results p").wait_for()
    assert "Nothing has all of" in page.locator(".results").inner_text()
    page.close()
