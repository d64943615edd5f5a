"""Padding is left out of the sum and counted in what it is divided by."""


def hidden_state_loss(student, teacher, mask, projection):
    squares = (projection(student).float() - teacher.detach().float()).square().mean(-1)
    return (squares * mask).mean()
