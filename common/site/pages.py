"""What a page of the site is, and where a file of the repository has its page."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path


@dataclass(frozen=True)
class Page:
    """One page before it is rendered.

    ``address`` is its path in the site, ``source`` the file of the repository it shows (relative,
    with slashes) or ``""`` for a page that is made; ``text`` is Markdown as GitHub reads it.
    """

    address: str
    title: str
    text: str
    source: str = ""
    kind: str = "lesson"
    """``lesson``, ``guide``, ``reference`` or ``file``; the search says it."""


@dataclass(frozen=True)
class Part:
    """A group of pages that follow one another: a lab, the capstone, the guides."""

    title: str
    pages: tuple[Page, ...]
    folder: str = ""
    """The lab's folder in the repository, or ``""``."""


@dataclass(frozen=True)
class Section:
    """The text below one heading, as the search finds it."""

    anchor: str
    heading: str
    text: str


@dataclass(frozen=True)
class Rendered:
    """A page's body in HTML, and what the layout and the search need to know of it."""

    html: str
    headings: tuple[tuple[int, str, str], ...] = ()
    """(level, anchor, HTML of the heading), in order."""
    sections: tuple[Section, ...] = ()
    modules: tuple[str, ...] = ()
    """Addresses of the reference pages that the text names, in order, each once."""
    has_math: bool = False
    has_diagrams: bool = False


@dataclass
class Addresses:
    """Where each file of the repository is shown, and what was asked for in vain.

    ``pages`` maps a file or folder of the repository to an address. A link to another file of the
    repository gets a page that shows the file (``wanted``), a picture is copied (``pictures``).
    """

    root: Path
    pages: dict[str, str]
    wanted: dict[str, str] = field(default_factory=dict)
    pictures: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)

    def resolve(self, page: Page, target: str) -> str:
        """The address, relative to ``page``, of a relative link in its source."""
        target, _, anchor = unescape(target).partition("#")
        if not target:
            return f"#{anchor}"
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), target))
        address = self._address(path)
        if address is None:
            self.broken.append(f"{page.source or page.address}: nothing is at {target!r}")
            return f"#{anchor}"
        return relative(page.address, address) + (f"#{anchor}" if anchor else "")

    def _address(self, path: str) -> str | None:
        for known in (path, f"{path}/README.md"):
            if known in self.pages:
                return self.pages[known]
        file = self.root / path
        if path.startswith("..") or not file.exists():
            return None
        if file.suffix in (".png", ".svg", ".jpg"):
            self.pictures.add(path)
            return path
        address = f"files/{path}.html" if path != "." else "files/index.html"
        self.wanted[path] = address
        return address


def relative(start: str, address: str) -> str:
    """``address`` as a link from the page at ``start``; both from the root of the site."""
    return posixpath.relpath(address, posixpath.dirname(start) or ".")
