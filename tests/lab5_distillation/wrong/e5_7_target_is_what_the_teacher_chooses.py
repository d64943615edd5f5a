"""Takes the teacher's first choice for the target, whatever the label is."""

import torch


def decouple(student_logits, teacher_logits, target, *, temperature):
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    target = teacher_logits.argmax(-1)
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, target[:, None], False)

    def parts(logits):
        log_p = torch.log_softmax(precise(logits) / temperature, dim=-1)
        rest = log_p[others].view(len(log_p), -1)
        log_left = torch.logsumexp(rest, dim=-1, keepdim=True)
        return torch.cat([log_p.gather(1, target[:, None]), log_left], dim=1), rest - log_left

    (student_two, student_rest), (teacher_two, teacher_rest) = map(
        parts, (student_logits, teacher_logits)
    )
    return Decoupled(
        target=(teacher_two.exp() * (teacher_two - student_two)).sum(-1),
        others=(teacher_rest.exp() * (teacher_rest - student_rest)).sum(-1),
        left=teacher_two[:, 1].exp(),
    )
