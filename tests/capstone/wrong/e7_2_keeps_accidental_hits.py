"""The target of a row stands among its negatives when another row has the same one."""


def corrected_logits(logits, log_q, items, positive):
    return logits - log_q[None, :]
