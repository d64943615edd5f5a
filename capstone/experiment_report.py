"""The experiment report: every number is looked up in what the run measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capstone.experiment import Outcome
from capstone.experiment_study import ExperimentStudy
from capstone.figures_experiment import TRUTHS
from capstone.rollout import Plan, read_plan
from common.scorecard import number
from labs.lab6_online_eval.memo import memo_of

TEMPLATE = Path(__file__).with_name("experiment_report.md.j2")


@dataclass(frozen=True)
class Effect:
    """One metric of the live test beside the simulated world's truth."""

    name: str
    control: float
    treatment: float
    effect: float
    low: float
    high: float
    truth: float

    @property
    def held(self) -> bool:
        return self.low <= self.truth <= self.high


def effects_of(live: Outcome) -> tuple[Effect, ...]:
    """The metrics that have a truth; none when the analysis was refused."""
    found = []
    for name, key in TRUTHS.items():
        result = live.metric(name)
        if result is not None:
            comparison = result.comparison
            found.append(
                Effect(
                    name.removesuffix("_per_session").replace("_", " "),
                    comparison.mean_control,
                    comparison.mean_treatment,
                    result.effect.estimate,
                    *result.effect.interval,
                    live.truth[key],
                )
            )
    return tuple(found)


def write_report(
    path: Path, study: ExperimentStudy, *, live: Outcome | None = None, plan: Plan | None = None
) -> Path:
    """Render ``experiment_report.md.j2``; lab 6's memo gives the words of the live test.

    Parameters
    ----------
    live
        The A/B test through the service; without it the report says nothing of one.
    """
    path.write_text(render_report(study, live=live, plan=plan), encoding="utf-8")
    return path


def render_report(
    study: ExperimentStudy, *, live: Outcome | None = None, plan: Plan | None = None
) -> str:
    """The report as Markdown."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["n"] = number
    environment.filters["share"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["yes"] = lambda held: {True: "yes", False: "no", None: ""}[held]
    success = live.success if live else None
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        study=study,
        live=live,
        memo=memo_of(live.analysis) if live else None,
        arms=[arm.name for arm in live.analysis.experiment.arms] if live else [],
        effects=effects_of(live) if live else (),
        reduction=success.comparison.variance_reduction if success else 0.0,
        plan_words=plan_words(plan or read_plan()),
    )
    return text.rstrip() + "\n"


def plan_words(plan: Plan) -> str:
    """A rollout's steps in words: ``shadow (300 feeds, 10 looks at most), then ...``."""
    steps: Sequence[str] = [
        f"{step.name} ({step.feeds:,} feeds, {step.looks} looks at most)" for step in plan.steps
    ]
    return ", then ".join(steps)
