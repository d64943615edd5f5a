"""The stage that trains on the simulated world: isolated candidates, heads that are calibrated."""

from __future__ import annotations

from capstone.context import Context
from capstone.names import slug


def impressions(c: Context) -> None:
    """A target-aware ranker on simulated impressions (lab 1), corrected and calibrated."""
    from capstone import figures_training
    from capstone.impression_study import study_impressions

    with (
        c.workspace.stage("impressions") as folder,
        c.run.progress_bar(f"simulated impressions on {c.run.procs} ranks", None) as bar,
    ):
        found = study_impressions(
            folder, scale=c.run.scale, procs=c.run.procs, device=c.run.device, seed=c.run.seed,
            shards=c.config.impression_shards,
            on_progress=lambda done, total, loss: bar.update(done, f"{total} steps, {loss:.3f}"),
        )  # fmt: skip
    trained = found.trained
    c.run.metric("impressions.parameters", trained.parameters, unit="count")
    c.run.metric("impressions.parameters_at_full", found.full_parameters, unit="count",
                 how="counted without memory, not trained")  # fmt: skip
    c.run.metric(
        "impressions.per_second", trained.impressions_per_second, unit="impressions/s",
        how=f"{trained.world} ranks, before downsampling; simulated people",
    )  # fmt: skip
    c.run.metric("impressions.mfu", trained.mfu, unit="ratio", how=trained.peak_source)
    c.run.metric("impressions.first_loss", trained.losses[0], unit="nats")
    c.run.metric("impressions.last_loss", trained.losses[-1], unit="nats")
    if found.resume_difference is not None:
        c.run.metric(
            "impressions.resume_difference", found.resume_difference, unit="nats",
            how=f"from a checkpoint on {found.resumed_world} rank(s) against the first run",
        )  # fmt: skip
    c.run.metric(
        "impressions.isolation_max_change", found.isolation_difference, unit="probability",
        how="scoring a list together against item by item",
    )  # fmt: skip
    for head, result in found.heads.items():
        name = f"impressions.{head}"
        c.run.metric(f"{name}.auc", result.auc, unit="ratio", n=found.n_test,
                     how=f"oracle {result.oracle_auc:.4f}")  # fmt: skip
        for what in ("raw", "corrected", "final"):
            judged = getattr(result, what)
            c.run.metric(f"{name}.ece_{what}", judged.ece, unit="probability", n=judged.n)
        c.run.metric(
            f"{name}.normalised_entropy", result.final.normalised_entropy, unit="ratio",
            n=result.final.n,
            how=f"1 is the base rate; oracle {result.oracle.normalised_entropy:.4f}",
        )  # fmt: skip
    for part in found.slices:
        c.run.metric(
            f"impressions.slice.{slug(part.name)}.auc", part.auc, unit="ratio",
            n=part.calibration.n, how=f"clicks; oracle {part.oracle_auc:.4f}",
        )  # fmt: skip
    for name, value in found.taste_correlation.items():
        c.run.metric(f"impressions.taste_correlation.{name}", value, unit="ratio", n=found.n_test)
    c.run.figure(
        "reliability", figures_training.draw_reliability(found),
        caption="P(click) on simulated people: as trained on kept rows, corrected, with Platt.",
    )  # fmt: skip
    c.run.figure(
        "position", figures_training.draw_position(found),
        caption="Odds of a click by position: the log's, the position tower's, the simulated law.",
    )  # fmt: skip
    c.run.figure(
        "impressions-loss", figures_training.draw_loss(found),
        caption="Loss on simulated impressions, and of the run that went on from a checkpoint.",
    )  # fmt: skip
