"""Silent failures of a ranking system: ``python -m capstone.traps``.

Data, retrieval and ranking are in :mod:`capstone.ranking_traps`, what lies between a model and
people in :mod:`capstone.serving_traps`, logs, experiments and monitoring in
:mod:`capstone.evidence_traps`.
"""

from __future__ import annotations

from capstone.evidence_traps import fallbacks_left_out, fixed_drift_cutoff, slot_propensity
from capstone.ranking_traps import (
    candidates_that_see_each_other,
    leaking_world,
    no_log_q,
    sampled_metrics,
    tie_order,
    yesterdays_index,
)
from capstone.serving_traps import (
    acknowledged_before_fsync,
    downsampled_heads_in_a_value,
    position_left_in_at_serving,
)
from common.traps import show

TRAPS = (
    tie_order,
    sampled_metrics,
    leaking_world,
    no_log_q,
    yesterdays_index,
    candidates_that_see_each_other,
    downsampled_heads_in_a_value,
    position_left_in_at_serving,
    acknowledged_before_fsync,
    slot_propensity,
    fallbacks_left_out,
    fixed_drift_cutoff,
)

if __name__ == "__main__":
    show(TRAPS)
