"""Leaves 1 - p_t out of the target's part: p log(p / q) alone is no divergence."""

import torch


def decouple(student_logits, teacher_logits, target, *, temperature):
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, target[:, None], False)

    def parts(logits):
        log_p = torch.log_softmax(precise(logits) / temperature, dim=-1)
        rest = log_p[others].view(len(log_p), -1)
        log_left = torch.logsumexp(rest, dim=-1, keepdim=True)
        return log_p.gather(1, target[:, None])[:, 0], log_left, rest - log_left

    student_one, _, student_rest = parts(student_logits)
    teacher_one, log_left, teacher_rest = parts(teacher_logits)
    return Decoupled(
        target=teacher_one.exp() * (teacher_one - student_one),
        others=(teacher_rest.exp() * (teacher_rest - student_rest)).sum(-1),
        left=log_left[:, 0].exp(),
    )
