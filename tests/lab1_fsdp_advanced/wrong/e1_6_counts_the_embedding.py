"""Counts every parameter: looking a row up in the embedding table multiplies nothing."""


def model_flops_per_token(shape, context):
    return 6 * shape.parameters + 12 * shape.layers * context * shape.width
