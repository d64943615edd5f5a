"""The page in a real Chromium, in front of a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from capstone.page_check import (
    enter,
    find_browser,
    items,
    next_feed,
    overflow_px,
    react,
    running_browser,
    show,
    walk,
    watched_page,
)
from capstone.reranking import RerankConfig
from common.ports import free_port
from tests.capstone import tiny_bundle
from tests.capstone.local_gateway import TOKEN, Gateway, local_gateway

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed"),
]
MARKUP = "<img src=x onerror=document.title='run'><b>Film</b>"
LONG = "The Return of the Son of a Title That Nobody Would Print Without " * 3 + "A" * 80
TITLES = {item: (MARKUP, LONG)[item % 2] for item in range(1, tiny_bundle.N_ITEMS, 3)}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Variant 0 has a ranker that does not answer, variant 1 works and gets everybody."""
    folder = tmp_path_factory.mktemp("page")
    config = RerankConfig(
        diversity="mmr", diversity_weight=0.3, creator_factor=0.6, exploration_slots=1,
        exploration_pool=5,
    )  # fmt: skip
    bundle = tiny_bundle.build(folder / "bundle", rerank=config, titles=TITLES)
    nobody = f"http://127.0.0.1:{free_port()}"
    options = {"scorer_url": nobody, "bundle_root": str(folder), "breaker_cooldown_s": 0.01}
    # Deadlines that a busy machine meets: here a fallback comes from the ranker alone.
    late = {"hydrate": 2e3, "source": 2e3, "filter": 2e3, "score": 5e3, "select": 2e3}
    with local_gateway(folder, bundle, deadlines_ms=late, **options) as running:
        made = running.admin.post("/bundles", json={"folder": "bundle", "arm": "live"})
        assert made.status_code == 200, made.text
        assert running.admin.put("/experiment", json={"weights": [0, 1]}).status_code == 200
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    assert path is not None
    with running_browser(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def signed_in(browser: Browser, gateway: Gateway) -> tuple[Page, list[str]]:
    page, errors = watched_page(browser)
    enter(page, gateway.url, TOKEN)
    return page, errors


@pytest.fixture
def page(signed_in: tuple[Page, list[str]]) -> Iterator[Page]:
    """Signed in; whatever the browser reports as an error fails the test."""
    opened, errors = signed_in
    yield opened
    opened.set_viewport_size({"width": 1280, "height": 1100})
    opened.fill("#count", "10")
    assert errors == []


def asked(page: Page, person: int) -> dict[str, Any]:
    """Show a person's feed; the answer that the page was given."""
    with page.expect_response(lambda answer: answer.url.endswith("/feed")) as caught:
        show(page, person)
    return dict(caught.value.json())


def test_the_walk_of_the_whole_run_finds_nothing_wrong(
    browser: Browser, gateway: Gateway, tmp_path: Path
) -> None:
    """What the run's claims stand on: reactions count, newcomers are told, nothing overflows."""
    seen = walk(browser, gateway.url, TOKEN, tmp_path, user=1, newcomer=1_000_001)
    assert (seen.reactions, seen.changed, seen.gone) == (("like", "hide"), 2, True)
    assert seen.cold_start
    assert seen.arm == "live"
    assert seen.errors == ()
    assert seen.overflow_px == 0
    assert all(shot.path.stat().st_size > 10_000 for shot in seen.screenshots)


def test_every_item_says_why_it_is_there(page: Page) -> None:
    """Sources, slot, heads, value and penalties on the page are those of the answer."""
    answer = asked(page, 2)
    penalised, explored = 0, 0
    for card, item in zip(page.locator("#feed > li").all(), answer["items"], strict=True):
        assert card.locator(".place").inner_text() == str(item["position"] + 1)
        assert card.locator(".tag.slot").inner_text() == item["slot"]
        names = [name.replace("_", " ") for name in item["sources"]]
        assert card.locator(".tag.source").all_inner_texts() == names
        heads = card.locator(".heads").inner_text().split()
        assert [word for word in heads if word.isalpha()] == list(item["heads"])
        told = card.locator(".why").inner_text()
        assert float(told.split()[1]) == pytest.approx(item["value"], rel=0.01), told
        for cause, less in item["penalty"].items():
            assert (f"{cause} penalty" in told) == (less > 0), told
            penalised += less > 0
        assert ("propensity" in told) == (item["propensity"] < 1), told
        explored += item["slot"] == "exploration"
    assert penalised > 0
    assert explored == 1


@pytest.mark.parametrize("reaction", ["like", "hide"])
def test_a_reaction_changes_the_next_feed(page: Page, gateway: Gateway, reaction: str) -> None:
    """The item is gone, new ones are marked, and the service has one film more in the history."""
    person = {"like": 3, "hide": 4}[reaction]
    show(page, person)
    before, watched = items(page), gateway.watched(person)
    react(page, reaction, place=2)
    after = items(page)
    assert before[1] not in after
    marked = page.locator("#feed > .fresh").count()
    assert marked == len(set(after) - set(before)) > 0
    assert gateway.watched(person) == watched + 1
    assert page.locator("#message").inner_text().startswith(f"{reaction}: ")


def test_the_keyboard_goes_on_where_it_was(page: Page) -> None:
    """A reaction replaces the list, and with it the button that had the focus."""
    show(page, 5)
    button = "#feed > li:nth-child(3) button[data-reaction=hide]"
    with next_feed(page):
        page.focus(button)
        page.keyboard.press("Enter")
    page.wait_for_function("where => document.activeElement.matches(where)", arg=button)


def test_the_arm_and_its_bundle_are_shown(page: Page, gateway: Gateway) -> None:
    """A person who reports a strange feed can say which bundle made it."""
    answer = asked(page, 6)
    facts = {name: page.locator(f"#fact-{name}").inner_text() for name in ("arm", "bundle")}
    assert facts == {"arm": answer["arm"], "bundle": answer["version"]}
    rows = [row.split() for row in page.locator("#arms tbody tr").all_inner_texts()]
    arms = gateway.client.get("/experiment").json()["arms"]
    shares = ("0", "100")
    assert rows == [[a["name"], a["version"], s, "%"] for a, s in zip(arms, shares, strict=True)]


def test_stage_latencies_are_live(browser: Browser, gateway: Gateway) -> None:
    """Feeds that somebody else asks for count too, without a click here."""
    page, errors = watched_page(browser)
    page.clock.install()
    enter(page, gateway.url, TOKEN)
    page.wait_for_selector("#stages tbody tr")
    rows = page.locator("#stages tbody tr").all_inner_texts()
    stages = [row.split()[0] for row in rows]
    assert {"hydrate", "source", "filter", "score", "select", "log"} < set(stages)
    assert stages[-1] == "total"
    before = int(rows[-1].split()[1])
    gateway.feed(7)
    page.clock.fast_forward(3000)
    page.wait_for_function(
        "n => document.querySelector('#stages tbody').lastChild.cells[1].textContent > n",
        arg=before,
    )
    page.context.close()
    assert errors == []


def test_a_wrong_token_asks_for_the_right_one(browser: Browser, gateway: Gateway) -> None:
    """It is not kept, nothing is shown, and the right one works after it."""
    page, _ = watched_page(browser)
    page.goto(f"{gateway.url}/#token=of-another-service")
    page.wait_for_selector("#message.bad")
    assert page.locator("#login").is_visible()
    assert not page.locator("#main").is_visible()
    assert page.evaluate("[sessionStorage.length, location.hash]") == [0, ""]
    page.evaluate("sessionStorage.setItem('token', 'that-was-good-yesterday')")
    page.reload()
    page.wait_for_selector("#message.bad")
    assert page.evaluate("sessionStorage.length") == 0
    page.fill("#token", TOKEN)
    page.click("#login button")
    page.wait_for_selector("#feed > li")
    assert not page.locator("#login").is_visible()
    page.context.close()


def test_a_newcomer_is_told_why_the_feed_is_what_it_is(page: Page) -> None:
    """And is none any more after the first reaction."""
    show(page, 3_000_000)
    assert "Nothing is known of this person" in page.locator("#banner").inner_text()
    assert set(page.locator(".tag.source").all_inner_texts()) <= {"popular", "fresh"}
    react(page, "like")
    assert not page.locator("#banner").is_visible()
    assert page.locator("#fact-history").count() == 0


def test_markup_in_a_title_is_text(page: Page) -> None:
    """A title is data of somebody else: it may neither run nor shape the page."""
    page.fill("#count", "50")
    show(page, 8)
    shown = page.locator(".title").all_inner_texts()
    assert MARKUP in shown
    assert page.locator("#feed img, #feed b").count() == 0
    react(page, "like", place=shown.index(MARKUP) + 1)
    assert page.locator("#message").inner_text().startswith(f"like: {MARKUP}")
    assert page.title() == "Feed"


def test_the_content_security_policy_stops_an_inline_script(
    browser: Browser, gateway: Gateway
) -> None:
    """The second line of defence: had markup got in, its script would not run."""
    page, errors = watched_page(browser)
    page.goto(gateway.url)
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"document.title=1\" id=p>');"
        "document.getElementById('p').click()"
    )
    assert page.title() == "Feed"
    assert "Content Security Policy" in " ".join(errors)
    page.context.close()


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_scrolling_sideways(page: Page, width: int) -> None:
    """With a title of 270 characters, 80 of them one word."""
    page.set_viewport_size({"width": width, "height": 844})
    page.fill("#count", "50")
    show(page, 9)
    assert LONG in page.locator(".title").all_inner_texts()
    assert overflow_px(page) == 0


