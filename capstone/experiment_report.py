"""The experiment report: every number is looked up in what the run measured, none is typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capstone.experiment import load_experiment
from capstone.experiment_study import KINDS
from capstone.figures_experiment import TRUTHS
from capstone.rollout import Plan, read_plan
from common.scorecard import number
from labs.lab6_online_eval.experiment import Experiment, Role
from labs.lab6_online_eval.memo import words

TEMPLATE = Path(__file__).with_name("experiment_report.md.j2")
PLAIN = ("ratio", "count", "flag", "probability", "simulated")
"""Units that a table's heading says already."""
Metrics = Mapping[str, Mapping[str, Any]]


def write_report(
    path: Path,
    *,
    metrics: Metrics,
    bundle_version: str,
    commit: str,
    date: str,
    experiment: Experiment | None = None,
    plan: Plan | None = None,
) -> Path:
    """Render ``experiment_report.md.j2``.

    Parameters
    ----------
    metrics
        Name to ``value``, ``unit``, ``ci95``, ``how``, ``reason``, as a run's results have them.
        One that is missing, or has no value, appears as "not measured" with its reason.
    experiment, plan
        The files that the run went by; those of the repository when left out.
    """
    import jinja2

    design, steps = experiment or load_experiment(), plan or read_plan()

    def value(name: str) -> str:
        metric = metrics.get(name)
        if metric is None or metric["value"] is None:
            return f"not measured ({(metric or {}).get('reason') or 'the stage did not run'})"
        unit = "" if metric["unit"].split()[0] in PLAIN else f" {metric['unit']}"
        return number(metric["value"]) + unit

    def interval(name: str) -> str:
        ends = metrics.get(name, {}).get("ci95")
        return f"{number(ends[0])} to {number(ends[1])}" if ends else ""

    def flag(name: str) -> str:
        metric = metrics.get(name)
        if metric is None or metric["value"] is None:
            return value(name)
        return "yes" if metric["value"] else "no"

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"n": number, "words": words}
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        v=value,
        ci=interval,
        flag=flag,
        how=lambda name: metrics[name].get("how", ""),
        experiment=design,
        arms=[arm.name for arm in design.arms],
        guardrails=[metric for metric in design.metrics if metric.role is Role.GUARDRAIL],
        truths=TRUTHS,
        kinds=KINDS,
        reconciled=[name for name in metrics if name.startswith("reconciled.")],
        plan_words=plan_words(steps),
        bundle_version=bundle_version,
        commit=commit,
        date=date,
    )
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
    return path


def plan_words(plan: Plan) -> str:
    """A rollout's steps in words: ``shadow (300 feeds, 10 looks at most), then ...``."""
    steps = [
        f"{step.name} ({step.feeds:,} feeds, {step.looks} looks at most)" for step in plan.steps
    ]
    return ", then ".join(steps)
