"""The predecessor runs without a graph, so the successor's layers below it learn nothing."""


@dataclass(frozen=True)
class Replacement:
    start: float
    full_at: int

    def rate(self, step):
        return min(1.0, self.start + (1.0 - self.start) * step / self.full_at)

    def mixed(self, states, predecessor, successor, step, generator):
        rate = self.rate(step)
        for module, layer in zip(predecessor, successor, strict=True):
            if float(torch.rand((), generator=generator)) < rate:
                states = layer(states)
            else:
                with torch.no_grad():
                    for each in module:
                        states = each(states)
        return states
