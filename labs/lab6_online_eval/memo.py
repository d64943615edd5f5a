"""The decision memo: what a product manager reads, and what the next team finds in two years.

One sentence decides at the top. Below it: what was expected, what was found, whether anything got
worse, whether the data can be trusted, and what nobody has looked at. The numbers stand in an
appendix, with the methods that they rest on.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from labs.lab6_online_eval.analyze import Analysis, ArmAnalysis, MetricResult
from labs.lab6_online_eval.experiment import Experiment, Kind, Looks, Role
from labs.lab6_online_eval.guardrails import GuardrailResult, Verdict
from labs.lab6_online_eval.log_checks import Action
from labs.lab6_online_eval.ship_rule import Decision

MARKDOWN, HTML = (Path(__file__).with_name(f"memo.{kind}.j2") for kind in ("md", "html"))
VERBS = {
    Decision.SHIP: "Ship",
    Decision.EXTEND: "Go on",
    Decision.STOP: "Do not ship",
    Decision.REFUSE: "No decision",
}
ACTIONS = {
    Action.DROPPED: "left out",
    Action.KEPT: "kept, look into it",
    Action.REFUSED: "no analysis",
}
EARLY = "events between the start and the exposure"

Row = tuple[str, ...]


@dataclass(frozen=True)
class ArmMemo:
    """What the memo says of one treatment; every field is text that is ready to be read."""

    arm: str
    decision: str
    headline: str
    reasons: tuple[str, ...]
    findings: tuple[str, ...]
    metrics: tuple[Row, ...]
    guardrails: tuple[Row, ...]
    appendix: tuple[Row, ...]
    not_tested: tuple[str, ...]


@dataclass(frozen=True)
class Memo:
    """A whole memo, as text."""

    title: str
    period: str
    owner: str
    hypothesis: str
    plan: tuple[str, ...]
    arms: tuple[ArmMemo, ...]
    level: str
    sample: tuple[Row, ...]
    sample_words: str
    faults: tuple[Row, ...]
    not_found: str
    not_looked_at: tuple[str, ...]


def memo_of(analysis: Analysis) -> Memo:
    """The memo's text from an analysis; it computes nothing."""
    experiment = analysis.experiment
    found = [check for check in analysis.log.checks if check.count]
    absent = [check.name for check in analysis.log.checks if not check.count]
    return Memo(
        title=experiment.name,
        period=f"{experiment.start:%-d %B %Y} to {analysis.until:%-d %B %Y}",
        owner=experiment.owner,
        hypothesis=" ".join(experiment.hypothesis.split()),
        plan=_plan(experiment),
        arms=tuple(_arm(analysis, arm) for arm in analysis.arms),
        level=f"{100 * (1 - analysis.alpha):g} %",
        sample=_sample(analysis),
        sample_words=_sample_words(analysis),
        faults=tuple(
            (
                check.name,
                f"{check.count:,} of {check.of:,}",
                "used for CUPED only" if check.name == EARLY else ACTIONS[check.action],
                check.detail.strip("()"),
            )
            for check in found
        ),
        not_found="; ".join(absent),
        not_looked_at=_not_looked_at(analysis),
    )


def write_memo(analysis: Analysis, folder: Path) -> tuple[Path, Path]:
    """Write ``decision.md`` and ``decision.html``, each one file that needs no other.

    Returns
    -------
    (markdown, html)
        The paths.
    """
    memo = memo_of(analysis)
    folder.mkdir(parents=True, exist_ok=True)
    markdown, html = folder / "decision.md", folder / "decision.html"
    markdown.write_text(render_markdown(memo), encoding="utf-8")
    html.write_text(render_html(memo, _forest(analysis)), encoding="utf-8")
    return markdown, html


def render_markdown(memo: Memo) -> str:
    """The memo as Markdown."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["row"] = lambda cells: (
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    )
    text = environment.from_string(MARKDOWN.read_text(encoding="utf-8")).render(m=memo)
    return text.rstrip() + "\n"


def render_html(memo: Memo, figures: dict[str, str] | None = None) -> str:
    """The memo as one HTML page; ``figures`` has a PNG in base64 for an arm's name."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(HTML.read_text(encoding="utf-8"))
    return template.render(m=memo, figures=figures or {})


def _forest(analysis: Analysis) -> dict[str, str]:
    from labs.lab6_online_eval.figures_analysis import draw_forest

    pictures = {}
    for arm in analysis.arms:
        if any(result.relative for result in arm.results):
            stream = io.BytesIO()
            draw_forest(arm, alpha=analysis.alpha).savefig(stream, dpi=130, bbox_inches="tight")
            pictures[arm.arm] = base64.b64encode(stream.getvalue()).decode()
    return pictures


