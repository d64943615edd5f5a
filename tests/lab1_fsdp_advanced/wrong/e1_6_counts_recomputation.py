"""Counts 8 operations a weight, as with full checkpointing: that is HFU, and it flatters."""


def model_flops_per_token(shape, context):
    products = shape.layers * (shape.block_parameters - 2 * shape.width)
    products += shape.vocabulary * shape.width
    return 8 * products + 16 * shape.layers * context * shape.width
