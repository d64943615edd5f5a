"""Detaches the student's states, not the teacher's: only the projection learns."""


def hidden_state_loss(student, teacher, mask, projection):
    squares = (projection(student.detach()).float() - teacher.float()).square().mean(-1)
    return (squares * mask).sum() / mask.sum()