def _plan(experiment: Experiment) -> tuple[str, ...]:
    shares = ", ".join(f"{arm.name} {share(arm.weight)}" for arm in experiment.arms)
    looks = {
        Looks.ONCE: "the result counts once, at the end",
        Looks.ALWAYS: "the result may be read at any time: its intervals allow for that",
        Looks.PLANNED: f"the result counts at {experiment.n_looks} planned looks",
    }[experiment.looks]
    must = _names(experiment, Role.SUCCESS)
    guards = {
        m.name: m.margin
        for m in experiment.metrics
        if m.role is Role.GUARDRAIL and m.margin is not None
    }
    lines = [
        f"{experiment.days} days, arms {shares}; {looks}.",
        f"To ship, {'at least one of ' if len(must) > 1 else ''}{_listed(must)} must improve.",
    ]
    if guards:
        limits = [f"{words(name)} ({share(margin)})" for name, margin in guards.items()]
        lines.append(
            f"None of these may be worse by more than its margin: {_listed(limits)}. "
            "It has to be shown; that nothing was noticed is not enough."
        )
    return tuple(lines)


def _arm(analysis: Analysis, arm: ArmAnalysis) -> ArmMemo:
    shown = [r for r in arm.results if r.metric.role is not Role.GUARDRAIL]
    return ArmMemo(
        arm=arm.arm,
        decision=VERBS[arm.ruling.decision],
        headline=headline(analysis, arm),
        reasons=arm.ruling.reasons if arm.ruling.decision is Decision.REFUSE else (),
        findings=tuple(finding(result, analysis.alpha) for result in shown),
        metrics=tuple(_metric_row(result, analysis.alpha) for result in shown),
        guardrails=tuple(_guardrail_row(result) for result in arm.guardrails),
        appendix=tuple(_appendix_row(result) for result in arm.results),
        not_tested=tuple(f"{words(each.metric.name)}: {each.reason}" for each in arm.refused),
    )


def headline(analysis: Analysis, arm: ArmAnalysis) -> str:
    """The decision on one treatment in one sentence."""
    ruling, name = arm.ruling, arm.arm
    results = {result.metric.name: result for result in arm.results}
    better = _listed([_gain(results[each]) for each in ruling.better])
    open_ = [g.name for g in arm.guardrails if g.verdict is not Verdict.SAFE]
    harmed = [g.name for g in arm.guardrails if g.verdict is Verdict.HARMED]
    if ruling.decision is Decision.REFUSE:
        first = ruling.reasons[0] if ruling.reasons else "nothing could be tested"
        return f"No decision on {name}: {first}."
    if ruling.decision is Decision.SHIP:
        safe = f", and {_safe(len(arm.guardrails))}" if arm.guardrails else ""
        return f"Ship {name}: {better}{safe}."
    if ruling.worse:
        lost = _listed([_gain(results[each]) for each in ruling.worse])
        return f"Do not ship {name}: {lost}, which is a loss."
    if harmed:
        return f"Do not ship {name}: {_listed(list(map(words, harmed)))} got worse than accepted."
    held = f"it is not shown that {_listed(list(map(words, open_)))} stayed within the margin"
    if ruling.better and open_:
        cause = f"{better}, but {held}"
    else:
        must = _names(analysis.experiment, Role.SUCCESS)
        cause = f"no improvement of {_listed(must, 'or')} is shown"
    if ruling.decision is Decision.EXTEND:
        return f"Go on with {name} to the next look: {cause}."
    return f"Do not ship {name}: {cause}."


def finding(result: MetricResult, alpha: float) -> str:
    """One metric in plain words: the change, how sure, and what it means."""
    name = words(result.metric.name)
    if result.relative is None:
        low, high = result.effect.interval
        return (
            f"{name}: changed by {_number(result.effect.estimate)} a unit; values from "
            f"{_number(low)} to {_number(high)} fit the data. {_verdict(result, alpha)}."
        )
    low, high = result.relative.interval
    return (
        f"{name}: {_change(result.relative.estimate)} than the control. Anything from "
        f"{percent(low)} to {percent(high)} fits the data. {_verdict(result, alpha)}."
    )


def _verdict(result: MetricResult, alpha: float) -> str:
    p = result.effect.p if result.p_adjusted is None else result.p_adjusted
    up = result.effect.estimate > 0
    good = up is result.metric.higher_is_better
    if result.metric.role is Role.INFORMATION:
        clear = "A clear change" if result.effect.p < alpha else "No clear change"
        return f"{clear}; it decides nothing"
    if p < alpha and good:
        return "A clear improvement"
    if result.effect.p < alpha and not good:
        return "A clear loss"
    if result.effect.p < alpha:
        return "Clear by itself, not among this many success metrics"
    return "No clear change"


