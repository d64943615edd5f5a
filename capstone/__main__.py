"""``make capstone``: train, compress, serve, audit and experiment on a feed ranker."""

from __future__ import annotations

from capstone.config import SCALES, Config
from common.runner import Claim, Run, main

CLAIMS = (
    Claim(
        "C.retrieval",
        "retrieval beats EASE in NDCG@10: the interval of the paired gain lies above 0",
        metric="retrieval.gain_over_ease.low",
        op=">",
        target=0.0,
    ),
    Claim(
        "C.ranker",
        "the ranker beats logistic regression in AUC: the interval of the gain lies above 0",
        metric="ranker.auc_gain_over_lr.low",
        op=">",
        target=0.0,
    ),
    Claim(
        "C.student",
        "the distilled student keeps 95 % of the teacher's NDCG@10 (point estimate)",
        metric="student.ndcg_retention",
        op=">=",
        target=0.95,
    ),
    Claim(
        "C.parity",
        "the service returns the feed the models were evaluated on (overlap of the top 10)",
        metric="serving.offline_agreement",
        op=">=",
        target=0.99,
    ),
    Claim(
        "C.latency",
        "a feed over HTTP in under 50 ms at p99",
        metric="serving.p99_ms",
        op="<",
        target=50.0,
    ),
    Claim(
        "C.srm",
        "the experiment's arms have the sizes they were given (SRM p above .001)",
        metric="experiment.srm_p",
        op=">",
        target=0.001,
    ),
)
STAGE_OF = {
    "C.retrieval": "train",
    "C.ranker": "train",
    "C.student": "distill",
    "C.parity": "load",
    "C.latency": "load",
    "C.srm": "experiment",
}


def story(run: Run, config: Config) -> None:
    """The pipeline; claims whose stage was not chosen say so."""
    from capstone.pipeline import run_stages

    run_stages(run, config)
    for claim, stage in STAGE_OF.items():
        if stage not in config.chosen_stages():
            run.unmeasured(claim, f"stage {stage!r} was not chosen")
    if run.scale == "smoke":
        for claim in ("C.retrieval", "C.ranker", "C.student"):
            run.unmeasured(claim, "trained for a few epochs only; --scale standard shows it")


if __name__ == "__main__":
    main(
        "capstone",
        SCALES,
        story,
        title="Capstone: a feed-ranking system",
        claims=CLAIMS,
        reading=(
            "capstone/pipeline.py: the system diagram as code",
            "capstone/feed.py: one request as typed stages",
            "Rendle et al. 2020, Neural Collaborative Filtering vs. Matrix Factorization Revisited",
            "Steck 2019, Embarrassingly Shallow Autoencoders (arXiv 1905.03375)",
            "Kang & McAuley 2018, Self-Attentive Sequential Recommendation (arXiv 1808.09781)",
        ),
    )
