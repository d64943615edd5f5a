"""Silent failures of distillation: it trains, and the student learns less than it could.

Run them with ``python -m labs.lab5_distillation.traps [name]``.
"""

from __future__ import annotations

from common.traps import show
from labs.lab5_distillation.evidence_traps import (
    kept_without_its_teacher,
    rounding_without_a_gradient,
)
from labs.lab5_distillation.loss_traps import (
    a_temperature_on_one_side,
    the_mean_over_everything,
    the_vanishing_teacher,
)
from labs.lab5_distillation.teacher_traps import (
    a_student_made_of_its_teacher,
    a_teacher_that_guesses,
    classes_in_another_order,
    projections_that_never_learn,
    the_teacher_that_hedges,
)
from labs.lab5_distillation.text_traps import (
    attention_that_sdpa_does_not_give,
    cached_answers_of_other_texts,
)

TRAPS = (
    the_mean_over_everything,
    the_vanishing_teacher,
    a_temperature_on_one_side,
    a_teacher_that_guesses,
    classes_in_another_order,
    projections_that_never_learn,
    a_student_made_of_its_teacher,
    the_teacher_that_hedges,
    cached_answers_of_other_texts,
    attention_that_sdpa_does_not_give,
    rounding_without_a_gradient,
    kept_without_its_teacher,
)

if __name__ == "__main__":
    show(TRAPS)
