"""Large values are taken for important ones; the loss is not asked."""


def taylor_scores(values, gradients, groups):
    check_scores(values, gradients, groups)
    texts, tokens, width = values.shape
    products = values.abs().reshape(texts, tokens, groups, width // groups)
    return products.sum(dim=(1, 3)).mean(dim=0)