def test_a_fallback_feed_says_so(page: Page, gateway: Gateway) -> None:
    """The ranker of variant 0 does not answer: the feed is worse, and nobody is left to guess."""
    try:
        gateway.admin.put("/experiment", json={"weights": [1, 0]})
        show(page, 10)
        assert "fallback feed" in page.locator("#banner").inner_text()
        assert page.locator("#fact-fallback").inner_text() == "score"
        assert set(page.locator(".why").all_inner_texts()) == {"not scored"}
        assert page.locator(".bar").count() == 0
    finally:
        gateway.admin.put("/experiment", json={"weights": [0, 1]})
    show(page, 10)
    assert not page.locator("#banner").is_visible()


def test_a_like_whose_answer_was_lost_counts_once(browser: Browser, gateway: Gateway) -> None:
    """The second click sends the same event id, since the first may have arrived; it had."""
    page, _ = watched_page(browser)
    enter(page, gateway.url, TOKEN)
    show(page, 11)
    watched, counted = gateway.watched(11), gateway.count("feed_events_total", reaction="share")
    page.route("**/events", lambda route: (route.fetch(), route.abort()), times=1)
    page.click("#feed > li:first-child button[data-reaction=share]")
    page.wait_for_selector("#message.bad")
    assert "does not answer" in page.locator("#message").inner_text()
    react(page, "share")
    assert gateway.watched(11) == watched + 1
    assert gateway.count("feed_events_total", reaction="share") == counted + 2
    assert gateway.count("feed_events_total", reaction="share", outcome="duplicate") == 1
    page.context.close()


def test_a_service_that_is_away_is_said_to_be(browser: Browser, gateway: Gateway) -> None:
    """The old feed stays, with a warning; when the service is back, so is the page."""
    page, _ = watched_page(browser)
    enter(page, gateway.url, TOKEN)
    page.context.set_offline(True)
    page.click("#who button")
    page.wait_for_selector("#message.bad")
    assert len(items(page)) == 10
    page.context.set_offline(False)
    show(page, 12)
    assert page.locator("#message").inner_text() == ""
    page.context.close()
