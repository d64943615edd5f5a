"""Each component alone: what cancels inside a head counts as important."""


def taylor_scores(values, gradients, groups):
    check_scores(values, gradients, groups)
    texts, tokens, width = values.shape
    products = (values * gradients).abs().reshape(texts, tokens, groups, width // groups)
    return products.sum(dim=(1, 3)).mean(dim=0)
