"""The gradient passes where codes saturate: values run off and the forward pass never shows it."""


def fake_quantize(values, scale, zero_point, codes):
    rounded = scale * (quantize(values, scale, zero_point, codes) - zero_point)
    return values + (rounded - values).detach()
