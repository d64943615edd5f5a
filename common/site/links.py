"""Every link of a built site leads somewhere: to a file and an anchor that are there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r'<(a|link|script|img|source|iframe)\b[^>]*?\b(?:href|src)="([^"]*)"')
ANCHOR = re.compile(r'\bid="([^"]*)"')
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def broken_links(site: Path) -> list[str]:
    """What is wrong, a line each; empty when all is well.

    Links of ``<a>`` to other hosts are left alone; anything the page itself would load from one
    (a script, a picture, a style sheet) is a fault.
    """
    texts = {
        file.relative_to(site).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(site.rglob("*.html"))
    }
    anchors = {name: set(ANCHOR.findall(text)) for name, text in texts.items()}
    there = {file.relative_to(site).as_posix() for file in site.rglob("*") if file.is_file()}
    faults: list[str] = []
    for name, text in texts.items():
        for tag, value in dict.fromkeys(LINK.findall(text)):
            if SCHEME.match(value):
                if tag != "a" and not value.startswith("data:"):
                    faults.append(f"{name}: <{tag}> loads {value} from another host")
                continue
            path, _, anchor = value.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(path)))
            target = target if path else name
            if target not in there:
                faults.append(f"{name}: nothing is at {value!r}")
            elif anchor and target in anchors and unquote(anchor) not in anchors[target]:
                faults.append(f"{name}: {target} has no heading #{anchor}")
    return faults
