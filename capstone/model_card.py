"""The model card, written from what the runs measured and never by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.scorecard import number

TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def write_card(
    path: Path,
    *,
    metrics: dict[str, dict[str, Any]],
    data: list[dict[str, Any]],
    hardware: str,
    versions: dict[str, str],
    configuration: dict[str, Any],
    bundle_version: str,
    commit: str,
    date: str,
) -> Path:
    """Render ``model_card.md.j2`` with Hugging Face's :class:`ModelCard` and save it.

    Every number in the card is looked up in ``metrics``; one that was not measured appears as
    "not measured" with its reason.
    """
    from huggingface_hub import ModelCard, ModelCardData

    def shown(name: str) -> str:
        metric = metrics.get(name)
        if metric is None or metric["value"] is None:
            reason = (metric or {}).get("reason", "the stage did not run")
            return f"not measured ({reason})"
        unit = "" if metric["unit"] in ("ratio", "count") else f" {metric['unit']}"
        text = f"{number(metric['value'])}{unit}"
        if metric.get("ci95"):
            low, high = metric["ci95"]
            text += f" (95 % interval {number(low)} to {number(high)})"
        return text + (f", n = {number(metric['n'])}" if metric.get("n") else "")

    card = ModelCard.from_template(
        ModelCardData(
            license="other",
            license_name="movielens-research",
            license_link="https://files.grouplens.org/datasets/movielens/ml-100k-README.txt",
            library_name="onnx",
            tags=["recommendation", "feed-ranking"],
            datasets=["movielens-100k"],
        ),
        template_path=str(TEMPLATE),
        m=shown,
        data=data,
        hardware=hardware,
        versions=versions,
        configuration=configuration,
        bundle_version=bundle_version,
        commit=commit,
        date=date,
    )
    card.save(path)
    return path
