"""Takes 6 operations a weight and no more: attention has products without weights."""


def model_flops_per_token(shape, context):
    products = shape.layers * (shape.block_parameters - 2 * shape.width)
    return 6 * (products + shape.vocabulary * shape.width)
