"""The targets are not detached: the deepest head learns to be easy to imitate."""


def deeper_head_loss(exit_logits, labels, *, temperature, alpha, weights=None):
    check_exits(exit_logits, temperature, alpha, weights)
    *shallow, deepest = exit_logits
    each = weights if weights is not None else [1.0] * len(exit_logits)
    targets = F.log_softmax(deepest / temperature, dim=-1)
    total = each[-1] * F.cross_entropy(deepest, labels)
    for weight, logits in zip(each[:-1], shallow, strict=True):
        soft = F.kl_div(
            F.log_softmax(logits / temperature, dim=-1),
            targets,
            reduction="batchmean",
            log_target=True,
        )
        hard = F.cross_entropy(logits, labels)
        total = total + weight * (alpha * temperature**2 * soft + (1 - alpha) * hard)
    return total / sum(each)
