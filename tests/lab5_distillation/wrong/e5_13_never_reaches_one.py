"""The rate approaches 1 and never gets there, so the successor is never alone."""


@dataclass(frozen=True)
class Replacement:
    start: float
    full_at: int

    def rate(self, step):
        return 1.0 - (1.0 - self.start) * self.full_at / (self.full_at + step)

    def mixed(self, states, predecessor, successor, step, generator):
        rate = self.rate(step)
        for module, layer in zip(predecessor, successor, strict=True):
            if float(torch.rand((), generator=generator)) < rate:
                states = layer(states)
            else:
                for each in module:
                    states = each(states)
        return states
