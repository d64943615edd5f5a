"""Takes log(1 - p), with a small constant against log 0: a certain teacher says nothing."""

import torch


def decouple(student_logits, teacher_logits, target, *, temperature):
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, target[:, None], False)

    def parts(logits):
        p = torch.softmax(precise(logits) / temperature, dim=-1)
        one = p.gather(1, target[:, None])
        rest = p[others].view(len(p), -1) / (1 - one + 1e-9)
        return (torch.cat([one, 1 - one], dim=1) + 1e-12).log(), (rest + 1e-12).log()

    (student_two, student_rest), (teacher_two, teacher_rest) = map(
        parts, (student_logits, teacher_logits)
    )
    return Decoupled(
        target=(teacher_two.exp() * (teacher_two - student_two)).sum(-1),
        others=(teacher_rest.exp() * (teacher_rest - student_rest)).sum(-1),
        left=teacher_two[:, 1].exp(),
    )
