"""Names of things as parts of metric names."""

from __future__ import annotations

import re


def slug(name: str) -> str:
    """``"Item to item"`` -> ``"item_to_item"``."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")
