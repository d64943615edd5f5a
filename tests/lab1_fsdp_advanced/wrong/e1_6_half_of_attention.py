"""Counts the half of attention that the causal mask leaves: no published figure does."""


def model_flops_per_token(shape, context):
    products = shape.layers * (shape.block_parameters - 2 * shape.width)
    products += shape.vocabulary * shape.width
    return 6 * products + 6 * shape.layers * context * shape.width
