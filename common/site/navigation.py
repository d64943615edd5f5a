"""The syllabus beside every page: parts in reading order, the page's own part open."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from common.site.pages import Page, Part, relative
from common.site.reference import Package


class Navigation:
    """The site's parts and packages as lists of links. Pages of one folder share their links."""

    def __init__(self, parts: Sequence[Part], packages: Sequence[Package]) -> None:
        self._parts, self._packages = parts, packages
        self._made: dict[tuple[str, str], str] = {}

    def of_start(self) -> str:
        """In HTML, for the start page."""
        return "".join(self._groups("index.html", ""))

    def of(self, page: Page) -> str:
        """In HTML, with the entry of ``page`` marked."""
        opened = self._opened(page)
        key = (page.address.rpartition("/")[0], opened)
        if key not in self._made:
            self._made[key] = "".join(self._groups(page.address, opened))
        mine = f'<a href="{relative(page.address, page.address)}"'
        return self._made[key].replace(mine, f'{mine} aria-current="page"', 1)

    def _opened(self, page: Page) -> str:
        if page.kind == "reference":
            return next(package.folder for package in self._packages if page in package.pages)
        return next((part.title for part in self._parts if page in part.pages), "")

    def _groups(self, start: str, opened: str) -> Iterator[str]:
        is_reference = start.startswith("reference/")
        for part in self._parts:
            items = [(page.address, page.title) for page in part.pages]
            yield _group(start, part.title, items, part.title in (opened, "Begin"))
        packages = [(p.pages[0].address, p.folder.replace("/", ".")) for p in self._packages]
        yield _group(start, "Reference", packages, is_reference)
        for package in self._packages if is_reference else ():
            if package.folder == opened:
                modules = [
                    (page.address, f"{page.title.rpartition('.')[2]}.py")
                    for page in package.pages[1:]
                ]
                yield _group(start, package.folder.replace("/", "."), modules, True)


def _group(start: str, title: str, items: Iterable[tuple[str, str]], is_open: bool) -> str:
    links = "".join(
        f'<li><a href="{relative(start, address)}">{html.escape(text)}</a></li>'
        for address, text in items
    )
    state = " open" if is_open else ""
    return f"<details{state}><summary>{html.escape(title)}</summary><ul>{links}</ul></details>\n"
