"""A cast to integer in place of rounding: every value moves towards zero, and sums with it."""

import torch


def fake_quantize(values, scale, zero_point, codes):
    with torch.no_grad():
        unclipped = (values / scale).trunc() + zero_point
        rounded = scale * (unclipped.clamp(codes.low, codes.high) - zero_point)
        inside = (unclipped >= codes.low) & (unclipped <= codes.high)
    passing = torch.where(inside, values, values.detach())
    return passing + (rounded - passing).detach()
