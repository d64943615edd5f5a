"""Counts the forward pass: training computes two more products for each of its products."""


def model_flops_per_token(shape, context):
    products = shape.layers * (shape.block_parameters - 2 * shape.width)
    products += shape.vocabulary * shape.width
    return 2 * products + 4 * shape.layers * context * shape.width
