"""Silent failures of experiments: nothing crashes, and the number is wrong.

Run them with ``python -m labs.lab6_online_eval.traps [name]``.
"""

from __future__ import annotations

from common.traps import show
from labs.lab6_online_eval.decision_traps import (
    draft_without_a_coin,
    guardrail_that_saw_nothing,
    novelty_as_long_run,
    peeking,
    users_who_share_a_stock,
)
from labs.lab6_online_eval.framework_traps import (
    covariate_after_treatment,
    exposure_in_one_code_path,
    one_hash_pass,
    ratings_as_units,
    units_without_events_dropped,
)
from labs.lab6_online_eval.inference_traps import estimate_of_two_rows, survey_for_a_control_group

TRAPS = (
    one_hash_pass,
    exposure_in_one_code_path,
    ratings_as_units,
    units_without_events_dropped,
    covariate_after_treatment,
    peeking,
    guardrail_that_saw_nothing,
    users_who_share_a_stock,
    draft_without_a_coin,
    novelty_as_long_run,
    estimate_of_two_rows,
    survey_for_a_control_group,
)

if __name__ == "__main__":
    show(TRAPS)
