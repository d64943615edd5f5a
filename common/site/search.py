"""What the search looks through: a row for each section of each page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from common.site.pages import Page, Rendered


def search_index(rendered: Iterable[tuple[Page, str, Rendered]]) -> str:
    """A script that sets ``window.SEARCH_INDEX``: a page on a disk may not fetch a data file.

    Parameters
    ----------
    rendered
        (page, title of its part, what was rendered).

    Returns
    -------
    str
        Of each section a row: address, page, part, heading, text, kind.
    """
    rows = [row for page, part, result in rendered for row in _rows(page, part, result)]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return f"window.SEARCH_INDEX={text};\n"


def _rows(page: Page, part: str, rendered: Rendered) -> Iterator[list[str]]:
    if page.kind == "reference" and page.address.endswith("index.html"):
        return  # its lines begin the pages that it lists
    for section in rendered.sections:
        address = f"{page.address}#{section.anchor}" if section.anchor else page.address
        heading = section.heading if section.anchor else ""
        yield [address, page.title, part, heading, re.sub(r"\s+", " ", section.text), page.kind]