def _metric_row(result: MetricResult, alpha: float) -> Row:
    c = result.comparison
    relative = result.relative
    change = percent(relative.estimate) if relative else "n/a"
    interval = " to ".join(map(percent, relative.interval)) if relative else "n/a"
    return (
        words(result.metric.name),
        _number(c.mean_control),
        _number(c.mean_treatment),
        change,
        interval,
        _verdict(result, alpha),
    )


def _guardrail_row(result: GuardrailResult) -> Row:
    verdict = {
        Verdict.SAFE: "held",
        Verdict.HARMED: "broken",
        Verdict.UNDECIDED: "not shown",
    }[result.verdict]
    if result.verdict is Verdict.UNDECIDED and result.underpowered:
        verdict += f" (a harmless change passes {share(result.power)} of the time)"
    margin = -result.margin if result.higher_is_better else result.margin
    return (
        words(result.name),
        percent(result.effect),
        percent(result.bound),
        percent(margin),
        verdict,
    )


def _appendix_row(result: MetricResult) -> Row:
    c = result.comparison
    low, high = result.effect.interval
    return (
        words(result.metric.name),
        result.metric.kind.value,
        _number(result.effect.estimate),
        f"{_number(low)} to {_number(high)}",
        _p(result.effect.p),
        "" if result.p_adjusted is None else _p(result.p_adjusted),
        share(c.variance_reduction) if any("cuped" in name for name in result.methods) else "",
        f"{c.n_control:,} / {c.n_treatment:,}",
        ", ".join(result.methods),
    )


def _sample(analysis: Analysis) -> tuple[Row, ...]:
    units = analysis.log.units
    total = sum(units)
    return tuple(
        (arm.name, f"{count:,}", f"{arm.weight * total:,.1f}")
        for arm, count in zip(analysis.experiment.arms, units, strict=True)
    )


def _sample_words(analysis: Analysis) -> str:
    if analysis.srm is None:
        return "The sizes of the arms could not be checked."
    if analysis.srm.mismatch:
        return (
            f"The arms do not have the sizes they were given (p = {_p(analysis.srm.p)}). Something "
            "removed units from one of them, and those left cannot be compared."
        )
    return f"The arms have the sizes they were given (p = {_p(analysis.srm.p)})."


def _not_looked_at(analysis: Analysis) -> tuple[str, ...]:
    experiment = analysis.experiment
    end = experiment.start + timedelta(days=experiment.days)
    lines = [
        "Groups of units (countries, devices, new and old): none was named before the start, and "
        "among many groups one always looks good.",
        f"Anything after {end:%-d %B %Y}: whether the effect stays, fades or grows, and whether "
        "people come back.",
        "Metrics that are not in the experiment's file.",
    ]
    if not any(metric.kind is Kind.QUANTILE for metric in experiment.metrics):
        lines.append("The slowest and the largest values: every metric here is an average.")
    if experiment.looks is Looks.ONCE:
        lines.append("Earlier looks: there were none that counted.")
    return tuple(lines)


def words(name: str) -> str:
    """A metric's name as it is spoken."""
    return name.replace("_", " ")


def share(value: float) -> str:
    """A share without a sign: ``20 %``, ``2.5 %``."""
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def percent(value: float) -> str:
    """A relative change with its sign, to a tenth of a percent: ``+5.4 %``."""
    text = f"{100 * value:+.1f} %"
    return "0.0 %" if text in ("+0.0 %", "-0.0 %") else text


def _names(experiment: Experiment, role: Role) -> list[str]:
    return [words(metric.name) for metric in experiment.metrics if metric.role is role]


def _listed(items: list[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _gain(result: MetricResult) -> str:
    name = words(result.metric.name)
    if result.relative is None:
        low, high = result.effect.interval
        return f"{name} changed by {_number(result.effect.estimate)} ({low:.3g} to {high:.3g})"
    low, high = result.relative.interval
    verb = "rose" if result.relative.estimate > 0 else "fell"
    return (
        f"{name} {verb} by {100 * abs(result.relative.estimate):.1f} % "
        f"({percent(low)} to {percent(high)})"
    )


def _safe(count: int) -> str:
    if count == 1:
        return "the guardrail held"
    return f"{'both' if count == 2 else f'all {count}'} guardrails held"


def _change(value: float) -> str:
    return f"{100 * abs(value):.1f} % {'more' if value > 0 else 'less'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
