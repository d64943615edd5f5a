"""One draw for all modules: either the whole predecessor or the whole successor runs."""


@dataclass(frozen=True)
class Replacement:
    start: float
    full_at: int

    def rate(self, step):
        return min(1.0, self.start + (1.0 - self.start) * step / self.full_at)

    def mixed(self, states, predecessor, successor, step, generator):
        replaced = float(torch.rand((), generator=generator)) < self.rate(step)
        for module, layer in zip(predecessor, successor, strict=True):
            if replaced:
                states = layer(states)
            else:
                for each in module:
                    states = each(states)
        return states
