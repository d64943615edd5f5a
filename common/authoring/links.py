"""Links of the pages: to files, to headings, to other sites."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from common.authoring.model import Check, place
from common.authoring.pages import Page, read_page

HOST = re.compile(r"[\w-]+(\.[\w-]+)+|localhost|127\.0\.0\.1")
SECONDS = 15
AT_ONCE = 8
REFUSALS = {401, 403, 405, 429}
"""Answers of sites that are there and do not serve a program."""


def check_links(root: Path, found: list[Page]) -> list[Check]:
    """Every link into the repository leads to a file and a heading; every other is well formed."""
    inside = Check("links inside", "file exists inside the repository, and so does the heading")
    outside = Check("links outside", "address is well formed (--external opens them)")
    for page, line, link in _links(found):
        address = urlsplit(link)
        where = place(root, page.file, line)
        if address.scheme or link.startswith("//"):
            outside.counted += 1
            if address.scheme == "mailto":
                continue
            if address.scheme not in ("http", "https") or not HOST.fullmatch(
                address.hostname or ""
            ):
                outside.fault(where, f"{link} is no address of a page")
            continue
        inside.counted += 1
        if reason := _broken(root, page, unquote(address.path), unquote(address.fragment)):
            inside.fault(where, f"{link}: {reason}")
    return [inside, outside]


def check_external(root: Path, found: list[Page]) -> Check:
    """Open every address once: slow, and it needs the network."""
    check = Check("addresses", "opened once; a refusal to programs counts as there")
    places: dict[str, str] = {}
    for page, line, link in _links(found):
        if urlsplit(link).scheme in ("http", "https"):
            places.setdefault(link.partition("#")[0], place(root, page.file, line))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (link, where), reason in zip(places.items(), pool.map(_unreached, places), strict=True):
            check.counted += 1
            if reason:
                check.fault(where, f"{link}: {reason}")
    return check


def _links(found: list[Page]) -> Iterator[tuple[Page, int, str]]:
    for page in found:
        for paragraph in page.paragraphs:
            for link in (*paragraph.links, *paragraph.images):
                yield page, paragraph.line, link


def _broken(root: Path, page: Page, path: str, fragment: str) -> str:
    """Why a link into the repository leads nowhere; empty when it does not."""
    target = (page.file.parent / path).resolve() if path else page.file
    if not target.is_relative_to(root.resolve()):
        return "leaves the repository"
    if not target.exists():
        return "there is no such file"
    if fragment and target.suffix == ".md" and fragment not in read_page(target).anchors:
        return f"{target.name} has no heading #{fragment}"
    return ""


def _unreached(link: str) -> str:
    request = urllib.request.Request(link, headers={"User-Agent": "course-verify"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in REFUSALS else f"answers {error.code}"
    except (OSError, ValueError) as error:
        return f"cannot be opened: {error}"
