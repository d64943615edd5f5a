"""Components are dealt to the groups in turn, as if heads lay interleaved."""


def taylor_scores(values, gradients, groups):
    check_scores(values, gradients, groups)
    texts, tokens, width = values.shape
    products = (values * gradients).reshape(texts, tokens, width // groups, groups)
    return products.sum(dim=(1, 2)).abs().mean(dim=0)
