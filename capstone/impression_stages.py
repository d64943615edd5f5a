"""The stage that trains on the simulated world: isolated candidates, heads that are calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capstone.context import Context
from capstone.names import slug

if TYPE_CHECKING:
    from capstone.impression_meter import Trained


def _speed(c: Context, trained: Trained) -> None:
    """What the ranks measured of their own work."""
    ranks, step_s = trained.ranks, trained.step_seconds
    compiled = "compiled blocks" if trained.compiled else "not compiled"
    c.run.metric(
        "impressions.per_second", trained.impressions_per_second, unit="impressions/s",
        how=f"{trained.world} ranks, before downsampling; simulated people",
    )  # fmt: skip
    c.run.metric("impressions.mfu", trained.mfu, unit="ratio",
                 how=f"{trained.peak_source}; {compiled}; filling counts as tokens")  # fmt: skip
    c.run.metric("impressions.step_s", step_s, unit="s", how="median")
    c.run.metric("impressions.tokens_per_second_a_rank",
                 trained.tokens_per_second / trained.world, unit="tokens/s",
                 how="computed by the blocks, filling included")  # fmt: skip
    c.run.metric("impressions.real_tokens", min(rank.real_share for rank in ranks), unit="ratio",
                 how="tokens that are no filling; the rank with the fewest")  # fmt: skip
    c.run.metric("impressions.data_wait", max(rank.waited_s for rank in ranks) / step_s,
                 unit="ratio", how="of a step; the rank that waits most")  # fmt: skip
    for name, share in (
        ("communication_share", trained.communication_share),
        ("exposed_share", trained.exposed_share),
    ):
        c.run.metric(f"impressions.{name}", share, unit="ratio",
                     how="" if share is None else "one step of rank 0, profiled",
                     reason="not profiled at this scale" if share is None else "")  # fmt: skip
    peaks = [rank.peak_bytes for rank in ranks if rank.peak_bytes is not None]
    c.run.metric(
        "impressions.peak_bytes_a_rank", max(peaks) if peaks else None, unit="bytes",
        how="most memory of tensors, the largest rank" if peaks else "",
        reason="" if peaks else "PyTorch counts the memory of tensors on GPUs only",
    )  # fmt: skip
    c.run.metric("impressions.state_bytes_a_rank", max(rank.held_bytes for rank in ranks),
                 unit="bytes", how="weights and moments, counted")  # fmt: skip
    c.run.metric("impressions.state_bytes_predicted", ranks[0].predicted_bytes, unit="bytes",
                 how="12 bytes a parameter, divided by the ranks (lab 1)")  # fmt: skip
    saves = ranks[0].saves
    reason = "" if saves else "no checkpoint was due"
    for name in ("stalled_s", "written_s"):
        seconds = max(getattr(rank, name) for rank in ranks) / saves if saves else None
        c.run.metric(f"impressions.checkpoint.{name}", seconds, unit="s", n=saves, reason=reason,
                     how="mean of the checkpoints, the slowest rank; one that is not yet "
                     "written after the last step is waited for" if saves else "")  # fmt: skip


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
            shards=c.config.impression_shards, compile_blocks=c.config.impression_compile,
            checkpoints=c.checkpoints,
            on_progress=lambda done, total, loss: bar.update(done, f"{total} steps, {loss:.3f}"),
        )  # fmt: skip
    trained = found.trained
    if trained.first_step:
        c.run.note(
            f"The training of impressions went on from the checkpoint of step {trained.first_step}."
        )
    c.run.metric("impressions.parameters", trained.parameters, unit="count")
    c.run.metric("impressions.parameters_at_full", found.full_parameters, unit="count",
                 how="counted without memory, not trained")  # fmt: skip
    _speed(c, trained)
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
