"""Plain rounding: its gradient is zero everywhere, so nothing that was rounded ever learns."""


def fake_quantize(values, scale, zero_point, codes):
    return scale * (quantize(values, scale, zero_point, codes) - zero_point)
