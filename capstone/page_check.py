"""Use the feed's page as a person would, in a real browser, and photograph it.

A headless Chromium opens the page, picks a person, reacts, and looks at the next feed. What is
measured is what the page shows, so a mistake anywhere between the model and the pixels counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RunError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1280, 1100), (390, 844)
WAIT_MS = 10_000


@dataclass(frozen=True)
class Screenshot:
    path: Path
    caption: str


@dataclass(frozen=True)
class PageReport:
    """What the browser saw.

    Attributes
    ----------
    reactions
        Items that were reacted to, one after the other, each by the reaction's name.
    changed
        How many of these reactions changed the items of the next feed.
    gone
        Whether every item that was reacted to is out of the feed after it.
    cold_start
        Whether a person without a history got a feed, and was told why it looks as it does.
    errors
        What the browser's console and the page reported, violations of the content security policy
        included; must be empty.
    overflow_px
        How far the page reaches beyond a phone's screen, sideways; 0 is good.
    """

    reactions: tuple[str, ...]
    changed: int
    gone: bool
    cold_start: bool
    arm: str
    errors: tuple[str, ...]
    overflow_px: int
    screenshots: tuple[Screenshot, ...]


def find_browser() -> str | None:
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def check_page(
    url: str, token: str, folder: Path, *, browser: str, user: int, newcomer: int = 2_000_000
) -> PageReport:
    """React on the page at ``url`` and take screenshots into ``folder``.

    Parameters
    ----------
    browser
        Path of Chromium (:func:`find_browser`).
    user
        A known person whose feed is looked at.
    newcomer
        A user id without a history.

    Raises
    ------
    RunError
        When the page never shows a feed.
    """
    with running_browser(browser) as opened:
        return walk(opened, url, token, folder, user=user, newcomer=newcomer)


@contextmanager
def running_browser(browser: str) -> Iterator[Browser]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield opened
        finally:
            opened.close()


def watched_page(opened: Browser) -> tuple[Page, list[str]]:
    """A new page with nothing stored, and the list that its errors go to."""
    width, height = DESKTOP
    page = opened.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(WAIT_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    return page, errors


def enter(page: Page, url: str, token: str) -> None:
    """Open the page with a token; returns when it shows a feed."""
    page.goto(f"{url}/#token={token}")
    page.wait_for_selector("#feed > li")


def show(page: Page, person: int) -> None:
    """Ask for a person's feed; returns when it is there."""
    with next_feed(page):
        page.fill("#user-id", str(person))
        page.click("#who button")


def react(page: Page, reaction: str, *, place: int = 1) -> None:
    """React to the item at a place from 1; returns when the next feed is there."""
    with next_feed(page):
        page.click(f"#feed > li:nth-child({place}) button[data-reaction={reaction}]")


@contextmanager
def next_feed(page: Page) -> Iterator[None]:
    """Leave the block when another feed is there than at its begin."""
    before = page.locator("#feed").get_attribute("data-request")
    yield
    page.wait_for_function(
        "before => document.querySelector('#feed').dataset.request !== before", arg=before
    )


def items(page: Page) -> list[str]:
    """Ids of the shown items, first to last."""
    return [str(card.get_attribute("data-item")) for card in page.locator("#feed > li").all()]


def overflow_px(page: Page) -> int:
    """How far the page reaches beyond its window, sideways."""
    return int(
        page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )


def walk(
    opened: Browser, url: str, token: str, folder: Path, *, user: int, newcomer: int
) -> PageReport:
    """:func:`check_page` in a browser that is open already."""
    from playwright.sync_api import Error

    shots: list[Screenshot] = []
    done: list[str] = []
    changed, gone = 0, True
    page, errors = watched_page(opened)

    def photograph(name: str, caption: str, *, whole: bool = True) -> None:
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=whole)
        shots.append(Screenshot(path, caption))

    try:
        enter(page, url, token)
        show(page, user)
        if page.locator("#login").is_visible():
            errors.append("the page asks for the token although it shows a feed")
        arm = page.locator("#fact-arm").inner_text()
        photograph("page-feed", f"The feed of user {user}, and why each item is there.")
        for reaction in ("like", "hide"):
            before = items(page)
            react(page, reaction)
            after = items(page)
            done.append(reaction)
            changed += before != after
            gone &= before[0] not in after
        photograph(
            "page-reacted", "After a like and a hide: items that are new in this feed are marked."
        )
        show(page, newcomer)
        told = page.locator("#banner").is_visible() and page.locator("#fact-history").count() == 1
        cold = told and len(items(page)) > 0
        photograph("page-newcomer", "Somebody without a history: popular and fresh items.")
        page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        show(page, user)
        overflow = overflow_px(page)
        photograph("page-phone", "The same page on a phone.", whole=False)
        page.context.close()
    except Error as error:
        raise RunError(f"{url} did not show a feed: {error}; {errors}") from error
    return PageReport(tuple(done), changed, gone, cold, arm, tuple(errors), overflow, tuple(shots))
