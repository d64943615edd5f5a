"""``make capstone``: a feed-ranking system, from ratings to a served and tested feed.

Train, compress, index, re-rank, gate, serve, break, audit and experiment; ``pipeline.py`` is the
diagram of it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from capstone.claims import CLAIMS, STAGE_OF, TRAINED
from capstone.config import SCALES, Config
from common.runner import Run, main

if TYPE_CHECKING:
    from capstone.unfinished import Unfinished

MEASURED: list[Unfinished] = []
"""What is cleared when the run is published: until then a failure costs nothing."""


def story(run: Run, config: Config) -> None:
    """The pipeline; claims whose stage was not chosen say so."""
    from capstone.pipeline import run_stages

    MEASURED.append(run_stages(run, config))
    for claim, stage in STAGE_OF.items():
        if stage not in config.chosen_stages():
            run.unmeasured(claim, f"stage {stage!r} was not chosen")
    if run.scale == "smoke":
        for claim in TRAINED:
            run.unmeasured(claim, "trained for a few epochs only; --scale standard shows it")
    if run.scale != "full":
        run.unmeasured("C.billion", "a billion parameters want --scale full and GPUs")


if __name__ == "__main__":
    try:
        main(
            "capstone",
            SCALES,
            story,
            title="Capstone: a feed-ranking system",
            claims=CLAIMS,
            reading=(
                "capstone/pipeline.py: the system diagram as code",
                "capstone/feed.py: one request as typed stages",
                "Rendle et al. 2020, Neural Collaborative Filtering vs. Matrix Factorization",
                "Steck 2019, Embarrassingly Shallow Autoencoders (arXiv 1905.03375)",
                "Kang & McAuley 2018, Self-Attentive Sequential Recommendation (arXiv 1808.09781)",
            ),
        )
    except SystemExit as end:
        if end.code in (0, None) or "--strict" in sys.argv:
            for each in MEASURED:
                each.clear()
        raise
