"""Use the feed's page as a person would, in a real browser, and photograph it.

A headless Chromium opens the page, picks a person, reacts, and looks at the next feed. What is
measured is what the page shows, so a mistake anywhere between the model and the pixels counts.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError

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
        What the browser's console and the page reported; must be empty.
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
    from playwright.sync_api import Error, sync_playwright

    errors: list[str] = []
    shots: list[Screenshot] = []
    done: list[str] = []
    changed, gone = 0, True
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            width, height = DESKTOP
            page = opened.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(WAIT_MS)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on(
                "console",
                lambda message: errors.append(message.text) if message.type == "error" else None,
            )

            def feed() -> list[str]:
                cards = page.locator("#feed > li").all()
                return [str(card.get_attribute("data-item")) for card in cards]

            def show(person: int) -> None:
                before = page.locator("#feed").get_attribute("data-request")
                page.fill("#user-id", str(person))
                page.click("#who button")
                page.wait_for_function(
                    "before => document.querySelector('#feed').dataset.request !== before",
                    arg=before,
                )

            def photograph(name: str, caption: str) -> None:
                path = folder / f"{name}.png"
                page.screenshot(path=path, full_page=True)
                shots.append(Screenshot(path, caption))

            page.goto(f"{url}/#token={token}")
            page.wait_for_selector("#feed > li")
            show(user)
            arm = page.locator("#fact-arm").inner_text()
            photograph("page-feed", f"The feed of user {user}, and why each item is there.")
            for reaction in ("like", "hide"):
                before = feed()
                request = page.locator("#feed").get_attribute("data-request")
                page.click(f"#feed > li:first-child button[data-reaction={reaction}]")
                page.wait_for_function(
                    "before => document.querySelector('#feed').dataset.request !== before",
                    arg=request,
                )
                after = feed()
                done.append(reaction)
                changed += before != after
                gone &= before[0] not in after
            photograph(
                "page-reacted",
                "After a like and a hide: items that are new in this feed are marked.",
            )
            show(newcomer)
            cold = page.locator("#fact-history").count() == 1 and len(feed()) > 0
            photograph("page-newcomer", "Somebody without a history: popular and fresh items.")
            page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
            show(user)
            overflow = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            path = folder / "page-phone.png"
            page.screenshot(path=path)
            shots.append(Screenshot(path, "The same page on a phone."))
        except Error as error:
            raise RunError(f"{url} did not show a feed in {browser}: {error}; {errors}") from error
        finally:
            opened.close()
    return PageReport(
        tuple(done), changed, gone, cold, arm, tuple(errors), int(overflow), tuple(shots)
    )
