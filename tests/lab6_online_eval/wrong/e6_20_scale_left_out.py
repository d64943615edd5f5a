"""Sherman-Morrison without its denominator 1 + x' A^-1 x: the inverse falls too far."""


@dataclass(frozen=True)
class LinUcb:
    alpha: float

    def choose(
        self, inverse: Floats, response: Floats, context: Floats, rng: np.random.Generator
    ) -> Ints:
        toward = np.einsum("rkij,rj->rki", inverse, context)
        mean = np.einsum("rki,rki->rk", toward, response)
        width = np.sqrt(np.einsum("rki,ri->rk", toward, context))
        return np.asarray((mean + self.alpha * width).argmax(axis=1), dtype=np.int64)

    def update(
        self, inverse: Floats, response: Floats, context: Floats, action: Ints, reward: Floats
    ) -> None:
        run = np.arange(len(action))
        toward = np.einsum("rij,rj->ri", inverse[run, action], context)
        inverse[run, action] -= toward[:, :, None] * toward[:, None, :]
        response[run, action] += reward[:, None] * context
