"""Counts the blocks: the head is a product too, a large one where the vocabulary is."""


def model_flops_per_token(shape, context):
    products = shape.layers * (shape.block_parameters - 2 * shape.width)
    return 6 * products + 12 * shape.layers * context * shape.width
