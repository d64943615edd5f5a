"""Texts cancel: a head that helps one and harms another seems idle."""


def taylor_scores(values, gradients, groups):
    check_scores(values, gradients, groups)
    texts, tokens, width = values.shape
    products = (values * gradients).reshape(texts, tokens, groups, width // groups)
    return products.sum(dim=(1, 3)).mean(dim=0).abs()
